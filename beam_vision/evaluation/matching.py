"""Detections and truth of one image and class -> who matches whom, as COCO's evaluation has it.

The rules are those of ``pycocotools.cocoeval.COCOeval.evaluateImg``, to the last tie:

* detections choose in the order of their scores (equal ones in the order given), the first
  :data:`MAX_DETECTIONS` of an image and class alone;
* each takes the truth of highest IoU that is still free, the last of equal ones; one that counts
  before one that is ignored, whatever their IoU;
* a truth is ignored, in a range of sizes, where it is a crowd or its area lies outside; a crowd is
  never used up, and the IoU with it is the share of the detection that lies in it;
* a detection is ignored where it matches an ignored truth, or matches none and its own area lies
  outside the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from beam_vision.images.boxes import area, intersection
from beam_vision.types import Box

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100
SIZES = ("all", "small", "medium", "large")
AREA_RANGES_PX = np.array([[0.0, 1e10], [0.0, 32.0**2], [32.0**2, 96.0**2], [96.0**2, 1e10]])
"""By size, in square pixels, both ends included (so an area of just 32 x 32 is small and medium)."""

_TOP_IOU = 1 - 1e-10


class Truth(NamedTuple):
    """The true boxes of one image and class.

    Attributes:
      boxes: float64 ``[G, 4]``, xyxy in pixels.
      crowd: bool ``[G]``.
      area_px: float64 ``[G]``, by annotation; NaN where it isn't known, which counts among all sizes only.
    """

    boxes: np.ndarray
    crowd: np.ndarray
    area_px: np.ndarray


class Matches(NamedTuple):
    """What became of the detections of one image and class, highest score first.

    Attributes:
      scores: float32 ``[D]``, with D at most :data:`MAX_DETECTIONS`.
      matched: bool ``[A, T, D]``: by size and IoU threshold, whether it matches a truth.
      ignored: bool ``[A, T, D]``: whether it is neither right nor wrong.
      truths: int64 ``[A]``: how many truths count.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    truths: np.ndarray


def truth_of(boxes: Sequence[Box]) -> Truth:
    """Boxes as arrays; an area of 0 (not annotated) is the box's own."""
    corners = corners_of(boxes)
    given = np.array([box.area_px for box in boxes], np.float64)
    return Truth(
        corners, np.array([box.crowd for box in boxes], bool), np.where(given == 0, area(corners), given)
    )


def corners_of(boxes: Sequence[Box]) -> np.ndarray:
    """float64 ``[N, 4]``, xyxy."""
    return np.array([(b.xmin, b.ymin, b.xmax, b.ymax) for b in boxes], np.float64).reshape(-1, 4)


def crowd_iou(detections: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU float64 ``[D, G]``; with a crowd it is the share of the detection's area that lies in the crowd.

    In double precision: a threshold is met or not.
    """
    common = intersection(detections, truth)
    whole = area(detections)[:, None] + np.where(crowd, 0, area(truth) - common)
    return np.divide(common, whole, out=np.zeros_like(common), where=common > 0)


def by_score(scores: np.ndarray, most: int = MAX_DETECTIONS) -> np.ndarray:
    """Indices of the ``most`` highest scores, highest first; equal ones in the order given."""
    return np.argsort(-scores, kind="stable")[:most]


def assign(ious: np.ndarray, counts: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Which truth each detection takes, by size and threshold.

    Args:
      ious: ``[D, G]``, detections in the order in which they choose.
      counts: bool ``[A, G]``, whether a truth counts (is not ignored) at a size.
      crowd: bool ``[G]``.
      thresholds: ``[T]``.

    Returns:
      int64 ``[A, T, D]``: the index of a truth, or -1.
    """
    taken = np.full((len(counts), len(thresholds), len(ious)), -1)
    if not ious.size:
        return taken
    floors = np.minimum(thresholds, _TOP_IOU)[:, None]
    free = np.ones((len(counts), len(thresholds), ious.shape[1]), bool)
    last = ious.shape[1] - 1
    for d in np.flatnonzero(ious.max(axis=1) >= floors.min()):
        fits = free & (ious[d] >= floors)
        counting = fits & counts[:, None, :]
        fits = np.where(counting.any(axis=-1, keepdims=True), counting, fits)
        best = last - np.argmax(np.where(fits, ious[d], -1.0)[..., ::-1], axis=-1)
        found = fits.any(axis=-1)
        taken[..., d] = np.where(found, best, -1)
        a, t = np.nonzero(found & ~crowd[best])
        free[a, t, best[a, t]] = False
    return taken


def match(detections: np.ndarray, scores: np.ndarray, truth: Truth) -> Matches:
    """Matches one image and class, at all thresholds and sizes.

    Args:
      detections: ``[D, 4]``, xyxy in pixels.
      scores: ``[D]``.
      truth: of the same image and class.
    """
    order = by_score(scores)
    boxes = np.asarray(detections, np.float64)[order]
    beside = np.repeat(~_within(area(boxes))[:, None, :], len(IOU_THRESHOLDS), axis=1)
    if not len(truth.crowd):
        none = np.zeros(len(SIZES), np.int64)
        return Matches(np.asarray(scores, np.float32)[order], np.zeros_like(beside), beside, none)
    counts = _within(truth.area_px) & ~truth.crowd
    taken = assign(crowd_iou(boxes, truth.boxes, truth.crowd), counts, truth.crowd, IOU_THRESHOLDS)
    matched = taken >= 0
    of_ignored = ~counts[np.arange(len(SIZES))[:, None, None], taken]
    ignored = np.where(matched, of_ignored, beside)
    return Matches(np.asarray(scores, np.float32)[order], matched, ignored, counts.sum(axis=1))


def _within(area_px: np.ndarray) -> np.ndarray:
    """bool ``[A, N]``: whether areas lie in each range of sizes."""
    inside = (area_px >= AREA_RANGES_PX[:, :1]) & (area_px <= AREA_RANGES_PX[:, 1:])
    inside[0] |= np.isnan(area_px)
    return inside
