"""All matches of one class, 23 bytes a detection, merged in any order; and the curves they give.

The curves are those of ``pycocotools.cocoeval.COCOeval.accumulate``. It sorts by score and leaves equal
scores in the order of image ids, and within an image in the order in which detections chose; so each
detection carries its image's place in that order. Sorting by (score, image, rank) then gives the same
sequence whatever order the parts were merged in; and so it does, with their flags as the last resort, for
two images of one place.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from beam_vision.evaluation.matching import IOU_THRESHOLDS, MAX_DETECTIONS, SIZES, Matches

DETECTION_LIMITS = (1, 10, MAX_DETECTIONS)
"""Curves are drawn for the first so many detections of each image and class."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""Where precision is read."""

_FLAGS = len(SIZES) * len(IOU_THRESHOLDS)
_FLAG_BYTES = (_FLAGS + 7) // 8
DETECTION = np.dtype(
    [
        ("score", "<f4"),
        ("image", "<i8"),
        ("rank", "u1"),
        ("matched", "u1", (_FLAG_BYTES,)),
        ("ignored", "u1", (_FLAG_BYTES,)),
    ]
)
"""What is kept of a detection: 23 bytes."""

_MANY_CHUNKS = 512
_LARGE_CHUNK = 65_536


@dataclass
class ClassTally:
    """What is known of one class so far.

    Attributes:
      truths: int64 ``[A]``: how many truths count, by size.
      images: images with truth or detections of the class.
      chunks: arrays of :data:`DETECTION`.
      join_at: when there are so many chunks, the small ones are joined.
    """

    truths: np.ndarray = field(default_factory=lambda: np.zeros(len(SIZES), np.int64))
    images: int = 0
    chunks: list[np.ndarray] = field(default_factory=list)
    join_at: int = _MANY_CHUNKS

    @property
    def detections(self) -> np.ndarray:
        """All detections, :data:`DETECTION`, in no particular order."""
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, DETECTION)

    def absorb(self, other: ClassTally) -> ClassTally:
        """Takes what ``other`` holds (which stays as it is), and gives itself."""
        self.truths = self.truths + other.truths
        self.images += other.images
        self.chunks += other.chunks
        if len(self.chunks) >= self.join_at:
            large = [chunk for chunk in self.chunks if len(chunk) >= _LARGE_CHUNK]
            small = [chunk for chunk in self.chunks if len(chunk) < _LARGE_CHUNK]
            self.chunks = [*large, np.concatenate(small)] if small else large
            self.join_at = len(self.chunks) + _MANY_CHUNKS
        return self


def tally_of(matches: Matches, image: int) -> ClassTally:
    """The tally of one image.

    Args:
      matches: of the image and class.
      image: the image's place in the order of images (a 64-bit integer), no other's.
    """
    chunk = np.zeros(len(matches.scores), DETECTION)
    chunk["score"] = matches.scores
    chunk["image"] = image
    chunk["rank"] = np.arange(len(chunk))
    for name, flags in (("matched", matches.matched), ("ignored", matches.ignored)):
        chunk[name] = np.packbits(flags.reshape(_FLAGS, len(chunk)), axis=0).T
    return ClassTally(matches.truths, 1, [chunk] if len(chunk) else [])


def merge(tallies: Iterable[ClassTally]) -> ClassTally:
    """The tally of all images together; none of ``tallies`` is changed."""
    return functools.reduce(ClassTally.absorb, tallies, ClassTally())


class Curves(NamedTuple):
    """A class's curves: what pycocotools has in ``COCOeval.eval``, one category of it. -1: undefined.

    Axes: T (:data:`IOU_THRESHOLDS`), R (:data:`RECALLS`), A (:data:`SIZES`), M (:data:`DETECTION_LIMITS`).

    Attributes:
      precision: float64 ``[T, R, A, M]``: the best precision at that recall or a higher one.
      recall: float64 ``[T, A, M]``: of all detections.
      scores: float64 ``[T, R, A, M]``: the score at which the recall is reached, 0 where it isn't.
      best_f1: the highest F1 at IoU 0.5, all sizes; None without truth or detections.
      threshold: the score to cut at for it.
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    best_f1: float | None
    threshold: float | None


def curves_of(tally: ClassTally) -> Curves:
    """Draws the curves of one class."""
    shape = (len(IOU_THRESHOLDS), len(RECALLS), len(SIZES), len(DETECTION_LIMITS))
    precision, scores = -np.ones(shape), -np.ones(shape)
    recall = -np.ones((shape[0], *shape[2:]))
    found = tally.detections
    flags = np.concatenate([found["matched"], found["ignored"]], axis=1).T
    found = found[np.lexsort((*flags, found["rank"], found["image"], -found["score"]))]
    best_f1 = threshold = None
    for m, limit in enumerate(DETECTION_LIMITS):
        first = found[found["rank"] < limit]
        for a, truths in enumerate(tally.truths):
            if not truths:
                continue
            for t in range(shape[0]):
                hits, false = _counts(first, a * shape[0] + t)
                drawn = _curve(hits, false, first["score"], truths)
                precision[t, :, a, m], recall[t, a, m], scores[t, :, a, m] = drawn
                if (t, a, limit) == (0, 0, MAX_DETECTIONS) and len(first):
                    best_f1, threshold = _best_f1(hits, false, first["score"], truths)
    return Curves(precision, recall, scores, best_f1, threshold)


def hits_and_false(tally: ClassTally, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits and false alarms that score at least each of ``cuts``, at IoU 0.5, all sizes: int64 ``[C]``."""
    found = tally.detections
    matched, counted = _flag(found["matched"], 0), ~_flag(found["ignored"], 0)
    scores = found["score"].astype(np.float64)
    return _reaching(scores[matched & counted], cuts), _reaching(scores[~matched & counted], cuts)


def _reaching(scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    return len(scores) - np.searchsorted(np.sort(scores), cuts, side="left")


def _flag(flags: np.ndarray, number: int) -> np.ndarray:
    """bool ``[N]``: one of the packed flags ``[N, B]``."""
    return (flags[:, number // 8] & np.uint8(128 >> number % 8)) > 0


def _counts(detections: np.ndarray, flag: int) -> tuple[np.ndarray, np.ndarray]:
    """How many hits and false alarms there are up to each detection, float64 ``[N]`` each."""
    matched, counted = _flag(detections["matched"], flag), ~_flag(detections["ignored"], flag)
    return np.cumsum(matched & counted, dtype=float), np.cumsum(~matched & counted, dtype=float)


def _curve(
    hits: np.ndarray, false: np.ndarray, scores: np.ndarray, truths: int
) -> tuple[np.ndarray, float, np.ndarray]:
    """Precision ``[R]``, the last recall, and scores ``[R]``."""
    at_recall, at_score = np.zeros(len(RECALLS)), np.zeros(len(RECALLS))
    if not len(hits):
        return at_recall, 0.0, at_score
    recall = hits / truths
    precision = hits / (hits + false + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    places = places[places < len(recall)]
    at_recall[: len(places)] = precision[places]
    at_score[: len(places)] = scores[places]
    return at_recall, float(recall[-1]), at_score


def _best_f1(hits: np.ndarray, false: np.ndarray, scores: np.ndarray, truths: int) -> tuple[float, float]:
    """The highest F1 of any cut between two different scores, and the lower score that it keeps."""
    cuts = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    f1 = 2 * hits[cuts] / (hits[cuts] + false[cuts] + truths)
    best = int(np.argmax(f1))
    return float(f1[best]), float(scores[cuts[best]])
