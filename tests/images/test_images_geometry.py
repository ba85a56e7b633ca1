"""The numbers of a resize, against exact fractions and by their properties."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.images.geometry import (
    RESIZE_MODES,
    VALUE_RANGES,
    apply_affine,
    invert_affine,
    normalize,
    plan_resize,
)

sides = st.integers(1, 20_000)
outs = st.integers(1, 2_000)


@given(sides, sides, outs, outs)
def test_letterbox_shows_everything_as_large_as_fits(width, height, out_width, out_height):
    plan = plan_resize(width, height, out_width_px=out_width, out_height_px=out_height, mode="letterbox")
    left, top, right, bottom = plan.target
    factor = min(Fraction(out_width, width), Fraction(out_height, height))
    assert plan.source == (0, 0, width, height)
    for low, high, side, out in ((left, right, width, out_width), (top, bottom, height, out_height)):
        exact = side * factor
        assert high - low == max(1, int(exact + Fraction(1, 2)))
        assert 0 <= low < high <= out
        assert (out - high) - low in (0, 1), "centred; the odd pixel goes right or below"
    assert right - left == out_width or bottom - top == out_height


@given(sides, sides, outs, outs)
def test_center_crop_is_the_largest_centred_part_of_the_outputs_shape(width, height, out_width, out_height):
    plan = plan_resize(width, height, out_width_px=out_width, out_height_px=out_height, mode="center_crop")
    left, top, right, bottom = plan.source
    assert plan.target == (0, 0, out_width, out_height)
    assert (left, right) == (0, width) or (top, bottom) == (0, height)
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (right - left) * out_height == pytest.approx((bottom - top) * out_width, rel=1e-6)


@given(sides, sides, st.integers(1, 3_000))
def test_max_side_shrinks_and_keeps_the_shape(width, height, most):
    plan = plan_resize(width, height, max_side_px=most)
    assert not plan.padded
    if max(width, height) <= most:
        assert (plan.width_px, plan.height_px) == (width, height)
        assert plan.affine == (1, 1, 0, 0)
    else:
        assert max(plan.width_px, plan.height_px) == most
        shorter = Fraction(min(width, height) * most, max(width, height))
        assert min(plan.width_px, plan.height_px) == max(1, int(shorter + Fraction(1, 2)))


@given(sides, sides, outs, outs, st.sampled_from(RESIZE_MODES))
def test_the_affine_takes_the_source_to_the_target_and_back(width, height, out_width, out_height, mode):
    plan = plan_resize(width, height, out_width_px=out_width, out_height_px=out_height, mode=mode)
    source = np.array([plan.source], np.float64)
    mapped = apply_affine(plan.affine, source)
    np.testing.assert_allclose(mapped, [plan.target], atol=1e-6 * max(out_width, out_height))
    back = apply_affine(invert_affine(plan.affine), mapped)
    np.testing.assert_allclose(back, source, atol=1e-6 * max(width, height))


def test_letterbox_by_hand():
    plan = plan_resize(200, 100, out_width_px=51, out_height_px=40, mode="letterbox")
    assert plan.target == (0, 7, 51, 33)  # 25.5 rows round up to 26; 14 rows of padding
    assert plan.affine == (51 / 200, 26 / 100, 0, 7)
    assert plan.padded


def test_apply_affine_maps_points_and_boxes_and_leaves_its_input():
    points = np.array([[1, 2], [3, 4]], np.float32)
    boxes = points.reshape(1, 4)
    affine = (2.0, 10.0, 1.0, -1.0)
    assert apply_affine(affine, points).tolist() == [[3, 19], [7, 39]]
    assert apply_affine(affine, boxes).tolist() == [[3, 19, 7, 39]]
    assert apply_affine(affine, boxes).dtype == np.float32
    assert points.tolist() == [[1, 2], [3, 4]]


def test_an_unknown_mode_is_a_mistake_of_the_caller():
    with pytest.raises(UsageError, match="letterbox"):
        plan_resize(2, 2, out_width_px=1, out_height_px=1, mode="fit")
    with pytest.raises(UsageError, match="imagenet"):
        normalize(np.zeros((1, 1, 1, 3), np.uint8), "0-1")


@pytest.mark.parametrize("value_range", VALUE_RANGES)
def test_normalize_against_its_definition(value_range):
    batch = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    x = batch.astype(np.float64)
    expected = {
        "0..255": x,
        "0..1": x / 255,
        "-1..1": x / 127.5 - 1,
        "imagenet": (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
    }[value_range]
    before = batch.copy()
    result = normalize(batch, value_range)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    np.testing.assert_array_equal(batch, before)
    if value_range == "-1..1":
        assert (result.min(), result.max()) == (-1, 1)
