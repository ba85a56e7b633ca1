"""The tables of BigQuery that ``stream`` writes: checked before the model loads, made before it runs."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines.stream_options import Options
from beam_vision.stream_table import FAILURES
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    from beam_vision.pipelines.stream_graph import Plan
    from beam_vision.sinks.append import Destination
    from beam_vision.warehouse.tables import Form

Place = tuple[str, TableName]
"""Which table of a stream, and where it is."""


def places(options: Options) -> Iterator[Place]:
    """All tables of BigQuery that rows go to."""
    from beam_vision.sinks.append import table_names

    for name in options.tables:
        yield from table_names(name).items()
    for name in options.failure_tables:
        yield FAILURES, name


def look_at_tables(options: Options, *, local: bool) -> None:
    """Finds out what can be found out before the model is known: datasets, rights, Java.

    Raises:
      UsageError: rows can't go there as asked.
    """
    from beam_vision.warehouse import clients, tables

    if options.write_method == "storage_write_api":
        if local:
            raise UsageError(
                "--write_method storage_write_api is for Dataflow: a run on this machine writes by append"
            )
        from beam_vision.sinks.java_transforms import check_java

        check_java()
    for name in (*options.tables, *options.failure_tables):
        with clients.client(name.project) as client:
            if tables.look(client, name).is_view:
                raise UsageError(f"{name.uri} is a view, which can't be written to; name a table")


def check_tables(options: Options, plan: Plan) -> None:
    """Whether rows of this model and task may be written to the tables that are there. Changes nothing.

    Raises:
      UsageError: a table holds something else, or lacks columns.
    """
    from beam_vision.warehouse import clients, tables

    for table, name in places(options):
        with clients.client(name.project) as client:
            tables.check(client, name, _form(table, options, plan), add_columns=options.add_columns)


def make_tables(options: Options, plan: Plan) -> None:
    """Makes the tables that aren't there, and the views that show their rows once.

    Raises:
      UsageError: BigQuery refuses.
    """
    from beam_vision.warehouse import clients, tables
    from beam_vision.warehouse.once import ensure_once

    for table, name in places(options):
        form = _form(table, options, plan)
        with clients.client(name.project) as client:
            tables.ensure(client, name, form, add_columns=options.add_columns)
            # a failure whose time nobody knows may stand at another one when it comes again
            ensure_once(client, name, "" if table == FAILURES else form.partition)


def _form(table: str, options: Options, plan: Plan) -> Form:
    from beam_vision.warehouse.tables import stream_form

    return stream_form(table, task=options.task, embedding_dim=plan.embedding_dim)


def destinations(options: Options, plan: Plan) -> list[Destination]:
    """Where a live stream's rows go in BigQuery."""
    from beam_vision.sinks.append import Destination, table_names

    names = [table_names(name) for name in options.tables]
    names += [{FAILURES: name} for name in options.failure_tables]
    return [
        Destination(names=each, task=options.task, embedding_dim=plan.embedding_dim, run_id=plan.run_id)
        for each in names
    ]


def staging_of(options: Options, plan: Plan, temp_location: str = "") -> str:
    """The folder that keeps a backfill's rows until BigQuery has them; empty when none go there.

    A run that is killed leaves its rows there, and the next one into the same tables takes them up.

    Raises:
      UsageError: workers elsewhere can't write to it.
    """
    names = [name.path for _, name in places(options)]
    if not names:
        return ""
    root = options.staging or temp_location or tempfile.gettempdir()
    if not (plan.is_local or storage.is_remote(root)):
        raise UsageError(f"--staging {root} is on this machine; give gs://..., for workers write there")
    same = (*names, options.task, str(plan.embedding_dim), str(options.window_sec))
    digest = hashlib.sha256("\n".join(same).encode()).hexdigest()[:16]
    return storage.join(storage.absolute(root).rstrip("/"), f"beam-vision-backfill-{digest}")


def folders_of(options: Options, plan: Plan) -> list[str]:
    """The folders that rows are written to."""
    return [*options.folders, *filter(None, [plan.staging])]


def merge_tables(options: Options, plan: Plan) -> dict[str, int]:
    """Brings what a backfill has staged into BigQuery, and removes it there; new rows by table's path.

    Raises:
      JobError: BigQuery refused; what was staged stays for the next run.
    """
    from beam_vision.sinks.merge_windows import merge_windows
    from beam_vision.sinks.windows import Windows
    from beam_vision.warehouse import clients, tables

    settings = Windows(
        folder=plan.staging,
        window_sec=options.window_sec,
        task=options.task,
        embedding_dim=plan.embedding_dim,
    )
    new: dict[str, int] = {}
    for to in destinations(options, plan):
        first = next(iter(to.names.values()))
        with clients.client(first.project) as client:
            location = tables.look(client, first).location
            merged = merge_windows(client, settings, to.names, plan.run_id, location=location)
        new |= {to.names[table].path: rows for table, rows in merged.items()}
    storage.delete_folder(plan.staging)
    return new
