"""Where ``predict`` writes: a folder of Parquet files, or a table of BigQuery's. Both in the same steps."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from beam_vision import storage
from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.sinks.letters import Letter, letter_of
from beam_vision.sinks.output import OutputPlan, check_output, hold, plan_output
from beam_vision.sinks.rows import RowSettings
from beam_vision.table import TableManifest, read_manifest
from beam_vision.warehouse.names import TableName, is_bigquery, parse_table

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_vision.pipelines.predict_options import Options
    from beam_vision.sinks.warehouse_commit import WarehousePlan


class Kept(NamedTuple):
    """Of earlier runs: staged files whose rows stay, and the keys of images that are done; or None."""

    files: beam.PCollection | None
    keys: beam.PCollection | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The accounts of a run, in images, and what else is to be said."""

    inputs: int
    outputs: int
    failed: int
    already_done: int
    failed_by_reason: dict[str, int]
    notes: list[str] = field(default_factory=list)


class Destination(Protocol):
    """A place for rows, and what was found there."""

    @property
    def output(self) -> OutputPlan:
        """The folder in which rows are staged, and what is in it."""

    @property
    def place(self) -> str:
        """As the user knows it."""

    def facts(self) -> dict[str, Any]:
        """For ``--preflight_only``: what it holds, and what resuming keeps."""

    def notes(self) -> list[str]:
        """What the person who runs the job should know."""

    def try_rights(self, rows: RowSettings) -> None:
        """Finds out whether rows will be taken at the end.

        Raises:
          UsageError: they won't.
        """

    def kept(self, pipeline: beam.Pipeline, rows: RowSettings) -> Kept:
        """What stays of earlier runs."""

    def write(self, rows: RowSettings, **settings: Any) -> beam.PTransform:
        """What takes an Outcome and commits it; ``settings`` as for ``WriteTable``."""

    def result(self) -> Result:
        """What the run has committed.

        Raises:
          JobError: nothing.
        """


@dataclass(frozen=True)
class Folder:
    """A folder of Parquet files, as a :class:`Destination`."""

    output: OutputPlan

    @property
    def place(self) -> str:
        """The folder."""
        return self.output.folder

    def facts(self) -> dict[str, Any]:
        """What its manifest says."""
        manifest = read_manifest(self.place)
        holds = f"a table of {held(manifest)}, of run {manifest.run_id}" if manifest else "no table"
        kept = {
            "keeps_parts": len(self.output.parts),
            "may_keep_files_of_killed_runs": len(self.output.staged),
        }
        return {"output": self.place, "output_holds": holds, "resume": kept}

    def notes(self) -> list[str]:
        """Why rows are made again."""
        return [
            f"the table was made with {what}: its rows are made again" for what in self.output.differences
        ]

    def try_rights(self, rows: RowSettings) -> None:
        """They are written from the start on."""

    def kept(self, pipeline: beam.Pipeline, rows: RowSettings) -> Kept:
        """Parts and staged files."""
        from beam_vision.sinks.transforms import ReadKept

        if not self.output.keeps:
            return Kept(None, None)
        found = pipeline | "ReadKept" >> ReadKept(self.output, rows)
        return Kept(found.files, found.keys)

    def write(self, rows: RowSettings, **settings: Any) -> beam.PTransform:
        """Writes parts and a manifest."""
        from beam_vision.sinks.transforms import WriteTable

        return WriteTable(self.output, rows, **settings)

    def result(self) -> Result:
        """From the manifest."""
        manifest = read_manifest(self.place)
        if manifest is None or manifest.run_id != self.output.run_id:
            raise JobError(f"the run ended without a table at {self.place}")
        return Result(
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            failed=manifest.failed,
            already_done=manifest.already_done,
            failed_by_reason=manifest.failed_by_reason,
            notes=[f"the table has {held(manifest)} in {len(manifest.parts)} parts"],
        )


@dataclass(frozen=True)
class Warehouse:
    """A table of BigQuery's, as a :class:`Destination`."""

    plan: WarehousePlan

    @property
    def output(self) -> OutputPlan:
        """The staging folder."""
        return self.plan.output

    @property
    def place(self) -> str:
        """``bigquery://project.dataset.table``."""
        return self.plan.name.uri

    def facts(self) -> dict[str, Any]:
        """What BigQuery says of the table."""
        found = self.plan.found
        return {
            "output": self.place,
            "output_holds": f"a table of {found.rows:,} rows" if found.exists else "no table",
            "staging": self.output.folder,
            "adds_columns": list(found.missing),
            "resume": {
                "leaves_out_what_the_table_holds": self.plan.reads_keys,
                "may_keep_files_of_killed_runs": len(self.output.staged),
            },
        }

    def notes(self) -> list[str]:
        """How the table differs from what we would have made, and which columns are added."""
        added = ", ".join(self.plan.found.missing)
        return [*self.plan.found.notes, *([f"columns are added to the table: {added}"] if added else [])]

    def try_rights(self, rows: RowSettings) -> None:
        """Whether tables may be made in the dataset, and jobs run."""
        from beam_vision.sinks.warehouse_commit import try_rights

        try_rights(self.plan, rows)

    def kept(self, pipeline: beam.Pipeline, rows: RowSettings) -> Kept:
        """Staged files, and the table's keys."""
        import apache_beam as beam

        from beam_vision.sinks.transforms import ReadKept
        from beam_vision.sinks.warehouse_transforms import ReadDoneKeys

        files, keys = None, []
        if self.output.keeps:
            found = pipeline | "ReadKept" >> ReadKept(self.output, rows)
            files = found.files
            keys.append(found.keys)
        if self.plan.reads_keys:
            keys.append(pipeline | "ReadDoneKeys" >> ReadDoneKeys(self.plan.name, rows))
        return Kept(files, tuple(keys) | "DoneKeys" >> beam.Flatten() if keys else None)

    def write(self, rows: RowSettings, **settings: Any) -> beam.PTransform:
        """Loads and merges."""
        from beam_vision.sinks.warehouse_transforms import WriteWarehouse

        return WriteWarehouse(self.plan, rows, **settings)

    def result(self) -> Result:
        """From the run's report."""
        from beam_vision.sinks.warehouse_commit import take_report

        report = take_report(self.plan)
        return Result(
            inputs=report.inputs,
            outputs=report.outputs,
            failed=report.failed,
            already_done=report.already_done,
            failed_by_reason=report.failed_by_reason,
            notes=[report.merged.text],
        )


def held(manifest: TableManifest) -> str:
    """How many rows a table has, and of how many images where that differs."""
    rows = f"{manifest.rows:,} rows"
    return rows if manifest.row_kind == "images" else f"{rows} of {manifest.images:,} images"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the options say that rows and failures go; found before the model is loaded.

    Attributes:
      output: a folder, or a table.
      failures: a folder, or ``bigquery://...``.
      letter: of the failures.
    """

    output: str | TableName
    failures: str
    letter: Letter

    @property
    def shown(self) -> str:
        """The output as the user knows it."""
        return self.output.uri if isinstance(self.output, TableName) else self.output


def places_of(options: Options) -> Places:
    """Reads ``--output`` and ``--failures``, and checks what can be checked without the model.

    Raises:
      UsageError: one of them is no place for what goes there, or both are the same.
    """
    output: str | TableName
    if is_bigquery(options.output):
        output = parse_table(options.output, option="--output")
        shown, failures = output.uri, output.sibling("failures").uri
    else:
        output = shown = storage.absolute(options.output).rstrip("/")
        failures = storage.join(output, "failures")
    if options.failures:
        failures = options.failures if is_bigquery(options.failures) else storage.absolute(options.failures)
    if failures == shown:
        raise UsageError(f"--failures and --output are both {shown}; take another place for the failures")
    if isinstance(output, str):
        check_output(output, failures=failures)
    letter = letter_of(failures, output=shown, staging=options.staging)
    letter.check()
    return Places(output=output, failures=failures, letter=letter)


def destination_of(
    places: Places, options: Options, run_id: str, rows: RowSettings, *, resume: bool
) -> Destination:
    """Looks at what is there already. Changes nothing.

    Raises:
      UsageError: the rows can't go there.
    """
    if isinstance(places.output, str):
        return Folder(plan_output(places.output, run_id, rows, resume=resume, failures=places.failures))
    from beam_vision.sinks.warehouse_commit import plan_warehouse

    plan = plan_warehouse(
        places.output,
        run_id,
        rows,
        staging=options.staging,
        resume=resume,
        add_columns=options.add_columns,
    )
    return Warehouse(plan)


def holding(destination: Destination) -> AbstractContextManager[None]:
    """Keeps other runs on this machine from writing to the same place."""
    return hold(destination.output.folder)


def with_staging(options: Options, beam_args: list[str]) -> Options:
    """The options with a staging folder that all workers see.

    Raises:
      UsageError: the runner works elsewhere, and no folder in a bucket is given.
    """
    if not (is_bigquery(options.output) or is_bigquery(options.failures)):
        return options
    beam_options = jobs.beam_options(beam_args)
    if jobs.runner_of(beam_options)[1]:
        return options
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    temporary = beam_options.view_as(GoogleCloudOptions).temp_location
    staging = options.staging or (storage.join(temporary, "beam-vision") if temporary else "")
    if not storage.is_remote(staging):
        raise UsageError(
            f"--staging {staging or '(none)'}: rows for BigQuery are staged where all workers of this runner "
            "see them; give --staging gs://BUCKET/FOLDER, or Beam's --temp_location"
        )
    return replace(options, staging=staging)
