"""Manifests: a file with a row for each image, as CSV, JSON lines or Parquet.

Columns (upper or lower case): ``uri`` (or ``image``, ``path``, ``image_path``, ``filename``, ``file_name``),
``label`` or ``labels`` (a list, or a text with ``|`` between them), ``split``, ``boxes`` (a list of
``{"xmin", "ymin", "xmax", "ymax", "label"}`` in pixels of the upright image; in CSV as JSON). Any further
column is an attribute; so are the members of an object called ``attributes``. Attributes are texts.
"""

from __future__ import annotations

import codecs
import csv
import functools
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from beam_vision import storage
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure
from beam_vision.sources.files import normalise_uri
from beam_vision.types import Box, Failure, ImageRef

URI_COLUMNS = ("uri", "image", "path", "image_path", "filename", "file_name")
_ROLES = {
    "label": "labels",
    "labels": "labels",
    "split": "split",
    "boxes": "boxes",
    "attributes": "attributes",
}
_PARQUET_ROWS = 1024
_HEADER_LINES = 20

Row = tuple[int, Mapping[str, Any] | VisionError]


def read_manifest(path: str, format: str, *, root: str = "") -> Iterator[ImageRef | Failure]:
    """The rows of a manifest, one by one; nothing but the row at hand is held.

    Args:
      path: local or remote.
      format: ``csv``, ``jsonl`` or ``parquet``.
      root: where relative URIs start (default: the manifest's folder).

    Returns:
      For each row its ref, or a Failure ``bad_manifest_row`` whose key is ``NAME#LINE`` (for Parquet, the
      number of the row, from 1).

    Raises:
      UsageError: the file as a whole is no such manifest, see :func:`check_header`.
    """
    root = root or folder_of(path)
    with storage.open_read(path) as file:
        for line, row in _ROWS[format](file, path):
            place = f"{path}:{line}"
            try:
                if isinstance(row, VisionError):
                    raise row
                yield ref_of_row(row, root)
            except VisionError as error:
                bad = ImageRef(key=f"{path.rpartition('/')[2]}#{line}", uri=place)
                yield failure(VisionError(error.reason, f"{place}: {error.detail}"), bad, Stage.SOURCE)


def check_header(path: str, format: str) -> None:
    """Reads just enough of a manifest to say whether it can be one.

    Raises:
      UsageError: it is empty or of another format, has no column for the URI, has a column twice, or both
        ``label`` and ``labels``. The message names the columns that were found.
    """
    with storage.open_read(path) as file:
        if format != "jsonl":
            next(_ROWS[format](file, path), None)
            return
        rows = list(itertools.islice(_jsonl_rows(file, path), _HEADER_LINES))
    if not rows:
        raise UsageError(f"{path} is empty")
    problems = []
    for line, row in rows:
        try:
            if isinstance(row, VisionError):
                raise ValueError(row.detail)
            column_roles(tuple(row))
            return
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
    raise UsageError(f"{problems[0]} (and none of the first {len(rows)} rows is better)")


def folder_of(path: str) -> str:
    """The folder that a manifest lies in."""
    return (path if storage.is_remote(path) else storage.absolute(path)).rpartition("/")[0] or "/"


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


def ref_of_row(row: Mapping[str, Any], root: str) -> ImageRef:
    """The ref that a row describes; an absent value is None.

    Raises:
      VisionError: ``bad_manifest_row``.
    """
    fields: dict[str, Any] = {}
    attributes: dict[str, str] = {}
    try:
        for name, role in column_roles(tuple(row)).items():
            value = row[name]
            if value is None:
                continue
            if role:
                fields[role] = value
            else:
                attributes[name] = text_of(value)
        attributes |= _nested_attributes(fields.get("attributes"))
        uri = normalise_uri(_uri(fields.get("uri")), root)
        ref = ImageRef(
            key=uri,
            uri=uri,
            labels=_labels(fields.get("labels")),
            split=text_of(fields.get("split", "")).strip() or None,
            boxes=_boxes(fields.get("boxes")),
            attributes=attributes,
        )
        _check_text(ref)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise VisionError(Reason.BAD_MANIFEST_ROW, str(error)) from error
    return ref


def text_of(value: Any) -> str:
    """A value as an attribute's text: numbers as JSON writes them, lists and objects as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if value is None or isinstance(value, bool | int | float | list | dict | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _uri(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("it has no uri" if value is None else f"its uri {value!r} is not a text")
    if not value.strip():
        raise ValueError("its uri is empty")
    return _check_utf8(value)


def _labels(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = list(value) if isinstance(value, list | tuple) else text_of(value).split("|")
    texts = [text_of(part).strip() for part in parts if part is not None]
    return tuple(dict.fromkeys(text for text in texts if text))


def _boxes(value: Any) -> tuple[Box, ...]:
    value = _parsed(value, "boxes")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"its boxes are not a list but {type(value).__name__}")
    return tuple(map(_box, value))


def _parsed(value: Any, what: str) -> Any:
    """The value of a cell that may hold it as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except ValueError as error:
        raise ValueError(f"its {what} are not JSON: {error}") from error


def _box(value: Any) -> Box:
    if not isinstance(value, dict):
        raise ValueError(f"the box {value!r} is not an object with xmin, ymin, xmax, ymax")
    missing = [name for name in ("xmin", "ymin", "xmax", "ymax") if value.get(name) is None]
    if missing:
        raise ValueError(f"the box {value!r} has no {missing[0]}")
    xmin, ymin, xmax, ymax = (float(value[name]) for name in ("xmin", "ymin", "xmax", "ymax"))
    if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))) or xmin > xmax or ymin > ymax:
        raise ValueError(f"the box {value!r} is not xmin <= xmax, ymin <= ymax in finite pixels")
    return Box(xmin, ymin, xmax, ymax, text_of(value.get("label") or ""))


def _nested_attributes(value: Any) -> dict[str, str]:
    value = _parsed(value, "attributes")
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(pair, tuple) for pair in value):
        value = dict(value)  # a Parquet map
    if not isinstance(value, dict):
        raise ValueError(f"its attributes are not an object but {type(value).__name__}")
    return {text_of(name): text_of(member) for name, member in value.items() if member is not None}


def _check_text(ref: ImageRef) -> None:
    texts = [ref.uri, *ref.labels, ref.split or "", *(box.label for box in ref.boxes)]
    for text in itertools.chain(texts, ref.attributes, ref.attributes.values()):
        _check_utf8(text)


def _check_utf8(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is not valid UTF-8") from error
    return text


def _bad(why: str) -> VisionError:
    return VisionError(Reason.BAD_MANIFEST_ROW, why)


def _checked(path: str, names: Sequence[str]) -> tuple[str, ...]:
    try:
        column_roles(tuple(names))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    return tuple(names)


def _csv_rows(file: IO[bytes], path: str) -> Iterator[Row]:
    """RFC 4180, UTF-8 with or without a byte order mark; a row's line is the one it begins on."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, strict=True)
    try:
        names = [name.strip() for name in next(reader)]
        "".join(names).encode("utf-8")
    except StopIteration:
        raise UsageError(f"{path} is empty") from None
    except (csv.Error, UnicodeEncodeError) as error:
        raise UsageError(f"the header of {path} is not CSV in UTF-8: {error}") from error
    header = _checked(path, names)
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


_ROWS: dict[str, Callable[[IO[bytes], str], Iterator[Row]]] = {
    "csv": _csv_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
}
