"""TFRecord shards as sources, in two steps: list the records' keys, then read those that are wanted.

Records of any origin are read as long as ``image/encoded`` holds the bytes of an image file; the other
features of the TF Object Detection API and of our own datasets are taken where they are there. Boxes are
fractions of the image that the record holds; a ``difficult`` one is a crowd, as in VOC.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from google.protobuf.message import DecodeError

from beam_vision import storage
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure
from beam_vision.sources import checked, listing
from beam_vision.sources.files import is_shard_name, read_error
from beam_vision.tfrecord_io import OVERHEAD_BYTES, CorruptRecord, Example, read_records
from beam_vision.types import Box, EncodedImage, Failure, ImageRef

CHUNK_BYTES = 64 * 2**20
"""Records of a shard are read back in chunks of this many bytes, so that one large shard is shared out."""

_SPLIT = re.compile(r"(.+)-\d{5,}-of-\d{5,}\.tfrec")
_BBOX = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, order=True)
class RecordRef:
    """A record that was listed.

    Attributes:
      key: the image's key.
      uri: where the record is, as ``SHARD#INDEX``.
      shard: the file that holds it.
      offset: where in the (decompressed) file it begins, in bytes.
      index: its number in the file, from 0.
      labels: its labels.
    """

    key: str
    uri: str
    shard: str
    offset: int
    index: int
    labels: Sequence[str] = ()

    @property
    def chunk(self) -> int:
        """Which part of its shard it is read with; a compressed file has just one."""
        return 0 if _is_compressed(self.shard) else self.offset // CHUNK_BYTES


def list_shards(paths: Sequence[str]) -> Iterator[listing.Found]:
    """The shards of a dataset's folder (its path ends in ``/``), or those that match patterns.

    In a folder with our manifest the shards are those that the manifest lists; in any other folder every
    file that is named like a shard, in whatever folder below.
    """
    if paths[0].endswith("/"):
        names = _manifest_shards(paths[0])
        if names is None:
            paths = [storage.join(listing.escape(paths[0]), "**", "*.tfrec*")]
        else:
            paths = [listing.escape(storage.join(paths[0], name)) for name in names]
    yield from listing.list_patterns(paths, wanted=is_shard_name)


def scan_shard(path: str, *, whole: bool = False) -> Iterator[RecordRef | Failure]:
    """The records of a shard, without their images.

    A record that holds no image (unless records are to be read ``whole``) is a Failure ``bad_record``. Where
    a shard is damaged, the records before the damage are given, and then ONE Failure for all that follows,
    which names the shard and the place.
    """
    for found in _scan(path, whole):
        if isinstance(found, Failure):
            yield found
        else:
            ref, offset, index = found
            yield RecordRef(ref.key, f"{path}#{index}", path, offset, index, ref.labels)


def read_refs(path: str) -> Iterator[ImageRef | Failure]:
    """What the records of a shard say of their images; failures as in :func:`scan_shard`."""
    for found in _scan(path, False):
        yield found if isinstance(found, Failure) else found[0]


def read_chunk(
    path: str, wanted: Sequence[RecordRef], *, whole: bool = False
) -> Iterator[EncodedImage | VisionError]:
    """The images of records of one shard, for each of ``wanted`` one, in their order.

    Args:
      path: the shard.
      wanted: its records, sorted by offset.
      whole: as for :func:`parse_record`.
    """
    given, index, offset = 0, wanted[0].index, wanted[0].offset
    try:
        with _open(path) as file:
            file.seek(offset)
            for data in read_records(file):
                if offset == wanted[given].offset:
                    image = parse_record(data, path, index, whole=whole)
                    if image.ref.key != wanted[given].key:
                        raise VisionError(Reason.BAD_RECORD, f"{path} changed while the job ran")
                    yield image
                    given += 1
                    if given == len(wanted):
                        return
                offset += len(data) + OVERHEAD_BYTES
                index += 1
        raise VisionError(Reason.BAD_RECORD, f"{path} became shorter while the job ran")
    except Exception as error:
        known = _damage(error, path, index)
        if known.transient:
            raise
        for ref in wanted[given:]:
            yield VisionError(known.reason, known.detail, key=ref.key)


def parse_record(data: bytes, shard: str, index: int, *, whole: bool = False) -> EncodedImage:
    """The image in a serialized ``tf.train.Example``.

    Its key is ``image/key``, else ``SHARD#INDEX``; its uri ``image/source_id``, else the same; its split is
    what a shard named ``SPLIT-00000-of-00001.tfrecord`` says. A box that isn't usable is a fault of the ref.

    Args:
      data: the record.
      shard: the file that holds it.
      index: its number in the file, from 0.
      whole: give the record itself in place of the image, which it then need not hold.

    Raises:
      VisionError: ``bad_record``: it is no Example, holds no image, a text in it isn't UTF-8, or its features
        of boxes are not of one length.
    """
    place = f"{shard}#{index}"
    try:
        features = Example.FromString(data).features.feature
        images = _bytes(features, "image/encoded")
        if len(images) != 1 and not whole:
            raise ValueError(f"{len(images)} values of 'image/encoded'; its features are {sorted(features)}")
        match = _SPLIT.match(shard.rpartition("/")[2])
        ref = ImageRef(
            key=_text(features, "image/key") or place,
            uri=_text(features, "image/source_id") or place,
            labels=tuple(text for text in _texts(features, "image/class/text") if text),
            split=match.group(1) if match else None,
            attributes=_attributes(features),
            **_annotations(features, f"{shard.rpartition('/')[2]}#{index}"),
        )
    except (DecodeError, ValueError, TypeError) as error:
        raise VisionError(Reason.BAD_RECORD, f"{place}: {error}") from error
    return EncodedImage(ref, data if whole else images[0])


def _scan(path: str, whole: bool) -> Iterator[tuple[ImageRef, int, int] | Failure]:
    """The ref of each record, the offset at which it begins and its number; else as :func:`scan_shard`."""
    offset = index = 0
    try:
        with _open(path) as file:
            for data in read_records(file):
                uri = f"{path}#{index}"
                try:
                    yield parse_record(data, path, index, whole=whole).ref, offset, index
                except VisionError as error:
                    yield failure(error, ImageRef(key=uri, uri=uri), Stage.SOURCE)
                offset += len(data) + OVERHEAD_BYTES
                index += 1
    except Exception as error:
        known = _damage(error, path, index)
        if known.transient:
            raise  # the runner tries the shard again
        place = f"{path}#{index}" if known.reason is Reason.BAD_RECORD else path
        yield failure(known, ImageRef(key=place, uri=place), Stage.SOURCE)


def _manifest_shards(folder: str) -> list[str] | None:
    path = storage.join(folder, "manifest.json")
    if not storage.exists(path):
        return None
    try:
        splits = storage.read_json(path)["splits"]
        return [shard["name"] for split in splits.values() for shard in split["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged, or of another kind of dataset: {error}") from error


def _is_compressed(path: str) -> bool:
    return path.lower().endswith(".gz")


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    with storage.open_read(path) as file:
        if _is_compressed(path):
            with gzip.open(file) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            yield file


def _damage(error: Exception, path: str, index: int) -> VisionError:
    """What an error while reading record ``index`` means."""
    if isinstance(error, VisionError):
        return error
    if isinstance(error, CorruptRecord):
        return VisionError(Reason.BAD_RECORD, f"{path} is damaged from record {index} on: {error.why}")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return VisionError(Reason.BAD_RECORD, f"{path} is damaged from record {index} on: {error}")
    return read_error(error, path)


def _bytes(features: Any, name: str) -> Sequence[bytes]:
    return features[name].bytes_list.value if name in features else ()


def _texts(features: Any, name: str) -> list[str]:
    return [value.decode("utf-8") for value in _bytes(features, name)]


def _text(features: Any, name: str) -> str:
    texts = _texts(features, name)
    if len(texts) > 1:
        raise ValueError(f"{len(texts)} values of {name!r}")
    return texts[0] if texts else ""


def _number(features: Any, name: str) -> int:
    values = features[name].int64_list.value if name in features else ()
    return values[0] if values else 0


def _annotations(features: Any, place: str) -> dict[str, Any]:
    """The boxes of a record, their frame and their faults, as fields of a ref."""
    corners = [_column(features, f"image/object/bbox/{corner}", "float_list") for corner in _BBOX]
    if not any(corners):
        return {}
    width_px, height_px = (
        checked.size_px(_number(features, f"image/{side}")) for side in ("width", "height")
    )
    count = len(corners[0])
    labels = _texts(features, "image/object/class/text") or [
        str(number) for number in _column(features, "image/object/class/label", "int64_list")
    ]
    crowds = _column(features, "image/object/is_crowd", "int64_list") or [0] * count
    difficult = _column(features, "image/object/difficult", "int64_list") or [0] * count
    areas = _column(features, "image/object/area", "float_list") or [0.0] * count
    rows = zip(*corners, labels or [""] * count, crowds, difficult, areas, strict=True)
    found = checked.Checked()
    for number, row in enumerate(rows, start=1):
        found.add(f"{place}: box {number}", _box, row, width_px * height_px)
    frame = checked.frame("auto", relative=True, width_px=width_px, height_px=height_px)
    return {"frame": frame, **found.fields}


def _box(row: Sequence[Any], image_px: int) -> Box:
    """A box in fractions of its image, its area too (of which records have pixels)."""
    *corners, label, crowd, difficult, area_px = row
    area = checked.area(area_px) / image_px if image_px else 0.0
    return checked.box(corners, label, crowd=bool(crowd or difficult), area_px=area)


def _column(features: Any, name: str, kind: str) -> list[Any]:
    return list(getattr(features[name], kind).value) if name in features else []


def _attributes(features: Any) -> dict[str, str]:
    text = _text(features, "image/attributes")
    value = json.loads(text) if text else {}
    if not isinstance(value, dict):
        raise ValueError("its 'image/attributes' are not a JSON object")
    return {name: member if isinstance(member, str) else json.dumps(member) for name, member in value.items()}
