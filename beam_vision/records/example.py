"""An image with its labels as a ``tf.train.Example``, in the feature names of the TF Object Detection API.

Those of an image with boxes are what that API's ``dataset_tools/create_coco_tf_record.py`` writes.
"""

from __future__ import annotations

import hashlib
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
FILENAME = "image/filename"
KEY_SHA256 = "image/key/sha256"
BOX_CORNERS = tuple(f"image/object/bbox/{corner}" for corner in ("xmin", "ymin", "xmax", "ymax"))
BOX_TEXT = "image/object/class/text"
BOX_LABEL = "image/object/class/label"
BOX_CROWD = "image/object/is_crowd"
BOX_AREA = "image/object/area"


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
      boxes: corners as fractions 0..1 of width and height, ``area_px`` in pixels of the image in ``data``;
        scores aren't kept.
      box_ids: their categories' 1-based places in the dataset's list of them; empty in records of older
        versions, which have no areas and no crowds either.
      for_detection: whether the record is of a dataset with boxes, even if this image has none: it then has
        ``image/filename`` and ``image/key/sha256`` (of ``data``) too.
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
    box_ids: Sequence[int] = ()
    for_detection: bool = False


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
    }
    if record.for_detection:
        values[FILENAME] = [record.uri.rpartition("/")[2]]
        values[KEY_SHA256] = [hashlib.sha256(record.data).hexdigest()]
    if record.boxes:
        values |= _box_values(record)
    features = Example().features
    for name, found in values.items():
        if found:
            _fill(features.feature[name], found)
    return _with_image(features.SerializeToString(deterministic=True), record.data)


def _box_values(record: Record) -> dict[str, Sequence[Any]]:
    boxes = record.boxes
    values: dict[str, Sequence[Any]] = {
        name: [float(getattr(box, name.rpartition("/")[2])) for box in boxes] for name in BOX_CORNERS
    }
    return values | {
        BOX_TEXT: [box.label for box in boxes],
        BOX_LABEL: record.box_ids,
        BOX_CROWD: [int(box.crowd) for box in boxes],
        BOX_AREA: [float(box.area_px) for box in boxes],
    }


def from_example(example: Any) -> Record:
    """The record in an Example that :func:`to_example` made.

    Args:
      example: a parsed :data:`beam_vision.tfrecord_io.Example`.

    Raises:
      ValueError: it lacks a feature that every record has (named), a text in it isn't one, or what it says
        of its boxes isn't of as many boxes everywhere.
    """
    features = example.features.feature
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
        boxes=_boxes(features),
        box_ids=tuple(_ints(features, BOX_LABEL)),
        for_detection=KEY_SHA256 in features,
    )


def _boxes(features: Any) -> tuple[Box, ...]:
    columns: dict[str, Sequence[Any]] = {name: _floats(features, name) for name in BOX_CORNERS}
    count = len(columns[BOX_CORNERS[0]])
    columns[BOX_TEXT] = [value.decode() for value in _bytes(features, BOX_TEXT)]
    columns[BOX_CROWD] = _ints(features, BOX_CROWD) or [0] * count
    columns[BOX_AREA] = _floats(features, BOX_AREA) or [0.0] * count
    for name, values in {**columns, BOX_LABEL: _ints(features, BOX_LABEL) or [0] * count}.items():
        if len(values) != count:
            raise ValueError(f"feature {name!r} has {len(values)} values, {BOX_CORNERS[0]!r} has {count}")
    return tuple(
        Box(xmin, ymin, xmax, ymax, label=label, crowd=bool(crowd), area_px=area)
        for xmin, ymin, xmax, ymax, label, crowd, area in zip(*columns.values(), strict=True)
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


def _floats(features: Any, name: str) -> list[float]:
    return list(features[name].float_list.value) if name in features else []


def _one(values: Sequence[Any], name: str) -> Any:
    if len(values) != 1:
        raise ValueError(f"feature {name!r} has {len(values)} values instead of one")
    return values[0]
