"""The rows of CSV, JSON lines and Parquet, one by one, and what their columns are for."""

from __future__ import annotations

import codecs
import csv
import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from beam_vision import storage
from beam_vision.errors import Reason, UsageError, VisionError

URI_COLUMNS = ("uri", "image", "path", "image_path", "filename", "file_name")
_ROLES = {
    "label": "labels",
    "labels": "labels",
    "split": "split",
    "boxes": "boxes",
    "attributes": "attributes",
}
_PARQUET_ROWS = 1024

Row = tuple[int, Mapping[str, Any] | VisionError]
"""The line on which a row begins (for Parquet its number), from 1, and the row or what is wrong with it."""


@functools.lru_cache(maxsize=256)
def column_roles(names: tuple[str, ...]) -> Mapping[str, str]:
    """What each column is for: ``uri``, ``labels``, ``split``, ``boxes``, ``attributes``; "": an attribute.

    Raises:
      ValueError: there is no column for the URI, or two columns for the same.
    """
    found = f"the columns found are {', '.join(map(repr, names)) or 'none'}"
    lower = [name.lower() for name in names]
    uri = next((name for name in URI_COLUMNS if name in lower), None)
    if uri is None:
        raise ValueError(f"no column 'uri' (or {', '.join(URI_COLUMNS[1:])}); {found}")
    roles = ["uri" if name == uri else _ROLES.get(name, "") for name in lower]
    for role in {*roles} - {""}:
        if roles.count(role) > 1:
            raise ValueError(f"two columns for the {role}; {found}")
    if len(set(names)) < len(names):
        raise ValueError(f"a column stands twice; {found}")
    return dict(zip(names, roles, strict=True))


def csv_columns(path: str) -> tuple[str, ...]:
    """The columns of a CSV manifest.

    Raises:
      UsageError: it is empty or not CSV, or see :func:`column_roles`.
    """
    with storage.open_read(path) as file:
        return _csv_reader(file, path)[1]


def _bad(why: str) -> VisionError:
    return VisionError(Reason.BAD_MANIFEST_ROW, why)


def _checked(path: str, names: Sequence[str]) -> tuple[str, ...]:
    try:
        column_roles(tuple(names))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    return tuple(names)


def _csv_reader(file: IO[bytes], path: str) -> tuple[Any, tuple[str, ...]]:
    """A reader past the header, and the header."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    try:
        names = [name.strip() for name in next(reader)]
        "".join(names).encode("utf-8")
    except StopIteration:
        raise UsageError(f"{path} is empty") from None
    except (csv.Error, UnicodeEncodeError) as error:
        raise UsageError(f"the header of {path} is not CSV in UTF-8: {error}") from error
    return reader, _checked(path, names)


def _csv_rows(file: IO[bytes], path: str) -> Iterator[Row]:
    """RFC 4180, UTF-8 with or without a byte order mark; a row's line is the one it begins on."""
    reader, header = _csv_reader(file, path)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _bad(f"not CSV up to line {reader.line_num}: {error}")
            continue
        if not cells:
            continue
        if len(cells) != len(header):
            yield line, _bad(f"{len(cells)} columns, but the header has {len(header)}")
        else:
            yield line, dict(zip(header, cells, strict=True))


def _jsonl_rows(file: IO[bytes], path: str) -> Iterator[Row]:
    """A JSON object a line; blank lines are left out."""
    for line, data in enumerate(file, start=1):
        if line == 1:
            data = data.removeprefix(codecs.BOM_UTF8)
        if not data.strip():
            continue
        try:
            value = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            yield line, _bad(f"not JSON: {error}")
            continue
        yield line, value if isinstance(value, dict) else _bad(f"{type(value).__name__}, not a JSON object")


def _parquet_rows(file: IO[bytes], path: str) -> Iterator[Row]:
    """Row groups are streamed, a thousand rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise UsageError(f"{path} is not a Parquet file: {error}") from error
    names = _checked(path, parquet.schema_arrow.names)
    row = 0
    for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            row += 1
            yield row, dict(zip(names, values, strict=True))


ROWS: dict[str, Callable[[IO[bytes], str], Iterator[Row]]] = {
    "csv": _csv_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
}
