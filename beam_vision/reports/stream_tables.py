"""Reading the tables of a streaming job, while it runs or later: each row once, each window's last pane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from beam_vision import storage, stream_table, table
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

EPOCH_COLUMNS = ("capture_time", "time", "window_start", "window_end")


def has_tables(folder: str) -> bool:
    """Whether there is any table of a streaming job in ``folder``."""
    return any(_parts(folder, name) for name in stream_table.TABLES)


def read(folder: str, name: str, columns: Sequence[str], *, ids: pa.Array | None = None) -> pa.Table:
    """Some columns of a table, each row id once; without rows where the table isn't there (yet).

    Times become float64 seconds since the epoch. A column that no part has is left out.

    Args:
      folder: of the job's output.
      name: of the table.
      columns: besides ``row_id``.
      ids: only rows with one of these ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = ["row_id", *columns]
    tables = []
    for path in _parts(folder, name):
        with storage.open_read(path) as file:
            part = pq.ParquetFile(file)
            found = part.read([column for column in wanted if column in part.schema_arrow.names])
        tables.append(found if ids is None else found.filter(pc.is_in(found["row_id"], ids)))
    if not tables:
        own = stream_table.schema(name)
        tables = [pa.schema([field for field in own if field.name in wanted]).empty_table()]
    return in_seconds(once(pa.concat_tables(tables, promote_options="default")))


def _parts(folder: str, name: str) -> list[str]:
    place = folder if name == stream_table.PREDICTIONS else storage.join(folder, name)
    try:
        return table.part_paths(place)
    except UsageError:
        return []


def once(rows: pa.Table) -> pa.Table:
    """The first row of each row id."""
    import numpy as np
    import pyarrow.compute as pc

    ids = pc.dictionary_encode(rows["row_id"].combine_chunks()).indices
    _, first = np.unique(ids.to_numpy(zero_copy_only=False), return_index=True)
    return rows if len(first) == len(rows) else rows.take(np.sort(first))


def in_seconds(rows: pa.Table) -> pa.Table:
    """Columns of times as float64 seconds since the epoch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in EPOCH_COLUMNS:
        if name in rows.column_names and pa.types.is_timestamp(rows.schema.field(name).type):
            micros = rows[name].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
            seconds = pc.divide(micros.cast(pa.float64()), 1e6)
            rows = rows.set_column(rows.column_names.index(name), name, seconds)
    return rows


def last_panes(rows: pa.Table, *keys: str) -> list[dict[str, Any]]:
    """The row with the highest pane of each camera, window and further ``keys``, by camera and window."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in rows.to_pylist():
        place = tuple(row[key] for key in ("camera", "window_start", *keys))
        if place not in found or (row["pane"] or 0) >= (found[place]["pane"] or 0):
            found[place] = row
    return [found[place] for place in sorted(found, key=lambda place: tuple(str(part) for part in place))]
