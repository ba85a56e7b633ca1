"""GoogleSQL, the one language of queries: read by a parser, then put to BigQuery or transpiled to DuckDB.

A statement names ``images`` (a table's rows), ``failures`` and the further tables of a stream, and may use
three shorthands: ``cosine_similarity(a, b)``, ``embedding_of('KEY')`` and ``attributes['name']``. For
BigQuery these are put in their places, and the rest of the text stays as it was written. For DuckDB the whole
statement is written anew, VECTOR_SEARCH as a comparison with every row.

Nothing here has values to paste: they are query parameters (``@name``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

import sqlglot
from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.errors import SqlglotError
from sqlglot.parsers.bigquery import BigQueryParser
from sqlglot.tokens import TokenType

from beam_vision.errors import UsageError
from beam_vision.search import brute_force, literals, splice
from beam_vision.warehouse.names import TableName

LOOK = "row_"
"""The alias of the rows in which ``embedding_of`` looks a key up."""
_MOST_CHARS = 1_000_000  # what BigQuery takes


class GoogleSQL(BigQuery):
    """sqlglot's BigQuery, which doesn't know ``VECTOR_SEARCH(..., query_value => ...)``."""

    class Parser(BigQueryParser):
        """Reads VECTOR_SEARCH with a query table or with one query value."""

        def _parse_vector_search(self) -> exp.VectorSearch:
            self._match(TokenType.TABLE)
            base = self._parse_table()
            self._match(TokenType.COMMA)
            found = exp.VectorSearch(this=base, column_to_search=self._parse_bitwise())
            while self._match(TokenType.COMMA):
                is_table = self._match(TokenType.TABLE) or self._match(TokenType.L_PAREN, advance=False)
                if is_table:
                    found.set("query_table", self._parse_table())
                elif self._match(TokenType.STRING, advance=False):
                    found.set("query_column_to_search", self._parse_string())
                else:
                    given = self._parse_lambda()
                    if isinstance(given, exp.Kwarg):
                        found.set(given.this.name.lower(), given)
                    else:
                        self.raise_error("VECTOR_SEARCH takes name => value there")
            return found


def parse(sql: str) -> exp.Query:
    """The one SELECT that ``sql`` is.

    Raises:
      UsageError: it is no GoogleSQL, another kind of statement, or several; or a shorthand stands where it
        would mean something else on BigQuery.
    """
    if len(sql) > _MOST_CHARS:
        raise UsageError(f"the statement has {len(sql):,} characters; {_MOST_CHARS:,} is what BigQuery takes")
    try:
        with _quiet():
            found = sqlglot.parse(sql, dialect=GoogleSQL)
    except SqlglotError as error:
        raise UsageError(
            f"syntax error in GoogleSQL: {_reason(error)}; one SELECT is what can be run here"
        ) from error
    except RecursionError as error:
        raise UsageError(f"the statement is nested too deeply: {sql[:100]!r} ...") from error
    statements = [each for each in found if each is not None and not isinstance(each, exp.Semicolon)]
    query = statements[0].unnest() if statements and isinstance(statements[0], exp.Query) else None
    if len(statements) != 1 or not isinstance(query, exp.Query):
        kinds = ", ".join(_kind(each) for each in statements) or "nothing"
        raise UsageError(f"one SELECT is what can be run here; this is {kinds} (the table is only read)")
    if query.args.get("into"):
        raise UsageError("one SELECT is what can be run here; this is SELECT INTO (the table is only read)")
    _check_shorthands(query)
    return query


def parameters_in(query: exp.Query) -> set[str]:
    """The names of the query parameters that a statement uses."""
    return {each.name for each in query.find_all(exp.Parameter)}


def to_bigquery(sql: str, names: Mapping[str, TableName | str], *, vector_search: bool = True) -> str:
    """The statement as BigQuery gets it.

    Args:
      sql: as the user wrote it.
      names: what stands for each of our names of tables: a table, or a SELECT in brackets.
      vector_search: whether VECTOR_SEARCH stays; if not, it becomes a comparison with every row, which
        emulators and logical views need.

    Raises:
      UsageError: as :func:`parse`; or ``images`` isn't among the names and a shorthand needs it.
    """
    query = parse(sql)
    if not vector_search and query.find(exp.VectorSearch):
        sql = _with_names(brute_force.in_googlesql(query)).sql(dialect=GoogleSQL, comments=False)
        query = parse(sql)
    return splice.put_names(sql, query, GoogleSQL().tokenize(sql), names)


def to_duckdb(sql: str) -> str:
    """The statement in DuckDB's SQL; its parameters are ``$name``.

    It needs the macro ``cosine_similarity(one, other)``, and ``attributes`` as a MAP.

    Raises:
      UsageError: as :func:`parse`; or a text has an escape that GoogleSQL doesn't know.
    """
    query = parse(literals.without_escapes(sql, GoogleSQL().tokenize(sql)) if "\\" in sql else sql)
    for call in list(query.find_all(exp.Anonymous)):
        if call.name.lower() == "embedding_of":
            call.replace(_looked_up(call))
    query = brute_force.in_duckdb(query)
    for unnest in list(query.find_all(exp.Unnest)):
        _mend_unnest(unnest)
    query = _with_names(query)
    try:
        with _quiet():
            return query.sql(dialect="duckdb", comments=False)
    except SqlglotError as error:
        raise UsageError(f"this GoogleSQL can't be run on Parquet: {_reason(error)}") from error


def _with_names(query: exp.Query) -> exp.Query:
    """``query``, changed in place: each column of a SELECT with its name said."""
    for select in query.find_all(exp.Select):
        select.set("expressions", [_named(each) for each in select.expressions])
    return query


def _named(projection: exp.Expr) -> exp.Expr:
    """``t.a`` as ``t.a AS a``: in GoogleSQL it has that name, by which the rest of the SELECT may call it."""
    if isinstance(projection, exp.Column | exp.Dot) and not projection.is_star and "." in projection.sql():
        return exp.alias_(projection.copy(), projection.name, quoted=True)
    return projection


def _looked_up(call: exp.Anonymous) -> exp.Expr:
    rows = exp.to_table("images", alias=LOOK)
    same = exp.EQ(this=exp.column("key", LOOK), expression=exp.paren(call.expressions[0].copy()))
    vector = exp.AnyValue(this=exp.column("embedding", LOOK))
    return exp.select(vector).from_(rows).where(same).subquery()


def _mend_unnest(unnest: exp.Unnest) -> None:
    """Attributes as the entries that they are in BigQuery; offsets from 0, where ordinality has 1."""
    (values,) = unnest.expressions if len(unnest.expressions) == 1 else (None,)
    if isinstance(values, exp.Column) and values.name.lower() == "attributes":
        entries = exp.func("MAP_ENTRIES", values.copy(), dialect="duckdb")
        values.replace(entries)
        values = unnest.expressions[0]
    offset = unnest.args.get("offset")
    if not offset or values is None:
        return
    alias = unnest.args.get("alias")
    element = alias.columns[0].name if alias and alias.columns else "element_"
    number = offset.name if isinstance(offset, exp.Identifier) else "offset"
    counted = exp.func("RANGE", exp.func("LEN", values.copy(), dialect="duckdb"), dialect="duckdb")
    pairs = exp.select(
        exp.alias_(exp.Explode(this=values.copy()), element, quoted=True),
        exp.alias_(exp.Explode(this=counted), number, quoted=True),
    )
    unnest.replace(pairs.subquery(alias=f"unnested_{id(unnest)}"))


def _check_shorthands(query: exp.Query) -> None:
    """A shorthand becomes a subquery on BigQuery, in which a bare name could be another column.

    Raises:
      UsageError: such a name stands in one; or a shorthand has too many or too few arguments.
    """
    for call in query.find_all(exp.Anonymous):
        name, count = call.name.lower(), len(call.expressions)
        wanted = {"embedding_of": 1, "cosine_similarity": 2}.get(name, count)
        if count != wanted:
            raise UsageError(f"{name} takes {wanted} argument{'s'[: wanted > 1]}, not {count}")
        if name == "embedding_of":
            _require_qualified(call.expressions[0], "embedding_of(...)", "embedding_of(t.key)")
    for bracket in query.find_all(exp.Bracket):
        if isinstance(bracket.this, exp.Column) and bracket.this.name.lower() == "attributes":
            for each in bracket.expressions:
                _require_qualified(each, "attributes[...]", "attributes[t.label]")


def _require_qualified(tree: exp.Expr, where: str, example: str) -> None:
    for column in tree.find_all(exp.Column):
        if not column.table:
            raise UsageError(
                f"{where} takes a text, a parameter, or a column with its table's name, such as {example}; "
                f"{column.name!r} has none (texts stand in quotes)"
            )


def _kind(statement: exp.Expr) -> str:
    if isinstance(statement, exp.Command):
        return str(statement.this).partition(" ")[0].upper()
    return statement.key.upper()


def _reason(error: Exception) -> str:
    """sqlglot's message on one line, without the colours of its drawing."""
    details = getattr(error, "errors", None) or [{}]
    first = details[0]
    if first.get("line"):
        near = " ".join(str(first.get("highlight") or "").split())
        text = f"{first['description'].rstrip('.')} at line {first['line']}, column {first['col']}"
        return f"{text}, near {near!r}" if near else text
    return " ".join(str(error).split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """sqlglot tells of statements that it doesn't know; we refuse them ourselves."""
    logger = logging.getLogger("sqlglot")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
