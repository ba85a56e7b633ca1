"""What stays visible of an object, against a painter that keeps a full map for every object."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.synth.canvas import Canvas
from beam_vision.synth.cutout import SEEN

SIDE = 24


def cutout(alpha, value=200.0):
    return np.dstack([np.full((*alpha.shape, 3), value, np.float32), alpha.astype(np.float32)])


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans())
def test_boxes_are_those_of_the_visible_pixels(seed, number, soft):
    rng = np.random.default_rng(seed)
    canvas = Canvas(np.zeros((SIDE, SIDE, 3), np.float32))
    weights, wholes = [], []
    for i in range(number):
        height, width = rng.integers(1, 14, 2)
        alpha = rng.random((height, width)) if soft else (rng.random((height, width)) < 0.7) * 1.0
        top, left = int(rng.integers(0, SIDE - height + 1)), int(rng.integers(0, SIDE - width + 1))
        full = np.zeros((SIDE, SIDE), np.float32)
        full[top : top + height, left : left + width] = alpha
        after = [weight * (1 - full) for weight in weights]
        fits = (full >= SEEN).any() and all(
            (weight >= SEEN).sum() >= max(1, 0.3 * whole) for weight, whole in zip(after, wholes, strict=True)
        )
        assert canvas.paste(cutout(alpha), left, top, str(i), min_visible=0.3) == fits
        if fits:
            weights, wholes = [*after, full], [*wholes, (full >= SEEN).sum()]
    assert len(canvas.layers) == len(weights)
    for layer, weight, whole in zip(canvas.layers, weights, wholes, strict=True):
        assert layer.box == box_of(weight >= SEEN)
        assert int(layer.seen.sum()) == (weight >= SEEN).sum()
        assert layer.visible == pytest.approx((weight >= SEEN).sum() / whole)


def test_colours_are_mixed_by_alpha():
    canvas = Canvas(np.full((4, 4, 3), 100, np.float32))
    alpha = np.array([[0.0, 0.25], [0.5, 1.0]])
    assert canvas.paste(cutout(alpha, 200.0), 1, 2, "x")
    assert canvas.pixels[2:, 1:3, 0].tolist() == [[100, 125], [150, 200]]
    assert (canvas.pixels[:2] == 100).all()


def test_half_an_object_gives_half_a_box():
    canvas = Canvas(np.zeros((20, 20, 3), np.float32))
    assert canvas.paste(cutout(np.ones((10, 10))), 0, 0, "below")
    assert canvas.paste(cutout(np.ones((10, 10))), 5, 0, "above", min_visible=0.5)
    below, above = canvas.layers
    assert below.box == (0, 0, 5, 10)
    assert (below.visible, above.visible) == (0.5, 1.0)
    assert above.box == (5, 0, 15, 10)


def test_what_would_hide_too_much_changes_nothing():
    canvas = Canvas(np.zeros((20, 20, 3), np.float32))
    assert canvas.paste(cutout(np.ones((10, 10))), 0, 0, "below")
    before = canvas.pixels.copy()
    assert not canvas.paste(cutout(np.ones((10, 10))), 4, 0, "above", min_visible=0.5)
    assert not canvas.paste(cutout(np.ones((10, 10))), 0, 0, "above", min_visible=0.0)
    assert not canvas.paste(cutout(np.ones((10, 10))), 15, 0, "outside")
    assert not canvas.paste(cutout(np.full((10, 10), 0.4)), 10, 10, "faint")
    assert [layer.label for layer in canvas.layers] == ["below"]
    assert (canvas.pixels == before).all()
