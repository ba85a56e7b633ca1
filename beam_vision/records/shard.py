"""What a shard is to hold, what it holds, and whether an earlier run has finished it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import google_crc32c

from beam_vision import storage
from beam_vision.digest import content_digest, settings_digest
from beam_vision.errors import TRANSIENT_REASONS, Reason
from beam_vision.records.encode import EncodeSettings, PixelSums
from beam_vision.records.layout import side_car_name
from beam_vision.types import EncodedImage, Failure, ImageRef

WRITER_VERSION = 2
"""Raised when the same plan would be written differently: shards of earlier versions are then redone."""

_CHUNK_BYTES = 2**20
_FAILURES = ("failures", "annotation_failures")


@dataclass(frozen=True)
class Item:
    """An image as the plan knows it.

    Attributes:
      ref: its ref.
      sha256: of its file, as 64 hexadecimal digits; says which files are copies.
      crc32c: of its file; says at little cost that the file hasn't changed since.
      n_bytes: size of its file.
    """

    ref: ImageRef
    sha256: str
    crc32c: int
    n_bytes: int


def fingerprint(image: EncodedImage) -> Item:
    """What the plan needs to know of an image."""
    data = image.data
    return Item(image.ref, content_digest(data), google_crc32c.value(data), len(data))


@dataclass(frozen=True)
class ShardPlan:
    """What goes into one shard.

    Attributes:
      name: the file's name.
      split: its split.
      items: sorted by key.
      moved: how many of them were wanted in another split, where a copy of them is.
    """

    name: str
    split: str
    items: Sequence[Item]
    moved: int = 0

    def digest(
        self, settings: EncodeSettings, classes: Sequence[str], box_classes: Sequence[str] = ()
    ) -> str:
        """What decides the shard's bytes."""
        items = [[_plain(item.ref), item.sha256] for item in self.items]
        lists = [list(classes), list(box_classes)]
        return settings_digest([WRITER_VERSION, self.name, settings.digest, *lists, self.moved, items])


def _plain(ref: ImageRef) -> dict[str, Any]:
    """A ref as JSON values; numbers of boxes as text, since an annotation file may say NaN."""
    return {**asdict(ref), "boxes": [list(map(str, astuple(box))) for box in ref.boxes]}


@dataclass(frozen=True)
class ShardInfo:
    """A finished shard; all but ``kept`` stands in its side-car.

    Attributes:
      name: the file's name.
      split: its split.
      plan_digest: of the :class:`ShardPlan` it was made from.
      images: records in it.
      bytes: size of the file.
      sha256: of the file.
      classes: how many images have each label.
      unlabelled: images without a label.
      most_labels: labels of the image that has the most.
      moved: see :class:`ShardPlan`.
      encoded_anew: images that weren't stored as the file they were.
      pixels: sums over the images' pixels.
      boxes: how many boxes each category has.
      most_boxes: boxes of the image that has the most.
      boxes_clipped: boxes that left their image and were cut at its edge.
      failures: images of the plan that aren't in it; their run is the one that reports them.
      annotation_failures: annotations of its images that aren't in it.
      kept: whether it was there already.
    """

    name: str
    split: str
    plan_digest: str
    images: int
    bytes: int
    sha256: str
    classes: Mapping[str, int]
    unlabelled: int
    most_labels: int
    moved: int
    encoded_anew: int
    pixels: PixelSums
    boxes: Mapping[str, int] = field(default_factory=dict)
    most_boxes: int = 0
    boxes_clipped: int = 0
    failures: Sequence[Failure] = ()
    annotation_failures: Sequence[Failure] = ()
    kept: bool = field(default=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The side-car's content; the same for the same shard, whichever run wrote it."""
        value = asdict(self)
        del value["kept"]
        value["classes"] = dict(sorted(self.classes.items()))
        value["boxes"] = dict(sorted(self.boxes.items()))
        for name in _FAILURES:
            value[name] = [{**asdict(f), "run_id": "", "attempt": 1} for f in getattr(self, name)]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, kept: bool = False) -> ShardInfo:
        """Reads what :meth:`to_json` gave."""
        pixels = PixelSums(
            value["pixels"]["count"], *(tuple(value["pixels"][name]) for name in ("sums", "squares"))
        )
        failures = {name: tuple(Failure(**failure) for failure in value.get(name, ())) for name in _FAILURES}
        return cls(**{**value, **failures, "pixels": pixels, "kept": kept})


def finished(folder: str, plan: ShardPlan, digest: str, *, retry_failed: bool = False) -> ShardInfo | None:
    """The shard of ``plan`` when an earlier run has finished it, else None.

    Its bytes must be those that its side-car names. A shard with failures that may pass (a read that timed
    out) isn't finished; with ``retry_failed`` none with any failure is.
    """
    try:
        info = ShardInfo.from_json(
            storage.read_json(storage.join(folder, side_car_name(plan.name))), kept=True
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    again = [f for f in info.failures if retry_failed or Reason(f.reason) in TRANSIENT_REASONS]
    path = storage.join(folder, plan.name)
    if info.plan_digest != digest or again or not storage.exists(path) or file_sha256(path) != info.sha256:
        return None
    return info


def file_sha256(path: str) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with storage.open_read(path) as file:
        while data := file.read(_CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()
