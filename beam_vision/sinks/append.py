"""Rows of a stream into BigQuery: which table, in which form, and what it would not take."""

from __future__ import annotations

import datetime
import functools
import itertools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from beam_vision.errors import JobError, Reason, Stage, VisionError
from beam_vision.failures import failure
from beam_vision.sinks.publish import row_message
from beam_vision.sinks.stream_rows import failure_row
from beam_vision.sinks.windows_files import to_arrow
from beam_vision.stream_table import FAILURES, PREDICTIONS, TABLES, schema
from beam_vision.stream_types import DeadLetter, FrameInfo, StreamRow, as_datetime
from beam_vision.types import ImageRef
from beam_vision.warehouse import clients
from beam_vision.warehouse.append import Appender
from beam_vision.warehouse.arrow_form import to_warehouse
from beam_vision.warehouse.forms import TIME_OF, stream_schema
from beam_vision.warehouse.names import TableName
from beam_vision.warehouse.schema import WRITTEN_AT

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient

MAX_DATA_BYTES = 6_000_000
"""A larger payload of a failure is left out of its row, so that the row fits a request."""
PAST_DAYS = 10 * 365
FUTURE_DAYS = 365
"""How far from now the column that a table is partitioned by may be, in a stream: 10 years back, one ahead.
https://cloud.google.com/bigquery/docs/write-api#time-unit_column_partitioning"""


def table_names(name: TableName) -> dict[str, TableName]:
    """Where the tables of a streaming job are: predictions in ``TABLE``, counts in ``TABLE_counts`` ..."""
    return {table: name if table == PREDICTIONS else name.sibling(table) for table in TABLES}


@functools.cache
def stored_schema(table: str, task: str, embedding_dim: int | None) -> pa.Schema:
    """A table's columns as they are sent."""
    return to_warehouse(stream_schema(table, task=task, embedding_dim=embedding_dim).empty_table()).schema


def stored(
    rows: Sequence[StreamRow],
    table: str,
    *,
    written_at: datetime.datetime,
    task: str = "classify",
    embedding_dim: int | None = None,
) -> pa.Table:
    """Rows of one table as BigQuery stores them.

    Raises:
      JobError: a row doesn't fit the table.
    """
    import pyarrow as pa

    sent = stored_schema(table, task, embedding_dim)
    found = to_warehouse(to_arrow(rows, schema(table, task=task, embedding_dim=embedding_dim)))
    times = pa.repeat(pa.scalar(written_at, sent.field(WRITTEN_AT).type), len(rows))
    return pa.Table.from_arrays([*found.columns, times], schema=sent)


def bounded(row: StreamRow, now_sec: float) -> StreamRow:
    """A row of failures as BigQuery takes it in any case: without a payload that is too large, without a time
    that is too far off. Its detail says so."""
    values, said = dict(row.values), []
    data = values.get("data") or b""
    if len(data) > MAX_DATA_BYTES:
        values["data"] = None
        said.append(f"its payload of {len(data):,} bytes is left out, BigQuery takes no more than 10 MB")
    if time_fault(row, now_sec):
        values["time"] = None
        said.append(f"its time, {row.values['time'].isoformat()}, is too far off for BigQuery's partitions")
    if not said:
        return row
    values["detail"] = "; ".join([str(values.get("detail") or ""), *said])
    return replace(row, values=values)


def time_fault(row: StreamRow, now_sec: float) -> str:
    """Why BigQuery would not take a row in a stream, for its time; empty when it would."""
    column = TIME_OF[row.table]
    time = row.values.get(column)
    if time is None:
        return ""
    days = (time - as_datetime(now_sec)).total_seconds() / 86_400
    if -PAST_DAYS < days < FUTURE_DAYS:
        return ""
    return (
        f"{column} is {time.isoformat()}: BigQuery takes no row of a stream more than 10 years old, or a "
        "year ahead; write it by --backfill, which loads it"
    )


class Refused(NamedTuple):
    """A row that BigQuery would not take, and why."""

    row: StreamRow
    why: str


def refused_letter(refused: Refused, *, run_id: str = "") -> DeadLetter:
    """The dead letter of a refused row; its payload is the row itself as JSON."""
    row, values = refused.row, refused.row.values
    ref = ImageRef(key=str(values.get("key") or row.row_id), uri=str(values.get("uri") or ""))
    error = VisionError(Reason.REFUSED, f"table {row.table}: {refused.why}")
    info = FrameInfo(
        camera=row.camera,
        capture_sec=row.time_sec,
        message_id=str(values.get("message_id") or ""),
        attributes=dict(values.get("attributes") or {}),
    )
    return DeadLetter(failure(error, ref, Stage.WRITE, run_id=run_id), info, row_message(row).data)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a stream's rows go in BigQuery.

    Attributes:
      names: table -> its name there; rows of other tables aren't written.
      task, embedding_dim: decide the columns of predictions.
      run_id: stands in the failures of rows that BigQuery refuses.
    """

    names: Mapping[str, TableName]
    task: str = "classify"
    embedding_dim: int | None = None
    run_id: str = ""


class StreamTables:
    """Appends to the tables of a streaming job, to several at a time.

    Args:
      to: where.
    """

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._client: BigQueryWriteClient | None = None
        self._appenders: dict[str, Appender] = {}

    def __enter__(self) -> StreamTables:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Connects, and loads what the first rows would wait for.

        Raises:
          UsageError: there are no credentials.
        """
        try:
            self._client = clients.writer()
        except clients.errors() as error:
            raise clients.explain(error, next(iter(self._to.names.values()))) from error
        self._pool = ThreadPoolExecutor(len(TABLES), thread_name_prefix="append")
        self._appenders = {
            table: Appender(name, self._schema(table), client=self._client)
            for table, name in self._to.names.items()
        }

    def _schema(self, table: str) -> pa.Schema:
        return stored_schema(table, self._to.task, self._to.embedding_dim)

    def append(self, rows: Mapping[str, Sequence[StreamRow]]) -> list[DeadLetter]:
        """Appends rows by table; they are stored when it returns, but for those whose dead letters it gives:
        these stand among the failures instead, where there is such a table.

        Raises:
          UsageError: BigQuery refuses a table; says why.
          JobError: it can't be reached, or takes not even a failure.
        """
        now_sec = time.time()
        found = list(self._pool.map(self._append, rows.keys(), rows.values(), itertools.repeat(now_sec)))
        letters = [refused_letter(one, run_id=self._to.run_id) for some in found for one in some]
        if letters and FAILURES in self._appenders:
            self._append(FAILURES, [failure_row(letter) for letter in letters], now_sec)
        return letters

    def _append(self, table: str, rows: Sequence[StreamRow], now_sec: float) -> list[Refused]:
        """Those of one table; those that it would not take."""
        if table == FAILURES:
            rows, refused = [bounded(row, now_sec) for row in rows], []
        else:
            refused = [Refused(row, why) for row in rows if (why := time_fault(row, now_sec))]
            late = {one.row.row_id for one in refused}
            rows = [row for row in rows if row.row_id not in late]
        if rows:
            why_not = self._appenders[table].append(self._stored(table, rows, now_sec))
            refused += [Refused(rows[number], why) for number, why in sorted(why_not.items())]
        if refused and table == FAILURES:
            name = self._to.names[FAILURES].path
            raise JobError(f"{name} takes no row of {refused[0].row.row_id!r}: {refused[0].why}")
        return refused

    def _stored(self, table: str, rows: Sequence[StreamRow], now_sec: float) -> pa.Table:
        settings: dict[str, Any] = {"task": self._to.task, "embedding_dim": self._to.embedding_dim}
        return stored(rows, table, written_at=as_datetime(now_sec), **settings)

    def close(self) -> None:
        """Ends the connections. May be called twice."""
        for appender in self._appenders.values():
            appender.close()
        self._appenders = {}
        if self._client is not None:
            self._pool.shutdown()
            self._client.transport.close()
            self._client = None
