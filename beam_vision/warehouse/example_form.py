"""Rows of a table as ``tf.train.Example``, and back."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from beam_vision.tfrecord_io import Example

if TYPE_CHECKING:
    import pyarrow as pa

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MICROSECOND = datetime.timedelta(microseconds=1)


def example_of(row: Mapping[str, Any]) -> bytes:
    """A row as a serialized Example; the same row gives the same bytes.

    Null columns and empty lists are left out. Numbers with a fraction have 32 bits there; a time is
    microseconds since 1970.

    Args:
      row: as ``Table.to_pylist()`` gives it, in either form.

    Raises:
      ValueError: a list holds a null, or a value has no form in an Example.
    """
    features = Example().features
    for name in sorted(row):
        for feature, values in _flat(name, row[name]):
            _fill(features.feature[feature], values, feature)
    example = Example(features=features)
    return example.SerializeToString(deterministic=True)


def _flat(name: str, value: Any) -> list[tuple[str, list[Any]]]:
    """The features of one column: its values, or those of each field below it."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        value = list(value.items())
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        return []
    if all(isinstance(each, tuple) for each in values):  # a map
        values = [{"key": key, "value": inner} for key, inner in values]
    if any(isinstance(each, Mapping) for each in values):
        below = list(values[0])
        return [(f"{name}/{field}", [each[field] for each in values]) for field in below]
    return [(name, values)]


def _fill(feature: Any, values: list[Any], name: str) -> None:
    first = values[0]
    if any(value is None for value in values):
        raise ValueError(f"{name} holds a null, which an Example can't")
    if isinstance(first, str):
        feature.bytes_list.value.extend(value.encode() for value in values)
    elif isinstance(first, bytes):
        feature.bytes_list.value.extend(values)
    elif isinstance(first, float):
        feature.float_list.value.extend(values)
    elif isinstance(first, datetime.datetime):
        feature.int64_list.value.extend((value - _EPOCH) // _MICROSECOND for value in values)
    elif isinstance(first, int):
        feature.int64_list.value.extend(map(int, values))
    else:
        raise ValueError(f"{name} holds {type(first).__name__}, which has no form in an Example")


def rows_of_examples(examples: Iterable[bytes], schema: pa.Schema) -> pa.Table:
    """The rows of serialized Examples that :func:`example_of` made.

    Args:
      examples: one a row.
      schema: the columns; one that an Example lacks is null, or an empty list.

    Raises:
      ValueError: it is no Example, a column that holds no nulls is missing, or a value is not of its type.
    """
    import pyarrow as pa

    rows = [_row(data, schema) for data in examples]
    for field in schema:
        if not field.nullable and any(row[field.name] is None for row in rows):
            raise ValueError(f"an Example has no feature {field.name!r}")
    return pa.Table.from_pylist(rows, schema=schema)


def _row(data: bytes, schema: pa.Schema) -> dict[str, Any]:
    from google.protobuf.message import DecodeError

    try:
        features = Example.FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    return {field.name: _column(features, field.name, field.type) for field in schema}


def _column(features: Any, name: str, kind: pa.DataType) -> Any:
    import pyarrow as pa

    if pa.types.is_map(kind):
        keys = _values(features, f"{name}/key", kind.key_type)
        return list(zip(keys, _values(features, f"{name}/value", kind.item_type), strict=True))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        if not pa.types.is_struct(inner):
            values = _values(features, name, inner)
            return values if values or not pa.types.is_fixed_size_list(kind) else None
        below = [_values(features, f"{name}/{each.name}", each.type) for each in inner]
        names = [each.name for each in inner]
        return [dict(zip(names, values, strict=True)) for values in zip(*below, strict=True)]
    values = _values(features, name, kind)
    return values[0] if values else None


def _values(features: Any, name: str, kind: pa.DataType) -> list[Any]:
    import pyarrow as pa

    if name not in features:
        return []
    feature = features[name]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [value.decode() for value in feature.bytes_list.value]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return list(feature.bytes_list.value)
    if pa.types.is_floating(kind):
        return list(feature.float_list.value)
    values = list(feature.int64_list.value)
    if pa.types.is_timestamp(kind):
        return [_EPOCH + value * _MICROSECOND for value in values]
    return [bool(value) for value in values] if pa.types.is_boolean(kind) else values
