"""From a model's outputs to predictions: labels, embeddings, boxes, or what is wrong with a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure
from beam_vision.images.tiles import plan_tiles
from beam_vision.inference import embed
from beam_vision.inference.classify import Labeler
from beam_vision.inference.detect import NMS_CHOICES, BoxReader, Detections, View
from beam_vision.inference.robust import Rows
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import Box, Failure, ImageRef, Label, Prediction

TASKS = ("classify", "embed", "detect")


@dataclass(frozen=True)
class Made:
    """What a model says of one image, or of one tile of it.

    Attributes:
      labels: highest score first.
      embedding: little-endian float32 bytes.
      found: of a detector.
    """

    labels: tuple[Label, ...] = ()
    embedding: bytes | None = None
    found: Detections | None = None


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """What is made of each image, and how.

    Attributes:
      task: ``classify`` (labels), ``embed`` (an embedding) or ``detect`` (boxes).
      with_embedding: whether ``classify`` gives the embedding too.
      top_k: at most so many labels.
      score_threshold: boxes of at least this score are given, in 0..1. Low, so that precision and recall
        can be measured over their range (Detectron2 and torchvision evaluate COCO with 0.05 too).
      max_detections: at most so many boxes an image, those with the highest scores (COCO counts 100).
      nms: what is done against boxes of one class on one object: ``model``: nothing where the model has
        done it already, else ``hard``; ``hard`` (the lower score of two that overlap goes), ``soft_linear``
        and ``soft_gaussian`` (its score is lowered, Bodla et al. 2017); ``none``.
      nms_iou: boxes that overlap by more are taken for one object.
      tile_px: images are cut in tiles of so many pixels a side, which the model is given one by one; 0: whole
        images. ``detect`` merges the boxes into one prediction an image; other tasks give one a tile.
      tile_overlap: what a tile shares with its neighbour, as a part of ``tile_px``.
      batch_size: images (or tiles) in a model batch.
      decode_threads: threads that decode; 0: as many as there are cores.
      require_gpu: whether the model must not run on a CPU.
      run_id, attempt: stand in each failure.
    """

    task: str = "classify"
    with_embedding: bool = False
    top_k: int = 5
    score_threshold: float = 0.05
    max_detections: int = 100
    nms: str = "model"
    nms_iou: float = 0.5
    tile_px: int = 0
    tile_overlap: float = 0.2
    batch_size: int = 32
    decode_threads: int = 0
    require_gpu: bool = False
    run_id: str = ""
    attempt: int = 1

    @property
    def labels_wanted(self) -> bool:
        """Whether predictions hold labels."""
        return self.task == "classify"

    @property
    def embedding_wanted(self) -> bool:
        """Whether predictions hold an embedding."""
        return self.task == "embed" or (self.task == "classify" and self.with_embedding)

    @property
    def boxes_wanted(self) -> bool:
        """Whether predictions hold boxes."""
        return self.task == "detect"

    def check(self, spec: ModelSpec) -> None:
        """Checks that the model gives what is wanted.

        Raises:
          UsageError: it doesn't, or a number is out of range.
        """
        if self.task not in TASKS:
            raise UsageError(f"--task is {self.task!r}; it must be one of {', '.join(TASKS)}")
        if self.labels_wanted and not spec.scores_output:
            raise UsageError("the model has no output of scores; choose one with --scores_output")
        if self.embedding_wanted and not spec.embedding_output:
            raise UsageError("the model has no output of embeddings; choose one with --embedding_output")
        if self.boxes_wanted and not spec.detector:
            raise UsageError("how the model's outputs are read as boxes isn't known; say it with --detector")
        if self.boxes_wanted and spec.input_kind == "tf_example":
            raise UsageError("detection from tf.Examples is not supported; choose another --signature")
        if self.tile_px and spec.input_kind == "tf_example":
            raise UsageError("--tile doesn't go with a model of tf.Examples; choose another --signature")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("batch_size", "top_k", "max_detections"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("score_threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name} is {getattr(self, name)}; it must be in 0..1")
        if self.tile_px:
            plan_tiles(1, 1, self.tile_px, self.tile_overlap)
        if self.nms not in NMS_CHOICES:
            raise UsageError(f"--nms is {self.nms!r}; it must be one of {', '.join(NMS_CHOICES)}")


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
        self._boxes = BoxReader(spec, settings) if settings.boxes_wanted else None

    def result(self, ref: ImageRef, view: View, made: Made | VisionError) -> Prediction | Failure:
        """The prediction of an image, or its failure."""
        if isinstance(made, VisionError):
            settings = self._settings
            return failure(made, ref, Stage.INFERENCE, run_id=settings.run_id, attempt=settings.attempt)
        boxes: tuple[Box, ...] = ()
        if self._boxes is not None and made.found is not None:
            boxes = self._boxes.boxes(made.found)
        return Prediction(
            ref=ref,
            width_px=view.width_px,
            height_px=view.height_px,
            labels=made.labels,
            embedding=made.embedding,
            boxes=boxes,
            model_digest=self._spec.model_digest,
            preprocessing_digest=self._preprocessing_digest,
            orientation=view.orientation,
        )

    def read(
        self, rows: Rows, views: Sequence[View], activation: str, multi_label: bool
    ) -> list[Made | VisionError]:
        """What each row says, or what is wrong with it.

        Args:
          rows: what the model gave for ``len(views)`` images.
          views: how it saw them.
          activation, multi_label: as :func:`~beam_vision.inference.classify.decide_activation` decided.
        """
        images = len(views)
        errors: dict[int, VisionError] = dict(rows.errors)
        made: list[Made] = [Made()] * images
        if rows.outputs:
            try:
                if self._boxes is not None:
                    made = self._found(self._boxes, rows, views, errors)
                else:
                    labels: list[tuple[Label, ...]] = [()] * images
                    vectors: list[bytes | None] = [None] * images
                    if self._settings.labels_wanted:
                        labels = self._labels(rows, activation, multi_label, errors)
                    if self._settings.embedding_wanted:
                        vectors = self._vectors(rows, errors)
                    made = [Made(*item) for item in zip(labels, vectors, strict=True)]
            except VisionError as error:  # an output of a rank that holds no rows
                errors = dict.fromkeys(range(images), error)
        return [errors.get(i) or made[i] for i in range(images)]

    def _found(
        self, boxes: BoxReader, rows: Rows, views: Sequence[View], errors: dict[int, VisionError]
    ) -> list[Made]:
        made = []
        for i, found in enumerate(boxes(rows.outputs, views)):
            if isinstance(found, VisionError):
                errors.setdefault(i, found)
                made.append(Made())
            else:
                made.append(Made(found=found))
        return made

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
