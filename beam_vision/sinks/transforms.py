"""PTransforms that write: the table and the dead letter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.errors import Stage, VisionError
from beam_vision.failures import FAILED, Outcome, failure
from beam_vision.sinks import failures as dead_letter
from beam_vision.sinks import parts
from beam_vision.sinks.commit import Commit, plan_commit
from beam_vision.sinks.commit_steps import FolderSteps, Steps
from beam_vision.sinks.letters import Letter, letter_beside, read_letter
from beam_vision.sinks.output import OutputPlan
from beam_vision.sinks.rows import RowSettings, fault
from beam_vision.sinks.staging import Flush, StageInFiles
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

    It comes when this run's failures have replaced those of earlier runs, also when nothing failed; so
    whoever takes it as a side input comes after it.

    Args:
      place: where they go: a folder, a table's name, or a letter made of either.
      run_id: this run.
      job: the job's name, for ``beam-vision redrive``.
      output: the job's destination: a folder, which the rows of a table name.
    """

    def __init__(self, place: str | Letter, *, run_id: str, job: str = "", output: str = "") -> None:
        super().__init__()
        self._letter = letter_beside(place, output) if isinstance(place, str) else place
        self._run_id = run_id
        self._job = job

    def expand(self, failed: beam.PCollection) -> beam.PCollection:
        """Stages, gathers the names of what was staged, publishes."""
        stage = StageFailures(self._letter.folder, self._run_id)
        return (
            failed.pipeline
            | "Once" >> beam.Impulse()
            | "PublishFailures"
            >> beam.Map(self._publish, AsList(failed | "StageFailures" >> beam.ParDo(stage)))
            | "PublishedOnce" >> beam.Reshuffle()  # a retry may publish again; what is staged must be there
            | "RemoveEarlier" >> beam.Map(self._clean)
        )

    def _publish(self, _: bytes, staged: list[dead_letter.StagedFailures]) -> dict[str, Any]:
        summary = self._letter.prepare(self._run_id, staged)
        self._letter.record(self._run_id, summary, job=self._job)
        return summary

    def _clean(self, summary: dict[str, Any]) -> dict[str, Any]:
        self._letter.clean(self._run_id)
        return summary


class ReadFailedKeys(beam.PTransform):
    """PBegin -> the keys in a dead letter.

    Args:
      files: what it is made of, as :func:`~beam_vision.sinks.letters.letter_files` found it.
      output: whose failures, in a table that holds those of several outputs.
    """

    def __init__(self, files: Sequence[str], *, output: str = "") -> None:
        super().__init__()
        self._files = list(files)
        self._output = output

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Reads each file."""
        files = begin | "Files" >> beam.Create(self._files, reshuffle=True)
        return files | "ReadKeys" >> beam.FlatMap(_failed_keys, self._output)


def _failed_keys(place: str, output: str) -> Iterator[str]:
    return (failure.key for failure in read_letter(place, output=output))


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
        yield self.failed(error, rows)

    def failed(self, error: VisionError, rows: Sequence[Prediction]) -> TaggedOutput:
        """An image that can't be written, under its own key."""
        metrics.count_failure(error.reason.value)
        ref = replace(rows[0].ref, key=self._settings.image_key(rows[0]))
        bad = failure(error, ref, Stage.WRITE, run_id=self._output.run_id, attempt=self._attempt)
        return TaggedOutput(FAILED, bad)

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
      failures: where failures go: a folder, a table's name, or a letter made of either.
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
        failures: str | Letter,
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
        self._letter = letter_beside(failures, output.folder) if isinstance(failures, str) else failures
        self._job = job
        self._attempt = attempt
        self._flush = flush or Flush()
        self._part_bytes = part_bytes

    def expand(self, outcome: Outcome) -> beam.PCollection:
        """Stages, decides, writes the parts, commits, cleans up: each once the one before has ended."""
        good, failed = outcome
        rows = good | "StageRows" >> beam.ParDo(self.stage_rows()).with_outputs(FAILED, main="staged")
        staged_failures = (
            (failed, rows[FAILED])
            | "AllFailures" >> beam.Flatten()
            | "StageFailures" >> beam.ParDo(StageFailures(self._letter.folder, self._output.run_id))
        )
        facts = {"staged": AsList(rows.staged), "failures": AsList(staged_failures)}
        if self._kept is not None:
            facts["kept"] = AsList(self._kept)
        if self._already_done is not None:
            facts["already_done"] = AsSingleton(self._already_done)
        plan = self._inputs | "PlanCommit" >> beam.Map(
            _plan, self._output, self._settings, self._part_bytes, **facts
        )
        steps = self.steps()
        written = (
            plan
            | "Tasks" >> beam.FlatMap(lambda plan: plan.tasks)
            | "SpreadTasks" >> beam.Reshuffle()
            | "WriteParts" >> beam.Map(steps.write_part)
        )
        return (
            plan
            | "Commit" >> beam.Map(steps.commit, AsList(written))
            | "CommittedOnce" >> beam.Reshuffle()  # a retry may commit again; what is staged must be there
            | "CleanUp" >> beam.Map(steps.clean)
        )

    def stage_rows(self) -> StageRows:
        """What stages the rows."""
        return StageRows(self._output, self._settings, self._flush, attempt=self._attempt)

    def steps(self) -> Steps:
        """What writes parts, commits and cleans up."""
        return FolderSteps(self._output, self._settings, self._letter, self._job)


def _plan(inputs: int, output: OutputPlan, settings: RowSettings, part_bytes: int, **facts: Any) -> Commit:
    facts = {"kept": [], "already_done": 0, **facts}
    return plan_commit(output, settings, inputs=inputs, part_bytes=part_bytes, **facts)
