"""Rows of a table into files by shard, and back: a few at a time; memory is bounded, however large it is."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from beam_vision import storage, table
from beam_vision.errors import JobError, UsageError
from beam_vision.search.base import Store
from beam_vision.search.places import (
    EMBEDDING,
    KEY,
    OF_OTHERS,
    ROWS_AT_ONCE,
    Warehouse,
    arrow_types,
    keyed,
    place_of,
    require_columns,
)
from beam_vision.search.shard_plan import (
    TASK_BYTES,
    Facts,
    Piece,
    ReadTask,
    ShardSettings,
    group_rows,
    key_hashes,
    makers_of,
    merge_facts,
    sample_of,
    shards_of,
)
from beam_vision.search.shards import staging_folder
from beam_vision.search.vectors import SHOWN_KEYS, RowReader, VectorTable, refuse_twice

if TYPE_CHECKING:
    import pyarrow as pa

HELD_BYTES = 64 * 2**20
"""Of vectors that a task holds before it writes them down."""
_ROW_BYTES = 4 * 2048
"""Of a vector whose dimension nobody says, for the size of a task."""


@dataclass(frozen=True)
class Parted:
    """What one task made of its rows: pieces by shard, and the facts."""

    pieces: tuple[tuple[int, Piece], ...]
    facts: Facts


def plan_reads(where: str, dimension: int | None) -> list[ReadTask]:
    """The tasks that together read a table, a folder's files or what BigQuery holds at this moment.

    Args:
      where: a table folder, one Parquet file, or ``bigquery://project.dataset.table``.
      dimension: of the vectors; None: nobody says.

    Raises:
      UsageError: there is no such table, or it has no keys or vectors.
    """
    place = place_of(where)
    if isinstance(place, Warehouse):
        return _streams(place)
    most = max(1, TASK_BYTES // (4 * dimension if dimension else _ROW_BYTES))
    tasks = []
    for path in table.part_paths(where):
        with _parquet(path) as parquet:
            require_columns(parquet.schema_arrow, path)
            facts = parquet.metadata
            sizes = [facts.row_group(number).num_rows for number in range(facts.num_row_groups)]
        for some in group_rows(sizes, most):
            rows = sum(sizes[number] for number in some)
            tasks.append(ReadTask(where, path=path, row_groups=some, rows=rows))
    return tasks


def _streams(place: Warehouse) -> list[ReadTask]:
    from beam_vision.warehouse import clients
    from beam_vision.warehouse.read import reading, snapshot_table
    from beam_vision.warehouse.schema import ROW_DIGEST, WRITTEN_AT

    unused = (ROW_DIGEST, WRITTEN_AT)
    columns = [name for name in place.columns if name not in unused and not name.startswith(OF_OTHERS)]
    with contextlib.closing(clients.client(place.name.project)) as client, reading() as reader:
        snapshot = snapshot_table(client, reader, place.name, columns=columns)
    return [ReadTask(place.text, snapshot=snapshot, stream=stream) for stream in snapshot.streams]


def dimension_of(where: str) -> int:
    """The dimension of a table's vectors: what it says of itself, or what most of its first vectors have.

    Raises:
      UsageError: there is no such table, or no row has a vector.
    """
    place = place_of(where)
    if place.dimension:
        return place.dimension
    reader = RowReader(0, None)
    for batch in place.batches():
        reader.add(batch)
        if reader.dimension:
            return reader.dimension
    raise UsageError(f"the table at {where} has no row with a vector")


def read_task(task: ReadTask) -> Iterator[pa.Table]:
    """The rows of one task in batches, ``key`` (text, never null) first.

    Raises:
      UsageError: a row has no key.
      JobError: BigQuery's stream broke off for good.
    """
    import pyarrow as pa

    if task.snapshot is None:
        with _parquet(task.path) as parquet:
            for batch in parquet.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=list(task.row_groups)):
                yield keyed(pa.table(batch), task.path)
        return
    from beam_vision.warehouse.read import read_stream, reading
    from beam_vision.warehouse.schema import from_warehouse

    like = arrow_types()
    with reading() as reader:
        for batch in read_stream(reader, task.snapshot, task.stream):
            rows = from_warehouse(pa.Table.from_batches([batch]), like=like)
            require_columns(rows.schema, task.place)
            yield keyed(rows, task.place)


def part_rows(task: ReadTask, settings: ShardSettings) -> Parted:
    """Reads one task and writes its rows into one staged file, in batches of one shard each.

    At most :data:`HELD_BYTES` of vectors and their rows are held at a time.

    Raises:
      UsageError: as :func:`read_task`.
      JobError: a file holds other rows than it says.
    """
    name = f"{uuid.uuid4().hex}.arrow"
    path = storage.join(staging_folder(settings.output, settings.run_id), name)
    most = max(ROWS_AT_ONCE, HELD_BYTES // (4 * settings.dimension))
    with storage.open_write(path) as file, _Parter(file, settings) as parter:
        reader = RowReader(most, settings.dimension)
        for batch in read_task(task):
            reader.add(batch)
            if reader.at >= most:
                parter.take(reader)
                reader = RowReader(most, settings.dimension)
        parter.take(reader)
    facts = merge_facts(parter.facts)
    found = facts.rows + sum(facts.bad.values())
    if task.snapshot is None and found != task.rows:
        raise JobError(
            f"{task.path} says that it holds {task.rows:,} rows, and {found:,} came; write it anew"
        )
    pieces = ((shard, Piece(path, tuple(numbers), rows)) for shard, (numbers, rows) in parter.written.items())
    return Parted(tuple(sorted(pieces, key=lambda each: each[0])), facts)


class _Parter:
    """Writes rows by shard into one Arrow file, and gathers what is known of them.

    Attributes:
      written: by shard the numbers of its batches, and its rows.
      facts: of what was taken, one for each time.
    """

    def __init__(self, file: IO[bytes], settings: ShardSettings) -> None:
        self._file = file
        self._settings = settings
        self._writer: Any = None
        self._batches = 0
        self.written: dict[int, tuple[list[int], int]] = {}
        self.facts: list[Facts] = []

    def __enter__(self) -> _Parter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def take(self, reader: RowReader) -> None:
        """Writes down what the reader holds."""
        import pyarrow as pa

        bad = {reason: len(keys) for reason, keys in reader.bad.items()}
        shown = {reason: sorted(keys)[:SHOWN_KEYS] for reason, keys in reader.bad.items()}
        if not reader.at:
            self.facts.append(Facts(bad=bad, bad_keys=shown))
            return
        rows = pa.concat_tables(reader.kept, promote_options="default").replace_schema_metadata(None)
        vectors, keys = reader.vectors[: reader.at], rows.column(KEY).to_pylist()
        hashes = key_hashes(keys)
        self._write(rows, vectors, shards_of(hashes, self._settings.shards))
        models, preprocessings = (self._digests(rows, what) for what in ("model", "preprocessing"))
        schema = rows.schema.serialize().to_pybytes()
        sample = sample_of(hashes, keys, vectors)
        self.facts.append(Facts(len(keys), bad, shown, models, preprocessings, schema, sample))

    def _digests(self, rows: pa.Table, what: str) -> frozenset[str]:
        column = f"{what}_digest"
        if column not in rows.column_names:
            return frozenset([dict(self._settings.digests).get(column, "")])
        return frozenset(digest or "" for digest in rows.column(column).unique().to_pylist())

    def _write(self, rows: pa.Table, vectors: np.ndarray, shards: np.ndarray) -> None:
        import pyarrow as pa

        order = np.argsort(shards, kind="stable")
        numbers, starts = np.unique(shards[order], return_index=True)
        for shard, own in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            flat = pa.array(vectors[own].ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            batch = rows.take(pa.array(own)).combine_chunks().append_column(EMBEDDING, column)
            if self._writer is None:
                self._writer = pa.ipc.new_file(self._file, batch.schema)
            self._writer.write_table(batch)
            batches, before = self.written.get(shard, ([], 0))
            self.written[shard] = ([*batches, self._batches], before + len(own))
            self._batches += 1


def gather(pieces: Sequence[Piece], facts: Facts, settings: ShardSettings) -> VectorTable:
    """The rows of one shard, sorted by key, whatever order the pieces come in.

    Keys are read first, so that each vector is put where it belongs at once: memory is one array.

    Raises:
      UsageError: a key stands twice.
    """
    import pyarrow as pa

    assert facts.schema is not None
    like = pa.ipc.read_schema(pa.py_buffer(facts.schema))
    tables = [pa.Table.from_batches([each]) for each in _batches(pieces, without=EMBEDDING)]
    rows = pa.concat_tables([like.empty_table(), *tables], promote_options="default").combine_chunks()
    keys = rows.column(KEY).to_pylist()
    refuse_twice(keys, settings.table, are_all=settings.shards == 1)
    order = np.argsort(np.array(keys, object), kind="stable")
    place_in = np.empty(len(keys), np.int64)
    place_in[order] = np.arange(len(keys))
    vectors = np.empty((len(keys), settings.dimension), np.float32)
    at = 0
    for batch in _batches(pieces, only=EMBEDDING):
        flat = batch.column(0).flatten().to_numpy()
        vectors[place_in[at : at + len(batch)]] = flat.reshape(len(batch), settings.dimension)
        at += len(batch)
    makers = makers_of(facts)
    return VectorTable(
        store=Store([keys[row] for row in order], vectors),
        rows=rows.take(pa.array(order)).combine_chunks(),
        model_digest=makers["model"],
        preprocessing_digest=makers["preprocessing"],
        run_id=settings.table_run_id,
    )


def _batches(pieces: Sequence[Piece], *, only: str = "", without: str = "") -> Iterator[pa.RecordBatch]:
    """The batches of pieces with some of their columns; of the others nothing is read."""
    import pyarrow as pa

    for piece in pieces:
        with storage.open_read(piece.path) as file:
            names = pa.ipc.open_file(file).schema.names
            wanted = [i for i, name in enumerate(names) if name == only or (not only and name != without)]
            file.seek(0)
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted))
            for number in piece.batches:
                yield reader.get_batch(number)


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        yield pq.ParquetFile(file)
