"""``ProbabilityLoss``: how far probabilities are from the truth. Imports Keras: import it late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beam_vision import deps

keras: Any = deps.need("keras")
ops = keras.ops
TINY = 1e-7


@keras.saving.register_keras_serializable("beam_vision")
class ProbabilityLoss(keras.losses.Loss):
    """A loss of truth ``y`` and probabilities ``p``, both float ``[N, C]``; one number an image, then their
    mean.

    With ``w`` the weight of each class, summed over the classes for one label, the mean over them for
    several:

    - ``cross_entropy``: ``w y (-log p)``.
    - ``focal``: ``w alpha (1 - p)^gamma y (-log p)`` (Lin et al., "Focal Loss", 2017).
    - ``brier``: ``w (y - p)^2`` (Brier, 1950), which a wrong label pulls less than the others.
    - ``binary_cross_entropy``: ``w y (-log p) + (1 - y) (-log (1 - p))``.
    - ``binary_focal``: ``w alpha (1 - p)^gamma y (-log p) + (1 - alpha) p^gamma (1 - y) (-log (1 - p))``.

    Args:
      kind: one of the above.
      label_smoothing: share of each label given to all classes alike (Szegedy et al., 2016); for several
        labels, y goes so far towards 1/2.
      gamma, alpha: of the focal ones.
      weights: of the classes; None: 1.
    """

    def __init__(
        self,
        kind: str,
        *,
        label_smoothing: float = 0.0,
        gamma: float = 2.0,
        alpha: float = 0.25,
        weights: Sequence[float] | None = None,
        name: str | None = None,
        **given: Any,
    ) -> None:
        super().__init__(name=name or kind, **given)
        self.kind = kind
        self.label_smoothing = label_smoothing
        self.gamma = gamma
        self.alpha = alpha
        self.weights = None if weights is None else [float(weight) for weight in weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Float ``[N]``."""
        p = ops.clip(ops.cast(y_pred, "float32"), TINY, 1 - TINY)
        y = ops.cast(y_true, "float32")
        binary = self.kind.startswith("binary")
        if self.label_smoothing:
            share = 1 / 2 if binary else 1 / y.shape[-1]
            y = y * (1 - self.label_smoothing) + self.label_smoothing * share
        w = (
            ops.ones((), "float32")
            if self.weights is None
            else ops.convert_to_tensor(self.weights, "float32")
        )
        if self.kind == "brier":
            return ops.sum(w * ops.square(y - p), axis=-1)
        there = -w * y * ops.log(p)
        away = -(1 - y) * ops.log(1 - p)
        if self.kind.endswith("focal"):
            there = self.alpha * (1 - p) ** self.gamma * there
            away = (1 - self.alpha) * p**self.gamma * away
        return ops.mean(there + away, axis=-1) if binary else ops.sum(there, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes."""
        own = ("kind", "label_smoothing", "gamma", "alpha", "weights")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
