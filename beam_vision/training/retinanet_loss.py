"""What a RetinaNet is fitted by: focal loss for classes, smooth L1 for boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.training.config import DetectorConfig, LossConfig
from beam_vision.training.retinanet import BOXES, LOGITS

if TYPE_CHECKING:
    import keras


def focal_losses(truth: Any, logits: Any, *, alpha: float, gamma: float) -> Any:
    """The focal loss of each anchor, summed over classes (Lin et al., 2017, equation 5).

    Args:
      truth: float32 ``[..., classes]`` of zeros and ones; all zeros: background.
      logits: float32, the same shape.
      alpha: the weight of ones; that of zeros is 1 - alpha.
      gamma: how little what is right already counts; 0: cross entropy.

    Returns:
      float32 ``[...]``, at least 0.
    """
    ops = deps.need("keras").ops
    entropy = ops.softplus(logits) - truth * logits
    said = ops.sigmoid(logits)
    wrong_by = truth * (1 - said) + (1 - truth) * said
    weight = truth * alpha + (1 - truth) * (1 - alpha)
    # its slope at 0 would be infinite for a gamma below 1
    return ops.sum(weight * ops.maximum(wrong_by, 1e-7) ** gamma * entropy, axis=-1)


def smooth_l1(truth: Any, said: Any, *, beta: float) -> Any:
    """The smooth L1 loss (Girshick, "Fast R-CNN", 2015, equation 3), summed over a box's four offsets.

    Args:
      truth, said: float32 ``[..., 4]``.
      beta: differences below it count ``difference**2 / (2 * beta)``, others ``difference - beta / 2``.

    Returns:
      float32 ``[...]``, at least 0.
    """
    ops = deps.need("keras").ops
    off = ops.abs(truth - said)
    return ops.sum(ops.where(off < beta, off * off / (2 * beta), off - beta / 2), axis=-1)


def compile_retinanet(
    model: keras.Model, optimizer: Any, config: DetectorConfig, loss: LossConfig, **how: Any
) -> None:
    """Makes ``model.fit`` and ``model.evaluate`` work; the loss is by object, not by image.

    Anchors whose IoU with a box is at least 0.5 learn that box, those below 0.4 that there is nothing; the
    others learn nothing. A batch without any object adds nothing.

    Args:
      model: as :func:`beam_vision.training.retinanet.build_retinanet` makes it.
      optimizer: of Keras.
      config: the boxes' loss.
      loss: its ``alpha`` and ``gamma`` are the focal loss's.
      how: further arguments of ``keras.Model.compile``: ``jit_compile``, ``steps_per_execution``, ...
    """
    model.compile(
        optimizer=optimizer,
        box_loss=_loss(smooth_l1, "smooth_l1", beta=config.smooth_l1_beta),
        classification_loss=_loss(focal_losses, "focal", alpha=loss.alpha, gamma=loss.gamma),
        loss_weights={BOXES: config.box_weight, LOGITS: 1.0},
        **how,
    )


def _loss(function: Any, name: str, **numbers: float) -> Any:
    """A Keras loss that adds up: KerasHub's weights divide by the number of objects."""
    keras = deps.need("keras")

    class Summed(keras.losses.Loss):  # type: ignore[name-defined,misc]
        def call(self, truth: Any, said: Any) -> Any:
            return function(truth, said, **numbers)

    return Summed(name=name, reduction="sum")
