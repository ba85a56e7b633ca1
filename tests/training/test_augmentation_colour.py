"""Changes of colour, beside Pillow's."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from beam_vision import deps
from beam_vision.training import augmentation_colour as colour

tf = deps.need("tensorflow")

PILLOW = {
    "brightness": (lambda i: ImageEnhance.Brightness(i).enhance(1.5), lambda x: colour.scaled(x, 1.5)),
    "saturation": (lambda i: ImageEnhance.Color(i).enhance(0.4), lambda x: colour.saturated(x, 0.4)),
    "sharpness": (lambda i: ImageEnhance.Sharpness(i).enhance(1.8), lambda x: colour.sharpened(x, 1.8)),
    "solarize": (lambda i: ImageOps.solarize(i, 129), lambda x: colour.solarized(x, 128.5)),
    "posterize": (lambda i: ImageOps.posterize(i, 5), lambda x: colour.posterized(x, 5.0)),
    "autocontrast": (ImageOps.autocontrast, colour.stretched),
    "equalize": (ImageOps.equalize, colour.equalized),
    "blur": (lambda i: i.filter(ImageFilter.SMOOTH), lambda x: colour.sharpened(x, 0.0)),
}


@pytest.mark.parametrize("name", PILLOW)
def test_colours_are_pillows(name):
    theirs, ours = PILLOW[name]
    rng = np.random.default_rng(4)
    rough = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    image = np.asarray(rough.resize((256, 256), Image.Resampling.BILINEAR)) // 2 + 40
    wanted = np.asarray(theirs(Image.fromarray(image)), float)
    found = np.asarray(ours(tf.constant(image[None], tf.float32)))[0]
    inner = (slice(1, -1),) * 2  # Pillow's filters leave the edge
    assert np.abs(found - wanted)[inner].max() <= (3 if name == "equalize" else 1.5)
    assert np.abs(wanted - image).max() > 5


def test_equalizing_a_flat_image_leaves_it():
    flat = tf.fill([1, 8, 8, 3], 77.0)
    for change in (colour.equalized, colour.stretched):
        np.testing.assert_array_equal(change(flat), flat)
