"""Manifests: a file with a row for each image, as CSV, JSON lines or Parquet.

Columns (upper or lower case): ``uri`` (or ``image``, ``path``, ``image_path``, ``filename``, ``file_name``),
``label`` or ``labels`` (a list, or a text with ``|`` between them), ``split``, ``boxes`` (a list of
``{"xmin", "ymin", "xmax", "ymax", "label", "crowd", "area"}`` in pixels of the upright image, all but the
corners optional; in CSV as JSON). Any further column is an attribute; so are the members of an object called
``attributes``. Attributes are texts. A CSV file with a box in each
row is :mod:`~beam_vision.sources.boxes_csv`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from beam_vision import storage
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure, shorten
from beam_vision.sources import checked
from beam_vision.sources.files import folder_of, normalise_uri
from beam_vision.sources.rows import ROWS, column_roles
from beam_vision.types import Box, Failure, ImageRef

_HEADER_LINES = 20
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_manifest(
    path: str, format: str, *, root: str = "", boxes_on: str = "auto"
) -> Iterator[ImageRef | Failure]:
    """The rows of a manifest, one by one; nothing but the row at hand is held.

    Args:
      path: local or remote.
      format: ``csv``, ``jsonl`` or ``parquet``.
      root: where relative URIs start (default: the manifest's folder).
      boxes_on: what boxes are in pixels of: ``upright`` (as ``auto``) or ``stored``.

    Returns:
      For each row its ref, with a fault for each box that isn't usable, or a Failure ``bad_manifest_row``
      whose key is ``NAME#LINE`` (for Parquet, the number of the row, from 1).

    Raises:
      UsageError: the file as a whole is no such manifest, see :func:`check_header`.
    """
    root, name = root or folder_of(path), path.rpartition("/")[2]
    with storage.open_read(path) as file:
        for line, row in ROWS[format](file, path):
            place = f"{path}:{line}"
            try:
                if isinstance(row, VisionError):
                    raise row
                yield ref_of_row(row, root, f"{name}:{line}", boxes_on)
            except VisionError as error:
                bad = ImageRef(key=f"{name}#{line}", uri=place)
                yield failure(VisionError(error.reason, f"{place}: {error.detail}"), bad, Stage.SOURCE)


def check_header(path: str, format: str) -> None:
    """Reads just enough of a manifest to say whether it can be one.

    Raises:
      UsageError: it is empty or of another format, has no column for the URI, has a column twice, or both
        ``label`` and ``labels``. The message names the columns that were found.
    """
    with storage.open_read(path) as file:
        if format != "jsonl":
            next(ROWS[format](file, path), None)
            return
        rows = list(itertools.islice(ROWS["jsonl"](file, path), _HEADER_LINES))
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


def ref_of_row(row: Mapping[str, Any], root: str, place: str = "", boxes_on: str = "auto") -> ImageRef:
    """The ref that a row describes; an absent value is None.

    Args:
      row: the values by column.
      root: where a relative URI starts.
      place: where the row is, for the faults of its boxes.
      boxes_on: what its boxes are in pixels of: ``upright`` (as ``auto``) or ``stored``.

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
            frame=checked.frame(boxes_on, "upright"),
            attributes=attributes,
            **_boxes(fields.get("boxes"), place).fields,
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


def _boxes(value: Any, place: str) -> checked.Checked:
    found = checked.Checked()
    value = _parsed(value, "boxes")
    if value is not None and not isinstance(value, list):
        raise ValueError(f"its boxes are not a list but {type(value).__name__}")
    for number, member in enumerate(value or (), start=1):
        found.add(f"{place}: box {number}", _box, member)
    return found


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
        raise checked.bad_box(f"{shorten(repr(value), 80)} is not an object with xmin, ymin, xmax, ymax")
    corners = [checked.number(value.get(name), name) for name in _CORNERS]
    crowd = value.get("crowd") if value.get("crowd") is not None else value.get("iscrowd")
    area_px = next((value[name] for name in ("area_px", "area") if value.get(name) is not None), None)
    label = "" if value.get("label") is None else text_of(value["label"])
    return checked.box(corners, label, crowd=checked.flag(crowd, "crowd"), area_px=checked.area(area_px))


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
