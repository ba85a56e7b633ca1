"""What a trained model comes to on images it never saw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision.training.model import SCORES

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Evaluation:
    """Figures of a split.

    Attributes:
      images: how many there were.
      accuracy: share whose top class is the true one; 0 when there were none.
      loss: mean of ``-log`` of the true class's probability.
      confusion: ``confusion[i][j]``: how many of class i were taken for class j.
    """

    images: int
    accuracy: float
    loss: float
    confusion: list[list[int]]


def evaluate(model: keras.Model, data: Iterable[tuple[Any, Any]], classes: int) -> Evaluation:
    """Runs ``model`` on batches of (images uint8 ``[N, H, W, 3]``, class ids ``[N]``) and counts."""
    confusion = np.zeros((classes, classes), np.int64)
    loss = 0.0
    for images, ids in data:
        scores = np.asarray(model(images, training=False)[SCORES])
        truth = np.asarray(ids)
        np.add.at(confusion, (truth, scores.argmax(axis=1)), 1)
        loss -= float(np.log(np.maximum(scores[np.arange(len(truth)), truth], 1e-12)).sum())
    images = int(confusion.sum())
    right = int(np.trace(confusion))
    return Evaluation(images, right / max(images, 1), loss / max(images, 1), confusion.tolist())
