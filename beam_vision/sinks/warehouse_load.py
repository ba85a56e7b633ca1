"""Rows beside a table of BigQuery's: Parquet files, and the load jobs that bring them there.

What is loaded stands in ``TABLE_staging_RUN``, which BigQuery drops by itself after a day, until
:mod:`beam_vision.sinks.warehouse_merge` merges it.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import JobError
from beam_vision.sinks import parts
from beam_vision.sinks.parts import PartTask
from beam_vision.sinks.rows import RowSettings
from beam_vision.sinks.warehouse_jobs import begin, finish, job_id
from beam_vision.table import Part
from beam_vision.warehouse import clients, schema
from beam_vision.warehouse.loads import load_config, to_file
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import Client, LoadJobConfig, SchemaField

PART_BYTES = 64 * 2**20
KEPT_SEC = 24 * 3600
"""How long BigQuery keeps a staging table that nobody dropped."""

_MOST_URIS = 10_000  # of one load job (BigQuery, "Quotas and limits")


def staging_table(name: TableName, run_id: str) -> TableName:
    """Where a run's rows stand before they are merged."""
    return name.sibling(f"staging_{run_id}")


def stored(rows: pa.Table) -> pa.Table:
    """Rows of ours as they are loaded: in BigQuery's form, with their digests.

    Vectors stay float32: a load job widens them, and half as much goes over the wire.
    """
    import pyarrow as pa

    digests = schema.row_digests(rows)
    found = schema.to_warehouse(rows)
    for number, field in enumerate(rows.schema):
        if pa.types.is_fixed_size_list(field.type):
            narrow = pa.field(field.name, pa.list_(pa.float32()), nullable=field.nullable)
            found = found.set_column(number, narrow, found.column(number).cast(narrow.type))
    return found.append_column(pa.field(schema.ROW_DIGEST, pa.string(), nullable=False), digests)


def write_part(task: PartTask, folder: str, settings: RowSettings) -> Part:
    """Writes one part to load into ``folder``. Doing it again gives the same file."""
    rows = parts.part_rows(task, settings)
    data = to_file(stored(rows))
    storage.write_bytes(storage.join(folder, task.name), data)
    return Part(task.name, rows.num_rows, len(data), parts.count_images(rows, settings))


def staging_fields(columns: pa.Schema) -> list[SchemaField]:
    """The columns of a staging table: those that are loaded, none REQUIRED."""
    import pyarrow as pa

    own = [field for field in columns if field.name != schema.WRITTEN_AT]
    return schema.fields(pa.schema([field.with_nullable(True) for field in own]))


def make_staging(client: Client, name: TableName, fields: Sequence[SchemaField]) -> None:
    """Makes a staging table, which ends by itself; one that is there stays as it is."""
    from google.cloud import bigquery

    made = bigquery.Table(name.path, schema=list(fields))
    made.expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=KEPT_SEC)
    clients.retried(lambda: client.create_table(made, exists_ok=True))


def load(
    client: Client,
    name: TableName,
    run_id: str,
    paths: Sequence[str],
    *,
    location: str,
    into: TableName,
    fields: Sequence[SchemaField],
) -> None:
    """Loads Parquet files into ``into``: from Cloud Storage by one job, local ones by a job each, all begun
    before the first is waited for.

    Args:
      name: the table in the end; with ``run_id`` it names the jobs, so that asking again loads nothing twice.
      paths: the files.
      fields: the columns of ``into``; without them BigQuery would find them in the files.

    Raises:
      JobError: BigQuery didn't take them.
    """
    config = load_config(fields)
    starts = []
    if paths and all(path.startswith("gs://") for path in paths) and not clients.emulated():
        groups = [list(paths[at : at + _MOST_URIS]) for at in range(0, len(paths), _MOST_URIS)]
        starts = [partial(_load_uris, client, group, into, location, config) for group in groups]
    else:  # local files; and the emulator can't reach that of Cloud Storage
        starts = [partial(_load_file, client, path, into, location, config) for path in paths]
    ids = [job_id(name, run_id, f"load-{number:05d}") for number in range(len(starts))]
    try:
        begun = [begin(client, start, one, location=location) for start, one in zip(starts, ids, strict=True)]
    except clients.errors() as error:
        raise JobError(str(clients.explain(error, into))) from error
    for start, one, job in zip(starts, ids, begun, strict=True):
        finish(client, start, one, location=location, about=into, job=job)


def _load_uris(
    client: Client, uris: list[str], into: TableName, location: str, config: LoadJobConfig, job: str
) -> Any:
    return client.load_table_from_uri(uris, into.path, job_id=job, location=location, job_config=config)


def _load_file(
    client: Client, path: str, into: TableName, location: str, config: LoadJobConfig, job: str
) -> Any:
    # the client takes files of the system's own alone
    with io.BytesIO(storage.read_bytes(path)) if storage.is_remote(path) else storage.open_read(path) as file:
        return client.load_table_from_file(file, into.path, job_id=job, location=location, job_config=config)


def drop(client: Client, names: Sequence[TableName]) -> None:
    """Drops staging tables, those that are there."""
    for name in names:
        clients.retried(partial(client.delete_table, name.path, not_found_ok=True))
