"""Texts in GoogleSQL: every escape sequence decoded, so that another dialect reads the same characters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlglot.tokens import Token, TokenType

from beam_vision.errors import UsageError

_SIMPLE = {
    **{"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"},
    **{char: char for char in "\\?\"'`"},
}
_ESCAPE = re.compile(
    r"\\(?:(?P<simple>[abfnrtv\\?\"'`])|[xX](?P<hex>[0-9a-fA-F]{2})|(?P<octal>[0-3][0-7]{2})"
    r"|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|(?P<wrong>.?))",
    re.DOTALL,
)


def without_escapes(sql: str, tokens: Sequence[Token]) -> str:
    """``sql`` with its texts and bytes written so that sqlglot, which knows few escapes, can't misread them.

    Raises:
      UsageError: an escape that GoogleSQL doesn't have.
    """
    pieces, end = [], 0
    for token in tokens:
        source = sql[token.start : token.end + 1]
        if token.token_type is TokenType.STRING and "\\" in source:
            mended = quoted(decoded(_body(source)))
        elif token.token_type is TokenType.BYTE_STRING:
            mended = f"FROM_HEX('{decoded_bytes(_body(source)).hex()}')"
        else:
            continue
        pieces += [sql[end : token.start], mended]
        end = token.end + 1
    return "".join([*pieces, sql[end:]])


def quoted(text: str) -> str:
    """A text literal that sqlglot reads as ``text``; it takes line ends as they are."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def decoded(body: str) -> str:
    """What a text literal says, given what stands between its quotes.

    Raises:
      UsageError: an escape that GoogleSQL doesn't have.
    """

    def char(match: re.Match[str]) -> str:
        code = match["hex"] or match["short"] or match["long"]
        number = int(code, 16) if code else int(match["octal"], 8) if match["octal"] else None
        if number is None and match["simple"]:
            return _SIMPLE[match["simple"]]
        if number is None or number > 0x10FFFF or 0xD800 <= number <= 0xDFFF or number == 0:
            raise UsageError(f"{match[0]!r} is no escape in a text of GoogleSQL; write \\\\ for a backslash")
        return chr(number)

    return _ESCAPE.sub(char, body)


def decoded_bytes(body: str) -> bytes:
    """What a bytes literal says, given what stands between its quotes."""
    out, end = bytearray(), 0
    for match in _ESCAPE.finditer(body):
        out += body[end : match.start()].encode()
        if match["simple"]:
            out += _SIMPLE[match["simple"]].encode()
        elif match["hex"] or match["octal"]:
            out.append(int(match["hex"], 16) if match["hex"] else int(match["octal"], 8))
        else:
            raise UsageError(f"{match[0]!r} is no escape in bytes of GoogleSQL; write \\\\ for a backslash")
        end = match.end()
    return bytes(out + body[end:].encode())


def _body(source: str) -> str:
    start = min(place for place in map(source.find, "'\"") if place >= 0)
    mark = source[start]
    width = 3 if source.startswith(mark * 3, start) else 1
    return source[start + width : -width]
