"""Fitting a detector within a number of seconds or epochs, whichever ends first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import JobError
from beam_vision.training.detector import HEAT, SIDES
from beam_vision.training.detector_loss import loss, targets
from beam_vision.training.fit import FitSettings, Pace

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

BRIGHTNESS, CONTRAST = 24.0, 0.15
SHIFT_PX = 6
CLIP_NORM = 10.0


@dataclass(frozen=True)
class DetectorEpoch:
    """What one epoch came to: its mean loss, and the seconds since the start."""

    number: int
    seconds: float
    loss: float


def fit_detector(
    model: keras.Model,
    train: tf.data.Dataset,
    settings: FitSettings,
    *,
    steps: int,
    tell: Callable[[DetectorEpoch], None] = lambda epoch: None,
) -> list[DetectorEpoch]:
    """Fits ``model`` in place.

    Args:
      model: as :func:`beam_vision.training.detector.build_detector` makes it.
      train: batches of (images uint8 ``[N, H, W, 3]``, boxes float32 ``[N, M, 4]`` xyxy in pixels, class ids
        int ``[N, M]``, -1 where there is no box), one epoch long.
      settings: how; there is no validation, so ``patience`` has no effect.
      steps: batches in ``train``; the learning rate's course is planned by it.
      tell: is called at the end of each epoch.

    Returns:
      The epochs, in order; the last may have been cut short by the time limit.

    Raises:
      JobError: the loss is no longer a finite number.
    """
    keras = deps.need("keras")
    optimizer = keras.optimizers.AdamW(
        settings.learning_rate, weight_decay=settings.weight_decay, clipnorm=CLIP_NORM
    )
    step = _train_step(model, optimizer)
    pace = Pace(settings, steps)
    epochs: list[DetectorEpoch] = []
    for number in range(settings.epochs):
        losses = []
        for batch, (images, boxes, classes) in enumerate(train):
            if pace.time_spent >= 1:
                break
            optimizer.learning_rate.assign(pace.learning_rate(number, batch))
            losses.append(float(step(images, boxes, classes)))
            pace.end_step()
        if not losses:
            break
        epochs.append(DetectorEpoch(number + 1, pace.seconds, sum(losses) / len(losses)))
        tell(epochs[-1])
        if not math.isfinite(epochs[-1].loss):
            raise JobError("the training loss is no longer a finite number; try a lower learning rate")
    return epochs


def _train_step(model: Any, optimizer: Any) -> Any:
    tf = deps.need("tensorflow")
    rows, columns, number = model.output[HEAT].shape[1:]

    # one trace for all shapes: the last batch of an epoch is smaller, and tracing takes seconds
    shapes = [
        tf.TensorSpec(model.input_shape, tf.uint8),
        tf.TensorSpec([None, None, 4], tf.float32),
        tf.TensorSpec([None, None], tf.int64),
    ]

    @tf.function(input_signature=shapes)
    def step(images: Any, boxes: Any, classes: Any) -> Any:
        images, boxes = shifted(images, boxes)
        asked = targets(boxes, classes, rows=rows, columns=columns, number=number)
        with tf.GradientTape() as tape:
            found = model(recoloured(images), training=True)
            apart = loss(found[HEAT], found[SIDES], asked)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(apart, variables), variables, strict=True))
        return apart

    return step


def recoloured(images: Any) -> Any:
    """Each image with its colours in another order, and a little changed in brightness and contrast.

    Boxes stay as they are.

    Args:
      images: uint8 ``[N, H, W, 3]``; gives the same.
    """
    tf = deps.need("tensorflow")
    number = tf.shape(images)[0]
    order = tf.argsort(tf.random.uniform([number, 3]), axis=1)
    mixed = tf.einsum("nhwc,ndc->nhwd", tf.cast(images, tf.float32) - 128, tf.one_hot(order, 3))
    lighter = tf.random.uniform([number, 1, 1, 1], -BRIGHTNESS, BRIGHTNESS)
    harder = tf.random.uniform([number, 1, 1, 1], 1 - CONTRAST, 1 + CONTRAST)
    return tf.cast(tf.clip_by_value(tf.round(mixed * harder + 128 + lighter), 0, 255), tf.uint8)


def shifted(images: Any, boxes: Any) -> tuple[Any, Any]:
    """A batch moved by up to :data:`SHIFT_PX` pixels, with its boxes; what that uncovers is a reflection.

    Args:
      images: uint8 ``[N, H, W, 3]``.
      boxes: float32 ``[N, M, 4]`` xyxy in pixels.

    Returns:
      The same; boxes are cut off at the edges.
    """
    tf = deps.need("tensorflow")
    most = SHIFT_PX
    height, width = tf.unstack(tf.shape(images)[1:3])
    x, y = tf.unstack(tf.random.uniform([2], 0, 2 * most + 1, tf.int32))
    padded = tf.pad(images, [[0, 0], [most, most], [most, most], [0, 0]], mode="REFLECT")
    moved = padded[:, y : y + height, x : x + width]
    by = tf.cast(tf.stack([most - x, most - y] * 2), tf.float32)
    limit = tf.cast(tf.stack([width, height] * 2), tf.float32)
    return moved, tf.clip_by_value(boxes + by, 0.0, limit)
