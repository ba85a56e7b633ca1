"""From a model's outputs to predictions: labels, embeddings, or what is wrong with a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure
from beam_vision.inference import embed
from beam_vision.inference.classify import Labeler
from beam_vision.inference.robust import Rows
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import Failure, ImageRef, Label, Prediction

Made = tuple[tuple[Label, ...], bytes | None]
"""The labels and the embedding of one image."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What is made of each image, and how.

    Attributes:
      task: ``classify`` (labels) or ``embed`` (an embedding).
      with_embedding: whether ``classify`` gives the embedding too.
      top_k: at most so many labels.
      batch_size: images in a model batch.
      decode_threads: threads that decode; 0: as many as there are cores.
      run_id, attempt: stand in each failure.
    """

    task: str = "classify"
    with_embedding: bool = False
    top_k: int = 5
    batch_size: int = 32
    decode_threads: int = 0
    run_id: str = ""
    attempt: int = 1

    @property
    def labels_wanted(self) -> bool:
        """Whether predictions hold labels."""
        return self.task == "classify"

    @property
    def embedding_wanted(self) -> bool:
        """Whether predictions hold an embedding."""
        return self.task == "embed" or self.with_embedding

    def check(self, spec: ModelSpec) -> None:
        """Checks that the model gives what is wanted.

        Raises:
          UsageError: it doesn't, or a number is out of range.
        """
        if self.labels_wanted and not spec.scores_output:
            raise UsageError("the model has no output of scores; choose one with --scores_output")
        if self.embedding_wanted and not spec.embedding_output:
            raise UsageError("the model has no output of embeddings; choose one with --embedding_output")
        for name in ("batch_size", "top_k"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1")


class Reader:
    """Reads a model's outputs.

    Args:
      spec: the model's.
      settings: what is wanted of it.
    """

    def __init__(self, spec: ModelSpec, settings: EngineSettings) -> None:
        self._spec = spec
        self._settings = settings
        self._preprocessing_digest = spec.preprocessing_digest

    def result(
        self, ref: ImageRef, size_px: tuple[int, int], made: Made | VisionError
    ) -> Prediction | Failure:
        """The prediction of an image of upright size (width, height), or its failure."""
        if isinstance(made, VisionError):
            settings = self._settings
            return failure(made, ref, Stage.INFERENCE, run_id=settings.run_id, attempt=settings.attempt)
        return Prediction(
            ref=ref,
            width_px=size_px[0],
            height_px=size_px[1],
            labels=made[0],
            embedding=made[1],
            model_digest=self._spec.model_digest,
            preprocessing_digest=self._preprocessing_digest,
        )

    def read(self, rows: Rows, images: int, activation: str, multi_label: bool) -> list[Made | VisionError]:
        """The labels and embedding of each row, or what is wrong with it.

        Args:
          rows: what the model gave for ``images`` images.
          images: how many.
          activation, multi_label: as :func:`~beam_vision.inference.classify.decide_activation` decided.
        """
        errors: dict[int, VisionError] = dict(rows.errors)
        labels: list[tuple[Label, ...]] = [()] * images
        vectors: list[bytes | None] = [None] * images
        if rows.outputs:
            try:
                if self._settings.labels_wanted:
                    labels = self._labels(rows, activation, multi_label, errors)
                if self._settings.embedding_wanted:
                    vectors = self._vectors(rows, errors)
            except VisionError as error:  # an output of a rank that holds no rows
                errors = dict.fromkeys(range(images), error)
        return [errors.get(i) or (labels[i], vectors[i]) for i in range(images)]

    def _labels(
        self, rows: Rows, activation: str, multi_label: bool, errors: dict[int, VisionError]
    ) -> list[tuple[Label, ...]]:
        scores = self._finite(rows, self._spec.scores_output, errors)
        labeler = Labeler(
            self._spec.labels,
            activation=activation,
            multi_label=multi_label,
            threshold=self._spec.threshold,
            top_k=self._settings.top_k,
        )
        return labeler(scores)

    def _vectors(self, rows: Rows, errors: dict[int, VisionError]) -> list[bytes | None]:
        vectors, kept = embed.normalize(self._finite(rows, self._spec.embedding_output, errors))
        zero = VisionError(Reason.ZERO_VECTOR, "the embedding is all zeros, which has no direction")
        for i in np.flatnonzero(~kept):
            errors.setdefault(int(i), zero)
        return [row.tobytes() for row in vectors]

    def _finite(self, rows: Rows, name: str, errors: dict[int, VisionError]) -> np.ndarray:
        """An output as rows of finite numbers; rows with others are noted in ``errors`` and zeroed."""
        values = embed.rows(rows.outputs[name], layout=self._spec.layout)
        finite = np.isfinite(values).all(axis=1)
        if finite.all():
            return values
        for i in np.flatnonzero(~finite):
            wrong = int(np.sum(~np.isfinite(values[i])))
            detail = f"{wrong} of {values.shape[1]} numbers of output {name!r} are NaN or infinite"
            errors.setdefault(int(i), VisionError(Reason.NON_FINITE, detail))
        return np.where(finite[:, None], values, 0)
