"""CSV with a box in each row: columns for the URI, ``xmin``, ``ymin``, ``xmax``, ``ymax``, and where they
are known ``label`` (or ``class``), ``iscrowd``, ``area``, ``width``, ``height`` and ``split``.

The rows of an image may stand anywhere in the file, which is read as a whole by one worker. A row with
empty corners is an image without boxes. Any further column is an attribute of the image if all its rows
say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_vision import storage
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure
from beam_vision.sources import checked
from beam_vision.sources.files import folder_of
from beam_vision.sources.manifest import ref_of_row
from beam_vision.sources.rows import ROWS, csv_columns
from beam_vision.types import Box, Failure, ImageRef

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LABELS = ("label", "labels", "class")
_CROWDS = ("iscrowd", "crowd")
_BOX_COLUMNS = frozenset({*CORNERS, *_LABELS, *_CROWDS, "area"})


@dataclass
class _Image:
    """What the rows of an image say so far."""

    ref: ImageRef
    place: str
    attributes: dict[str, str]
    size: tuple[int, int] = (0, 0)
    found: checked.Checked = field(default_factory=checked.Checked)


def has_corners(path: str) -> bool:
    """Whether a CSV file has a box in each row: all four corners are among its columns.

    Raises:
      UsageError: it is no manifest at all, or has a column of ``boxes`` as well.
    """
    names = {name.lower() for name in csv_columns(path)}
    if names >= {*CORNERS, "boxes"}:
        raise UsageError(f"{path} has the columns xmin, ymin, xmax, ymax and also boxes; leave out either")
    return names >= set(CORNERS)


def read_boxes_csv(path: str, *, root: str = "", boxes_on: str = "auto") -> Iterator[ImageRef | Failure]:
    """The images of such a file, in the order in which they come up, each with all its boxes.

    Args:
      path: local or remote.
      root: where relative URIs start (default: the file's folder).
      boxes_on: what corners are in pixels of: ``upright`` (as ``auto``) or ``stored``.

    Returns:
      A ref for each image; a row whose box isn't usable is a fault on it. For each row that names no image,
      or another split than an earlier one, a Failure ``bad_manifest_row`` with the key ``NAME#LINE``.
    """
    images: dict[str, _Image] = {}
    root, name = root or folder_of(path), path.rpartition("/")[2]
    with storage.open_read(path) as file:
        for line, row in ROWS["csv"](file, path):
            try:
                if isinstance(row, VisionError):
                    raise row
                _add(images, row, root, f"{name}:{line}")
            except VisionError as error:
                bad = ImageRef(key=f"{name}#{line}", uri=f"{path}:{line}")
                yield failure(VisionError(error.reason, f"{path}:{line}: {error.detail}"), bad, Stage.SOURCE)
    for image in images.values():
        yield _finished(image, boxes_on)


def _add(images: dict[str, _Image], row: Mapping[str, Any], root: str, place: str) -> None:
    """Adds a row to its image.

    Raises:
      VisionError: ``bad_manifest_row``: it names no image, or says another split.
    """
    of_box = {name.lower(): value for name, value in row.items()}
    of_image = {name: value for name, value in row.items() if name.lower() not in _BOX_COLUMNS}
    ref = ref_of_row(of_image, root)
    image = images.setdefault(ref.key, _Image(ref, place, dict(ref.attributes)))
    if ref.split != image.ref.split:
        raise VisionError(
            Reason.BAD_MANIFEST_ROW,
            f"split {ref.split!r} of {ref.uri}, but {image.ref.split!r} at {image.place}",
        )
    image.attributes = {
        name: value for name, value in image.attributes.items() if ref.attributes.get(name) == value
    }
    size = tuple(checked.size_px(of_box.get(side)) for side in ("width", "height"))
    image.size = image.size if all(image.size) else size  # type: ignore[assignment]
    if any((of_box[corner] or "").strip() for corner in CORNERS):
        image.found.add(place, _box, of_box)


def _box(row: Mapping[str, Any]) -> Box:
    corners = [checked.number(row[name] or None, name) for name in CORNERS]
    label = next((row[name].strip() for name in _LABELS if row.get(name)), "")
    crowd = next((row[name] for name in _CROWDS if row.get(name)), None)
    area_px = checked.area(row.get("area"))
    return checked.box(corners, label, crowd=checked.flag(crowd, "iscrowd"), area_px=area_px)


def _finished(image: _Image, boxes_on: str) -> ImageRef:
    width_px, height_px = image.size
    sides = ("width", "height") if width_px and height_px else ()
    return ImageRef(
        key=image.ref.key,
        uri=image.ref.uri,
        split=image.ref.split,
        frame=checked.frame(boxes_on, "upright", width_px=width_px, height_px=height_px),
        attributes={name: value for name, value in image.attributes.items() if name.lower() not in sides},
        **image.found.fields,
    )
