"""Our ModelHandler of streams: batches of frames in; predictions, dead letters and rollout events out."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from beam_vision import deps, metrics
from beam_vision.errors import Stage
from beam_vision.inference.engine import Engine, Result, Stats
from beam_vision.inference.handler import count_batch
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.serving import ServingModel
from beam_vision.inference.serving_load import ServingSettings
from beam_vision.inference.serving_watch import REFUSED, start_serving
from beam_vision.inference.spec import ModelSpec
from beam_vision.stream_types import DeadLetter, Frame, Predicted, RolloutEvent, Timing
from beam_vision.types import Failure, Prediction

Inferred = Predicted | DeadLetter | RolloutEvent
"""What comes out: for each frame one of the first two (or one prediction for each tile), and events."""


class FrameModelHandler(ModelHandler[Frame, Inferred, ServingModel]):
    """Runs batches of frames, as they are given, through the model that serves when they begin.

    Use it ``with_no_batching()``: its batches were made before.

    Args:
      model_path: of the version that the job was started with, readable by every worker.
      spec: what :func:`~beam_vision.inference.bundle.read_bundle` gave for it.
      settings: what is wanted of each image.
      serving: whether, where and how newer versions are taken in.

    Raises:
      UsageError: the model doesn't give what is wanted.
    """

    def __init__(
        self, model_path: str, spec: ModelSpec, settings: EngineSettings, serving: ServingSettings
    ) -> None:
        super().__init__()
        Engine(spec, settings)
        self._model_path = model_path
        self._spec = spec
        self._settings = settings
        self._serving = serving

    def load_model(self) -> ServingModel:
        """Loads the model, runs it once, and begins to watch for others."""
        if self._serving.root:
            settle(self._spec)
        return start_serving(self._model_path, self._spec, self._settings, self._serving)

    def run_inference(
        self, batch: Sequence[Frame], model: ServingModel, inference_args: dict[str, Any] | None = None
    ) -> Sequence[Inferred]:
        """What happened to the model since the batch before, and what became of each frame, in order."""
        served, events = model.take()
        for event in events:
            count_event(event)
        start_sec = time.time()
        results, stats = served.engine.results([frame.image for frame in batch], served.model)
        end_sec = time.time()
        count_batch(results, stats)
        inferred: list[Inferred] = list(events)
        for frame, result, decode_ms in zip(batch, results, decode_times(results, stats), strict=True):
            infer_ms = max(0.0, 1000 * (end_sec - start_sec) - decode_ms)
            inferred += _of_frame(frame, result, Timing(start_sec, decode_ms, infer_ms, end_sec))
        return inferred

    def get_num_bytes(self, batch: Sequence[Frame]) -> int:
        """Encoded bytes of a batch (Beam's own pickles the batch to count them)."""
        return sum(len(frame.image.data) for frame in batch)

    def get_metrics_namespace(self) -> str:
        """Beam's own metrics of inference, apart from ours."""
        return f"{metrics.NAMESPACE}.run_inference"

    def share_model_across_processes(self) -> bool:
        """No: images would be pickled to another process and back."""
        return False


def settle(spec: ModelSpec) -> None:
    """Takes all that is in memory before the first model out of the garbage collector's sight.

    A model that was exchanged goes only with a full collection, which would otherwise look at half a million
    objects of TensorFlow's and Beam's for a quarter of a second or more, while frames wait.
    """
    if spec.model_format != "onnx":
        deps.need("tensorflow")
    gc.collect()
    gc.freeze()


def count_event(event: RolloutEvent) -> None:
    """Counts a model that was taken in or refused; on a thread of the runner's."""
    metrics.observe(metrics.MODEL_LOAD_MS, 1000 * event.load_sec)
    if event.outcome == REFUSED:
        metrics.count(metrics.REFUSED_MODELS)
    elif event.previous_digest:
        metrics.count(metrics.SWAPS)


def decode_times(results: Sequence[Result], stats: Stats) -> list[float]:
    """Milliseconds that decoding each image took; 0 for those that couldn't be decoded."""
    times = iter(stats.decode_ms)
    undecoded = [isinstance(item, Failure) and item.stage == Stage.DECODE for item in results]
    return [0.0 if skipped else next(times, 0.0) for skipped in undecoded]


def _of_frame(frame: Frame, result: Result, timing: Timing) -> Iterator[Inferred]:
    if isinstance(result, Failure):
        yield DeadLetter(result, frame.info, frame.image.data)
        return
    for prediction in (result,) if isinstance(result, Prediction) else result:
        yield Predicted(frame.info, prediction, timing)
