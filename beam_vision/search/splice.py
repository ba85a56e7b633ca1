"""Names and shorthands of ours put in their places in a statement's text; the rest stays as it was."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlglot import exp
from sqlglot.tokens import Token, TokenType

from beam_vision.errors import UsageError
from beam_vision.warehouse.names import TableName, quoted

_OPEN = {TokenType.L_PAREN: TokenType.R_PAREN, TokenType.L_BRACKET: TokenType.R_BRACKET}
_NAMES = {TokenType.VAR, TokenType.IDENTIFIER}


class Edit(NamedTuple):
    """Put ``text`` in the place of what stands from ``start`` to before ``end``."""

    start: int
    end: int
    text: str


def put_names(
    sql: str,
    query: exp.Query,
    tokens: Sequence[Token],
    names: Mapping[str, TableName | str],
) -> str:
    """``sql`` with BigQuery's names and functions in the place of ours.

    Args:
      sql: the statement.
      query: its tree.
      tokens: its tokens.
      names: what stands for each of our names of tables: a table, or a SELECT in brackets.
    """
    edits = [*_tables(query, tokens, names), *_shorthands(tokens, names)]
    pieces, end = [], 0
    for edit in sorted(edits, key=lambda each: (each.start, each.end)):
        pieces += [sql[end : edit.start], edit.text]
        end = edit.end
    return "".join([*pieces, sql[end:]])


def _tables(
    query: exp.Query, tokens: Sequence[Token], names: Mapping[str, TableName | str]
) -> Iterator[Edit]:
    """A table keeps its short name as an alias, by which columns may be called."""
    before = {token.start: previous for previous, token in itertools.pairwise(tokens)}
    known = {name.lower(): found for name, found in names.items()}
    for table in query.find_all(exp.Table):
        name = table.this
        if not isinstance(name, exp.Identifier) or table.args.get("db") or "start" not in name.meta:
            continue
        found = known.get(name.name.lower())
        if found is None or is_shadowed(table, name.name):
            continue
        start, end = name.meta["start"], name.meta["end"] + 1
        previous = before.get(start)
        bare = isinstance(table.parent, exp.VectorSearch) or (
            previous is not None and previous.token_type is TokenType.TABLE
        )
        if bare and isinstance(found, str):
            raise UsageError(
                f"TABLE {name.name} can't stand here, it is a view; write (SELECT * FROM {name.name})"
            )
        text = found if isinstance(found, str) else found.sql
        yield Edit(start, end, text if bare or table.alias else f"{text} AS {quoted(name.name)}")


def is_shadowed(table: exp.Table, name: str) -> bool:
    """Whether a WITH around a table's name gives it another meaning."""
    child: exp.Expr = table
    node = table.parent
    while node is not None:
        if isinstance(node, exp.With):
            earlier = node.expressions if node.args.get("recursive") else node.expressions[: child.index or 0]
        elif isinstance(node, exp.Query) and not isinstance(child, exp.With):
            earlier = node.ctes
        else:
            earlier = []
        if any(each.alias.lower() == name.lower() for each in earlier):
            return True
        child, node = node, node.parent
    return False


def _shorthands(tokens: Sequence[Token], names: Mapping[str, TableName | str]) -> Iterator[Edit]:
    for number, token in enumerate(tokens[:-1]):
        follows = tokens[number + 1]
        if token.token_type not in _NAMES:
            continue
        name, is_call = token.text.lower(), follows.token_type is TokenType.L_PAREN
        if is_call and name == "cosine_similarity":
            yield Edit(token.start, token.end + 1, "(1 - COSINE_DISTANCE")
            closing = tokens[_closing(tokens, number + 1)]
            yield Edit(closing.start, closing.end + 1, "))")
        elif is_call and name == "embedding_of":
            yield from _embedding_of(tokens, number, names)
        elif follows.token_type is TokenType.L_BRACKET and name == "attributes":
            yield from _attribute(tokens, number)


def _embedding_of(
    tokens: Sequence[Token], number: int, names: Mapping[str, TableName | str]
) -> Iterator[Edit]:
    images = names.get("images")
    if images is None:
        raise UsageError("embedding_of looks in images, and there is no such table here")
    source = images if isinstance(images, str) else images.sql
    closing = tokens[_closing(tokens, number + 1)]
    # ANY_VALUE: a stream may hold a key twice
    text = f"(SELECT ANY_VALUE(row_.embedding) FROM {source} AS row_ WHERE row_.key = ("
    yield Edit(tokens[number].start, tokens[number + 1].end + 1, text)
    yield Edit(closing.start, closing.end + 1, "))")


def _attribute(tokens: Sequence[Token], number: int) -> Iterator[Edit]:
    """``t.attributes['name']``; what picks an entry by its place (a number, OFFSET) is BigQuery's own."""
    inside = tokens[number + 2]
    if inside.token_type is TokenType.NUMBER or inside.text.upper() in _PLACES:
        return
    first = number
    while first >= 2 and tokens[first - 1].token_type is TokenType.DOT:
        first -= 2
    opening, closing = tokens[number + 1], tokens[_closing(tokens, number + 1)]
    yield Edit(tokens[first].start, tokens[first].start, "(SELECT entry_.value FROM UNNEST(")
    yield Edit(opening.start, opening.end + 1, ") AS entry_ WHERE entry_.key = (")
    yield Edit(closing.start, closing.end + 1, "))")


_PLACES = {"OFFSET", "ORDINAL", "SAFE_OFFSET", "SAFE_ORDINAL"}


def _closing(tokens: Sequence[Token], opening: int) -> int:
    """The number of the token that closes the bracket at ``opening``."""
    depth = 0
    for number in range(opening, len(tokens)):
        if tokens[number].token_type in _OPEN:
            depth += 1
        elif tokens[number].token_type in _OPEN.values():
            depth -= 1
            if depth == 0:
                return number
    raise UsageError(f"a bracket is not closed after {tokens[opening - 1].text}")
