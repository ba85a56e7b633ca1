"""Where embeddings are read from: a folder of Parquet files, or a table or view of BigQuery."""

from __future__ import annotations

import abc
import contextlib
import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from beam_vision import storage, table
from beam_vision.errors import UsageError
from beam_vision.warehouse.names import TableName, is_bigquery, parse_table

if TYPE_CHECKING:
    import pyarrow as pa

KEY, EMBEDDING, RUN_ID = "key", "embedding", "run_id"
OF_OTHERS = "embedding_"
"""How the name of a column with another model's embeddings begins; no index of ours needs it."""
ROWS_AT_ONCE = 4096
RUN_ID_FORM = "%Y%m%dT%H%M%S%fZ"
OVERLAP = datetime.timedelta(days=1)
"""How long a job may take, from the time that its rows in BigQuery bear until they can be read there."""


class Place(abc.ABC):
    """Rows with a key and an embedding, in batches.

    Attributes:
      text: as the user named it.
      columns: the names of its columns; of a folder, of its first file.
      dimension: of the vectors, where the place says so.
      digests: by ``model_digest`` and ``preprocessing_digest``, where the place, not its rows, says so.
      run_id: of the run that wrote last, where the place says so.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: list[str] = []
        self.dimension: int | None = None
        self.digests: dict[str, str] = {}
        self.run_id = ""
        self._newest = ""

    @abc.abstractmethod
    def rows(self) -> int:
        """About how many rows there are."""

    @abc.abstractmethod
    def batches(self, since: datetime.datetime | None = None) -> Iterator[pa.Table]:
        """The rows, with ``key`` (text, never null) as the first column.

        Args:
          since: only rows that were written then or later; None: all.

        Raises:
          UsageError: it has not the columns, or a row without a key; or nothing says when rows were written.
        """

    @abc.abstractmethod
    def keys(self) -> Iterator[str]:
        """The keys of all rows; no other column is read."""

    @property
    @abc.abstractmethod
    def read_to(self) -> str:
        """The time, in ISO's form, that ``--since last`` goes on from after these rows; "": unknown."""


def place_of(text: str) -> Place:
    """The place that ``text`` names: ``bigquery://project.dataset.table``, or a folder.

    Raises:
      UsageError: there is no such table.
    """
    return Warehouse(text) if is_bigquery(text) else Folder(text)


class Folder(Place):
    """A table's folder, or one Parquet file. A row was written by the run whose id it bears."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._paths = table.part_paths(text)
        with _parquet(self._paths[0]) as parquet:
            self.columns = list(parquet.schema_arrow.names)
        manifest = table.read_manifest(text)
        if manifest is not None:
            self.dimension, self.run_id = manifest.embedding_dim, manifest.run_id
            names = ("model_digest", "preprocessing_digest")
            self.digests = {name: getattr(manifest, name) for name in names}

    def rows(self) -> int:
        """As the files say."""
        counts = []
        for path in self._paths:
            with _parquet(path) as parquet:
                counts.append(parquet.metadata.num_rows)
        return sum(counts)

    def batches(self, since: datetime.datetime | None = None) -> Iterator[pa.Table]:
        """See :meth:`Place.batches`. Of a file without a row since then no vectors are read."""
        import pyarrow as pa
        import pyarrow.compute as pc

        first = "" if since is None else since.astimezone(datetime.timezone.utc).strftime(RUN_ID_FORM)
        for path in self._paths:
            with _parquet(path) as parquet:
                require_columns(parquet.schema_arrow, path)
                newest = _newest(parquet)
                self._newest = max(self._newest, newest)
                if first and not newest:
                    raise UsageError(
                        f"{path} has no column {RUN_ID!r}: nothing says when its rows were written"
                    )
                if newest < first:
                    continue
                for record_batch in parquet.iter_batches(batch_size=ROWS_AT_ONCE):
                    rows = keyed(pa.table(record_batch), path)
                    yield rows.filter(pc.greater_equal(rows.column(RUN_ID), first)) if first else rows

    def keys(self) -> Iterator[str]:
        """See :meth:`Place.keys`."""
        for path in self._paths:
            with _parquet(path) as parquet:
                for batch in parquet.iter_batches(columns=[KEY]):
                    yield from batch.column(0).to_pylist()

    @property
    def read_to(self) -> str:
        """The start of the latest run that wrote a row; one run at a time writes to a folder."""
        with contextlib.suppress(ValueError):
            made = datetime.datetime.strptime(self._newest, RUN_ID_FORM)
            return made.replace(tzinfo=datetime.timezone.utc).isoformat()
        return ""


class Warehouse(Place):
    """A table or view of BigQuery, read by the Storage Read API. Its own columns of the run are left out.

    A row was written at ``written_at``; where there is no such column, by the run whose id it bears.
    """

    def __init__(self, text: str) -> None:
        from beam_vision.warehouse import clients, tables

        super().__init__(text)
        self.name: TableName = parse_table(text, option="--table")
        with contextlib.closing(clients.client(self.name.project)) as client:
            found = tables.look(client, self.name)
        if not found.exists:
            raise UsageError(f"there is no table {self.name.uri}; `beam-vision predict --output` makes one")
        self.columns = [each.name for each in found.schema]
        self._rows = found.rows
        self.dimension = found.facts.get("embedding_dim")
        self.digests = {name: found.facts.get(name, "") for name in ("model_digest", "preprocessing_digest")}
        missing = [name for name in (KEY, EMBEDDING) if name not in self.columns]
        if missing:
            raise UsageError(_no_column(self.name.uri, missing[0], self.columns))

    def rows(self) -> int:
        """As BigQuery says, without what is in a streaming buffer; 0 for a view."""
        return self._rows

    def batches(self, since: datetime.datetime | None = None) -> Iterator[pa.Table]:
        """See :meth:`Place.batches`; rows come in no order."""
        import pyarrow as pa

        from beam_vision.warehouse.read import read_rows
        from beam_vision.warehouse.schema import ROW_DIGEST, WRITTEN_AT, from_warehouse

        columns = [name for name in self.columns if name != ROW_DIGEST and not name.startswith(OF_OTHERS)]
        like = arrow_types()
        for batch in read_rows(self.name, columns=columns, where=self._where(since)):
            rows = from_warehouse(pa.Table.from_batches([batch]), like=like)
            require_columns(rows.schema, self.name.uri)
            yield keyed(self._noted(rows, WRITTEN_AT), self.name.uri)

    def keys(self) -> Iterator[str]:
        """See :meth:`Place.keys`."""
        from beam_vision.warehouse.read import read_rows

        for batch in read_rows(self.name, columns=[KEY]):
            yield from batch.column(0).to_pylist()

    @property
    def read_to(self) -> str:
        """A day before the newest row: of two jobs the one that began first may have ended last."""
        if not self._newest:
            return ""
        return (datetime.datetime.fromisoformat(self._newest) - OVERLAP).isoformat()

    def _noted(self, rows: pa.Table, written_at: str) -> pa.Table:
        """The rows without their time of writing, the newest of which is kept."""
        import pyarrow.compute as pc

        if written_at not in rows.column_names:
            return rows
        newest = pc.max(rows.column(written_at)).as_py()
        if newest is not None:
            newest = newest.astimezone(datetime.timezone.utc)
            self._newest = max(self._newest, newest.isoformat(timespec="microseconds"))
        return rows.drop_columns([written_at])

    def _where(self, since: datetime.datetime | None) -> str:
        from beam_vision.warehouse.read import timestamp
        from beam_vision.warehouse.schema import WRITTEN_AT

        if since is None:
            return ""
        if WRITTEN_AT in self.columns:
            return f"{WRITTEN_AT} >= {timestamp(since)}"
        if RUN_ID in self.columns:
            return f"{RUN_ID} >= '{since.astimezone(datetime.timezone.utc).strftime(RUN_ID_FORM)}'"
        raise UsageError(
            f"{self.name.uri} has no column {WRITTEN_AT!r}: nothing says when its rows were written"
        )


def arrow_types() -> pa.Schema:
    """Our columns, in any of our tables, with their types; but the embedding's, whose length differs."""
    import pyarrow as pa

    from beam_vision import stream_table

    found = {}
    for columns in (
        *(
            table.schema(predictions=True, embedding_dim=None, boxes=True, rows=kind)
            for kind in ("boxes", "tiles")
        ),
        table.schema(predictions=True, embedding_dim=None, boxes=True),
        stream_table.schema(stream_table.PREDICTIONS),
    ):
        found.update({each.name: each for each in columns})
    return pa.schema(list(found.values()))


def require_columns(columns: pa.Schema, place: str) -> None:
    """Refuses what has no keys or no vectors.

    Raises:
      UsageError: a column is missing, or ``embedding`` holds no lists of numbers.
    """
    import pyarrow as pa

    missing = [name for name in (KEY, EMBEDDING) if name not in columns.names]
    if missing:
        raise UsageError(_no_column(place, missing[0], columns.names))
    kind = columns.field(EMBEDDING).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise UsageError(f"column {EMBEDDING!r} of {place} holds {kind}, not lists of numbers")


def keyed(rows: pa.Table, place: str) -> pa.Table:
    """The rows with ``key`` as text, and first.

    Raises:
      UsageError: a row has no key.
    """
    import pyarrow as pa

    keys = rows.column(KEY).cast(pa.string())
    if keys.null_count:
        raise UsageError(f"{keys.null_count} rows of {place} have no key")
    return rows.drop_columns([KEY]).add_column(0, KEY, keys)


def _no_column(place: str, name: str, names: list[str]) -> str:
    return (
        f"{place} has no column {name!r}, only {', '.join(names)}; "
        "`beam-vision predict --task embed` writes a table that has"
    )


@contextlib.contextmanager
def _parquet(path: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        yield pq.ParquetFile(file)


def _newest(parquet: Any) -> str:
    """The latest run that wrote a row of a file; "": none says."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if RUN_ID not in parquet.schema_arrow.names:
        return ""
    newest = pc.max(parquet.read(columns=[RUN_ID]).column(0).cast(pa.string())).as_py()
    return newest or ""
