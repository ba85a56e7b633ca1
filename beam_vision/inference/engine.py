"""Encoded images in, predictions out. Needs no Beam: the handler is a shell around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from beam_vision.errors import UsageError, VisionError
from beam_vision.inference import embed
from beam_vision.inference.classify import decide_activation
from beam_vision.inference.decoding import Chunk, Decoder, Prepared
from beam_vision.inference.loader import LoadedModel
from beam_vision.inference.probe import probe_batch
from beam_vision.inference.reading import EngineSettings, Made, Reader
from beam_vision.inference.robust import run_rows
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import EncodedImage, Failure, Prediction


@dataclass
class Stats:
    """What a call did, for metrics; times in milliseconds."""

    decode_ms: list[float] = field(default_factory=list)
    wait_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)
    bisected: int = 0
    halved: int = 0


def warm_up(model: LoadedModel) -> None:
    """Runs a model once on generated images, and decides by them how its scores become probabilities.

    Raises:
      VisionError: it fails on them.
    """
    outputs = model.run(probe_batch(model.spec))
    if model.spec.scores_output:
        scores = embed.rows(outputs[model.spec.scores_output], layout=model.spec.layout)
        model.activation, model.multi_label = decide_activation(
            scores, model.spec.activation, model.spec.multi_label
        )


class Engine:
    """Runs one model over encoded images.

    Args:
      spec: the model's.
      settings: what is wanted of it.

    Raises:
      UsageError: the model doesn't give what is wanted.
    """

    def __init__(self, spec: ModelSpec, settings: EngineSettings) -> None:
        settings.check(spec)
        if spec.input_kind == "tf_example":
            raise UsageError("the model takes tf.Examples, not images; choose another --signature")
        self._spec = spec
        self._settings = settings
        self._reader = Reader(spec, settings)
        self._decoder = Decoder(
            spec,
            batch_size=settings.batch_size,
            threads=settings.decode_threads,
            run_id=settings.run_id,
            attempt=settings.attempt,
        )

    def predict(
        self, images: Sequence[EncodedImage], model: LoadedModel
    ) -> tuple[list[Prediction | Failure], Stats]:
        """A prediction or a failure for each image, in order, and what it took.

        Args:
          images: any number.
          model: loaded and warmed up.
        """
        stats = Stats()
        results: list[Prediction | Failure] = []
        for chunk in self._decoder.chunks(images):
            start = time.monotonic()
            prepared = chunk.wait()
            stats.wait_ms.append(1000 * (time.monotonic() - start))
            results += self._run(chunk, prepared, model, stats)
        return results, stats

    def _run(
        self, chunk: Chunk, prepared: list[Prepared | Failure], model: LoadedModel, stats: Stats
    ) -> list[Prediction | Failure]:
        good = [i for i, item in enumerate(prepared) if isinstance(item, Prepared)]
        made: dict[int, Made | VisionError] = {}
        if good:
            start = time.monotonic()
            rows = run_rows(model, chunk.batch if len(good) == len(prepared) else chunk.batch[good])
            stats.inference_ms.append(1000 * (time.monotonic() - start))
            stats.batch_sizes.append(len(good))
            stats.bisected += rows.bisected
            stats.halved += rows.halved
            read = self._reader.read(rows, len(good), model.activation, model.multi_label)
            made = dict(zip(good, read, strict=True))
        results: list[Prediction | Failure] = []
        for i, item in enumerate(prepared):
            if isinstance(item, Failure):
                results.append(item)
            else:
                stats.decode_ms.append(item.decode_ms)
                ref, size = chunk.images[i].ref, (item.width_px, item.height_px)
                results.append(self._reader.result(ref, size, made[i]))
        return results
