"""COCO JSON: one file with ``images``, ``annotations`` and ``categories``, parsed as a whole by one worker.

An image is found by its ``file_name`` under the root; its id stands in the attribute ``image_id``. Boxes are
``[x, y, width, height]`` in pixels, ``iscrowd`` and ``area`` come along. A file without annotations (a test
set) lists images without boxes.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from beam_vision import storage
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure, shorten
from beam_vision.sources import checked
from beam_vision.sources.files import folder_of, normalise_uri
from beam_vision.sources.labels import known_are
from beam_vision.types import Box, Failure, ImageRef

_NEEDED = ("images", "categories")
_LISTS = ("images", "categories", "annotations")
_ID = (int, float, str)
_LOOKED_FOR = 20
_LOOKED_AT = 100

Item = tuple[str, Any]
"""Where an annotation stands in its file, as text, and what stands there."""


def read_coco(path: str, *, root: str = "", boxes_on: str = "auto") -> Iterator[ImageRef | Failure]:
    """The images of a COCO file, each with its boxes.

    Args:
      path: the JSON file, local or remote.
      root: where file names start (default: the file's folder).
      boxes_on: see :func:`beam_vision.sources.checked.frame`; ``auto``: the annotated size decides.

    Returns:
      A ref for each image; an annotation that isn't usable is a fault on it. A Failure
      ``bad_manifest_row`` for each entry that is no image, and for each annotation of no image, with the
      key ``NAME#annotation ID``.

    Raises:
      UsageError: the file as a whole is broken, see :func:`load`.
    """
    content = load(path)
    categories = category_names(path, content["categories"])
    name, root = path.rpartition("/")[2], root or folder_of(path)
    images, failures = _by_id(name, content["images"])
    found: dict[Any, list[Item]] = {key: [] for key in images}
    for number, annotation in enumerate(content.get("annotations", ())):
        place = _place("annotation", number, annotation)
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(annotation, dict):
            failures.append((place, "not an object"))
        elif not _is_id(image_id) or image_id not in found:
            failures.append((place, f"its image_id {image_id!r} is not among the file's images"))
        else:
            found[image_id].append((place, annotation))
    for place, why in failures:
        yield _failed(path, place, why)
    for image_id, (place, image) in images.items():
        try:
            yield _ref(image, root, boxes_on, _boxes(name, found.pop(image_id), categories))
        except VisionError as error:
            yield _failed(path, place, error.detail)


def load(path: str) -> dict[str, Any]:
    """The content of a COCO file.

    Raises:
      UsageError: it is not JSON (with line and column), has no ``images`` or ``categories``, or one of its
        parts is not a list.
    """
    try:
        content = json.loads(storage.read_bytes(path).decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not UTF-8: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON that can be read: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not COCO but {_kind(content)}; it needs an object with 'images'")
    for part in _NEEDED:
        if part not in content:
            members = shorten(", ".join(map(repr, content)) or "none", 200)
            raise UsageError(f"{path} is not COCO: it has no {part!r}; the members found are {members}")
    for part in _LISTS:
        if not isinstance(content.get(part, []), list):
            raise UsageError(f"{path} is not COCO: its {part!r} is {_kind(content[part])}, not a list")
    return content


def category_names(path: str, entries: Sequence[Any]) -> dict[Any, str]:
    """The name of each category, by its id (any number or text).

    Raises:
      UsageError: an entry has no id or no name, or an id has two names.
    """
    names: dict[Any, str] = {}
    for number, entry in enumerate(entries):
        place = f"{path}: categories[{number}]"
        key = entry.get("id") if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if not _is_id(key) or not _is_text(name):
            raise UsageError(f"{place} is {shorten(repr(entry), 80)}: it needs an id and a name")
        if names.setdefault(key, name) != name:
            raise UsageError(f"{place}: the id {key!r} stands for {names[key]!r} and for {name!r}")
    return names


def check_coco(path: str, root: str = "", *, need_images: bool = True) -> None:
    """Reads a COCO file (once, as long as it doesn't change) to say whether it can be one.

    Args:
      path: the JSON file.
      root: where file names start (default: the file's folder).
      need_images: whether at least one of its first 20 images must be there.

    Raises:
      UsageError: it is broken, or its images are elsewhere.
    """
    names = _first_names(path, _mark(path))
    root = root or folder_of(path)
    if need_images and names and not any(_there(name, root) for name in names):
        first = normalise_uri(names[0], root)
        raise UsageError(
            f"{path}: none of its first {len(names)} images is there (looked for {first}); say with "
            f"--image_root where its file names start{_hint(names[0], root)}"
        )


@functools.lru_cache(maxsize=16)
def _first_names(path: str, mark: Any) -> tuple[str, ...]:
    """The first file names of a file that was checked; ``mark`` changes when the file does."""
    content = load(path)
    category_names(path, content["categories"])
    entries = (entry for entry in content["images"] if isinstance(entry, dict))
    names = (entry.get("file_name") for entry in entries)
    return tuple(name for name, _ in zip(filter(_is_text, names), range(_LOOKED_FOR), strict=False))


def _mark(path: str) -> Any:
    if storage.is_remote(path):
        found = storage.filesystems().match([path])[0].metadata_list
        return next(((item.size_in_bytes, item.last_updated_in_seconds) for item in found), None)
    status = os.stat(storage.local(path))
    return status.st_size, status.st_mtime_ns


def _hint(name: str, root: str) -> str:
    """Where images seem to be: in a folder beside the file or beside its folder."""
    if storage.is_remote(root):
        return ""
    for parent in (root, folder_of(root)):
        for entry in storage.list_entries(parent)[:_LOOKED_AT]:
            if _there(name, storage.join(parent, entry)):
                return f"; {storage.join(parent, entry)} has the first of them"
    return ""


def _there(name: str, root: str) -> bool:
    return storage.exists(normalise_uri(name, root))


def _by_id(name: str, entries: Sequence[Any]) -> tuple[dict[Any, Item], list[tuple[str, str]]]:
    """The image entries by id, and why others are none, by their place."""
    images: dict[Any, Item] = {}
    failures = []
    for number, entry in enumerate(entries):
        place = _place("image", number, entry)
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(entry, dict):
            failures.append((place, "not an object"))
        elif not _is_id(key):
            failures.append((place, f"its id {shorten(repr(key), 40)} is no number and no text"))
        elif key in images:
            failures.append((f"images[{number}]", f"the id {key!r} stands for an earlier image already"))
        else:
            images[key] = (place, entry)
    return images, failures


def _ref(image: Mapping[str, Any], root: str, boxes_on: str, boxes: checked.Checked) -> ImageRef:
    name = image.get("file_name")
    if not _is_text(name):
        raise VisionError(Reason.BAD_MANIFEST_ROW, f"its file_name {shorten(repr(name), 80)} names no file")
    uri = normalise_uri(name, root)
    width_px, height_px = checked.size_px(image.get("width")), checked.size_px(image.get("height"))
    return ImageRef(
        key=uri,
        uri=uri,
        split=image["split"] if _is_text(image.get("split")) else None,
        frame=checked.frame(boxes_on, width_px=width_px, height_px=height_px),
        attributes={"image_id": str(image["id"])},
        **boxes.fields,
    )


def _boxes(name: str, annotations: Sequence[Item], categories: Mapping[Any, str]) -> checked.Checked:
    found = checked.Checked()
    for place, annotation in annotations:
        found.add(f"{name}: {place}", _box, annotation, categories)
    return found


def _box(annotation: Mapping[str, Any], categories: Mapping[Any, str]) -> Box:
    bbox = annotation.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise checked.bad_box(f"its bbox is {shorten(repr(bbox), 80)}, not [x, y, width, height]")
    names = ("x", "y", "width", "height")
    pairs = zip(bbox, names, strict=True)
    x, y, width, height = (checked.number(value, what, from_text=False) for value, what in pairs)
    if width <= 0 or height <= 0:
        raise checked.bad_box(f"its bbox [{x:g}, {y:g}, {width:g}, {height:g}] holds no area")
    label = _category(annotation.get("category_id"), categories)
    crowd = checked.flag(annotation.get("iscrowd"), "iscrowd")
    corners = (x, y, x + width, y + height)
    return checked.box(corners, label, crowd=crowd, area_px=checked.area(annotation.get("area")))


def _category(key: Any, names: Mapping[Any, str]) -> str:
    if _is_id(key) and key in names:
        return names[key]
    known = known_are(f"{known} {name!r}" for known, name in names.items())
    shown = shorten(repr(key), 40)
    raise VisionError(Reason.UNKNOWN_CATEGORY, f"its category_id {shown} is none of the file's; {known}")


def _place(what: str, number: int, entry: Any) -> str:
    """``annotation 17`` by its id, else ``annotations[3]`` by its number in the file, from 0."""
    key = entry.get("id") if isinstance(entry, dict) else None
    return shorten(f"{what} {key}", 60) if _is_id(key) else f"{what}s[{number}]"


def _failed(path: str, place: str, why: str) -> Failure:
    error = VisionError(Reason.BAD_MANIFEST_ROW, f"{path}: {place}: {why}")
    ref = ImageRef(key=f"{path.rpartition('/')[2]}#{place}", uri=path)
    return failure(error, ref, Stage.SOURCE)


def _is_id(value: Any) -> bool:
    return isinstance(value, _ID) and not isinstance(value, bool)


def _is_text(value: Any) -> TypeGuard[str]:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
