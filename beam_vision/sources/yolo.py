"""YOLO: images with a text file each, of lines ``class cx cy width height`` in fractions of the image.

A dataset is a folder or its ``data.yaml``. In a folder, images are in ``images/`` or ``SPLIT/images/`` and
their texts in the ``labels/`` beside it (with the same folders below), or they lie side by side. An image
without a text has no boxes. More than four numbers after the class are a polygon or, with ``kpt_shape`` in
``data.yaml``, a box and its key points; either way the box counts. Classes are named by ``data.yaml`` or
``classes.txt``; without these, by their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_vision import storage
from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.failures import shorten
from beam_vision.sources import checked, listing
from beam_vision.sources.files import folder_of, is_image_name, normalise_uri
from beam_vision.sources.labels import known_are
from beam_vision.sources.pairs import Pair, broken, read_annotation, split_name
from beam_vision.types import Box, Failure, ImageRef

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml")
_CLASS_LISTS = ("classes.txt", "labels/classes.txt")
_NOT_IMAGES = (".cache", ".names", ".data")
_SPLIT_KEYS = ("test", "val", "train")  # a folder that stands for two is of the one that is held out
_USUAL_FOLDERS = ("train", "val", "valid", "validation", "test")  # a remote store may not list them all
_YAML_BYTES = 2**20


@dataclass(frozen=True)
class Classes:
    """What a dataset says of its classes.

    Attributes:
      names: by number; None: nothing names them.
      keypoints: whether a line goes on with key points after its box.
    """

    names: Mapping[int, str] | None = None
    keypoints: bool = False


def is_yolo_root(folder: str) -> bool:
    """Whether a folder is a YOLO dataset beyond doubt: it has a ``data.yaml`` with class names, or
    ``images/`` and a ``labels/`` that holds texts and no images."""
    path = _yaml_in(folder)
    if path:
        try:
            return read_classes(path).names is not None
        except UsageError:
            return False
    if not storage.is_folder(storage.join(folder, "images")):
        return False
    names = listing.walk_names(storage.join(folder, "labels"), lambda name: not _is_side_car(name))
    suffixes = {os.path.splitext(name)[1].lower() for name, _ in zip(names, range(1000), strict=False)}
    return suffixes == {".txt"}


def check_yolo(path: str, root: str = "") -> None:
    """Says whether a folder or a ``data.yaml`` can be a YOLO dataset.

    Raises:
      UsageError: it holds no texts, its class names can't be read, or none of its splits is there.
    """
    read_classes(path)
    if _is_yaml(path):
        splits = _yaml_splits(path, root)
        if not any(_there(place) for _, place in splits):
            places = ", ".join(place for _, place in splits) or "none is named"
            raise UsageError(
                f"{path}: no folder of its train, val and test is there ({places}); say with --image_root "
                "where they start"
            )
    elif not any(True for _ in listing.walk_names(path, lambda name: name.endswith(".txt"))):
        raise UsageError(
            f"{path} holds no .txt file; --format yolo needs a folder with images/ and labels/, or its "
            "data.yaml"
        )


def list_pairs(path: str, root: str = "") -> Iterator[Pair | Failure | listing.Skipped]:
    """Each image with the text that it has, if it has one.

    Args:
      path: the folder or its ``data.yaml``, absolute.
      root: where the folders of a ``data.yaml`` start (default: as its ``path`` says, else where it lies).
    """
    if _is_yaml(path):
        for split, place in _yaml_splits(path, root):
            if not _there(place):
                yield broken(
                    Pair(place, place), f"{path}: the {split} images {place} are not there", Reason.NOT_FOUND
                )
            elif place.endswith(".txt"):
                yield from _listed_pairs(place, split)
            else:
                yield from _folder_pairs(place, split)
        return
    parents = dict.fromkeys(["", *storage.list_entries(path), *_USUAL_FOLDERS])
    folders = [storage.join(path, *filter(None, (parent, "images"))) for parent in parents]
    found = [(folder, parent) for folder, parent in zip(folders, parents, strict=True) if _is_folder(folder)]
    for folder, parent in found:
        yield from _folder_pairs(folder, split_name(parent))
    if not found:
        yield from _folder_pairs(path, None, beside=True)


def read_pair(pair: Pair, classes: Classes, *, boxes_on: str = "auto") -> ImageRef | Failure:
    """The image with the boxes of its text, or a Failure if the text is there and can't be read.

    Args:
      pair: of :func:`list_pairs`.
      classes: of :func:`read_classes`.
      boxes_on: see :func:`beam_vision.sources.checked.frame`; ``auto``: stored pixels.
    """
    boxes = checked.Checked()
    try:
        text = read_annotation(pair.annotation).decode("utf-8-sig", "replace")
    except VisionError as error:
        if error.reason is not Reason.NOT_FOUND:
            return broken(pair, error.detail, error.reason)
        text = ""
    name = pair.annotation.rpartition("/")[2]
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            boxes.add(f"{name}:{number}", _box, line.split(), classes)
    return ImageRef(
        key=pair.image,
        uri=pair.image,
        split=pair.split,
        frame=checked.frame(boxes_on, relative=True),
        **boxes.fields,
    )


def read_classes(path: str) -> Classes:
    """The classes of a dataset, by its folder or its ``data.yaml``.

    Raises:
      UsageError: ``data.yaml`` is broken (with line and column), or its names are neither list nor mapping.
    """
    folder = folder_of(path) if _is_yaml(path) else path
    path = path if _is_yaml(path) else _yaml_in(path)
    content = _read_yaml(path) if path else {}
    keypoints = bool(content.get("kpt_shape"))
    if content.get("names"):
        return Classes(_names(path, content["names"]), keypoints)
    for name in _CLASS_LISTS:
        if storage.exists(storage.join(folder, name)):
            text = storage.read_bytes(storage.join(folder, name)).decode("utf-8-sig", "replace").rstrip()
            return Classes({i: line.strip() for i, line in enumerate(text.split("\n"))}, keypoints)
    return Classes(None, keypoints)


def text_of_image(image: str, *, beside: bool = False) -> str:
    """Where the text of an image is: its last folder ``images`` is ``labels`` there; or beside it."""
    head, found, tail = image.rpartition("/images/")
    return os.path.splitext(f"{head}/labels/{tail}" if found and not beside else image)[0] + ".txt"


def _folder_pairs(folder: str, split: str | None, *, beside: bool = False) -> Iterator[Any]:
    for found in listing.walk_wanted(folder, lambda name: is_image_name(name) and not _is_side_car(name)):
        if isinstance(found, str):
            names = found.split("/")[:-1]
            own = split or next(filter(None, map(split_name, names)), None)
            image = storage.join(folder, found)
            yield Pair(normalise_uri(image), normalise_uri(text_of_image(image, beside=beside)), own)
        elif not isinstance(found, listing.Skipped) or not found.path.endswith(".txt"):
            yield found


def _listed_pairs(path: str, split: str) -> Iterator[Pair]:
    """The images that a text lists, one a line, from where the text is."""
    for line in storage.read_bytes(path).decode("utf-8-sig", "surrogateescape").splitlines():
        name = line.strip()
        if name:
            image = normalise_uri(name, folder_of(path))
            yield Pair(image, text_of_image(image), split)


def _box(words: Sequence[str], classes: Classes) -> Box:
    if len(words) < 5:
        raise checked.bad_box(f"{len(words)} numbers; a line is: class cx cy width height")
    values = [checked.number(word, "number") for word in words]
    label = _label(values[0], classes.names)
    if len(words) == 5 or classes.keypoints:
        cx, cy, width, height = values[1:5]
        if width <= 0 or height <= 0:
            raise checked.bad_box(f"its width {width:g} and height {height:g} hold no area")
        return checked.box((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), label)
    if len(words) % 2 == 0 or len(words) < 7:
        raise checked.bad_box(f"{len(words)} numbers are neither a box (5) nor a polygon (7, 9, 11, ...)")
    xs, ys = values[1::2], values[2::2]
    return checked.box((min(xs), min(ys), max(xs), max(ys)), label)


def _label(value: float, names: Mapping[int, str] | None) -> str:
    if not (abs(value) <= checked.MOST and value == int(value)):
        raise checked.bad_box(f"its class {value:g} is not a whole number")
    if names is None and value >= 0:
        return str(int(value))
    if names is None or int(value) not in names:
        known = known_are(f"{number} {name!r}" for number, name in (names or {}).items())
        raise VisionError(Reason.UNKNOWN_CATEGORY, f"its class {value:g} is none of the dataset's; {known}")
    return names[int(value)]


def _read_yaml(path: str) -> dict[str, Any]:
    """A YAML file of plain texts, lists and mappings."""
    import yaml

    data = storage.read_bytes(path)
    if len(data) > _YAML_BYTES:
        raise UsageError(f"{path} has {len(data)} bytes; a data.yaml has far fewer")
    try:
        content = yaml.load(data, Loader=yaml.BaseLoader)  # makes nothing but texts, lists and mappings
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise UsageError(f"{place}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML that can be read: {shorten(str(error), 200)}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no data.yaml: it needs 'names' and the folders of 'train' and 'val'")
    return content


def _names(path: str, names: Any) -> dict[int, str]:
    try:
        pairs = enumerate(names) if isinstance(names, list) else names.items()
        found = {int(number): name for number, name in pairs}
    except (AttributeError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: its names are neither a list nor a mapping from numbers") from error
    for number, name in found.items():
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"{path}: the name of class {number} is no text")
    return found


def _yaml_splits(path: str, root: str) -> list[tuple[str, str]]:
    """The split and the place of each folder, or list of images, that a ``data.yaml`` names."""
    content = _read_yaml(path)
    folder = root or folder_of(path)
    below = content.get("path")
    if not root and isinstance(below, str) and _there(_under(folder, below)):
        folder = _under(folder, below)
    found: dict[str, str] = {}
    for key in _SPLIT_KEYS:
        values = content.get(key)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and value.strip():
                place = _under(folder, value)
                if not _there(place) and value.startswith("../"):  # as some tools export it
                    place = _under(folder, value.removeprefix("../"))
                found.setdefault(place.rstrip("/"), split_name(key) or key)
    return [(split, place) for place, split in found.items()]


def _under(folder: str, name: str) -> str:
    return normalise_uri(name, folder)


def _there(place: str) -> bool:
    return storage.exists(place) or _is_folder(place)


def _is_folder(place: str) -> bool:
    return storage.is_folder(place)


def _is_yaml(path: str) -> bool:
    return path.lower().endswith((".yaml", ".yml")) and not _is_folder(path)


def _yaml_in(folder: str) -> str:
    paths = (storage.join(folder, name) for name in YAML_NAMES)
    return next(filter(storage.exists, paths), "")


def _is_side_car(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(_NOT_IMAGES)
