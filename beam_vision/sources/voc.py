"""Pascal VOC: a folder of XML files, one for each image.

The folder is a VOC root (``Annotations/``, ``JPEGImages/``, and perhaps ``ImageSets/Main/``, which says the
splits), or any folder with XML files beside the images. An image belongs to the XML file with the same
path but for the suffix, else to the one that names it (``<filename>``); an image without an XML file was
not annotated and is skipped.

VOC counts pixels from 1 and its corners are the box's own pixels; ours are continuous, so 1 is taken from
xmin and ymin. A ``difficult`` object becomes a crowd: a region where what is found counts neither way.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from xml.parsers import expat

from beam_vision import storage
from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.sources import checked, listing
from beam_vision.sources.files import is_image_name, normalise_uri
from beam_vision.sources.pairs import Pair, broken, read_annotation, split_name
from beam_vision.types import Box, Failure, ImageRef

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_HELD_OUT = ("test", "validation")


@dataclass(frozen=True)
class Layout:
    """Where a VOC dataset has its parts.

    Attributes:
      annotations: the folder of XML files.
      images: the folder of images.
      sets: the folder of lists of images by split; empty: none.
    """

    annotations: str
    images: str
    sets: str = ""


def is_voc_root(folder: str) -> bool:
    """Whether a folder has both ``Annotations/`` and ``JPEGImages/``."""
    return all(storage.is_folder(storage.join(folder, part)) for part in ("Annotations", "JPEGImages"))


def find_layout(folder: str, image_root: str = "") -> Layout:
    """Where the parts are of a VOC root, or of a folder of XML files beside images.

    Args:
      folder: absolute.
      image_root: where the images are, if elsewhere.

    Raises:
      UsageError: there is no XML file.
    """
    annotations = storage.join(folder, "Annotations")
    is_root = storage.is_folder(annotations)
    if not is_root:
        annotations = folder
    if not any(True for _ in listing.walk_names(annotations, _is_xml)):
        raise UsageError(
            f"{annotations} holds no .xml file; --format voc needs a folder with Annotations/ and "
            "JPEGImages/, or XML files beside the images"
        )
    images, sets = storage.join(folder, "JPEGImages"), storage.join(folder, "ImageSets", "Main")
    if not image_root:
        image_root = images if is_root and storage.is_folder(images) else folder
    return Layout(annotations, image_root, sets if is_root and storage.is_folder(sets) else "")


def list_pairs(layout: Layout) -> Iterator[Pair | Failure | listing.Skipped]:
    """Each XML file with its image; Skipped: images without an XML file, and what is neither."""
    splits = _read_sets(layout.sets) if layout.sets else {}
    images: dict[str, list[str]] = {}
    annotations: list[str] = []
    for root in dict.fromkeys((layout.images, layout.annotations)):
        for found in listing.walk_wanted(root, lambda name: _is_xml(name) or is_image_name(name)):
            if not isinstance(found, str):
                yield found
            elif _is_xml(found) and root == layout.annotations:
                annotations.append(found)
            elif is_image_name(found.rpartition("/")[2]) and root == layout.images:
                images.setdefault(_stem(found), []).append(found)
    for annotation in annotations:
        stem = _stem(annotation)
        first, *others = sorted(images.pop(stem, ())) or [stem.rpartition("/")[0] + "/"]
        image = normalise_uri(storage.join(layout.images, first.lstrip("/"))).rstrip("/")
        image += "/" if first.endswith("/") else ""
        yield Pair(image, normalise_uri(storage.join(layout.annotations, annotation)), splits.get(stem))
        for other in others:
            yield listing.Skipped(storage.join(layout.images, other))
    for left_over in images.values():
        yield from (listing.Skipped(storage.join(layout.images, name)) for name in left_over)


def read_pair(pair: Pair, *, boxes_on: str = "auto") -> ImageRef | Failure:
    """The image with the boxes that its XML file gives, or a Failure if the file can't be used.

    Args:
      pair: of :func:`list_pairs`.
      boxes_on: see :func:`beam_vision.sources.checked.frame`; ``auto``: the annotated size decides.
    """
    name = pair.annotation.rpartition("/")[2]
    try:
        data = read_annotation(pair.annotation)
    except VisionError as error:
        return broken(pair, error.detail, error.reason)
    try:
        root, lines = parse_xml(data)
        if root.tag != "annotation":
            raise VisionError(Reason.BAD_MANIFEST_ROW, f": its root is <{root.tag}>, not <annotation>")
        uri = pair.image if not pair.image.endswith("/") else _named_image(root, pair.image)
    except VisionError as error:
        return broken(pair, f"{pair.annotation}{error.detail}")
    boxes = checked.Checked()
    for element in root.findall("object"):
        boxes.add(f"{name}:{lines[element]}", _box, element)
    width_px, height_px = (checked.size_px(root.findtext(f"size/{side}")) for side in ("width", "height"))
    return ImageRef(
        key=uri,
        uri=uri,
        split=pair.split,
        frame=checked.frame(boxes_on, width_px=width_px, height_px=height_px),
        **boxes.fields,
    )


def parse_xml(data: bytes) -> tuple[ET.Element, dict[ET.Element, int]]:
    """The root of an XML document, and the line (from 1) on which each element begins.

    Nothing but the document itself is read: one with a DOCTYPE, without which there are no entities of its
    own and none from elsewhere, is refused.

    Raises:
      VisionError: ``bad_manifest_row``, with line and column at the beginning of the detail.
    """
    parser, builder = expat.ParserCreate(), ET.TreeBuilder()
    lines: dict[ET.Element, int] = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    def refuse(*_: object) -> None:
        raise _not_xml(parser.CurrentLineNumber, parser.CurrentColumnNumber, "it has a DOCTYPE: refused")

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _not_xml(error.lineno, error.offset, expat.ErrorString(error.code)) from error
    except (LookupError, ValueError) as error:  # an encoding that nobody knows
        raise _not_xml(parser.CurrentLineNumber, parser.CurrentColumnNumber, str(error)) from error
    return builder.close(), lines


def _not_xml(line: int, column: int, why: str) -> VisionError:
    return VisionError(Reason.BAD_MANIFEST_ROW, f":{line}:{column + 1}: {why}")


def _named_image(root: ET.Element, folder: str) -> str:
    name = (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]
    if not name:
        raise VisionError(Reason.BAD_MANIFEST_ROW, ": no image has its name, and it has no <filename>")
    return normalise_uri(storage.join(folder, name))


def _box(element: ET.Element) -> Box:
    corners = element.find("bndbox")
    if corners is None:
        raise checked.bad_box("the object has no <bndbox>")
    label = (element.findtext("name") or "").strip()
    if not label:
        raise VisionError(Reason.UNKNOWN_CATEGORY, "the object has no <name>")
    xmin, ymin, xmax, ymax = (checked.number(corners.findtext(name), name) for name in _CORNERS)
    crowd = checked.flag(element.findtext("difficult"), "difficult")
    return checked.box((xmin - 1, ymin - 1, xmax, ymax), label, crowd=crowd)


def _read_sets(folder: str) -> dict[str, str]:
    """The split of each image that a list names, ``test.txt`` and ``val.txt`` before others (what is held out
    stays so). Lists of one class (``cat_train.txt``, with a second column) say nothing, nor does
    ``trainval.txt``."""
    lists = {}
    for name in storage.list_folder(folder):
        stem, dot, suffix = name.rpartition(".")
        if dot and suffix.lower() == "txt" and stem != "trainval":
            lists[split_name(stem) or stem] = storage.join(folder, name)
    splits: dict[str, str] = {}
    for split in sorted(lists, key=lambda name: (name not in _HELD_OUT, name)):
        text = storage.read_bytes(lists[split]).decode("utf-8", "surrogateescape")
        rows = [line.split() for line in text.splitlines() if line.strip()]
        if all(len(row) == 1 for row in rows):
            splits = {row[0]: split for row in rows} | splits
    return splits


def _is_xml(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.lower().endswith(".xml") and not name.startswith(".")


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.rpartition(".")[0] if "." in name else path
