"""Our Arrow columns to those that BigQuery stores, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

EMBEDDING = "embedding"


def to_warehouse(rows: pa.Table) -> pa.Table:
    """Our Arrow form -> the columns that BigQuery stores, in the same order.

    Lists lose their fixed size and are never null; maps become lists of ``key, value``; numbers become int64
    and float64; times have microseconds.
    """
    import pyarrow as pa

    arrays = [_stored(whole(rows.column(name))) for name in rows.column_names]
    kept = [
        pa.field(each.name, array.type, nullable=each.nullable)
        for each, array in zip(rows.schema, arrays, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(kept))


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _stored(array: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    array = unmapped(array)
    kind = array.type
    if is_list(kind):
        return pa.ListArray.from_arrays(offsets_of(array), _stored(pc.list_flatten(array)))
    if pa.types.is_struct(kind):
        below = [_stored(pc.struct_field(array, number)) for number in range(kind.num_fields)]
        return pa.StructArray.from_arrays(
            below, [each.name for each in kind], mask=pc.is_null(array) if array.null_count else None
        )
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    for holds, stored in (
        (is_text, pa.string()),
        (pa.types.is_integer, pa.int64()),
        (pa.types.is_floating, pa.float64()),
        (pa.types.is_large_binary, pa.binary()),
    ):
        if holds(kind):
            return array.cast(stored)
    return array


def from_warehouse(rows: pa.Table, *, like: pa.Schema | None = None) -> pa.Table:
    """The columns as BigQuery gives them -> our Arrow form.

    Lists of ``key, value`` become maps; an ``embedding`` (or ``embedding_...``) float32, of a fixed size when
    all that are not empty have one length, and an empty one null.

    Args:
      rows: from a query, the Storage Read API, or :func:`to_warehouse`.
      like: columns that stand in it get its type (a ``score`` is float32 again).
    """
    import pyarrow as pa

    arrays, kept = [], []
    for each in rows.schema:
        array = _read(whole(rows.column(each.name)), each.name)
        wanted = like.field(each.name) if like is not None and each.name in like.names else None
        if wanted is not None:
            array = array.cast(wanted.type)
        arrays.append(array)
        kept.append(pa.field(each.name, array.type, nullable=(wanted or each).nullable))
    return pa.Table.from_arrays(arrays, schema=pa.schema(kept))


def _read(array: pa.Array, name: str) -> pa.Array:
    import pyarrow as pa

    kind = array.type
    if not is_list(kind):
        return array
    inner = kind.value_type
    if pa.types.is_struct(inner) and [each.name for each in inner] == ["key", "value"]:
        return _map(array)
    if pa.types.is_floating(inner) and (name == EMBEDDING or name.startswith(f"{EMBEDDING}_")):
        return _vectors(array)
    return array


def _map(array: pa.Array) -> pa.Array:
    """Lists of ``key, value`` as maps; what has no key is left out of none: its key is empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    items = pc.list_flatten(array)
    keys, values = pc.struct_field(items, 0), pc.struct_field(items, 1)
    return pa.MapArray.from_arrays(offsets_of(array), pc.fill_null(keys, ""), values)


def offsets_of(array: pa.Array) -> pa.Array:
    """Where each list begins among the items of all, and where the last ends: int32 ``[len + 1]``."""
    import pyarrow as pa

    return pa.array(np.concatenate([[0], np.cumsum(lengths_of(array))]).astype(np.int32))


def unmapped(array: pa.Array) -> pa.Array:
    """A map as lists of ``key, value``; anything else as it is."""
    import pyarrow as pa

    kind = array.type
    if not pa.types.is_map(kind):
        return array
    return array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))


def lengths_of(array: pa.Array) -> np.ndarray:
    """How many items each list has; a null has none."""
    import pyarrow.compute as pc

    return pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)


def _vectors(array: pa.Array) -> pa.Array:
    """Lists of numbers as float32, of a fixed size where there is one; an empty list is null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = lengths_of(array)
    values = pc.list_flatten(array).cast(pa.float32())
    empty = lengths == 0
    sizes = np.unique(lengths[~empty])
    if len(sizes) == 1:
        size = int(sizes[0])
        if empty.any():
            places = np.full((len(lengths), size), -1, np.int64)
            places[~empty] = np.arange(len(values)).reshape(-1, size)
            values = values.take(pa.array(places.ravel(), mask=places.ravel() < 0))
        return pa.FixedSizeListArray.from_arrays(values, size, mask=pa.array(empty))
    return pa.ListArray.from_arrays(offsets_of(array), values, mask=pa.array(empty))


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of the lists, a map not among them."""
    import pyarrow.types as of

    return of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether it is text, a dictionary of texts among it."""
    import pyarrow.types as of

    return (
        of.is_string(kind)
        or of.is_large_string(kind)
        or (of.is_dictionary(kind) and is_text(kind.value_type))
    )
