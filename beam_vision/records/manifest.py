"""The manifest of a dataset: written last, so that what it lists is there, whole and proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from beam_vision import storage
from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError
from beam_vision.records.encode import PixelSums
from beam_vision.records.layout import KIND, MANIFEST
from beam_vision.records.shard import ShardInfo

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One file of a dataset."""

    name: str
    images: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """One split of a dataset.

    Attributes:
      images: records in its shards.
      bytes: of its files.
      shards: its files, sorted by name.
      classes: how many images have each label, for every label of the class list.
      boxes: how many boxes each category has, for every one of the list of categories.
      unlabelled: images without a label.
      mean_rgb: mean of the pixels, 0..255; see :func:`~beam_vision.records.encode.pixel_sums`.
      std_rgb: their standard deviation.
    """

    images: int
    bytes: int
    shards: list[Shard]
    classes: dict[str, int]
    unlabelled: int
    mean_rgb: list[float]
    std_rgb: list[float]
    boxes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DatasetManifest:
    """What a finished dataset says of itself.

    Attributes:
      run_id: the run that committed it.
      dataset_digest: of the shards' sha256s: the same for the same records.
      splits: by name.
      classes: the class list; a label's id is its place in it.
      multi_label: whether an image has more than one label.
      split_settings: how images were split and sharded.
      encode_settings: how they were decoded and encoded.
      encode_digest: of ``encode_settings``.
      moved_duplicates: images that went to another split than their own, where a copy of them is.
      encoded_anew: images that weren't stored as the file they were.
      inputs, outputs, failed, already_done: ``inputs == outputs + failed + already_done``, where
        ``already_done`` counts images in shards that were kept from an earlier run.
      failed_by_reason: failed, by reason.
      box_classes: the categories of boxes; the id of one is its place in it, from 1. Empty: no boxes.
      boxes: how many boxes each category has.
      most_boxes: boxes of the image that has the most.
      boxes_clipped: boxes that left their image and were cut at its edge.
      annotations_failed: annotations of written images that could not be used; they stand in
        ``annotation_failures/``, and their images are not counted as failed.
      annotations_failed_by_reason: these, by reason.
    """

    run_id: str
    dataset_digest: str
    splits: dict[str, Split]
    classes: list[str]
    multi_label: bool
    split_settings: dict[str, Any]
    encode_settings: dict[str, Any]
    encode_digest: str
    moved_duplicates: int
    encoded_anew: int
    inputs: int
    outputs: int
    failed: int
    already_done: int
    failed_by_reason: dict[str, int] = field(default_factory=dict)
    box_classes: list[str] = field(default_factory=list)
    boxes: dict[str, int] = field(default_factory=dict)
    most_boxes: int = 0
    boxes_clipped: int = 0
    annotations_failed: int = 0
    annotations_failed_by_reason: dict[str, int] = field(default_factory=dict)
    kind: str = KIND
    format_version: int = FORMAT_VERSION

    @property
    def images(self) -> int:
        """Records in all splits."""
        return sum(split.images for split in self.splits.values())

    @property
    def shards(self) -> dict[str, Shard]:
        """All shards, by name."""
        return {shard.name: shard for split in self.splits.values() for shard in split.shards}

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, path: str = MANIFEST) -> DatasetManifest:
        """Reads what :meth:`to_json` gave.

        Raises:
          UsageError: it is another kind of manifest, of a newer format, or not whole.
        """
        if not isinstance(value, Mapping) or value.get("kind") != KIND:
            raise UsageError(f"{path} is not the manifest of a TFRecord dataset")
        if value.get("format_version", 0) > FORMAT_VERSION:
            raise UsageError(f"{path} was written by a newer beam-vision; upgrade to read it")
        try:
            known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
            known["splits"] = {
                name: Split(**{**split, "shards": [Shard(**shard) for shard in split["shards"]]})
                for name, split in value["splits"].items()
            }
            return cls(**known)
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def read_manifest(folder: str) -> DatasetManifest:
    """The manifest of the dataset in ``folder``.

    Raises:
      UsageError: there is none, or it can't be read.
    """
    path = storage.join(folder, MANIFEST)
    if not storage.exists(path):
        raise UsageError(
            f"no TFRecord dataset at {folder}: it has no {MANIFEST}, which create-tfrecords writes when all "
            "else is done; run it (again with --resume, if it was interrupted)"
        )
    try:
        value = storage.read_json(path)
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    return DatasetManifest.from_json(value, path=path)


def summarise(
    split: str, infos: Sequence[ShardInfo], classes: Sequence[str], box_classes: Sequence[str] = ()
) -> Split:
    """What the manifest says of one split, from the side-cars of its shards."""
    own = sorted((info for info in infos if info.split == split), key=lambda info: info.name)
    counts, boxes = Counter[str](), Counter[str]()
    for info in own:
        counts.update(info.classes)
        boxes.update(info.boxes)
    pixels = sum((info.pixels for info in own), PixelSums())
    return Split(
        images=sum(info.images for info in own),
        bytes=sum(info.bytes for info in own),
        shards=[Shard(info.name, info.images, info.bytes, info.sha256) for info in own],
        classes={label: counts[label] for label in classes},
        boxes={name: boxes[name] for name in box_classes},
        unlabelled=sum(info.unlabelled for info in own),
        mean_rgb=pixels.mean,
        std_rgb=pixels.std,
    )


def dataset_digest(infos: Sequence[ShardInfo]) -> str:
    """Of the names and sha256s of all shards."""
    return settings_digest(sorted((info.name, info.sha256) for info in infos))
