"""PTransforms that write: the table and the dead letter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.errors import Stage
from beam_vision.failures import FAILED, Outcome, failure
from beam_vision.sinks import failures as dead_letter
from beam_vision.sinks import parts
from beam_vision.sinks.commit import Commit, clean, commit, plan_commit
from beam_vision.sinks.output import OutputPlan
from beam_vision.sinks.rows import RowSettings, fault
from beam_vision.sinks.staging import Flush, StageInFiles
from beam_vision.table import Part, TableManifest
from beam_vision.types import Failure, Prediction

KEYS = "keys"
"""The tag of the keys that :class:`ReadKept` finds."""


class StageFailures(StageInFiles[Failure]):
    """Failures -> :class:`~beam_vision.sinks.failures.StagedFailures`, one for each file it wrote.

    Args:
      folder: the dead letter's folder.
      run_id: names the staging folder.
      flush: when to write.
    """

    def __init__(self, folder: str, run_id: str, flush: Flush | None = None) -> None:
        super().__init__(flush or Flush())
        self._folder = folder
        self._run_id = run_id

    def size_bytes(self, element: Failure) -> int:
        """The texts of a failure and the names of its fields."""
        return 120 + len(element.key) + len(element.uri) + len(element.detail)

    def write(self, elements: list[Failure]) -> Iterator[dead_letter.StagedFailures]:
        """Writes one JSONL file."""
        yield dead_letter.stage(self._folder, self._run_id, elements)


class WriteFailures(beam.PTransform):
    """Failures -> exactly one ``{"total": int, "by_reason": {reason: n}, "files": [names]}``.

    It comes when this run's JSONL files and ``job.json`` have replaced those of earlier runs in ``folder``,
    also when nothing failed; so whoever takes it as a side input comes after it.

    Args:
      folder: where they are written.
      run_id: this run.
      job: the job's name, for ``beam-vision redrive``.
    """

    def __init__(self, folder: str, *, run_id: str, job: str = "") -> None:
        super().__init__()
        self._folder = folder
        self._run_id = run_id
        self._job = job

    def expand(self, failed: beam.PCollection) -> beam.PCollection:
        """Stages, gathers the names of what was staged, publishes."""
        staged = failed | "StageFailures" >> beam.ParDo(StageFailures(self._folder, self._run_id))
        return (
            failed.pipeline
            | "Once" >> beam.Impulse()
            | "PublishFailures" >> beam.Map(self._publish, AsList(staged))
            | "PublishedOnce" >> beam.Reshuffle()  # a retry may publish again; what is staged must be there
            | "RemoveEarlier" >> beam.Map(self._clean)
        )

    def _publish(self, _: bytes, staged: list[dead_letter.StagedFailures]) -> dict[str, Any]:
        summary = dead_letter.write_parts(self._folder, self._run_id, staged)
        dead_letter.record(self._folder, self._run_id, summary, job=self._job)
        return summary

    def _clean(self, summary: dict[str, Any]) -> dict[str, Any]:
        dead_letter.clean(self._folder)
        return summary


class ReadFailedKeys(beam.PTransform):
    """PBegin -> the keys in a dead letter.

    Args:
      files: its files, as :func:`~beam_vision.sinks.failures.failure_files` found them.
    """

    def __init__(self, files: Sequence[str]) -> None:
        super().__init__()
        self._files = list(files)

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Reads each file."""
        files = begin | "Files" >> beam.Create(self._files, reshuffle=True)
        return files | "ReadKeys" >> beam.FlatMap(_failed_keys)


def _failed_keys(path: str) -> list[str]:
    return [failure.key for failure in dead_letter.read_file(path)]


class StageRows(StageInFiles[tuple[Prediction, ...]]):
    """Predictions -> :class:`~beam_vision.sinks.parts.RowFile`, one for each file; bad rows go to ``failed``.

    An image is written whole, all its rows in one file, or not at all: where one of its tiles is bad it is
    one failure, under the image's own key. The tiles of an image come one after the other, as inference
    gives them.

    Args:
      output: where; rows go to this run's staging folder.
      settings: what the rows have in common.
      flush: when to write.
      attempt: stands in each failure.
    """

    def __init__(self, output: OutputPlan, settings: RowSettings, flush: Flush, *, attempt: int = 1) -> None:
        super().__init__(flush)
        self._output = output
        self._settings = settings
        self._attempt = attempt

    def size_bytes(self, element: tuple[Prediction, ...]) -> int:
        """The embeddings, and a guess for the rest."""
        return sum(
            len(row.embedding or b"") + 300 + 50 * len(row.labels) + 60 * len(row.boxes) for row in element
        )

    def start_bundle(self) -> None:
        """Begins with nothing gathered."""
        super().start_bundle()
        self._image: list[Prediction] = []

    def process(self, element: Prediction) -> Iterator[Any]:
        """Gathers the rows of an image."""
        key = self._settings.image_key
        if self._image and key(element) != key(self._image[0]):
            yield from self._end_image()
        self._image.append(element)
        if self._settings.rows != "tiles":
            yield from self._end_image()

    def last(self) -> Iterator[Any]:
        """The last image, and what was gathered."""
        if self._image:
            yield from self._end_image()
        yield from super().last()

    def _end_image(self) -> Iterator[Any]:
        """Checks an image's rows, and gathers them."""
        rows, self._image = tuple(self._image), []
        error = next(filter(None, (fault(row, self._settings) for row in rows)), None)
        if error is None:
            metrics.count(metrics.DONE)
            yield from self.gather(rows)
            return
        metrics.count_failure(error.reason.value)
        ref = replace(rows[0].ref, key=self._settings.image_key(rows[0]))
        bad = failure(error, ref, Stage.WRITE, run_id=self._output.run_id, attempt=self._attempt)
        yield TaggedOutput(FAILED, bad)

    def write(self, elements: list[tuple[Prediction, ...]]) -> Iterator[parts.RowFile]:
        """Writes one Parquet file."""
        yield parts.stage(self._output.staging("rows"), elements, self._settings, self._output.run_id)


class Kept(NamedTuple):
    """The rows of earlier runs that stay: their ``files`` (RowFile) and their images' ``keys`` (str)."""

    files: beam.PCollection
    keys: beam.PCollection


class ReadKept(beam.PTransform):
    """PBegin -> :class:`Kept`: of the files that a plan may keep, those whose rows have ``settings``."""

    def __init__(self, output: OutputPlan, settings: RowSettings) -> None:
        super().__init__()
        self._output = output
        self._settings = settings

    def expand(self, begin: beam.pvalue.PBegin) -> Kept:
        """Reads the keys of each file."""
        candidates = [(path, True) for path in self._output.parts]
        candidates += [(path, False) for path in self._output.staged]
        found = (
            begin
            | "Candidates" >> beam.Create(candidates, reshuffle=True)
            | "ReadKeys" >> beam.ParDo(_ReadKeys(self._settings)).with_outputs(KEYS, main="files")
        )
        return Kept(found.files, found[KEYS])


class _ReadKeys(beam.DoFn):
    def __init__(self, settings: RowSettings) -> None:
        self._settings = settings

    def process(self, element: tuple[str, bool]) -> Iterator[Any]:
        path, is_part = element
        found = parts.read_kept(path, self._settings, is_part=is_part)
        if found is not None:
            file, keys = found
            yield file
            yield from (TaggedOutput(KEYS, key) for key in keys)


class WriteTable(beam.PTransform):
    """Outcome(Prediction, Failure) -> exactly one :class:`~beam_vision.table.TableManifest`, committed.

    Rows are staged in files as they come; at the end the accounts are checked, parts are made of what was
    staged and kept, the failures published, and the manifest written last.

    Args:
      output: what was found in the folder, and this run's id.
      settings: what the rows have in common.
      inputs: exactly one number: the images that came in.
      kept: the rows of earlier runs that stay, or None.
      already_done: exactly one number: the images left out because their rows are kept; None: none.
      failures: the dead letter's folder.
      job: the job's name, for ``beam-vision redrive``.
      attempt: stands in each failure made here.
      flush: when gathered rows are staged.
      part_bytes: about how large a part is.
    """

    def __init__(
        self,
        output: OutputPlan,
        settings: RowSettings,
        *,
        inputs: beam.PCollection,
        failures: str,
        kept: beam.PCollection | None = None,
        already_done: beam.PCollection | None = None,
        job: str = "",
        attempt: int = 1,
        flush: Flush | None = None,
        part_bytes: int = parts.PART_BYTES,
    ) -> None:
        super().__init__()
        self._output = output
        self._settings = settings
        self._inputs = inputs
        self._kept = kept
        self._already_done = already_done
        self._failures = failures
        self._job = job
        self._attempt = attempt
        self._flush = flush or Flush()
        self._part_bytes = part_bytes

    def expand(self, outcome: Outcome) -> beam.PCollection:
        """Stages, decides, writes the parts, commits, cleans up: each once the one before has ended."""
        good, failed = outcome
        folder = self._failures
        stage_rows = StageRows(self._output, self._settings, self._flush, attempt=self._attempt)
        rows = good | "StageRows" >> beam.ParDo(stage_rows).with_outputs(FAILED, main="staged")
        staged_failures = (
            (failed, rows[FAILED])
            | "AllFailures" >> beam.Flatten()
            | "StageFailures" >> beam.ParDo(StageFailures(folder, self._output.run_id))
        )
        facts = {"staged": AsList(rows.staged), "failures": AsList(staged_failures)}
        if self._kept is not None:
            facts["kept"] = AsList(self._kept)
        if self._already_done is not None:
            facts["already_done"] = AsSingleton(self._already_done)
        plan = self._inputs | "PlanCommit" >> beam.Map(
            _plan, self._output, self._settings, self._part_bytes, **facts
        )
        written = (
            plan
            | "Tasks" >> beam.FlatMap(lambda plan: plan.tasks)
            | "SpreadTasks" >> beam.Reshuffle()
            | "WriteParts" >> beam.Map(parts.write_part, self._output.staging("parts"), self._settings)
        )
        return (
            plan
            | "Commit" >> beam.Map(_commit, AsList(written), self._output, self._settings, folder, self._job)
            | "CommittedOnce" >> beam.Reshuffle()  # a retry may commit again; what is staged must be there
            | "CleanUp" >> beam.Map(_clean, self._output, folder)
        )


def _plan(inputs: int, output: OutputPlan, settings: RowSettings, part_bytes: int, **facts: Any) -> Commit:
    facts = {"kept": [], "already_done": 0, **facts}
    return plan_commit(output, settings, inputs=inputs, part_bytes=part_bytes, **facts)


def _commit(
    plan: Commit, written: list[Part], output: OutputPlan, settings: RowSettings, failures: str, job: str
) -> TableManifest:
    return commit(output, settings, plan, written, failures=failures, job=job)


def _clean(manifest: TableManifest, output: OutputPlan, failures: str) -> TableManifest:
    clean(output, manifest, failures=failures)
    return manifest
