"""Results as text for a terminal, as JSON and as CSV."""

from __future__ import annotations

import base64
import csv
import datetime
import decimal
import io
import json
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

NULL = "NULL"
CELL_CHARS = 60
SHOWN_ITEMS = 4
LONG_LIST = 8


def text_table(names: Sequence[str], rows: Sequence[Sequence[Any]], *, widest: int = CELL_CHARS) -> str:
    """A table with a rule under its head; numbers to the right, long lists and long text shortened.

    Args:
      names: the columns'.
      rows: a value for each column, of any type that DuckDB gives.
      widest: columns of the terminal that a cell takes at most.
    """
    cells = [[shortened(cell(value), widest) for value in row] for row in rows]
    heads = [_printable(name) for name in names]
    widths = [max(map(width, column)) for column in zip(heads, *cells, strict=True)]
    to_right = [
        bool(rows) and all(_is_number(row[i]) or row[i] is None for row in rows) for i in range(len(heads))
    ]
    lines = [_line(heads, widths, to_right), "  ".join("─" * wide for wide in widths)]
    return "\n".join([*lines, *(_line(row, widths, to_right) for row in cells)])


def cell(value: Any) -> str:
    """One value on one line: long lists as their first few items and their length."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, (list, tuple)):
        items = [cell(item) for item in value[: SHOWN_ITEMS if len(value) > LONG_LIST else None]]
        return f"[{', '.join(items)}{f', … {len(value)}' if len(value) > LONG_LIST else ''}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{cell(key)}: {cell(item)}" for key, item in value.items()) + "}"
    return _printable(str(value))


def width(text: str) -> int:
    """Columns that ``text`` takes on a terminal: two for wide characters, none for combining ones."""
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shortened(text: str, widest: int) -> str:
    """``text`` in at most ``widest`` columns of a terminal; of a path the end is kept, not the middle."""
    if width(text) <= widest:
        return text
    head = _fitting(text, (widest - 1) // 3)
    tail = _fitting(text[::-1], widest - 1 - width(head))[::-1]
    return f"{head}…{tail}"


def _fitting(text: str, columns: int) -> str:
    """As much of the start of ``text`` as takes at most ``columns``."""
    used = 0
    for at, char in enumerate(text):
        used += _char_width(char)
        if used > columns:
            return text[:at]
    return text


def _printable(text: str) -> str:
    """Control characters escaped, so that a value can't break the table or drive the terminal."""
    return "".join(
        char if unicodedata.category(char) not in ("Cc", "Cs") else char.encode("unicode_escape").decode()
        for char in text
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool)


def _line(cells: Sequence[str], widths: Sequence[int], to_right: Sequence[bool]) -> str:
    padded = []
    for text, wide, right in zip(cells, widths, to_right, strict=True):
        space = " " * (wide - width(text))
        padded.append(space + text if right else text + space)
    return "  ".join(padded).rstrip()


def json_value(value: Any) -> Any:
    """``value`` as something JSON can hold: NaN and infinity as null, bytes as base64, times as ISO text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, decimal.Decimal):
        return json_value(float(value))
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)


def json_text(value: Any) -> str:
    """``value`` as one line of JSON that every parser takes."""
    return json.dumps(json_value(value), ensure_ascii=False, allow_nan=False)


def json_array(objects: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The text of one JSON array, line by line, an object a line."""
    yield "[\n"
    held = ""
    for value in objects:
        if held:
            yield held + ",\n"
        held = json_text(value)
    yield held + "\n]\n" if held else "]\n"


def csv_lines(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines of CSV, quoted as RFC 4180 says: NULL is empty, lists and maps are JSON."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if value is None else _csv_value(value) for value in row])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _csv_value(value: Any) -> Any:
    plain = json_value(value)
    if plain is None:  # NaN, an infinity
        return str(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, (list, dict, bool)) else plain
