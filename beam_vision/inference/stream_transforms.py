"""PTransforms of inference on streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import TimestampedValue

import beam_vision.coders  # noqa: F401  (registers our rows)
from beam_vision.failures import FAILED
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.serving_load import ServingSettings
from beam_vision.inference.spec import ModelSpec
from beam_vision.inference.stream_handler import FrameModelHandler, Inferred
from beam_vision.stream_types import DeadLetter, Frame, Predicted, RolloutEvent

ROLLOUTS = "rollouts"
"""The tag of rollout events."""


class InferredFrames(NamedTuple):
    """What :class:`InferFrames` gives.

    Attributes:
      predicted: ``Predicted``s; one of each frame, or one of each of its tiles.
      dead: ``DeadLetter``s of frames that couldn't be decoded or run.
      rollouts: ``RolloutEvent``s: the model that serves from here on, or one that was refused.
    """

    predicted: beam.PCollection
    dead: beam.PCollection
    rollouts: beam.PCollection


class InferFrames(beam.PTransform):
    """Runs the model that serves: ``PCollection[tuple[Frame, ...]]`` -> :class:`InferredFrames`.

    Predictions and dead letters get the time of their frame's capture, events the time when they happened.

    Args:
      spec: the model's, as :func:`~beam_vision.inference.bundle.read_bundle` gave it, completed by trying it.
      model_path: where that model is, for every worker.
      serving: whether, where and how newer versions are taken in; by default they aren't.
      wanted: what is made of each image: fields of
        :class:`~beam_vision.inference.reading.EngineSettings`, such as ``task`` and ``run_id``.

    Raises:
      UsageError: the model doesn't give what is wanted.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model_path: str,
        *,
        serving: ServingSettings = ServingSettings(),  # noqa: B008  (frozen)
        **wanted: Any,
    ) -> None:
        super().__init__()
        self._handler = FrameModelHandler(model_path, spec, EngineSettings(**wanted), serving)

    def expand(self, batches: beam.PCollection[tuple[Frame, ...]]) -> InferredFrames:
        """Builds the stage; nothing in it shuffles."""
        found = (
            batches
            | "RunInference" >> RunInference(self._handler.with_no_batching())
            | "Split" >> beam.ParDo(SplitInferred()).with_outputs(FAILED, ROLLOUTS, main="predicted")
        )
        return InferredFrames(found.predicted, found[FAILED], found[ROLLOUTS])


@beam.typehints.with_output_types(Predicted, failed=DeadLetter, rollouts=RolloutEvent)
class SplitInferred(beam.DoFn):
    """Predictions to the main output, dead letters and rollout events to theirs, each with its time."""

    def process(self, element: Inferred) -> Iterable[Any]:
        """One of the three."""
        if isinstance(element, Predicted):
            yield TimestampedValue(element, element.info.capture_sec)
        elif isinstance(element, DeadLetter):
            yield TaggedOutput(FAILED, TimestampedValue(element, element.info.capture_sec))
        else:
            yield TaggedOutput(ROLLOUTS, TimestampedValue(element, element.time_sec))
