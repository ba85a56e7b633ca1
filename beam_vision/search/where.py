"""``--where``: one true-or-false expression in GoogleSQL, read by a parser and written anew.

What a statement gets is what the parser understood, never the text that came in: no comment, bracket or
second statement can change what stands around it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from beam_vision.errors import UsageError
from beam_vision.search import literals
from beam_vision.search.googlesql import GoogleSQL, to_duckdb


@dataclass(frozen=True)
class Condition:
    """A checked ``--where``.

    Attributes:
      sql: GoogleSQL, in our own words; ``duckdb`` is the same for DuckDB.
      columns: the columns that it reads, as the table spells them.
      plain: whether it is over plain columns alone, so that it may filter the base table of a VECTOR_SEARCH:
        subqueries there can make it fail, and filters on the embedding are not allowed.
    """

    sql: str
    columns: frozenset[str]
    plain: bool

    @property
    def duckdb(self) -> str:
        """The expression in DuckDB's SQL."""
        return to_duckdb(f"SELECT {self.sql}").removeprefix("SELECT ")


NO_CONDITION = Condition("", frozenset(), True)


def parse_where(text: str, columns: Iterable[str]) -> Condition:
    """Reads ``--where``; an empty text is no condition.

    Args:
      text: e.g. ``label = 'cat' AND attributes['camera'] = 'a'``.
      columns: those that the table has.

    Raises:
      UsageError: it is not one expression over these columns: several, a subquery, an aggregate, a query
        parameter, a function of somebody's own.
    """
    if not text.strip():
        return NO_CONDITION
    known = {name.lower(): name for name in columns}
    tree = _parsed(text, known)
    for node in tree.walk():
        problem = _problem(node)
        if problem:
            raise _refusal(text, problem, known)
    used = set()
    for column in tree.find_all(exp.Column):
        name = known.get(column.name.lower())
        if name is None:
            raise _refusal(text, f'"{column.name}" not found{_near(column.name, known)}', known)
        used.add(name)
    is_plain = not used & {"embedding", "attributes"} and not _own_functions(tree)
    return Condition(tree.sql(dialect="bigquery", comments=False), frozenset(used), is_plain)


def _parsed(text: str, known: dict[str, str]) -> exp.Expr:
    try:
        clean = literals.without_escapes(text, GoogleSQL().tokenize(text)) if "\\" in text else text
        return sqlglot.maybe_parse(clean, into=exp.Condition, dialect=GoogleSQL)
    except SqlglotError as error:
        reason = str(error).partition("\n")[0]
        if "Failed to parse" in reason:
            reason = "it can't be read as one expression"
        raise _refusal(text, reason, known) from error
    except RecursionError as error:
        raise _refusal(text[:200], "it is nested too deeply", known) from error


def _problem(node: exp.Expr) -> str:
    for kinds, what in (
        ((exp.Query, exp.Table, exp.Exists), "a subquery"),
        (exp.AggFunc, "an aggregate"),
        (exp.Window, "a window function"),
        ((exp.Parameter, exp.Placeholder), "a query parameter"),
        (exp.Dot, "a name with a dot"),
        (exp.Star, "a star"),
    ):
        if isinstance(node, kinds):
            return f"{what} can't stand there: {node.sql(dialect='bigquery', comments=False)[:100]}"
    if isinstance(node, exp.Column) and node.table:
        return f"a name with a dot can't stand there: {node.sql(dialect='bigquery', comments=False)[:100]}"
    return ""


def _own_functions(tree: exp.Expr) -> bool:
    """Whether it calls ``embedding_of`` or ``cosine_similarity``, which become more than a function."""
    names = {"embedding_of", "cosine_similarity"}
    return any(call.name.lower() in names for call in tree.find_all(exp.Anonymous))


def _near(column: str, known: dict[str, str]) -> str:
    best = difflib.get_close_matches(column.lower(), known, n=1)
    return f"; did you mean {known[best[0]]!r}?" if best else ""


def _refusal(text: str, reason: str, known: dict[str, str]) -> UsageError:
    return UsageError(
        f"--where {text!r} is not one true-or-false SQL expression over the columns: {reason} "
        f"(columns: {', '.join(known.values())})"
    )
