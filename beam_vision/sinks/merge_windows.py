"""The tables of a backfill into BigQuery: parts that lie in a folder are loaded, then merged by row id.

A row that the table holds already, from a live run or an earlier backfill, stays as it is; so doing all of it
again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from beam_vision import storage
from beam_vision.sinks import warehouse_load as loads
from beam_vision.sinks import windows_files as files
from beam_vision.sinks.append import MAX_DATA_BYTES
from beam_vision.sinks.warehouse_jobs import finish, job_id
from beam_vision.sinks.windows import Windows
from beam_vision.stream_table import FAILURES
from beam_vision.warehouse.arrow_form import to_warehouse
from beam_vision.warehouse.forms import stream_schema
from beam_vision.warehouse.loads import to_file
from beam_vision.warehouse.names import TableName, quoted
from beam_vision.warehouse.schema import WRITTEN_AT

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import Client

LOAD_BYTES = 64 * 2**20


def merge_windows(
    client: Client, settings: Windows, names: Mapping[str, TableName], run_id: str, *, location: str
) -> dict[str, int]:
    """Loads and merges all tables that a folder holds; the folder stays as it is.

    Args:
      client: of the project that runs the jobs.
      settings: of the folder.
      names: table -> its name in BigQuery; they have to be there.
      run_id: names the jobs and the staging tables.
      location: of the dataset.

    Returns:
      table -> how many rows are new in it.

    Raises:
      JobError: BigQuery refused; what was merged before stays.
    """
    return {
        table: _merge(client, settings, table, name, run_id, location=location)
        for table, name in names.items()
        if files.names(settings.table_folder(table), "part-", ".parquet")
    }


def _merge(
    client: Client, settings: Windows, table: str, name: TableName, run_id: str, *, location: str
) -> int:
    columns = stream_schema(table, task=settings.task, embedding_dim=settings.embedding_dim)
    staged = loads.staging_table(name, run_id)
    fields = loads.staging_fields(columns)
    loads.make_staging(client, staged, fields)
    paths = list(write_loads(settings, table))
    loads.load(client, name, run_id, paths, location=location, into=staged, fields=fields)
    sql = merge_sql(name, staged, [each for each in columns.names if each != WRITTEN_AT])
    query = partial(_query, client, sql, location)
    job = finish(client, query, job_id(name, run_id, "merge"), location=location, about=name)
    loads.drop(client, [staged])
    for path in paths:
        storage.delete(path)
    return job.num_dml_affected_rows or 0


def _query(client: Client, sql: str, location: str, job: str) -> object:
    return client.query(sql, job_id=job, location=location, job_retry=None)


def merge_sql(name: TableName, staged: TableName, columns: list[str]) -> str:
    """The MERGE of a staging table: rows whose id isn't there are inserted, no other is touched."""
    names = [quoted(column) for column in columns]
    row_id, written = quoted("row_id"), quoted(WRITTEN_AT)
    return (
        f"MERGE {name.sql} AS T\nUSING (\n  SELECT * FROM {staged.sql} WHERE TRUE\n"
        f"  QUALIFY ROW_NUMBER() OVER (PARTITION BY {row_id} ORDER BY {row_id}) = 1\n) AS S\n"
        f"ON T.{row_id} = S.{row_id}\n"
        f"WHEN NOT MATCHED THEN INSERT ({', '.join([*names, written])})\n"
        f"  VALUES ({', '.join([*(f'S.{each}' for each in names), 'CURRENT_TIMESTAMP()'])})"
    )


def write_loads(settings: Windows, table: str) -> Iterator[str]:
    """Writes a table's parts as files to load, in BigQuery's form and few; their paths."""
    folder = settings.table_folder(table)
    for number, rows in enumerate(_groups(folder)):
        if table == FAILURES:
            rows = _bounded(rows)
        path = storage.join(folder, f"load-{number:05d}.tmp")
        storage.write_bytes(path, to_file(to_warehouse(rows)))
        yield path


def _groups(folder: str) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables: list[pa.Table] = []
    for name in files.names(folder, "part-", ".parquet"):
        with storage.open_read(storage.join(folder, name)) as file:
            tables.append(pq.read_table(file))
        if sum(table.nbytes for table in tables) > LOAD_BYTES:
            yield pa.concat_tables(tables)
            tables = []
    if tables:
        yield pa.concat_tables(tables)


def _bounded(rows: pa.Table) -> pa.Table:
    """Failures without payloads that are too large; their details say so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    large = pc.fill_null(pc.greater(pc.binary_length(rows["data"]), MAX_DATA_BYTES), False)
    said = pc.binary_join_element_wise(
        rows["detail"], "its payload is too large for BigQuery, and left out", "; "
    )
    for column, other in (("detail", said), ("data", pa.scalar(None, rows["data"].type))):
        place = rows.schema.get_field_index(column)
        rows = rows.set_column(place, rows.schema.field(place), pc.if_else(large, other, rows[column]))
    return rows
