"""Our ModelHandler: encoded images in, predictions or failures out, under Beam's RunInference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from beam_vision import metrics
from beam_vision.inference.engine import Engine, Result, Stats, warm_up
from beam_vision.inference.loader import LoadedModel, load
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import EncodedImage, Failure


class ImageModelHandler(ModelHandler[EncodedImage, Result, LoadedModel]):
    """Decodes and runs batches of encoded images; every image has its own outcome.

    Beam's batch is a large one, cut here into model batches: while the model runs one, the next are
    decoded. It is bounded by count and by bytes together; one image that passes the bound goes alone.

    Args:
      model_path: as in :func:`~beam_vision.inference.bundle.read_bundle`, readable by every worker.
      spec: what that gave for it.
      settings: what is wanted of each image.
      max_batch_images: Beam's batches hold at most so many images...
      max_batch_bytes: ...and so many encoded bytes.

    Raises:
      UsageError: the model doesn't give what is wanted.
    """

    def __init__(
        self,
        model_path: str,
        spec: ModelSpec,
        settings: EngineSettings,
        *,
        max_batch_images: int = 256,
        max_batch_bytes: int = 64 << 20,
    ) -> None:
        super().__init__()
        self._model_path = model_path
        self._spec = spec
        self._settings = settings
        self._max_batch_images = max_batch_images
        self._max_batch_bytes = max_batch_bytes
        self._engine: Engine | None = Engine(spec, settings)
        self._observed_load = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None, "_observed_load": False}

    def load_model(self) -> LoadedModel:
        """Loads the model and runs it once, so that the first batch finds it ready."""
        model = load(self._model_path, self._spec, require_gpu=self._settings.require_gpu)
        warm_up(model)
        return model

    def run_inference(
        self, batch: Sequence[EncodedImage], model: LoadedModel, inference_args: dict[str, Any] | None = None
    ) -> Sequence[Result]:
        """What became of each image, in order."""
        if self._engine is None:
            self._engine = Engine(self._spec, self._settings)
        results, stats = self._engine.results(batch, model)
        if not self._observed_load:
            self._observed_load = True
            metrics.observe(metrics.MODEL_LOAD_MS, 1000 * model.load_sec)
        count_batch(results, stats)
        return results

    def batch_elements_kwargs(self) -> dict[str, Any]:
        """Bounds by count and by bytes at once.

        ``BatchElements`` has one size. So each image weighs at least 1 and, when it is a large file, its
        share of the byte bound in units of ``max_batch_bytes / max_batch_images``; a batch's weight is at
        most ``max_batch_images``, which holds both bounds. Weights are whole numbers (Beam's metrics take
        no others), and none passes the whole batch's: a heavier one would make Beam emit an empty batch.
        """
        return {
            "min_batch_size": self._max_batch_images,
            "max_batch_size": self._max_batch_images,
            "element_size_fn": self._weight,
        }

    def _weight(self, element: EncodedImage | tuple[str, EncodedImage]) -> int:
        image = element[1] if isinstance(element, tuple) else element
        share = math.ceil(len(image.data) * self._max_batch_images / self._max_batch_bytes)
        return min(max(1, share), self._max_batch_images)

    def get_num_bytes(self, batch: Sequence[EncodedImage]) -> int:
        """Encoded bytes of a batch (Beam's own pickles the batch to count them)."""
        return sum(len(image.data) for image in batch)

    def get_metrics_namespace(self) -> str:
        """Beam's own metrics of inference, apart from ours."""
        return f"{metrics.NAMESPACE}.run_inference"

    def share_model_across_processes(self) -> bool:
        """No: images would be pickled to another process and back."""
        return False


def count_batch(results: Sequence[Result], stats: Stats) -> None:
    """Counts what became of a batch and what it took; on a thread of the runner's."""
    failed = [item for item in results if isinstance(item, Failure)]
    for item in failed:
        metrics.count_failure(item.reason)
    metrics.count(metrics.DECODED, len(stats.decode_ms))
    metrics.count(metrics.INFERRED, len(results) - len(failed))
    metrics.count(metrics.BATCHES, len(stats.batch_sizes))
    metrics.count(metrics.BISECTED, stats.bisected)
    metrics.count(metrics.HALVED, stats.halved)
    for name, values in (
        (metrics.DECODE_MS, stats.decode_ms),
        (metrics.DECODE_WAIT_MS, stats.wait_ms),
        (metrics.INFERENCE_MS, stats.inference_ms),
        (metrics.BATCH_SIZE, stats.batch_sizes),
    ):
        for value in values:
            metrics.observe(name, value)
