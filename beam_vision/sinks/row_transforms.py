"""Predictions, dead letters and rollout events to rows, in a pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import TimestampedValue

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.errors import Stage, VisionError
from beam_vision.failures import FAILED, failure
from beam_vision.sinks.stream_rows import failure_row, rollout_row, to_row
from beam_vision.stream_table import STAGES
from beam_vision.stream_types import OBSERVED, DeadLetter, Observation, Predicted, RolloutEvent, StreamRow


class Rows(NamedTuple):
    """What :class:`MakeRows` gives: ``predicted == rows + dead``, and an observation of each row.

    Attributes:
      rows: PCollection of StreamRow.
      observed: PCollection of Observation, of kind ``row``.
      dead: PCollection of DeadLetter: predictions that can't stand in a table.
    """

    rows: beam.PCollection
    observed: beam.PCollection
    dead: beam.PCollection


class MakeRows(beam.PTransform):
    """``PCollection[Predicted]`` -> :class:`Rows`, at the capture times of their frames.

    Args:
      task, embedding_dim: decide the columns; see :func:`beam_vision.stream_table.schema`.
      run_id: stands in each row and failure.
    """

    def __init__(self, *, task: str, embedding_dim: int | None = None, run_id: str = "") -> None:
        super().__init__()
        self._settings: dict[str, Any] = {"task": task, "embedding_dim": embedding_dim, "run_id": run_id}

    def expand(self, predicted: beam.PCollection) -> Rows:
        """Makes a row of each."""
        made = predicted | "MakeRow" >> beam.ParDo(RowDoFn(**self._settings)).with_outputs(
            FAILED, OBSERVED, main="rows"
        )
        return Rows(made.rows, made[OBSERVED], made[FAILED])


@beam.typehints.with_output_types(StreamRow, failed=DeadLetter, observed=Observation)
class RowDoFn(beam.DoFn):
    """A prediction to its row, or to a dead letter; and what is to be counted of it."""

    def __init__(self, *, task: str, embedding_dim: int | None, run_id: str) -> None:
        self._task = task
        self._embedding_dim = embedding_dim
        self._run_id = run_id

    def process(self, predicted: Predicted) -> Iterator[Any]:
        """One row and its observation, or one dead letter."""
        info, prediction = predicted.info, predicted.prediction
        try:
            row = to_row(
                predicted,
                run_id=self._run_id,
                now_sec=time.time(),
                task=self._task,
                embedding_dim=self._embedding_dim,
            )
        except VisionError as error:
            metrics.count_failure(error.reason.value)
            bad = failure(error, prediction.ref, Stage.WRITE, run_id=self._run_id)
            # without its image, which is gone by now
            yield TaggedOutput(FAILED, TimestampedValue(DeadLetter(bad, info, b""), info.capture_sec))
            return
        metrics.count(metrics.DONE)
        yield TimestampedValue(row, info.capture_sec)
        took = {stage: row.values[f"{stage}_ms"] for stage in STAGES}
        seen = Observation(
            info.camera,
            info.capture_sec,
            "row",
            labels=self._labels(predicted),
            stage_ms={stage: ms for stage, ms in took.items() if ms is not None},
        )
        yield TaggedOutput(OBSERVED, TimestampedValue(seen, info.capture_sec))

    def _labels(self, predicted: Predicted) -> tuple[str, ...]:
        prediction = predicted.prediction
        if self._task == "detect":
            return tuple(box.label for box in prediction.boxes)
        return tuple(label.label for label in prediction.labels[:1])


@beam.typehints.with_output_types(StreamRow)
class FailureRows(beam.DoFn):
    """Dead letters to rows of the table of failures."""

    def process(self, dead: DeadLetter) -> Iterator[TimestampedValue]:
        """One row, at its frame's time."""
        row = failure_row(dead)
        yield TimestampedValue(row, row.time_sec)


@beam.typehints.with_output_types(StreamRow)
class RolloutRows(beam.DoFn):
    """Rollout events to rows.

    Args:
      run_id: stands in each row.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def process(self, event: RolloutEvent) -> Iterator[TimestampedValue]:
        """One row, at the event's time."""
        yield TimestampedValue(rollout_row(event, run_id=self._run_id), event.time_sec)
