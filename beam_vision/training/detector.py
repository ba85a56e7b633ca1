"""A small fully convolutional detector that takes an object for a point: the centre of its box.

As in Zhou, Wang and Krähenbühl, "Objects as Points" (2019), a map a class says how likely an object's centre
lies in each cell, and its peaks are the detections: there are no anchors, and no suppression of overlaps but
that of a cell by its neighbours. As in Liu et al., "Training-Time-Friendly Network for Real-Time Object
Detection" (2020), every cell near a centre learns the four distances to the sides of the box, which converges
in a fraction of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.model import INPUT, convolve

if TYPE_CHECKING:
    import keras

STRIDE_PX = 8
"""Pixels of the input from one cell to the next."""

HEAT, SIDES = "heat", "sides"
MULTIPLE_PX = 16
PRIOR = 0.02
"""What every cell of an untrained model says of each class (Lin et al., "Focal Loss", 2017)."""


def build_detector(height_px: int, width_px: int, classes: int, *, seed: int = 0) -> keras.Model:
    """The network, untrained; about 310,000 weights, convolutions with batch normalisation and ReLU.

    Args:
      height_px, width_px: of its input, uint8 ``[N, height_px, width_px, 3]`` RGB in 0..255; multiples of 16.
      classes: how many; at least 1.
      seed: of the first weights.

    Returns:
      A model with the outputs ``heat`` float32 ``[N, rows, columns, classes]``, logits, and ``sides`` float32
      ``[N, rows, columns, 4]``: pixels, more than 0, from the middle of a cell to the left, upper, right and
      lower side of the box whose centre is there. A cell has :data:`STRIDE_PX` pixels a side.

    Raises:
      UsageError: no classes, or a side that is no multiple of 16.
    """
    if classes < 1:
        raise UsageError("a detector needs at least one class")
    if height_px < MULTIPLE_PX or width_px < MULTIPLE_PX or height_px % MULTIPLE_PX or width_px % MULTIPLE_PX:
        raise UsageError(f"the input must have sides of a multiple of 16 px, not {width_px}x{height_px}")
    keras = deps.need("keras")
    layers = keras.layers
    keras.utils.set_random_seed(seed)
    image = keras.Input((height_px, width_px, 3), dtype="uint8", name=INPUT)
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = convolve(layers, x, 16, stride=2)
    x = convolve(layers, x, 32, stride=2)
    x = convolve(layers, x, 64, stride=2)
    fine = convolve(layers, x, 64)
    x = convolve(layers, fine, 96, stride=2)
    x = convolve(layers, x, 96)
    x = convolve(layers, x, 48)
    x = layers.Concatenate()([fine, layers.UpSampling2D()(x)])
    x = convolve(layers, x, 64)
    rare = keras.initializers.Constant(_logit(PRIOR))
    heat = layers.Conv2D(classes, 1, bias_initializer=rare, name=HEAT)(x)
    sides = layers.Conv2D(4, 1, bias_initializer="ones", activation="softplus")(x)
    sides = layers.Rescaling(2.0 * STRIDE_PX, name=SIDES)(sides)
    return keras.Model(image, {HEAT: heat, SIDES: sides}, name="centre_detector")


def _logit(probability: float) -> float:
    from math import log

    return log(probability / (1 - probability))
