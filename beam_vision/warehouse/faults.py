"""What BigQuery would refuse or spoil, found before a row is sent: by row number, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision.warehouse.arrow_form import is_list, lengths_of, offsets_of, unmapped, whole

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROW_BYTES = 100_000_000
"""A row is at most 100 MB in a load job (BigQuery, "Quotas and limits": load jobs, maximum row size)."""

_FIRST_US = -62_135_596_800_000_000
_LAST_US = 253_402_300_799_999_999
"""TIMESTAMP reaches from 0001-01-01 to 9999-12-31 23:59:59.999999 UTC."""


def faults(
    rows: pa.Table, *, embedding_dim: int | None = None, most_row_bytes: int = MOST_ROW_BYTES
) -> dict[int, str]:
    """Why rows can't stand in a table of BigQuery's, by row number from 0; the first reason of each.

    A number that isn't finite, an embedding of another length, a null in a list or in a column that may hold
    none, text that isn't UTF-8, a time beyond BigQuery's, a row that is too large.

    Args:
      rows: in either form.
      embedding_dim: the length of ``embedding``; None where there is no such column, or any will do.
      most_row_bytes: a row's limit; 10 MB or less for the Storage Write API.
    """
    found: dict[int, str] = {}
    for field in rows.schema:
        array = whole(rows.column(field.name))
        for number, why in _of_column(array, field, embedding_dim):
            found.setdefault(int(number), why)
    too_large = row_bytes(rows)
    for number in np.flatnonzero(too_large > most_row_bytes).tolist():
        why = f"the row has {too_large[number]:,} bytes, more than the {most_row_bytes:,} that BigQuery takes"
        found.setdefault(number, why)
    return dict(sorted(found.items()))


def _of_column(array: pa.Array, field: pa.Field, dimension: int | None) -> Iterator[tuple[int, str]]:
    import pyarrow.compute as pc

    if not field.nullable:
        yield from ((number, f"{field.name} is null") for number in _where(pc.is_null(array)))
    if field.name == "embedding" and dimension is not None:
        lengths = lengths_of(array)
        for number in np.flatnonzero(lengths != dimension).tolist():
            yield number, f"the embedding has {lengths[number]} numbers, not {dimension}"
    yield from _of_values(array, np.arange(len(array)), field.name, within=False)


def _of_values(array: pa.Array, row_of: np.ndarray, path: str, *, within: bool) -> Iterator[tuple[int, str]]:
    """Faults of values; ``row_of`` has the row of each, and ``within`` a list none may be null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = unmapped(array)
    kind = array.type
    if within and array.null_count:
        yield from ((row_of[at], f"{path} holds a null") for at in _where(pc.is_null(array)))
    if is_list(kind):
        yield from _of_values(pc.list_flatten(array), np.repeat(row_of, lengths_of(array)), path, within=True)
    elif pa.types.is_struct(kind):
        for number in range(kind.num_fields):
            below = pc.struct_field(array, number)
            yield from _of_values(below, row_of, f"{path}.{kind.field(number).name}", within=False)
    elif pa.types.is_floating(kind):
        bad = pc.invert(pc.fill_null(pc.is_finite(array), True))
        yield from ((row_of[at], f"{path} holds a number that is NaN or infinite") for at in _where(bad))
    elif pa.types.is_timestamp(kind):
        micros = pc.fill_null(array.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.int64()), 0)
        bad = pc.or_(pc.less(micros, _FIRST_US), pc.greater(micros, _LAST_US))
        yield from ((row_of[at], f"{path} is not within the years 1 to 9999") for at in _where(bad))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from ((row_of[at], f"{path} is not UTF-8") for at in _not_text(array))


def _where(mask: Any) -> list[int]:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()


def _not_text(array: pa.Array) -> list[int]:
    """Places of texts that are not UTF-8; only Arrow data made outside Python has such."""
    import pyarrow as pa

    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return [at for at, value in enumerate(array.cast(pa.binary())) if not _decodes(value.as_py())]
    return []


def _decodes(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def row_bytes(rows: pa.Table) -> np.ndarray:
    """The bytes of each row as BigQuery counts them (and bills them): int64 ``[rows]``.

    8 for a number or a time, 1 for a truth, 2 and the UTF-8 bytes of a text, the same of bytes; lists and
    records are the sum of what they hold; null is 0. (BigQuery, "Data type sizes".)
    """
    total = np.zeros(rows.num_rows, np.int64)
    for name in rows.column_names:
        total += _bytes_of(whole(rows.column(name)))
    return total


def _bytes_of(array: pa.Array) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    array = unmapped(array)
    kind = array.type
    if is_list(kind) and pa.types.is_floating(kind.value_type):
        return lengths_of(array).astype(np.int64) * 8
    if is_list(kind):
        items = pc.list_flatten(array)
        ends = np.zeros(1 + len(items), np.int64)
        np.cumsum(_bytes_of(items), out=ends[1:])
        at = offsets_of(array).to_numpy()
        return np.asarray(ends[at[1:]] - ends[at[:-1]])
    if pa.types.is_struct(kind):
        below = [_bytes_of(pc.struct_field(array, number)) for number in range(kind.num_fields)]
        return np.asarray(sum(below, np.zeros(len(array), np.int64)))
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.int64)
    there = pc.is_valid(array).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_primitive(kind):
        return there * (1 if pa.types.is_boolean(kind) else 8)
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
    return there * 2 + pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(
        np.int64
    )
