"""From what a detector gives to boxes in pixels of the original upright image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import Guard
from beam_vision.images.boxes import clip, from_cxcywh, from_relative, from_xywh, from_yxyx, to_original
from beam_vision.images.geometry import IDENTITY, Affine
from beam_vision.images.nms import nms, soft_nms
from beam_vision.inference.detectors import Found, find_detector
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import Box, Failure, ImageRef

if TYPE_CHECKING:
    from beam_vision.inference.reading import EngineSettings

NMS_CHOICES = ("model", "hard", "soft_linear", "soft_gaussian", "none")

_MOST_CANDIDATES = 5000
"""Suppression looks at so many boxes an image, those with the highest scores."""

_SPARE = 2
"""Soft suppression gives so many times ``max_detections``: some of its boxes may lie outside of the image."""

_SCORE_TOLERANCE = 1e-3
_ID_TOLERANCE = 1e-3
_NOBODY = ImageRef("", "")
_TO_XYXY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "xyxy": lambda boxes: boxes,
    "yxyx": from_yxyx,
    "xywh": from_xywh,
    "cxcywh": from_cxcywh,
}


@dataclass(frozen=True)
class View:
    """How a model saw an image.

    Attributes:
      width_px, height_px: the upright original's.
      shown_width_px, shown_height_px: what the model was given.
      affine: takes points of the original to what the model was given.
      orientation: the file's EXIF orientation, 1..8.
    """

    width_px: int
    height_px: int
    shown_width_px: int
    shown_height_px: int
    affine: Affine = IDENTITY
    orientation: int = 1


class Detections(NamedTuple):
    """What was found in one image, highest score first.

    Attributes:
      boxes: float32 ``[k, 4]``, xyxy in pixels of the original, within it.
      scores: float32 ``[k]``.
      classes: int64 ``[k]``: places in the labels, from 0.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class BoxReader:
    """Reads a detector's outputs.

    Args:
      spec: the model's.
      settings: what is wanted of it.

    Raises:
      UsageError: there is no such detector.
    """

    def __init__(self, spec: ModelSpec, settings: EngineSettings) -> None:
        self._spec = spec
        self._settings = settings
        self._detector = find_detector(spec.detector)
        self._box_format = spec.box_format or self._detector.box_format
        suppression = "none" if self._detector.suppressed else "hard"
        self._nms = settings.nms if settings.nms != "model" else suppression
        self._classes = len(spec.labels) or spec.classes

    def __call__(
        self, outputs: Mapping[str, np.ndarray], views: Sequence[View]
    ) -> list[Detections | VisionError]:
        """What was found in each image of a batch, or what is wrong with it.

        Args:
          outputs: by name, each ``[len(views), ...]``.
          views: how the model saw each image.
        """
        found = self._found(outputs, len(views))
        return [self._or_error(item, view) for item, view in zip(found, views, strict=True)]

    def boxes(self, found: Detections) -> tuple[Box, ...]:
        """The same with names for classes."""
        labels = [self._name(index) for index in found.classes.tolist()]
        columns = [*found.boxes.T.tolist(), labels, found.scores.tolist()]
        return tuple(Box(*row) for row in zip(*columns, strict=True))

    def _name(self, index: int) -> str:
        return self._spec.labels[index] if self._spec.labels else f"class_{index:04d}"

    def _found(self, outputs: Mapping[str, np.ndarray], images: int) -> Sequence[Found | VisionError]:
        """What the detector's function says; when it fails on the batch, image by image."""
        guard = Guard(self._detector.read, Stage.INFERENCE)
        found = guard(_NOBODY, outputs, self._spec)
        if isinstance(found, Failure):
            if images == 1:
                return [VisionError(Reason(found.reason), found.detail)]
            rows = [{name: value[i : i + 1] for name, value in outputs.items()} for i in range(images)]
            return [item for row in rows for item in self._found(row, 1)]
        if len(found) != images:
            detail = f"detector {self._spec.detector!r} gives {len(found)} results for {images} images"
            return [VisionError(Reason.BAD_MODEL_OUTPUT, detail)] * images
        return found

    def _or_error(self, found: Found | VisionError, view: View) -> Detections | VisionError:
        if isinstance(found, VisionError):
            return found
        try:
            return self._placed(self._suppressed(self._checked(found, view)), view)
        except VisionError as error:
            return error

    def _checked(self, found: Found, view: View) -> Detections:
        """Detections of at least the threshold, in pixels of the input; boxes without area are left out."""
        boxes, scores, classes = map(np.asarray, found)
        if boxes.shape != (len(scores), 4) or scores.ndim != 1 or classes.shape != scores.shape:
            shapes = " and ".join(str(list(item.shape)) for item in (boxes, scores, classes))
            detail = f"boxes, scores and classes of an image have shapes {shapes}, not [k, 4], [k] and [k]"
            raise VisionError(Reason.BAD_MODEL_OUTPUT, detail)
        finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores) & np.isfinite(classes)
        if not finite.all():
            detail = f"{np.sum(~finite)} of {len(finite)} detections hold a number that is NaN or infinite"
            raise VisionError(Reason.NON_FINITE, detail)
        kept = np.flatnonzero(scores >= self._settings.score_threshold)
        boxes, scores = _xyxy(boxes[kept], self._box_format, view), scores[kept].astype(np.float32)
        with_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        kept, boxes, scores = kept[with_area], boxes[with_area], scores[with_area]
        if scores.size and scores.max() > 1 + _SCORE_TOLERANCE:
            detail = f"a score of {scores.max():g} is no probability; check --detector and --activation"
            raise VisionError(Reason.BAD_MODEL_OUTPUT, detail)
        return Detections(boxes, np.clip(scores, 0, 1), self._indices(classes[kept]))

    def _indices(self, ids: np.ndarray) -> np.ndarray:
        """Class ids as places in the labels.

        Raises:
          VisionError: ``bad_model_output``: an id has no label.
        """
        whole = np.rint(ids)
        indices = whole.astype(np.int64) - self._spec.class_offset
        wrong = (np.abs(ids - whole) > _ID_TOLERANCE) | (indices < 0)
        if self._classes is not None:
            wrong |= indices >= self._classes
        if "" in self._spec.labels:
            unused = np.array([not label for label in self._spec.labels])
            wrong |= unused[np.where(wrong, 0, indices)]
        if wrong.any():
            known = f"{self._classes} labels, the first of id {self._spec.class_offset}"
            detail = f"class id {ids[wrong][0]:g} is none of {known}; check --class_names and --class_offset"
            raise VisionError(Reason.BAD_MODEL_OUTPUT, detail)
        return indices

    def _suppressed(self, found: Detections) -> Detections:
        """Sorted by score, without duplicates where that is asked for."""
        settings = self._settings
        order = np.argsort(-found.scores, kind="stable")
        if self._nms == "none":
            return Detections(*(item[order] for item in found))
        found = Detections(*(item[order[:_MOST_CANDIDATES]] for item in found))
        if self._nms == "hard":
            kept = nms(found.boxes, found.scores, found.classes, iou_threshold=settings.nms_iou)
            return Detections(*(item[kept] for item in found))
        kept, scores = soft_nms(
            found.boxes,
            found.scores,
            found.classes,
            method=self._nms.removeprefix("soft_"),
            iou_threshold=settings.nms_iou,
            score_threshold=settings.score_threshold,
            max_detections=_SPARE * settings.max_detections,
        )
        return Detections(found.boxes[kept], scores.astype(np.float32), found.classes[kept])

    def _placed(self, found: Detections, view: View) -> Detections:
        """In pixels of the original, cut at its edges; what lies wholly outside is left out."""
        boxes = clip(to_original(found.boxes, view.affine), view.width_px, view.height_px)
        inside = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))[: self._settings.max_detections]
        return Detections(boxes[inside], found.scores[inside], found.classes[inside])


def _xyxy(boxes: np.ndarray, box_format: str, view: View) -> np.ndarray:
    """float32 ``[k, 4]`` xyxy in pixels of what the model was shown."""
    converted = _TO_XYXY[box_format.removeprefix("rel_")](boxes)
    if box_format.startswith("rel_"):
        converted = from_relative(converted, view.shown_width_px, view.shown_height_px)
    return np.asarray(converted, np.float32)
