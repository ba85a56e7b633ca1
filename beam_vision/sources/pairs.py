"""Images with a file of annotations each: what VOC and YOLO have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass

from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import failure
from beam_vision.sources.files import read_image
from beam_vision.types import Failure, ImageRef

MAX_ANNOTATION_BYTES = 16 * 2**20

_SPLIT = re.compile(r"(train|validation|valid|val|test)\d*", re.IGNORECASE)
_VALIDATION = ("val", "valid")


@dataclass(frozen=True)
class Pair:
    """An image and where its annotations are; it crosses the shuffle that shares out the reading of them.

    Attributes:
      image: its normalised URI; a folder with ``/`` at its end where only the annotation says which file.
      annotation: the file of its annotations.
      split: the split it is in, or None.
    """

    image: str
    annotation: str
    split: str | None = None


def split_name(name: str) -> str | None:
    """The split that a folder or a list of this name stands for (``val2017``: ``validation``, as ``--splits``
    calls it by default), or None."""
    match = _SPLIT.fullmatch(name)
    if not match:
        return None
    split = match.group(1).lower()
    return "validation" if split in _VALIDATION else split


def read_annotation(path: str) -> bytes:
    """A file of annotations, of at most 16 MiB.

    Raises:
      VisionError: as :func:`~beam_vision.sources.files.read_image`.
    """
    return read_image(path, max_bytes=MAX_ANNOTATION_BYTES)


def broken(pair: Pair, why: str, reason: Reason = Reason.BAD_MANIFEST_ROW) -> Failure:
    """The Failure of an image whose annotations can't be used."""
    uri = pair.annotation if pair.image.endswith("/") else pair.image
    return failure(VisionError(reason, why), ImageRef(key=uri, uri=uri), Stage.SOURCE)
