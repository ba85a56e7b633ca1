"""Failures into a table of BigQuery's, and out of it.

A table holds those of several outputs. A run replaces the failures of its own output, by one MERGE: the load
before it only fills a table beside, so a run that is killed changes nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.sinks import failures as dead_letter
from beam_vision.sinks import warehouse_load as loading
from beam_vision.sinks.failures import StagedFailures
from beam_vision.sinks.warehouse_jobs import finish, job_id
from beam_vision.table import to_parquet
from beam_vision.types import Failure
from beam_vision.warehouse import clients, schema, tables
from beam_vision.warehouse.cost import job_config
from beam_vision.warehouse.names import TableName, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import Client

_PART_FAILURES = 100_000
_NUMBER = "number"
_FIELDS = [field.name for field in dataclasses.fields(Failure)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableLetter:
    """A table of failures, as a :class:`~beam_vision.sinks.letters.Letter`.

    Attributes:
      name: the table; made when there is none.
      staging: the folder for files that are to be loaded.
      output: the destination of the job, whose failures these are.
    """

    name: TableName
    staging: str
    output: str

    @property
    def folder(self) -> str:
        """Where failures are staged as they come."""
        return self.staging

    def check(self) -> None:
        """Raises UsageError when failures can't be written there."""
        with contextlib.closing(clients.client(self.name.project)) as client:
            tables.check(client, self.name, tables.failures_form())

    def prepare(self, run_id: str, staged: Sequence[StagedFailures]) -> dict[str, Any]:
        """Loads what was staged into a table beside."""
        by_reason = dead_letter.count(staged)
        paths = self._write_parts(run_id, staged)
        into = loading.staging_table(self.name, run_id)
        with contextlib.closing(clients.client(self.name.project)) as client:
            location = tables.ensure(client, self.name, tables.failures_form()).location
            fields = schema.fields(_staged_schema())
            loading.make_staging(client, into, fields)
            loading.load(client, self.name, run_id, paths, location=location, into=into, fields=fields)
        return {"total": sum(by_reason.values()), "by_reason": by_reason, "files": [self.name.uri]}

    def _write_parts(self, run_id: str, staged: Sequence[StagedFailures]) -> list[str]:
        """Parquet files of all failures, numbered through."""
        import pyarrow as pa

        files = sorted(item.path for item in staged)
        rows = itertools.chain.from_iterable(map(dead_letter.read_file, files))
        paths: list[str] = []
        for start, group in _groups(rows):
            columns: dict[str, Any] = {
                name: [getattr(failure, name) for failure in group] for name in _FIELDS
            }
            columns[_NUMBER] = range(start, start + len(group))
            name = f"failures-{len(paths):05d}.parquet"
            paths.append(storage.join(dead_letter.staging_folder(self.staging, run_id), name))
            storage.write_bytes(paths[-1], to_parquet(pa.table(columns, schema=_staged_schema())))
        return paths

    def record(self, run_id: str, summary: Mapping[str, Any], *, job: str = "") -> None:
        """Merges them into the table, in the place of those before of the same output."""
        del summary
        sql = replace_sql(self.name, loading.staging_table(self.name, run_id))
        with contextlib.closing(clients.client(self.name.project)) as client:
            location = tables.look(client, self.name).location
            start = partial(_merge, client, sql, {"job": job, "output": self.output}, location)
            merge = job_id(self.name, run_id, "failures")
            finish(client, start, merge, location=location, about=self.name)

    def clean(self, run_id: str) -> None:
        """Drops the table beside, and those of killed runs; removes what was staged."""
        staged = storage.join(self.staging, dead_letter.STAGING)
        runs = sorted({run_id, *storage.list_entries(staged)})
        with contextlib.closing(clients.client(self.name.project)) as client:
            loading.drop(client, [loading.staging_table(self.name, run_id) for run_id in runs])
        storage.delete_folder(self.staging)


def _groups(rows: Iterator[Failure]) -> Iterator[tuple[int, list[Failure]]]:
    start = 0
    while group := list(itertools.islice(rows, _PART_FAILURES)):
        yield start, group
        start += len(group)


def _staged_schema() -> pa.Schema:
    """The columns of failures before they are merged; ``number`` tells two from one that was loaded twice."""
    import pyarrow as pa

    own = [field for field in schema.failures_schema() if field.name in _FIELDS]
    return pa.schema([*(field.with_nullable(True) for field in own), pa.field(_NUMBER, pa.int64())])


def replace_sql(name: TableName, staged: TableName) -> str:
    """The MERGE that puts what was staged in the place of the failures of ``@output``."""
    columns = [quoted(column) for column in _FIELDS]
    inserted = [*columns, *(quoted(column) for column in ("job", "output", schema.WRITTEN_AT))]
    values = [*(f"S.{column}" for column in columns), "@job", "@output", "CURRENT_TIMESTAMP()"]
    return (
        f"MERGE {name.sql} AS T\nUSING (\n"
        f"  SELECT {', '.join(columns)} FROM {staged.sql}\n"
        f"  WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY {_NUMBER} ORDER BY {quoted('key')}) = 1\n"
        ") AS S\nON FALSE\n"
        f"WHEN NOT MATCHED BY TARGET THEN INSERT ({', '.join(inserted)}) VALUES ({', '.join(values)})\n"
        "WHEN NOT MATCHED BY SOURCE AND T.`output` = @output THEN DELETE"
    )


def _merge(client: Client, sql: str, values: Mapping[str, str], location: str, job: str) -> Any:
    config = job_config(values)
    return client.query(sql, job_id=job, location=location or None, job_config=config, job_retry=None)


def read_table(name: TableName, output: str) -> Iterator[Failure]:
    """The failures of ``output`` in a table, sorted by key.

    Raises:
      UsageError: there is no such table, or it isn't one of failures.
    """
    columns = ", ".join(map(quoted, _FIELDS))
    sql = f"SELECT {columns} FROM {name.sql} WHERE `output` = @output ORDER BY `key`, `stage`, `reason`"
    for row in _rows(name, sql, output):
        yield Failure(**{field: row[field] for field in _FIELDS})


def jobs_in(name: TableName, output: str) -> list[str]:
    """The jobs that failures of ``output`` are of, sorted.

    Raises:
      UsageError: there is no such table, or it isn't one of failures.
    """
    sql = f"SELECT DISTINCT `job` FROM {name.sql} WHERE `output` = @output ORDER BY `job`"
    return [row["job"] for row in _rows(name, sql, output)]


def _rows(name: TableName, sql: str, output: str) -> Iterator[Any]:
    with contextlib.closing(clients.client(name.project)) as client:
        found = tables.look(client, name)
        if not found.exists:
            raise UsageError(f"no failures at {name.uri}: there is no such table")
        if found.facts.get("kind") != tables.failures_form().facts["kind"]:
            raise UsageError(f"{name.uri} is not a table of failures")
        try:
            yield from clients.retried(
                lambda: client.query(sql, job_config=job_config({"output": output})).result()
            )
        except clients.errors() as error:
            raise clients.explain(error, name) from error
