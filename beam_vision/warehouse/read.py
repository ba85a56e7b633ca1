"""Rows out of BigQuery as Arrow, by the Storage Read API: several streams, each resumed where it broke off.

What that API can't read (a view, an external table) is queried once, and the query's result is read: BigQuery
keeps it in a table of its own for a day, so every stream and every retry sees the same rows.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beam_vision.errors import JobError, UsageError
from beam_vision.warehouse import clients
from beam_vision.warehouse.names import TableName, quoted
from beam_vision.warehouse.parallel import in_parallel
from beam_vision.warehouse.run_once import run_once

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import Client, Table
    from google.cloud.bigquery_storage_v1 import BigQueryReadClient

ROLE = "roles/bigquery.dataViewer, and roles/bigquery.readSessionUser in the project that reads"
THREADS = 4
MOST_STREAMS = 1000
"""BigQuery gives few streams for a small table, and no more than these for a large one."""
ATTEMPTS = 8
"""How often in a row, without a new row, a stream may break off."""

_READABLE = ("TABLE", "SNAPSHOT", "CLONE")


@dataclass(frozen=True)
class Snapshot:
    """Rows as they were at one moment, in streams that can be read apart, by several workers; good for hours.

    Attributes:
      about: the table's path, or what else the rows are of; for messages.
      columns: in the order in which batches have them.
      schema: Arrow's, serialized.
      streams: names of the streams; none where there are no rows.
      job: ``project/job`` whose result is read over REST. Only with the emulator, which keeps a query's
        result in no table.
    """

    about: str
    columns: tuple[str, ...]
    schema: bytes
    streams: tuple[str, ...]
    job: str = ""


def read_rows(
    name: TableName,
    *,
    columns: Sequence[str] = (),
    where: str = "",
    threads: int = THREADS,
    max_bytes_billed: int = 0,
    project: str = "",
) -> Iterator[pa.RecordBatch]:
    """The rows of a table or a view, in no order, as BigQuery stores them.

    Args:
      name: the table.
      columns: which, in this order; none: all, in the table's order.
      where: a condition in GoogleSQL over the columns, written by us and never by a user: neither reading
        nor a view's query takes parameters here.
      threads: how many streams are read at a time; two batches of each wait in memory.
      max_bytes_billed: of the query that a view needs; 0: no limit.
      project: reads, and is billed for it; empty: the table's own.

    Raises:
      UsageError: there is no such table or column, or it may not be read; the message names the remedy.
      JobError: reading broke off, and went on breaking off.
    """
    with contextlib.closing(clients.client(project or name.project)) as client, reading() as reader:
        snapshot = snapshot_table(
            client,
            reader,
            name,
            columns=columns,
            where=where,
            most_bytes=max_bytes_billed,
        )
        each = [functools.partial(read_stream, reader, snapshot, stream) for stream in snapshot.streams]
        yield from in_parallel(each, threads)


def row_count(name: TableName) -> int:
    """How many rows a table or a view has, those in its streaming buffer included. Free for a table.

    Raises:
      UsageError: there is no such table, or it may not be read.
    """
    with contextlib.closing(clients.client(name.project)) as client, _explained(name):
        sql = f"SELECT COUNT(*) FROM {name.sql}"
        return clients.retried(lambda: next(iter(client.query(sql).result()))[0])


@contextlib.contextmanager
def reading() -> Iterator[BigQueryReadClient]:
    """A client of the Storage Read API, closed at the end."""
    client = clients.reader()
    try:
        yield client
    finally:
        client.transport.close()


def look_up(client: Client, name: TableName) -> Table:
    """The table's own facts.

    Raises:
      UsageError: there is no such table, or it may not be read.
    """
    with _explained(name):
        return clients.retried(lambda: client.get_table(name.path))


def snapshot_table(
    client: Client,
    reader: BigQueryReadClient,
    name: TableName,
    *,
    columns: Sequence[str] = (),
    where: str = "",
    most_streams: int = MOST_STREAMS,
    most_bytes: int = 0,
    job_id: str = "",
) -> Snapshot:
    """The rows of a table as they are now; a view is queried for them. Arguments as for :func:`read_rows`.

    Raises:
      UsageError: as :func:`read_rows`.
    """
    table = look_up(client, name)
    known = {field.name.lower(): field.name for field in table.schema}  # KEY is key to BigQuery
    missing = [column for column in columns if column.lower() not in known]
    if missing:
        raise UsageError(f"{name.path} has no column {missing[0]!r}, only {', '.join(known.values())}")
    wanted = tuple(columns) or tuple(known.values())
    own = [known[column.lower()] for column in wanted]
    if table.table_type in _READABLE:
        snapshot = _open(
            reader, name, name.path, own, where=where, project=client.project, most_streams=most_streams
        )
        return replace(snapshot, columns=wanted)
    named = (f"{quoted(one)} AS {quoted(column)}" for one, column in zip(own, wanted, strict=True))
    sql = f"SELECT {', '.join(named)} FROM {name.sql}" + (f" WHERE {where}" if where else "")
    return snapshot_query(
        client, reader, sql, about=name, most_streams=most_streams, most_bytes=most_bytes, job_id=job_id
    )


def snapshot_query(
    client: Client,
    reader: BigQueryReadClient,
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    columns: Sequence[str] = (),
    about: TableName | str = "the query",
    most_streams: int = MOST_STREAMS,
    most_bytes: int = 0,
    job_id: str = "",
) -> Snapshot:
    """Runs one SELECT, and gives its result as it was then.

    Args:
      client: runs it, in its project.
      reader: of the Storage Read API.
      sql: GoogleSQL.
      parameters: as :func:`~beam_vision.warehouse.cost.parameters_of` takes them.
      columns: which of its columns, in this order; none: all.
      about: what is read, for messages.
      most_streams: at most so many streams.
      most_bytes: BigQuery refuses to bill more; 0: no limit.
      job_id: makes a repetition find the job that ran already, and so the same rows.

    Raises:
      UsageError: the query is wrong, or it may not run.
    """
    said = about.path if isinstance(about, TableName) else about
    with _explained(about if isinstance(about, TableName) else client.project):
        job = run_once(client, sql, parameters, most_bytes=most_bytes, job_id=job_id)
        given = tuple(columns) or tuple(field.name for field in job.result().schema)
    if clients.emulated():  # it keeps results in no table that its Storage Read API could read
        return Snapshot(said, given, b"", ("rest",), job=f"{client.project}/{job.job_id}")
    place = job.destination
    name = TableName(place.project, place.dataset_id, place.table_id)
    return _open(reader, name, said, given, project=client.project, most_streams=most_streams)


def read_stream(
    reader: BigQueryReadClient,
    snapshot: Snapshot,
    stream: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[pa.RecordBatch]:
    """The rows of one stream, each once: after a transient error it goes on behind the last row that came.

    Raises:
      JobError: a permanent error, or :data:`ATTEMPTS` transient ones without a row between them.
    """
    import pyarrow as pa

    if snapshot.job:
        yield from _rest_rows(snapshot)
        return
    schema = pa.ipc.read_schema(pa.py_buffer(snapshot.schema))
    offset, failed = 0, 0
    while True:
        try:
            for message in _messages(reader, stream, offset):
                data = message.arrow_record_batch.serialized_record_batch
                offset, failed = offset + message.row_count, 0
                if message.row_count:
                    yield _named(pa.ipc.read_record_batch(pa.py_buffer(data), schema), snapshot.columns)
            return
        except clients.errors() as error:
            failed += 1
            if failed == ATTEMPTS or not clients.is_transient(error):
                raise JobError(
                    f"BigQuery: reading {snapshot.about} broke off at row {offset:,} of a stream: "
                    f"{' '.join(str(error).split())}; run it again"
                ) from error
            sleep(min(0.25 * 2**failed, 30.0) * random.uniform(0.5, 1.0))


def _named(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """The columns that were asked for, in their order and as they were written there."""
    there = {name.lower(): name for name in batch.schema.names}
    return batch.select([there[column.lower()] for column in columns]).rename_columns(list(columns))


def _messages(reader: BigQueryReadClient, stream: str, offset: int) -> Iterator[Any]:
    """The answers to one ReadRows call; the library's own wrapper would reconnect at once and without end."""
    from google.cloud.bigquery_storage_v1.services.big_query_read import BigQueryReadClient as Plain

    return iter(Plain.read_rows(reader, request={"read_stream": stream, "offset": offset}, retry=None))


def _open(
    reader: BigQueryReadClient,
    name: TableName,
    about: str,
    columns: Sequence[str],
    *,
    where: str = "",
    project: str,
    most_streams: int,
) -> Snapshot:
    from google.cloud.bigquery_storage_v1.types import DataFormat, ReadSession

    options = ReadSession.TableReadOptions(selected_fields=list(columns), row_restriction=where)
    asked = ReadSession(table=name.resource, data_format=DataFormat.ARROW, read_options=options)
    with _explained(name):
        session = clients.retried(
            lambda: reader.create_read_session(
                parent=f"projects/{project}",
                read_session=asked,
                max_stream_count=most_streams,
            )
        )
    streams = tuple(stream.name for stream in session.streams)
    return Snapshot(about, tuple(columns), session.arrow_schema.serialized_schema, streams)


def _rest_rows(snapshot: Snapshot) -> Iterator[pa.RecordBatch]:
    project, _, job_id = snapshot.job.partition("/")
    with contextlib.closing(clients.client(project)) as client:
        for batch in client.get_job(job_id).result().to_arrow_iterable():
            yield _named(batch, snapshot.columns)


@contextlib.contextmanager
def _explained(what: TableName | str) -> Iterator[None]:
    try:
        yield
    except clients.errors() as error:
        raise clients.explain(error, what, ROLE) from error


def timestamp(when: datetime.datetime) -> str:
    """A moment as a literal of GoogleSQL, to the microsecond; only digits and signs can be in it."""
    return f"TIMESTAMP '{when.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M:%S.%f}+00:00'"
