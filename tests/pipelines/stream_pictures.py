"""Frames of the tests of streams, and what the model of the tests must say of them."""

import numpy as np

from beam_vision.images import codec
from beam_vision.testing import images, models

LABELS = ("class_0000", "class_0001", "class_0002", "class_0003")


def picture(seed):
    """A picture of one colour with grain: red, green, blue or dark, by turns."""
    colour = np.full(3, 40)
    if seed % 4 < 3:
        colour[seed % 4] = 200
    grain = np.random.default_rng(seed).integers(-20, 20, (24, 32, 3))
    return images.encode((colour + grain).astype(np.uint8), "jpeg")


def label_of(data):
    """What the model must say of a frame, worked out in NumPy."""
    settings = codec.DecodeSettings(height_px=models.SIDE_PX, width_px=models.SIDE_PX)
    pixels = codec.decode(data, settings).pixels
    return LABELS[int(models.scores(pixels[None] / np.float32(255)).argmax())]
