"""A run into a table of BigQuery's: what was found before it, its end, and what it says of itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from beam_vision import storage
from beam_vision.errors import DigestMismatch, JobError, UsageError
from beam_vision.sinks import warehouse_load as loading
from beam_vision.sinks import warehouse_merge as merging
from beam_vision.sinks.commit import Commit, clean_staging
from beam_vision.sinks.letters import Letter
from beam_vision.sinks.output import STAGING, OutputPlan, plan_output
from beam_vision.sinks.rows import RowSettings
from beam_vision.sinks.warehouse_merge import Merged
from beam_vision.sinks.warehouse_staging import staging_folder
from beam_vision.table import Part
from beam_vision.warehouse import clients, cost, schema, tables
from beam_vision.warehouse.found import Found
from beam_vision.warehouse.names import TableName

_REPORTS = "reports"


@dataclass(frozen=True, kw_only=True)
class WarehousePlan:
    """What was found when a run into a table began, and what may be done there.

    Attributes:
      name: the table.
      output: the folder in which its rows are staged, with what killed runs have left there.
      found: what is at ``name``.
      resume: whether images whose rows the table holds are left out.
      add_columns: whether columns may be added to the table.
    """

    name: TableName
    output: OutputPlan
    found: Found
    resume: bool = False
    add_columns: bool = False

    @property
    def reads_keys(self) -> bool:
        """Whether there are keys to read from the table."""
        return self.resume and self.found.exists


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a finished run says of itself.

    Attributes:
      run_id: the run.
      merged: what it did to the table.
      inputs, outputs, failed, already_done, failed_by_reason: its accounts, in images.
    """

    run_id: str
    merged: Merged
    inputs: int = 0
    outputs: int = 0
    failed: int = 0
    already_done: int = 0
    failed_by_reason: dict[str, int] = field(default_factory=dict)


def plan_warehouse(
    name: TableName,
    run_id: str,
    settings: RowSettings,
    *,
    staging: str = "",
    resume: bool = False,
    add_columns: bool = False,
) -> WarehousePlan:
    """Looks at a table and at its staging folder. Changes nothing.

    Args:
      name: the table; need not be there yet.
      run_id: the run.
      settings: what the run's rows have in common.
      staging: the folder for files that are to be loaded; see
        :func:`~beam_vision.sinks.warehouse_staging.staging_folder`.
      resume: leave out images whose rows the table holds, and take what killed runs have staged.
      add_columns: add columns that the table lacks.

    Raises:
      UsageError: the table can't take these rows, or the staging folder holds something that isn't ours.
    """
    with contextlib.closing(clients.client(name.project)) as client:
        found = tables.check(client, name, tables.batch_form(settings), add_columns=add_columns)
    output = plan_output(staging_folder(name, staging), run_id, settings, resume=resume)
    killed = tuple(run_id for run_id in output.stale_runs if run_id != _REPORTS)
    return WarehousePlan(
        name=name,
        output=replace(output, stale_runs=killed),
        found=found,
        resume=resume,
        add_columns=add_columns,
    )


def try_rights(plan: WarehousePlan, settings: RowSettings) -> None:
    """Finds out, before an image is read, whether the account may make tables in the dataset and run jobs.

    Makes an empty table, and drops it.

    Raises:
      UsageError: it may not; names the roles.
    """
    tried = plan.name.sibling(f"rights_{plan.output.run_id}")
    with contextlib.closing(clients.client(plan.name.project)) as client:
        try:
            loading.make_staging(client, tried, loading.staging_fields(settings.schema()))
            try:
                clients.retried(lambda: cost.dry_job(client, f"SELECT COUNT(*) FROM {tried.sql}"))
            finally:
                loading.drop(client, [tried])
        except clients.errors() as error:
            raise clients.explain(error, plan.name) from error


def done_keys(name: TableName, settings: RowSettings) -> Iterator[str]:
    """The keys of the images whose rows a table holds, in no order, some of them several times."""
    from beam_vision.warehouse.read import read_rows

    column = settings.image_column
    for batch in read_rows(name, columns=[column]):
        yield from batch.column(0).to_pylist()


def commit(
    plan: WarehousePlan,
    settings: RowSettings,
    decided: Commit,
    written: Sequence[Part],
    *,
    letter: Letter,
    job: str,
) -> Report:
    """Loads the parts, merges them, then makes this run's failures count. Doing it again gives the same.

    Args:
      decided: the accounts and the failures.
      written: the parts, as :func:`~beam_vision.sinks.warehouse_load.write_part` gave them.
      letter: where failures go.
      job: the job's name, for ``beam-vision redrive``.

    Raises:
      JobError: nothing came in, the table has changed meanwhile, or BigQuery didn't take the rows.
    """
    accounts, run_id = decided.accounts, plan.output.run_id
    if not accounts.inputs:
        raise JobError(
            f"no images came in: check --images and --format; the table {plan.name.path} was left as it is"
        )
    summary = letter.prepare(run_id, decided.failures)
    merged = _into_table(plan, settings, [part for part in written if part.rows])
    letter.record(run_id, summary, job=job)
    report = Report(
        run_id=run_id,
        merged=merged,
        inputs=accounts.inputs,
        outputs=accounts.outputs,
        failed=accounts.failed,
        already_done=accounts.already_done,
        failed_by_reason=accounts.failed_by_reason,
    )
    storage.write_json(_report_path(plan.output), asdict(report))
    return report


def _into_table(plan: WarehousePlan, settings: RowSettings, written: Sequence[Part]) -> Merged:
    name, run_id = plan.name, plan.output.run_id
    columns = schema.batch_schema(settings.schema())
    with contextlib.closing(clients.client(name.project)) as client:
        try:
            found = tables.ensure(client, name, tables.batch_form(settings), add_columns=plan.add_columns)
        except (UsageError, DigestMismatch) as error:  # it was fine when the run began
            raise JobError(f"{error}; its rows stay staged in {plan.output.folder}, for --resume") from error
        if not written:
            return Merged(loaded=0, changed=0, inserted=0, updated=0, deleted=0)
        into = loading.staging_table(name, run_id)
        folder = plan.output.staging("parts")
        paths = [storage.join(folder, part.name) for part in sorted(written, key=lambda part: part.name)]
        fields = loading.staging_fields(columns)
        loading.make_staging(client, into, fields)
        loading.load(client, name, run_id, paths, location=found.location, into=into, fields=fields)
        merging.settle(client, name, plan.output.stale_runs, location=found.location)
        return merging.merge(
            client,
            name,
            run_id,
            settings,
            [column for column in columns.names if column != schema.WRITTEN_AT],
            rows=sum(part.rows for part in written),
            location=found.location,
        )


def clean(plan: WarehousePlan, *, letter: Letter) -> None:
    """Drops the staging tables of this run and of killed ones, and removes what they have staged."""
    runs = sorted({*plan.output.stale_runs, plan.output.run_id})
    with contextlib.closing(clients.client(plan.name.project)) as client:
        loading.drop(client, [loading.staging_table(plan.name, run_id) for run_id in runs])
    clean_staging(plan.output)
    letter.clean(plan.output.run_id)


def _report_path(output: OutputPlan) -> str:
    return storage.join(output.folder, STAGING, _REPORTS, f"{output.run_id}.json")


def take_report(plan: WarehousePlan) -> Report:
    """What the run said of itself, which is removed with all that is left.

    Raises:
      JobError: it ended without a word.
    """
    path = _report_path(plan.output)
    if not storage.exists(path):
        raise JobError(f"the run ended without having written to {plan.name.path}")
    value: dict[str, Any] = storage.read_json(path)
    storage.delete_folder(storage.join(plan.output.folder, STAGING))
    return Report(**{**value, "merged": Merged(**value["merged"])})
