"""Where ``evaluate`` writes: a folder, and if asked a table of BigQuery's that holds many evaluations."""

from __future__ import annotations

import contextlib
import datetime
import io
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.evaluation import metrics_rows, result
from beam_vision.warehouse import clients, schema, tables
from beam_vision.warehouse.loads import load_config, to_file
from beam_vision.warehouse.names import TableName, is_bigquery, parse_table

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

RUN_ID_FORMAT = "%Y%m%dT%H%M%S%fZ"


class Outputs(NamedTuple):
    """The folder, absolute, and the table, if any."""

    folder: str
    table: TableName | None = None


def outputs_of(text: str) -> Outputs:
    """What ``--output`` names: a folder, and behind a comma a table; in either order.

    Raises:
      UsageError: it names no folder, or two of a kind.
    """
    places = [place.strip() for place in text.split(",")]
    names = [place for place in places if is_bigquery(place)]
    folders = [place for place in places if place and not is_bigquery(place)]
    if len(folders) != 1 or len(names) > 1:
        raise UsageError(
            f"--output {text} names {len(folders)} folders and {len(names)} tables; give one folder, and if "
            "you like a table behind a comma: evaluation/,bigquery://PROJECT.DATASET.TABLE"
        )
    table = parse_table(names[0], option="--output") if names else None
    return Outputs(storage.absolute(folders[0]).rstrip("/"), table)


def check(outputs: Outputs) -> None:
    """Refuses a folder that holds something else than an earlier evaluation, and a table of something else.

    Raises:
      UsageError: one of them is.
    """
    _check_folder(outputs.folder)
    if outputs.table is not None:
        with contextlib.closing(clients.client(outputs.table.project)) as client:
            tables.check(client, outputs.table, tables.metrics_form(metrics_rows.schema()))


def _check_folder(folder: str) -> None:
    if not storage.is_folder(folder):
        if storage.exists(folder):
            raise UsageError(f"--output {folder} is a file; name a folder")
        return
    ours = {result.METRICS_FILE, result.CLASSES_FILE, result.REPORT_FILE}
    others = [name for name in storage.list_folder(folder) if name not in ours and name[:1] != "."]
    if others:
        raise UsageError(
            f"--output {folder} holds {others[0]}, which is of no evaluation; name an empty or new folder"
        )


def add_to_table(name: TableName, metrics: Mapping[str, Any]) -> int:
    """Adds an evaluation to the table, which is made if need be; gives how many rows it has.

    One load job whose id is of the run: asked for again, it adds nothing.

    Raises:
      UsageError: the table is of something else.
      JobError: BigQuery didn't take the rows.
    """
    from beam_vision.sinks import warehouse_jobs

    run_id = metrics["run_id"]
    evaluated_at = datetime.datetime.strptime(run_id, RUN_ID_FORMAT).replace(tzinfo=datetime.timezone.utc)
    rows = metrics_rows.rows_of(metrics, evaluated_at)
    with contextlib.closing(clients.client(name.project)) as client:
        found = tables.ensure(client, name, tables.metrics_form(rows.schema))
        start = partial(_load, client, name, to_file(schema.to_warehouse(rows)), found.location)
        job = warehouse_jobs.job_id(name, run_id, "metrics")
        warehouse_jobs.finish(client, start, job, location=found.location, about=name)
    return rows.num_rows


def _load(client: Client, name: TableName, data: bytes, location: str, job: str) -> Any:
    config = load_config(tables.metrics_form(metrics_rows.schema()).fields)
    return client.load_table_from_file(
        io.BytesIO(data), name.path, job_id=job, location=location or None, job_config=config
    )
