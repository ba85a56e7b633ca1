"""What golden images tell of a model: whether it still says what it said, and how well it does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beam_vision.images.boxes import iou
from beam_vision.inference.golden import GoldenImage, Said
from beam_vision.types import Box

MOST_DIFFERENT = 0.1
"""At most this share of golden images may differ from what was said when they were packed."""

TOLERANCE = 0.05
"""An image differs when its top score moved by more, its embedding's cosine fell by more, or more than this
share of its boxes is gone. Other processors and libraries differ by thousandths."""

_BOX_SCORE = 0.5
_BOX_IOU = 0.5


def differs(before: Said, now: Said) -> bool:
    """Whether a model no longer says of an image what it said before, by more than :data:`TOLERANCE`."""
    if bool(before.failed) != bool(now.failed):
        return True
    if before.labels:
        scores = {item.label: item.score for item in now.labels}
        top = before.labels[0]
        if abs(scores.get(top.label, 0.0) - top.score) > TOLERANCE:
            return True
    if before.embedding is not None:
        if now.embedding is None or len(now.embedding) != len(before.embedding):
            return True
        cosine = float(np.dot(_vector(before.embedding), _vector(now.embedding)))
        if cosine < 1 - TOLERANCE:
            return True
    sure = [box for box in before.boxes if box.score >= _BOX_SCORE]
    return bool(sure) and _found(sure, now.boxes) < (1 - TOLERANCE) * len(sure)


def quality(images: Sequence[GoldenImage], said: Sequence[Said], task: str) -> float | None:
    """How well a model does on golden images, in 0..1; None where there is no truth to tell by.

    ``classify``: share of the labelled images whose top label is the true one. ``detect``: the F1 of boxes
    with a score of 0.5 or more, at an IoU of 0.5. ``embed``: share of the labelled images whose nearest other
    one (by cosine) has the same label, over labels that occur twice.
    """
    pairs = list(zip(images, said, strict=True))
    if task == "detect":
        return _f1([(image.boxes, item.boxes) for image, item in pairs if image.boxes is not None])
    if task == "embed":
        return _nearest_agree([(image.label, item.embedding) for image, item in pairs if image.label])
    right = [
        bool(item.labels) and item.labels[0].label == image.label for image, item in pairs if image.label
    ]
    return sum(right) / len(right) if right else None


def _f1(pairs: Sequence[tuple[Sequence[Box], Sequence[Box]]]) -> float | None:
    true = sum(len(boxes) for boxes, _ in pairs)
    if not true:
        return None
    sure = [(boxes, [box for box in found if box.score >= _BOX_SCORE]) for boxes, found in pairs]
    matched = sum(_found(boxes, found) for boxes, found in sure)
    return 2 * matched / (true + sum(len(found) for _, found in sure))


def _found(wanted: Sequence[Box], boxes: Sequence[Box]) -> int:
    """How many of the wanted boxes are among ``boxes``, each of which stands for one at most."""
    left, found = list(boxes), 0
    for box in wanted:
        same = [other for other in left if other.label == box.label]
        if not same:
            continue
        overlaps = iou(_corners([box]), _corners(same))[0]
        if overlaps.max() >= _BOX_IOU:
            left.remove(same[int(overlaps.argmax())])
            found += 1
    return found


def _nearest_agree(pairs: Sequence[tuple[str, bytes | None]]) -> float | None:
    labels = [label for label, _ in pairs]
    asked = [i for i, label in enumerate(labels) if labels.count(label) > 1]
    if not asked:
        return None
    known = [i for i, (_, vector) in enumerate(pairs) if vector is not None]
    if len(known) < 2:
        return 0.0
    vectors = np.stack([_vector(pairs[i][1] or b"") for i in known])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = dict(zip(known, (known[j] for j in cosines.argmax(axis=1)), strict=True))
    return sum(i in nearest and labels[nearest[i]] == labels[i] for i in asked) / len(asked)


def _corners(boxes: Sequence[Box]) -> np.ndarray:
    return np.array([[box.xmin, box.ymin, box.xmax, box.ymax] for box in boxes], np.float32).reshape(-1, 4)


def _vector(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<f4")
