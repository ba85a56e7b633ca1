"""Proves one shard: its checksums, its records, its images. Pure; no Beam."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.message import DecodeError

from beam_vision import storage
from beam_vision.errors import VisionError
from beam_vision.images import codec
from beam_vision.records.ahead import map_ahead
from beam_vision.records.example import Record, from_example
from beam_vision.records.label_map import box_ids
from beam_vision.records.layout import split_of
from beam_vision.records.manifest import DatasetManifest, Shard
from beam_vision.tfrecord_io import OVERHEAD_BYTES, CorruptRecord, Example, read_records

_KINDS = {"bytes_list": "BYTES", "int64_list": "INT", "float_list": "FLOAT"}
_AHEAD = 64
_AHEAD_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where.

    Attributes:
      shard: the file; empty when it isn't one file's fault.
      where: the place in it: the record's number, byte and key.
      what: one sentence.
    """

    shard: str
    where: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.shard, self.where, self.what) if part)


@dataclass(frozen=True)
class Place:
    """Where one image is."""

    key: str
    content_sha256: str
    split: str
    shard: str


@dataclass(frozen=True)
class Checked:
    """A shard that was read to its end, or as far as that went.

    Attributes:
      name: the file.
      split: its split.
      images: records found.
      bytes: size of the file.
      classes: how many images have each label.
      boxes: how many boxes each category has.
    """

    name: str
    split: str
    images: int
    bytes: int
    classes: Mapping[str, int]
    boxes: Mapping[str, int] = field(default_factory=dict)


class ShardChecker:
    """Checks shards one by one.

    Args:
      folder: the dataset's.
      manifest: its manifest.
      kinds: type by feature name (``BYTES``, ``INT``, ``FLOAT``), from its schema.
      decode: how each image is decoded, or None to decode none.
      pool: decodes.
    """

    def __init__(
        self,
        folder: str,
        manifest: DatasetManifest,
        *,
        kinds: Mapping[str, str],
        decode: codec.DecodeSettings | None,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._folder = folder
        self._ids = {label: number for number, label in enumerate(manifest.classes)}
        self._box_ids = box_ids(manifest.box_classes)
        self._names = {shard.sha256: name for name, shard in manifest.shards.items()}
        self._kinds = kinds
        self._decode = decode
        self._pool = pool

    def check(self, shard: Shard) -> Iterator[bytes | Place | Problem | Checked]:
        """Reads a shard; gives its sound records, their places, what is wrong, and last a Checked."""
        with storage.open_read(storage.join(self._folder, shard.name)) as file:
            hashing = _HashingReader(file)
            records = _Records(hashing)
            checked = yield from self._check_records(shard.name, records)
            hashing.drain()
        if records.damage is not None:
            damage = records.damage
            yield Problem(shard.name, f"record {damage.index} at byte {damage.offset}", damage.why)
        elif checked.images != shard.images:
            yield Problem(shard.name, "", f"it has {checked.images} records, by the manifest {shard.images}")
        if hashing.size != shard.bytes:
            yield Problem(shard.name, "", f"it has {hashing.size} bytes, by the manifest {shard.bytes}")
        sha256 = hashing.sha256.hexdigest()
        if sha256 != shard.sha256:
            other = self._names.get(sha256)
            hint = f": these are the bytes of {other}" if other else ""
            yield Problem(shard.name, "", f"its sha256 is {sha256}, by the manifest {shard.sha256}{hint}")
        yield replace(checked, bytes=hashing.size)

    def _check_records(
        self, name: str, records: _Records
    ) -> Generator[bytes | Place | Problem, None, Checked]:
        images, classes, boxes, last_key = 0, Counter[str](), Counter[str](), ""
        results = map_ahead(
            self._pool,
            self._inspect,
            records,
            most=_AHEAD,
            most_bytes=_AHEAD_BYTES,
            size_bytes=lambda framed: len(framed.data),
        )
        for framed, record, faults in results:
            images += 1
            where = f"record {framed.index} at byte {framed.offset}"
            if record is not None:
                where += f", key {record.key}"
                if record.key <= last_key:
                    faults.append(f"it follows key {last_key}; records are sorted by key")
                last_key = record.key
                classes.update(record.labels)
                boxes.update(box.label for box in record.boxes)
                yield Place(record.key, record.content_sha256, split_of(name), name)
                yield framed.data
            yield from (Problem(name, where, fault) for fault in faults)
        return Checked(name, split_of(name), images, 0, dict(classes), dict(boxes))

    def _inspect(self, framed: _Framed) -> tuple[_Framed, Record | None, list[str]]:
        """One record, read and decoded; None when it can't be trusted any further."""
        try:
            example = Example.FromString(framed.data)
            faults = self._kind_faults(example)
            if faults:
                return framed, None, faults
            record = from_example(example)
        except DecodeError:
            return framed, None, ["not a tf.train.Example"]
        except ValueError as error:
            return framed, None, [str(error)]
        faults = [*self._label_faults(record), *self._box_faults(record), *self._pixel_faults(record)]
        return framed, record, faults

    def _kind_faults(self, example: Any) -> list[str]:
        """Features that the schema doesn't know, or of another type."""
        faults = []
        for name, feature in example.features.feature.items():
            kind = _KINDS.get(feature.WhichOneof("kind"))
            if name not in self._kinds:
                faults.append(f"feature {name!r} is not in the schema")
            elif kind != self._kinds[name]:
                faults.append(f"feature {name!r} is {kind}, by the schema {self._kinds[name]}")
        return faults

    def _label_faults(self, record: Record) -> list[str]:
        ids = [self._ids.get(label) for label in record.labels]
        if None in ids:
            return [f"label {record.labels[ids.index(None)]!r} is not in the class list"]
        if ids != list(record.label_ids):
            return [f"labels {list(record.labels)} have ids {list(record.label_ids)}"]
        return []

    def _box_faults(self, record: Record) -> list[str]:
        """Boxes that aren't whole boxes within the image, or not of a category in the list."""
        faults = []
        for number, box in enumerate(record.boxes):
            corners = (box.xmin, box.ymin, box.xmax, box.ymax)
            if not (0 <= box.xmin < box.xmax <= 1 and 0 <= box.ymin < box.ymax <= 1):
                faults.append(f"box {number} {corners} (xmin, ymin, xmax, ymax) is no box in 0..1")
            if not 0 <= box.area_px < math.inf:
                faults.append(f"box {number} has an area of {box.area_px} pixels")
        if not self._box_ids:  # a dataset without boxes, or of an earlier version, which gave them no ids
            return faults
        ids = [self._box_ids.get(box.label) for box in record.boxes]
        if None in ids:
            return [*faults, f"category {record.boxes[ids.index(None)].label!r} is not in the class list"]
        if ids != list(record.box_ids):
            names = [box.label for box in record.boxes]
            faults.append(f"boxes {names} have ids {list(record.box_ids)}, by the label map {ids}")
        return faults

    def _pixel_faults(self, record: Record) -> list[str]:
        if self._decode is None:
            return []
        try:
            image = codec.decode(record.data, self._decode)
        except VisionError as error:
            return [f"its image can't be decoded: {error}"]
        if (image.width_px, image.height_px) != (record.width_px, record.height_px):
            return [
                f"its image has {image.width_px} x {image.height_px} pixels, the record says "
                f"{record.width_px} x {record.height_px}"
            ]
        return []


@dataclass(frozen=True)
class _Framed:
    index: int
    offset: int
    data: bytes


class _Records:
    """The records of a file with their number and place; stops at damage, and keeps it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.damage: CorruptRecord | None = None

    def __iter__(self) -> Iterator[_Framed]:
        offset = 0
        try:
            for index, data in enumerate(read_records(self._file)):
                yield _Framed(index, offset, data)
                offset += len(data) + OVERHEAD_BYTES
        except CorruptRecord as error:
            self.damage = error


class _HashingReader:
    """A file for reading that knows the sha256 and the size of what was read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        self.size += len(data)
        return data

    def drain(self) -> None:
        """Reads the rest, where reading stopped at damage."""
        while self.read(2**20):
            pass
