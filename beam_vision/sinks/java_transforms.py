"""Rows of a stream -> tables of BigQuery through Beam's own STORAGE_WRITE_API, which is in Java.

It needs a runner of several languages, such as Dataflow, and where the job is submitted Java and a jar of
Beam's.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.utils.timestamp import Timestamp

import beam_vision.coders  # noqa: F401
from beam_vision.errors import UsageError
from beam_vision.sinks.append import Destination, Refused, bounded, refused_letter, stored
from beam_vision.sinks.stream_rows import failure_row
from beam_vision.stream_table import FAILURES
from beam_vision.stream_types import DeadLetter, StreamRow, as_datetime
from beam_vision.warehouse.forms import TIME_OF, stream_form
from beam_vision.warehouse.names import TableName

_TARGET = "sdks:java:io:google-cloud-platform:expansion-service:build"
_INSTEAD = "or leave --write_method out, which writes from Python"


def check_java() -> None:
    """Whether Java and Beam's jar are there; fetches the jar where it may.

    Raises:
      UsageError: they aren't.
    """
    from apache_beam.utils.subprocess_server import JavaJarServer

    if shutil.which("java") is None:
        raise UsageError(
            f"--write_method storage_write_api needs Java here, to submit the job: install Java 11 or later, "
            f"{_INSTEAD}"
        )
    jar = JavaJarServer.path_to_beam_jar(_TARGET)
    try:
        JavaJarServer.local_jar(jar)
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"--write_method storage_write_api needs {jar}, which can't be fetched ({error}); put it into "
            f"{JavaJarServer.JAR_CACHE}, {_INSTEAD}"
        ) from error


class AppendByBeam(beam.PTransform):
    """As :class:`~beam_vision.sinks.append_transforms.AppendRows`, by Beam's transform in Java.

    Args:
      to: where rows go; the tables have to be there.
    """

    def __init__(self, to: Destination) -> None:
        super().__init__()
        self._to = to

    def expand(self, rows: Any) -> beam.PCollection:
        """Writes each table; the failures last, with those that the others refuse."""
        if isinstance(rows, tuple):
            rows = rows | "Rows" >> beam.Flatten()
        refused = tuple(
            self._write(rows, table, name) for table, name in self._to.names.items() if table != FAILURES
        )
        if not refused:
            return self._write(rows, FAILURES, self._to.names[FAILURES])
        dead = refused | "Refused" >> beam.Flatten()
        of_refused = dead | "FailureRows" >> beam.Map(failure_row).with_output_types(StreamRow)
        failures = (rows, of_refused) | "AllFailures" >> beam.Flatten()
        self._write(failures, FAILURES, self._to.names[FAILURES])
        return dead

    def _write(self, rows: beam.PCollection, table: str, name: TableName) -> beam.PCollection:
        from apache_beam.io.gcp.bigquery import BigQueryDisposition, StorageWriteToBigQuery

        form = stream_form(table, task=self._to.task, embedding_dim=self._to.embedding_dim)
        write = StorageWriteToBigQuery(
            table=f"{name.project}:{name.dataset}.{name.table}",
            schema={"fields": [field.to_api_repr() for field in form.fields]},
            create_disposition=BigQueryDisposition.CREATE_NEVER,
            use_at_least_once=True,
        )
        values = rows | f"Values_{table}" >> beam.ParDo(ValuesDoFn(self._to, table)).with_output_types(dict)
        failed = (values | f"Write_{table}" >> write).failed_rows_with_errors
        return failed | f"Dead_{table}" >> beam.Map(dead_letter, table, self._to.run_id).with_output_types(
            DeadLetter
        )


class ValuesDoFn(beam.DoFn):
    """Rows -> the values of those of one table, as Beam's transform takes them.

    Args:
      to: where rows go.
      table: which rows are taken.
    """

    def __init__(self, to: Destination, table: str) -> None:
        self._to = to
        self._table = table

    def process(self, row: StreamRow) -> Iterator[dict[str, Any]]:
        """At most one."""
        if row.table != self._table:
            return
        now = datetime.datetime.now(datetime.timezone.utc)
        fits = bounded(row, now.timestamp()) if row.table == FAILURES else row
        found = stored(
            [fits],
            self._table,
            written_at=now,
            task=self._to.task,
            embedding_dim=self._to.embedding_dim,
        )
        for values in found.to_pylist():
            yield {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if not isinstance(value, datetime.datetime):
        return value
    return Timestamp.from_utc_datetime(value.astimezone(datetime.timezone.utc))


def dead_letter(failed: Mapping[str, Any], table: str, run_id: str) -> DeadLetter:
    """The dead letter of what Beam's transform says of a row that BigQuery refused.

    Args:
      failed: ``failed_row`` and ``error_message``.
      table: whose row it is.
      run_id: stands in the failure.
    """
    values = dict(failed["failed_row"])
    time = values.get(TIME_OF[table])
    time_sec = float(time.micros) / 1e6 if time is not None else 0.0
    values = {
        name: as_datetime(value.micros / 1e6) if isinstance(value, Timestamp) else value
        for name, value in values.items()
    }
    values["attributes"] = {
        each["key"]: each["value"] for each in map(_as_dict, values.get("attributes") or ())
    }
    row = StreamRow(table, str(values["row_id"]), str(values.get("camera") or ""), time_sec, values)
    return refused_letter(Refused(row, str(failed["error_message"])), run_id=run_id)


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else value._asdict()
