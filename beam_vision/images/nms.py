"""Non-maximum suppression: of boxes that show the same object, the best one stays (NumPy, by class).

Boxes are ``[N, 4]`` xyxy, scores ``[N]``, classes ``[N]`` of any type or None for one class. A box whose
score or corners are not all finite is never kept. A box without area overlaps nothing.
Ties go to the lower index, so that the same input gives the same output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from beam_vision.errors import UsageError
from beam_vision.images.boxes import as_boxes, iou

SOFT_METHODS = ("linear", "gaussian")

_BLOCK_BOXES = 256
"""Boxes judged at once; bounds memory at this many times the boxes kept of a class."""

_MATRIX_BOXES = 1024
"""Up to so many boxes of a class, all their overlaps are worked out at once (8 MiB)."""


def nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    iou_threshold: float = 0.5,
    max_detections: int | None = None,
) -> np.ndarray:
    """Greedy suppression, class by class.

    From the highest score down, a box is kept unless it overlaps a kept one of its class by more than
    ``iou_threshold`` (exactly as much is kept, as in TensorFlow and torchvision).

    Args:
      boxes: float ``[N, 4]`` xyxy.
      scores: ``[N]``.
      classes: ``[N]``, or None for one class.
      iou_threshold: in 0..1.
      max_detections: the most to keep, over all classes; None for all.

    Returns:
      int64 indices of the boxes kept, highest score first.

    Raises:
      UsageError: lengths that differ, or an option out of its range.
    """
    boxes, scores, groups = _checked(boxes, scores, classes, iou_threshold, max_detections)
    kept = []
    for group in groups:
        group = group[np.argsort(-scores[group], kind="stable")]
        kept.append(group[_hard(boxes[group], iou_threshold, max_detections)])
    indices = np.concatenate(kept)
    return indices[np.lexsort((indices, -scores[indices]))][:max_detections]


def soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray | None = None,
    *,
    method: str = "linear",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    max_detections: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Soft-NMS, class by class: boxes that overlap a better one lose score rather than their life.

    Bodla, Singh, Chellappa, Davis: Soft-NMS, ICCV 2017. The box M with the highest score is taken; the
    score of each other box b is multiplied by ``1 - iou(M, b)`` where ``iou(M, b) > iou_threshold``
    (``linear``; the paper says "at least", its authors' code and :func:`nms` "more than") or by
    ``exp(-iou(M, b)**2 / sigma)`` (``gaussian``); and so on with the boxes left.

    Args:
      boxes: float ``[N, 4]`` xyxy.
      scores: ``[N]``, at least 0.
      classes: ``[N]``, or None for one class.
      method: ``linear`` or ``gaussian``.
      iou_threshold: in 0..1; ``linear`` only.
      sigma: above 0; ``gaussian`` only.
      score_threshold: boxes whose new score is less are left out; at least 0.
      max_detections: the most to keep, over all classes; None for all.

    Returns:
      int64 indices of the boxes kept, highest new score first, and those new scores (float64 for float64
      scores, else float32).

    Raises:
      UsageError: lengths that differ, or an option out of its range.
    """
    dtype = np.float64 if np.asarray(scores).dtype == np.float64 else np.float32
    boxes, scores, groups = _checked(boxes, scores, classes, iou_threshold, max_detections)
    if score_threshold < 0:
        raise UsageError(f"score_threshold is {score_threshold}: it must be at least 0")
    decay = _decay(method, iou_threshold, sigma)
    kept, after = [], scores.copy()
    for group in groups:
        taken, new = _soft(boxes[group], scores[group], decay, score_threshold, max_detections)
        kept.append(group[taken])
        after[group[taken]] = new
    indices = np.concatenate(kept)
    indices = indices[np.lexsort((indices, -after[indices]))][:max_detections]
    return indices, after[indices].astype(dtype)


def _checked(
    boxes: Any, scores: Any, classes: Any, iou_threshold: float, max_detections: int | None
) -> tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]]:
    """Float64 boxes and scores, and for each class the indices of its usable boxes, rising."""
    boxes, scores = as_boxes(boxes).astype(np.float64), np.asarray(scores, np.float64)
    classes = np.zeros(len(boxes), np.int64) if classes is None else np.asarray(classes)
    if boxes.shape != (len(scores), 4) or scores.ndim != 1 or classes.shape != scores.shape:
        raise UsageError(
            f"boxes {list(boxes.shape)}, scores {list(scores.shape)} and classes {list(classes.shape)} "
            "don't belong together: they must be [N, 4], [N] and [N]"
        )
    if not 0 <= iou_threshold <= 1:
        raise UsageError(f"iou_threshold is {iou_threshold}: it must be in 0..1")
    if max_detections is not None and max_detections < 1:
        raise UsageError(f"max_detections is {max_detections}: it must be at least 1")
    usable = np.flatnonzero(np.isfinite(boxes).all(axis=1) & np.isfinite(scores))
    _, which = np.unique(classes[usable], return_inverse=True)
    ends = np.cumsum(np.bincount(which))
    return boxes, scores, np.split(usable[np.argsort(which, kind="stable")], ends[:-1])


def _hard(boxes: np.ndarray, iou_threshold: float, most: int | None) -> np.ndarray:
    """Positions kept of the boxes of one class, which come highest score first."""
    kept = np.zeros(0, np.int64)
    for start in range(0, len(boxes), _BLOCK_BOXES):
        block = np.arange(start, min(start + _BLOCK_BOXES, len(boxes)))
        if kept.size:
            block = block[~(iou(boxes[block], boxes[kept]) > iou_threshold).any(axis=1)]
        alive = _survivors(iou(boxes[block], boxes[block]) > iou_threshold)
        kept = np.concatenate([kept, block[alive]])
        if most is not None and len(kept) >= most:
            break
    return kept[:most]


def _survivors(overlaps: np.ndarray) -> np.ndarray:
    """Which of some boxes (best first) stay, by the bool ``[N, N]`` that says who overlaps whom."""
    alive = np.ones(len(overlaps), bool)
    later = np.triu(overlaps, 1)
    for position in np.flatnonzero(later.any(axis=1)):
        if alive[position]:
            alive &= ~later[position]
    return alive


def _decay(method: str, iou_threshold: float, sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    """What the scores of boxes are multiplied by, given their overlaps with the box taken."""
    if method == "linear":
        return lambda overlaps: np.where(overlaps > iou_threshold, 1 - overlaps, 1.0)
    if method != "gaussian":
        raise UsageError(f"method is {method!r}: use one of {', '.join(SOFT_METHODS)}")
    if not sigma > 0:
        raise UsageError(f"sigma is {sigma}: it must be above 0")
    return lambda overlaps: np.exp(-(overlaps**2) / sigma)


def _soft(
    boxes: np.ndarray,
    scores: np.ndarray,
    decay: Callable[[np.ndarray], np.ndarray],
    score_threshold: float,
    most: int | None,
) -> tuple[list[int], list[float]]:
    """Positions taken of the boxes of one class, highest new score first, and their new scores."""
    boxes = np.asfortranarray(boxes)  # columns together: faster for one against many
    weights = decay(iou(boxes, boxes)) if len(boxes) <= _MATRIX_BOXES else None
    left = scores.copy()
    done = np.zeros(len(boxes), bool)
    taken: list[int] = []
    new: list[float] = []
    while len(taken) < (len(boxes) if most is None else min(most, len(boxes))):
        best = int(np.argmax(left))
        if left[best] < score_threshold:
            break
        taken.append(best)
        new.append(float(left[best]))
        done[best] = True
        left *= weights[best] if weights is not None else decay(iou(boxes[best : best + 1], boxes)[0])
        left[done] = -1
    return taken, new
