"""From the curves of each class to the numbers people read: mAP and its kin, by class and by size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from beam_vision.evaluation.matching import IOU_THRESHOLDS, MAX_DETECTIONS, SIZES
from beam_vision.evaluation.tally import DETECTION_LIMITS, ClassTally, Curves, curves_of, hits_and_false

CUTS = np.linspace(0.0, 1.0, 101)
"""Scores at which hits and false alarms of all classes together are counted."""

HEADLINES = {
    "mAP": "mean over classes, and over IoU 0.5 to 0.95",
    "AP50": "at IoU 0.5",
    "AP75": "at IoU 0.75",
    "APs": "objects of up to 32 x 32 pixels",
    "APm": "objects of 32 x 32 to 96 x 96 pixels",
    "APl": "objects of 96 x 96 pixels and more",
    "AR@1": "recall, with 1 detection an image and class",
    "AR@10": "recall, with up to 10",
    "AR@100": "recall, with up to 100",
    "ARs": "recall of small objects",
    "ARm": "recall of medium objects",
    "ARl": "recall of large objects",
}
"""The twelve numbers of COCO, in pycocotools' order, with what each is."""


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """The numbers of one class, 0..1; None where they are undefined (no truth, or none of that size).

    Attributes:
      label: of the class.
      images: images with truth or detections of it.
      truths: true objects that count (crowds don't), by size.
      detections: those that were matched, :data:`MAX_DETECTIONS` an image at most.
      numbers: by the names of :data:`HEADLINES`.
      best_f1, threshold: the highest F1 at IoU 0.5, and the score to cut at for it.
      curve50, curve75, curve: precision at each of 101 recalls, at IoU 0.5, 0.75, and the mean over IoUs;
        empty without truth.
      scores50: the score at which each recall is reached at IoU 0.5, 0 where it isn't.
      hits50, false50: detections at least as high as each of :data:`CUTS`, at IoU 0.5.
    """

    label: str
    images: int
    truths: dict[str, int]
    detections: int
    numbers: dict[str, float | None]
    best_f1: float | None
    threshold: float | None
    curve50: Sequence[float] = ()
    curve75: Sequence[float] = ()
    curve: Sequence[float] = ()
    scores50: Sequence[float] = ()
    hits50: Sequence[int] = ()
    false50: Sequence[int] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def class_metrics(label: str, tally: ClassTally) -> ClassMetrics:
    """The numbers of one class, from all its matches."""
    curves = curves_of(tally)
    hits, false = hits_and_false(tally, CUTS)
    drawn = {}
    if tally.truths[0]:
        at_most = curves.precision[:, :, 0, -1]
        drawn = {
            "curve50": at_most[0].tolist(),
            "curve75": at_most[_place(0.75)].tolist(),
            "curve": at_most.mean(axis=0).tolist(),
            "scores50": curves.scores[0, :, 0, -1].tolist(),
        }
    return ClassMetrics(
        label=label,
        images=tally.images,
        truths=dict(zip(SIZES, tally.truths.tolist(), strict=True)),
        detections=len(tally.detections),
        numbers=_numbers(curves),
        best_f1=curves.best_f1,
        threshold=curves.threshold,
        hits50=hits.tolist(),
        false50=false.tolist(),
        **drawn,
    )


def headlines(classes: Sequence[ClassMetrics]) -> dict[str, float | None]:
    """The means over classes that have truth (of that size), as ``COCOeval.summarize`` gives them."""
    return {name: _mean([each.numbers[name] for each in classes]) for name in HEADLINES}


def mean_curves(classes: Sequence[ClassMetrics]) -> dict[str, list[float]]:
    """``curve50``, ``curve75`` and ``curve``, each the mean over the classes with truth; or nothing."""
    known = [each for each in classes if each.curve50]
    names = ("curve50", "curve75", "curve") if known else ()
    return {name: np.mean([getattr(each, name) for each in known], axis=0).tolist() for name in names}


def best_cut(classes: Sequence[ClassMetrics]) -> tuple[float, float] | None:
    """The one score to cut at for the highest F1 over all objects of all classes with truth, at IoU 0.5.

    Returns:
      (one of :data:`CUTS`, the F1 there); None when there is no hit at any.
    """
    known = [each for each in classes if each.truths["all"]]
    if not known:
        return None
    hits = np.sum([each.hits50 for each in known], axis=0)
    false = np.sum([each.false50 for each in known], axis=0)
    f1 = 2 * hits / (hits + false + sum(each.truths["all"] for each in known))
    best = int(np.argmax(f1))
    return (float(CUTS[best]), float(f1[best])) if f1[best] > 0 else None


def _numbers(curves: Curves) -> dict[str, float | None]:
    precision, recall = curves.precision, curves.recall
    most = DETECTION_LIMITS.index(MAX_DETECTIONS)
    values = [
        precision[:, :, 0, most],
        precision[0, :, 0, most],
        precision[_place(0.75), :, 0, most],
        *(precision[:, :, size, most] for size in (1, 2, 3)),
        *(recall[:, 0, limit] for limit in range(len(DETECTION_LIMITS))),
        *(recall[:, size, most] for size in (1, 2, 3)),
    ]
    numbers = {}
    for name, value in zip(HEADLINES, values, strict=True):
        numbers[name] = float(value.mean()) if value.flat[0] >= 0 else None
    return numbers


def _place(iou: float) -> int:
    return int(np.argmin(np.abs(IOU_THRESHOLDS - iou)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
