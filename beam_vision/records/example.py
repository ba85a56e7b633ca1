"""An image with its labels as a ``tf.train.Example``, in the feature names of the TF Object Detection API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_vision.tfrecord_io import Example
from beam_vision.types import Box

ENCODED = "image/encoded"
FORMAT = "image/format"
KEY = "image/key"
SOURCE_ID = "image/source_id"
HEIGHT = "image/height"
WIDTH = "image/width"
SHA256 = "image/content_sha256"
ATTRIBUTES = "image/attributes"
CLASS_TEXT = "image/class/text"
CLASS_LABEL = "image/class/label"
BOX_CORNERS = tuple(f"image/object/bbox/{corner}" for corner in ("xmin", "ymin", "xmax", "ymax"))
BOX_TEXT = "image/object/class/text"


@dataclass(frozen=True)
class Record:
    """What one record holds.

    Attributes:
      key: the image's key.
      uri: where the image came from.
      data: the encoded image: upright, RGB or gray.
      format: ``"jpeg"`` or ``"png"``.
      width_px: width of the image in ``data``.
      height_px: its height.
      content_sha256: 64 hexadecimal digits, of the file that the image came from.
      labels: the labels.
      label_ids: their 0-based places in the dataset's class list.
      attributes: further columns.
      boxes: corners as fractions 0..1 of width and height; scores aren't kept.
    """

    key: str
    uri: str
    data: bytes
    format: str
    width_px: int
    height_px: int
    content_sha256: str
    labels: Sequence[str] = ()
    label_ids: Sequence[int] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    boxes: Sequence[Box] = ()


def to_example(record: Record) -> bytes:
    """``record`` as a serialized Example; the same record gives the same bytes.

    Labels and boxes are left out where there are none.
    """
    values: dict[str, Sequence[Any]] = {
        FORMAT: [record.format],
        KEY: [record.key],
        SOURCE_ID: [record.uri],
        HEIGHT: [record.height_px],
        WIDTH: [record.width_px],
        SHA256: [record.content_sha256],
        ATTRIBUTES: [json.dumps(dict(record.attributes), sort_keys=True, ensure_ascii=False)],
        CLASS_TEXT: record.labels,
        CLASS_LABEL: record.label_ids,
        BOX_TEXT: [box.label for box in record.boxes],
    }
    for name in BOX_CORNERS:
        values[name] = [float(getattr(box, name.rpartition("/")[2])) for box in record.boxes]
    features = Example().features
    for name, found in values.items():
        if found:
            _fill(features.feature[name], found)
    return _with_image(features.SerializeToString(deterministic=True), record.data)


def from_example(example: Any) -> Record:
    """The record in an Example that :func:`to_example` made.

    Args:
      example: a parsed :data:`beam_vision.tfrecord_io.Example`.

    Raises:
      ValueError: it lacks a feature that every record has (named), or a text in it isn't one.
    """
    features = example.features.feature
    texts = [value.decode() for value in _bytes(features, BOX_TEXT)]
    corners = [list(features[name].float_list.value) if name in features else [] for name in BOX_CORNERS]
    return Record(
        key=_one(_bytes(features, KEY), KEY).decode(),
        uri=_one(_bytes(features, SOURCE_ID), SOURCE_ID).decode(),
        data=_one(_bytes(features, ENCODED), ENCODED),
        format=_one(_bytes(features, FORMAT), FORMAT).decode(),
        width_px=_one(_ints(features, WIDTH), WIDTH),
        height_px=_one(_ints(features, HEIGHT), HEIGHT),
        content_sha256=_one(_bytes(features, SHA256), SHA256).decode(),
        labels=tuple(value.decode() for value in _bytes(features, CLASS_TEXT)),
        label_ids=tuple(_ints(features, CLASS_LABEL)),
        attributes=json.loads(_one(_bytes(features, ATTRIBUTES), ATTRIBUTES)),
        boxes=tuple(Box(*found) for found in zip(*corners, texts, strict=True)),
    )


def _with_image(features: bytes, data: bytes) -> bytes:
    """An Example of serialized ``Features`` and, as the last of them, ``data`` as :data:`ENCODED`.

    Written by hand as protobuf has it on the wire, since message classes copy large values several times.
    """
    head = b""
    # from the inside out: BytesList.value, Feature.bytes_list, FeatureEntry.value
    for number in (1, 1, 2):
        head = _length_delimited(number, len(head) + len(data)) + head
    name = ENCODED.encode()
    head = _length_delimited(1, len(name)) + name + head
    head = features + _length_delimited(1, len(head) + len(data)) + head  # Features.feature
    return b"".join((_length_delimited(1, len(head) + len(data)), head, data))  # Example.features


def _length_delimited(number: int, size: int) -> bytes:
    """The tag of a length-delimited field, and its length as a varint."""
    found = bytearray([number << 3 | 2])
    while size > 0x7F:
        found.append(size & 0x7F | 0x80)
        size >>= 7
    found.append(size)
    return bytes(found)


def _fill(feature: Any, values: Sequence[Any]) -> None:
    if isinstance(values[0], int):
        feature.int64_list.value.extend(values)
    elif isinstance(values[0], float):
        feature.float_list.value.extend(values)
    else:
        feature.bytes_list.value.extend(value.encode() for value in values)


def _bytes(features: Any, name: str) -> list[bytes]:
    return list(features[name].bytes_list.value) if name in features else []


def _ints(features: Any, name: str) -> list[int]:
    return list(features[name].int64_list.value) if name in features else []


def _one(values: Sequence[Any], name: str) -> Any:
    if len(values) != 1:
        raise ValueError(f"feature {name!r} has {len(values)} values instead of one")
    return values[0]
