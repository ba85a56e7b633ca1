"""Which anchors meet the boxes of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from beam_vision.images.boxes import iou

SIZES = (4.0, 3.0, 2.0, 1.5, 1.0)
"""Smallest anchors of a level, in its cells; the paper's first."""

MEETS = 0.5
"""The IoU from which an anchor learns a box."""

MOST_BOXES = 500
BETTER = 0.01


def share_met(boxes: np.ndarray, anchors: np.ndarray) -> float:
    """The share of boxes that an anchor meets, 0..1: the others can't be learned.

    Args:
      boxes: float ``[boxes, 4]``, xyxy in pixels; at least one.
      anchors: float ``[anchors, 4]``, the same.
    """
    return float((iou(boxes, anchors).max(axis=1) >= MEETS).mean())


def choose_anchor_size(boxes: np.ndarray, anchors_of: Callable[[float], np.ndarray]) -> tuple[float, float]:
    """The size of anchors that meets most boxes; the paper's where others are hardly better.

    Args:
      boxes: float ``[boxes, 4]``, xyxy in pixels of the model's input; the first :data:`MOST_BOXES` are used.
      anchors_of: gives the anchors of a size.

    Returns:
      One of :data:`SIZES`, and the share of boxes that it meets; 4 and 1 without boxes.
    """
    if not len(boxes):
        return SIZES[0], 1.0
    shares = {size: share_met(boxes[:MOST_BOXES], anchors_of(size)) for size in SIZES}
    best = max(shares.values())
    return next((size, share) for size, share in shares.items() if share >= best - BETTER)


def boxes_in(batches: Iterable[tuple[Any, Any]], most: int = MOST_BOXES) -> np.ndarray:
    """The boxes of the first batches, float32 ``[boxes, 4]``, as they are trained on.

    Args:
      batches: (images, ``{"boxes": [N, M, 4], "labels": [N, M]}``), -1 where there is no box.
      most: no further batch is read once there are so many.
    """
    found, number = [np.zeros((0, 4), np.float32)], 0
    for _, truth in batches:
        kept = np.asarray(truth["boxes"])[np.asarray(truth["labels"]) >= 0]
        found.append(kept)
        number += len(kept)
        if number >= most:
            break
    return np.concatenate(found)
