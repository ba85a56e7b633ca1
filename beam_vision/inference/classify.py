"""From a model's scores to labels."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from beam_vision.errors import UsageError
from beam_vision.types import Label

_SUM_TOLERANCE = 1e-2
_EDGE_TOLERANCE = 1e-4


def decide_activation(scores: np.ndarray, activation: str, multi_label: bool | None) -> tuple[str, bool]:
    """What turns scores into probabilities, and whether labels are independent of each other.

    Args:
      scores: float ``[n, k]``: what the model gave for a few different images.
      activation: ``none``, ``softmax``, ``sigmoid``, or ``auto``: scores that are in 0..1 and sum to one
        are probabilities already; scores in 0..1 that don't are those of a multi-label model; all others
        are logits of a softmax (of a sigmoid when there is a single one, or ``multi_label`` is True).
      multi_label: whether labels are independent of each other; None when that isn't known.

    Returns:
      ``(activation, multi_label)`` with no ``auto`` left.
    """
    within = np.all((scores >= -_EDGE_TOLERANCE) & (scores <= 1 + _EDGE_TOLERANCE)) and np.any(scores > 0)
    sums_to_one = within and np.all(np.abs(scores.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    single = scores.shape[1] == 1
    if activation == "auto":
        activation = "none" if within else "sigmoid" if single or multi_label else "softmax"
    if multi_label is None:
        independent = not sums_to_one if activation == "none" else activation == "sigmoid"
        multi_label = independent and not single
    return activation, multi_label


def probabilities(scores: np.ndarray, activation: str) -> np.ndarray:
    """float32 ``[n, k]`` probabilities of scores ``[n, k]``; stable for logits of any size.

    With activation ``none`` the scores are probabilities already (rounding beyond 0..1 is cut off).
    """
    scores = scores.astype(np.float32, copy=False)
    if activation == "softmax":
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)
    if activation == "sigmoid":
        small = np.exp(-np.abs(scores))  # never overflows
        return np.where(scores >= 0, 1 / (1 + small), small / (1 + small))
    return np.clip(scores, 0, 1)


class Labeler:
    """Gives the top-k labels of rows of scores.

    Args:
      labels: the name of each class; when empty, ``class_0007`` and the like.
      activation: as decided by :func:`decide_activation`.
      multi_label: whether only labels of at least ``threshold`` are given.
      threshold: in 0..1; for multi-label only.
      top_k: at most so many labels.
    """

    def __init__(
        self, labels: Sequence[str], *, activation: str, multi_label: bool, threshold: float, top_k: int
    ) -> None:
        if top_k < 1:
            raise UsageError(f"--top_k is {top_k}; it must be at least 1")
        self._labels = tuple(labels)
        self._activation = activation
        self._threshold = threshold if multi_label else None
        self._top_k = top_k

    def __call__(self, scores: np.ndarray) -> list[tuple[Label, ...]]:
        """Labels for each row of finite scores ``[n, k]``, highest first; ties by the order of classes.

        A single score is that of the positive class: with two labels (negative, positive) or none both are
        given, with one label just that one.

        Raises:
          UsageError: the labels are not as many as the scores.
        """
        found = probabilities(scores, self._activation)
        if found.shape[1] == 1 and len(self._labels) != 1:
            found = np.concatenate([1 - found, found], axis=1)
        names = self._labels or default_labels(found.shape[1])
        if len(names) != found.shape[1]:
            raise UsageError(
                f"the model gives {found.shape[1]} scores but there are {len(names)} labels; "
                "check --class_names"
            )
        best = _top(found, min(self._top_k, found.shape[1]))
        return [
            tuple(
                Label(names[c], float(row[c]))
                for c in order
                if self._threshold is None or row[c] >= self._threshold
            )
            for row, order in zip(found, best, strict=True)
        ]


def _top(scores: np.ndarray, k: int) -> list[np.ndarray]:
    """For each row the indices of its k highest scores, highest first, ties by index."""
    negative = -scores
    bounds = np.partition(negative, k - 1, axis=1)[:, k - 1]
    found = []
    for row, bound in zip(negative, bounds, strict=True):
        candidates = np.flatnonzero(row <= bound)
        found.append(candidates[np.argsort(row[candidates], kind="stable")[:k]])
    return found


@functools.cache
def default_labels(classes: int) -> tuple[str, ...]:
    """``class_0000``, ``class_0001``...: names for classes that have none."""
    digits = max(4, len(str(classes - 1)))
    return tuple(f"class_{i:0{digits}d}" for i in range(classes))
