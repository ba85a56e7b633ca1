"""TFRecord files and the ``tf.train.Example`` in them, without TensorFlow (whose import takes seconds).

A record is ``uint64 length | uint32 masked crc32c(length) | data | uint32 masked crc32c(data)``, all
little-endian. The mask is TensorFlow's: ``rotate_right(crc, 15) + 0xa282ead8`` (``lib/hash/crc32c.h``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

OVERHEAD_BYTES = 16
"""What the framing adds to each record."""

MAX_RECORD_BYTES = 2**31 - 1
"""No tf.train.Example is larger (protobuf's limit); a longer length is damage, and isn't allocated."""

_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_Field = descriptor_pb2.FieldDescriptorProto


class CorruptRecord(Exception):  # noqa: N818  (what it is, as the caller reads it)
    """A TFRecord file can't be read past a place.

    Args:
      offset: where the damaged record begins, in bytes from where reading began.
      index: its number, from 0.
      why: what is wrong with it.
    """

    def __init__(self, offset: int, index: int, why: str) -> None:
        super().__init__(offset, index, why)
        self.offset = offset
        self.index = index
        self.why = why

    def __str__(self) -> str:
        return f"record {self.index} at byte {self.offset}: {self.why}"


def masked_crc32c(data: bytes) -> int:
    """The masked crc32c that stands behind each length and each record."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(file: IO[bytes], data: bytes) -> int:
    """Writes one record and gives the number of bytes written, framing included.

    Raises:
      ValueError: ``data`` is longer than :data:`MAX_RECORD_BYTES`.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {len(data)} bytes is longer than {MAX_RECORD_BYTES}")
    length = _LENGTH.pack(len(data))
    file.write(length + _CRC.pack(masked_crc32c(length)))
    file.write(data)
    file.write(_CRC.pack(masked_crc32c(data)))
    return len(data) + OVERHEAD_BYTES


def read_records(file: IO[bytes]) -> Iterator[bytes]:
    """The records of a file, in order, each checked against its checksums.

    Args:
      file: a buffered file, where ``read(n)`` gives fewer than n bytes only at the end.

    Raises:
      CorruptRecord: from here on the file can't be read; the records before it have been given.
    """
    offset = index = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise CorruptRecord(offset, index, "the file ends within the length")
        length, length_crc = _HEADER.unpack(header)
        if masked_crc32c(header[: _LENGTH.size]) != length_crc:
            raise CorruptRecord(offset, index, "the checksum of its length is wrong")
        if length > MAX_RECORD_BYTES:
            raise CorruptRecord(offset, index, f"its length of {length} bytes is beyond any record's")
        data, footer = file.read(length), file.read(_CRC.size)
        if len(footer) < _CRC.size:
            raise CorruptRecord(offset, index, "the file ends within the data")
        if masked_crc32c(data) != _CRC.unpack(footer)[0]:
            raise CorruptRecord(offset, index, "the checksum of its data is wrong")
        yield data
        offset += length + OVERHEAD_BYTES
        index += 1


def _example_class() -> Any:
    """The message class of ``tensorflow/core/example/{example,feature}.proto``, byte for byte the same on
    the wire. It lives in a pool of its own, so that it never meets TensorFlow's copy."""
    kinds = {"Bytes": _Field.TYPE_BYTES, "Float": _Field.TYPE_FLOAT, "Int64": _Field.TYPE_INT64}
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tf", syntax="proto3")
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (kind, wire_type) in enumerate(kinds.items(), start=1):
        values = file.message_type.add(name=f"{kind}List")
        values.field.add(name="value", number=1, label=_Field.LABEL_REPEATED, type=wire_type)
        _message_field(feature, f"{kind.lower()}_list", number, f"{kind}List").oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    _message_field(entry, "value", 2, "Feature")
    _message_field(features, "feature", 1, "Features.FeatureEntry").label = _Field.LABEL_REPEATED
    _message_field(file.message_type.add(name="Example"), "features", 1, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


def _message_field(message: Any, name: str, number: int, of: str) -> Any:
    return message.field.add(
        name=name, number=number, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_MESSAGE, type_name=f".tf.{of}"
    )


Example = _example_class()
"""A stand-in for ``tf.train.Example`` with the same interface (``FromString``, ``SerializeToString``,
``features.feature[name].bytes_list.value``, ...)."""
