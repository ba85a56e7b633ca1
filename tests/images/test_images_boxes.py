"""Boxes and hashes, against brute force over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.images import boxes as bx
from beam_vision.images.geometry import RESIZE_MODES, plan_resize
from beam_vision.images.hashing import dhash, hamming
from beam_vision.testing.images import encode, photo, stored_for

WIDTH, HEIGHT = 11, 7


@st.composite
def whole_boxes(draw, width=WIDTH, height=HEIGHT):
    x = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
    y = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
    return [x[0], y[0], x[1], y[1]]


def painted(box, width=WIDTH, height=HEIGHT):
    canvas = np.zeros((height, width), bool)
    canvas[box[1] : box[3], box[0] : box[2]] = True
    return canvas


def found(canvas):
    rows, columns = np.nonzero(canvas)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@given(st.lists(whole_boxes(), max_size=4), st.lists(whole_boxes(), max_size=4))
def test_iou_and_area_count_pixels(a, b):
    left, right = np.array(a, np.float32).reshape(-1, 4), np.array(b, np.float32).reshape(-1, 4)
    result = bx.iou(left, right)
    assert result.shape == (len(a), len(b))
    assert result.dtype == np.float32
    for i, one in enumerate(a):
        assert bx.area(left)[i] == painted(one).sum()
        for j, other in enumerate(b):
            both, either = painted(one) & painted(other), painted(one) | painted(other)
            assert result[i, j] == pytest.approx(both.sum() / either.sum())


def test_boxes_without_area_overlap_nothing():
    flat = np.array([[3, 3, 3, 3], [5, 5, 4, 4]], np.float32)
    assert bx.area(flat).tolist() == [0, 0]
    assert bx.iou(flat, flat).tolist() == [[0, 0], [0, 0]]


@given(whole_boxes(), st.integers(1, 8))
def test_exif_transform_moves_the_box_with_its_pixels(box, orientation):
    # The upright picture of these stored pixels: the orientation that undoes `stored_for`.
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    upright = stored_for(painted(box), undo)
    moved = bx.exif_transform(np.array([box], np.float32), orientation, WIDTH, HEIGHT)
    assert moved.dtype == np.float32
    assert moved.tolist() == [found(upright)]


@given(
    st.lists(st.integers(-5, 30), min_size=4, max_size=4), st.sampled_from(RESIZE_MODES), st.integers(1, 50)
)
def test_boxes_come_back_from_the_output(box, mode, out):
    affine = plan_resize(640, 480, out_width_px=out, out_height_px=37, mode=mode).affine
    array = np.array([box], np.float32)
    back = bx.to_original(bx.to_output(array, affine), affine)
    np.testing.assert_allclose(back, array, atol=1e-2)


FORMATS = {
    "xywh": (bx.from_xywh, bx.to_xywh, [1, 2, 3, 5]),
    "cxcywh": (bx.from_cxcywh, bx.to_cxcywh, [2.5, 4.5, 3, 5]),
    "yxyx": (bx.from_yxyx, bx.to_yxyx, [2, 1, 7, 4]),
    "voc": (bx.from_voc, bx.to_voc, [2, 3, 4, 7]),
    "relative": (
        lambda boxes: bx.from_relative(boxes, 8, 10),
        lambda boxes: bx.to_relative(boxes, 8, 10),
        [0.125, 0.2, 0.5, 0.7],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_formats_by_hand_there_and_back(name, dtype):
    take, give, other = FORMATS[name]
    ours, other = np.array([[1, 2, 4, 7]] * 3, dtype), np.array([other] * 3, dtype)
    before = ours.copy(), other.copy()
    for result, expected in ((take(other), ours), (give(ours), other)):
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert (ours == before[0]).all()
    assert (other == before[1]).all()
    assert take([]).shape == give(np.zeros((0, 4))).shape == (0, 4)


@given(st.sampled_from(sorted(FORMATS)), st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4))
def test_other_formats_come_back(name, box):
    take, give, _ = FORMATS[name]
    array = np.array([box])
    np.testing.assert_allclose(take(give(array)), array, atol=1e-9)
    np.testing.assert_allclose(give(take(array)), array, atol=1e-9)


def test_the_whole_image_is_exactly_one_in_relative_numbers():
    for width, height in ((3, 7), (1919, 1081), (49, 101)):
        assert bx.to_relative([[0, 0, width, height]], width, height).tolist() == [[0, 0, 1, 1]]


def test_the_pixels_of_a_voc_box_are_those_it_names():
    canvas = np.zeros((9, 9), bool)
    canvas[3 - 1 : 5, 2 - 1 : 6] = True  # columns 2..6 and rows 3..5, counted from 1
    assert bx.from_voc(np.array([[2, 3, 6, 5]])).tolist() == [found(canvas)]


@given(whole_boxes(), st.integers(1, 8))
def test_the_inverse_orientation_takes_boxes_back(box, orientation):
    upright = bx.exif_transform(np.array([box], np.float64), orientation, WIDTH, HEIGHT)
    size = (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)
    back = bx.exif_transform(upright, bx.inverse_orientation(orientation), *size)
    assert back.dtype == np.float64
    assert back.tolist() == [box]


@given(st.lists(whole_boxes(), max_size=4), st.lists(whole_boxes(), max_size=4))
def test_intersection_counts_pixels_and_double_precision_stays(a, b):
    left, right = np.array(a, np.float64).reshape(-1, 4), np.array(b, np.float32).reshape(-1, 4)
    common = bx.intersection(left, right)
    expected = [[(painted(one) & painted(other)).sum() for other in b] for one in a]
    assert common.tolist() == np.array(expected, float).reshape(len(a), len(b)).tolist()
    assert bx.iou(left, right).dtype == np.float64


def test_boxes_that_are_not_finite_overlap_nothing():
    odd = np.array([[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [-np.inf, 0, np.inf, 5]], np.float32)
    assert bx.iou(odd, odd).tolist() == np.zeros((3, 3)).tolist()
    assert bx.iou(odd, [[0, 0, 5, 5]]).tolist() == [[0], [0], [0]]


def test_clip_and_scale():
    array = np.array([[-3, -4, 50, 60], [1, 2, 3, 4]], np.float32)
    assert bx.clip(array, 10, 20).tolist() == [[0, 0, 10, 20], [1, 2, 3, 4]]
    assert bx.scale(array, 2, 0.5).tolist() == [[-6, -2, 100, 30], [2, 1, 6, 2]]
    assert array[0, 0] == -3, "the argument is not changed"


def test_no_boxes_stay_no_boxes():
    none = np.zeros((0, 4), np.float32)
    assert bx.iou(none, none).shape == (0, 0)
    for result in (bx.clip(none, 5, 5), bx.scale(none, 1, 1), bx.exif_transform(none, 6, 5, 5)):
        assert result.shape == (0, 4)


def test_dhash_by_hand():
    rising = np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1))
    assert dhash(rising) == 2**64 - 1
    assert dhash(rising[:, ::-1].copy()) == 0
    rising[0, 1] = 0  # the first pixel of the first row is no longer darker than its neighbour
    assert dhash(rising) == 2**63 - 1
    assert hamming(dhash(rising), 2**64 - 1) == 1


def test_dhash_knows_a_picture_again_and_tells_others_apart():
    import io

    from PIL import Image

    picture = photo(5, 320, 240)
    small = np.asarray(Image.fromarray(picture).resize((100, 75)))
    poor = np.asarray(Image.open(io.BytesIO(encode(picture, "jpeg", quality=30))))
    assert hamming(dhash(picture), dhash(small)) <= 6
    assert hamming(dhash(picture), dhash(poor)) <= 6
    assert all(hamming(dhash(picture), dhash(photo(seed, 320, 240))) > 12 for seed in range(6, 12))
