"""Encoded images in, predictions out. Needs no Beam: the handler is a shell around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from beam_vision.errors import UsageError, VisionError
from beam_vision.inference import embed
from beam_vision.inference.classify import decide_activation
from beam_vision.inference.decoding import Chunk, Decoder, Prepared
from beam_vision.inference.detect import BoxReader, Detections
from beam_vision.inference.loader import LoadedModel
from beam_vision.inference.probe import probe_batch, probe_views
from beam_vision.inference.reading import EngineSettings, Made, Reader
from beam_vision.inference.robust import run_rows
from beam_vision.inference.spec import ModelSpec
from beam_vision.inference.tiling import (
    Outcome,
    TileChunk,
    TileDecoder,
    TileOutcome,
    first_trouble,
    merged,
    ref_of_tile,
)
from beam_vision.types import EncodedImage, Failure, ImageRef, Prediction

Result = Prediction | Failure | tuple[Prediction, ...]
"""What became of an image: one prediction; or, for tasks other than ``detect``, one for each of its tiles."""


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
      VisionError: it fails on them; or it is a detector whose outputs can't be read for any of them.
    """
    outputs = model.run(probe_batch(model.spec))
    if model.spec.detector:
        read_boxes(model.spec, outputs)
    elif model.spec.scores_output:
        scores = embed.rows(outputs[model.spec.scores_output], layout=model.spec.layout)
        model.activation, model.multi_label = decide_activation(
            scores, model.spec.activation, model.spec.multi_label
        )


def read_boxes(spec: ModelSpec, outputs: dict[str, np.ndarray]) -> list[Detections]:
    """What a detector found in the generated images; those whose row can't be read are left out.

    Args:
      spec: the detector's.
      outputs: what it gave for :func:`~beam_vision.inference.probe.probe_batch`.

    Raises:
      VisionError: no row can be read.
    """
    found = BoxReader(spec, EngineSettings(task="detect"))(outputs, probe_views(spec))
    good = [item for item in found if not isinstance(item, VisionError)]
    if not good and isinstance(found[0], VisionError):
        raise found[0]
    return good


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
        self._decoder = Decoder(spec, settings)
        self._tiles = TileDecoder(spec, settings) if settings.tile_px else None

    def results(self, images: Sequence[EncodedImage], model: LoadedModel) -> tuple[Sequence[Result], Stats]:
        """What became of each image, in order, and what it took; in tiles where the settings say so.

        Args:
          images: any number.
          model: loaded and warmed up.
        """
        if self._tiles is None:
            return self.predict(images, model)
        stats = Stats()
        return self._predict_tiles(self._tiles, images, model, stats), stats

    def predict(
        self, images: Sequence[EncodedImage], model: LoadedModel
    ) -> tuple[list[Prediction | Failure], Stats]:
        """The same of whole images: a prediction or a failure for each."""
        stats = Stats()
        results: list[Prediction | Failure] = []
        for chunk in self._decoder.chunks(images):
            outcomes = self._run(chunk, model, stats)
            for image, (prepared, outcome) in zip(chunk.images, outcomes, strict=True):
                if prepared is not None:
                    stats.decode_ms.append(prepared.decode_ms)
                results.append(self._result(image.ref, prepared, outcome))
        return results, stats

    def _predict_tiles(
        self, decoder: TileDecoder, images: Sequence[EncodedImage], model: LoadedModel, stats: Stats
    ) -> list[Result]:
        """What became of each image, tile by tile."""
        parts: list[list[TileOutcome]] = [[] for _ in images]
        for chunk in decoder.tile_chunks(images):
            for (i, tile), found in zip(chunk.places, self._run(chunk, model, stats), strict=True):
                parts[i].append(TileOutcome(tile, *found))
        return [self._of_tiles(image.ref, found, stats) for image, found in zip(images, parts, strict=True)]

    def _of_tiles(self, ref: ImageRef, parts: Sequence[TileOutcome], stats: Stats) -> Result:
        """What became of an image, from what became of its tiles; one that failed fails the image."""
        prepared = [part.prepared for part in parts if part.prepared is not None]
        if prepared:
            stats.decode_ms.append(sum(item.decode_ms for item in prepared))
        outcome = first_trouble(parts)
        if outcome is not None:
            return self._result(ref, prepared[0] if prepared else None, outcome)
        if self._settings.boxes_wanted:
            return self._result(ref, prepared[0], merged(parts, self._settings))
        rows = [
            self._result(ref_of_tile(ref, part.tile), part.prepared, part.outcome)
            for part in parts
            if part.tile is not None
        ]
        return tuple(row for row in rows if isinstance(row, Prediction))

    def _result(self, ref: ImageRef, prepared: Prepared | None, outcome: Outcome) -> Prediction | Failure:
        if isinstance(outcome, Failure):
            return outcome
        if prepared is None:
            raise ValueError(f"{ref.key}: an outcome without a view")
        return self._reader.result(ref, prepared.view, outcome)

    def _run(
        self, chunk: Chunk | TileChunk, model: LoadedModel, stats: Stats
    ) -> list[tuple[Prepared | None, Outcome]]:
        """What the model makes of each row of a batch, once that is decoded."""
        start = time.monotonic()
        prepared = chunk.wait()
        stats.wait_ms.append(1000 * (time.monotonic() - start))
        good = [i for i, item in enumerate(prepared) if isinstance(item, Prepared)]
        made: dict[int, Made | VisionError] = {}
        if good:
            start = time.monotonic()
            rows = run_rows(model, chunk.batch if len(good) == len(prepared) else chunk.batch[good])
            stats.inference_ms.append(1000 * (time.monotonic() - start))
            stats.batch_sizes.append(len(good))
            stats.bisected += rows.bisected
            stats.halved += rows.halved
            views = [item.view for item in prepared if isinstance(item, Prepared)]
            read = self._reader.read(rows, views, model.activation, model.multi_label)
            made = dict(zip(good, read, strict=True))
        return [
            (None, item) if isinstance(item, Failure) else (item, made[i]) for i, item in enumerate(prepared)
        ]
