"""Annotated boxes become boxes of the upright image, checked on pixels that are really turned."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_vision.errors import Reason, UsageError
from beam_vision.images.annotated import Upright, upright_boxes
from beam_vision.images.codec import decode
from beam_vision.testing.images import ORIENTATIONS, turned
from beam_vision.types import Box, BoxFrame, Fault, ImageRef

WIDTH, HEIGHT = 40, 24  # of the upright image


def ref_of(*boxes, **frame):
    return ImageRef("a", "lake/a.jpg", boxes=boxes, frame=BoxFrame(**frame))


def corners(boxes):
    return [(box.xmin, box.ymin, box.xmax, box.ymax) for box in boxes]


def mark_of(pixels):
    """The box of the bright pixels."""
    rows, columns = np.nonzero(pixels[..., 0] > 127)
    return tuple(float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))


def stored_size(orientation):
    return (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("relative", [False, True])
def test_a_box_on_stored_pixels_lies_on_the_mark_of_the_decoded_image(orientation, relative):
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[3:9, 5:18] = 255
    data = turned(upright, orientation, "png")
    decoded = decode(data)
    width, height = stored_size(orientation)
    box = mark_of(np.asarray(Image.open(io.BytesIO(data))))  # as stored: Pillow doesn't turn a PNG
    if relative:
        box = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    ref = ref_of(Box(*box, "mark", area_px=0.5 if relative else 33.0), pixels_of="stored", relative=relative)
    result = upright_boxes(ref, decoded.width_px, decoded.height_px, decoded.orientation)
    np.testing.assert_allclose(corners(result.boxes), [mark_of(decoded.pixels)], atol=1e-9)
    assert result.boxes[0].area_px == (0.5 * WIDTH * HEIGHT if relative else 33.0)
    assert (result.clipped, result.faults) == (0, ())


@pytest.mark.parametrize("relative", [False, True])
def test_a_box_on_the_upright_image_stays_whatever_the_orientation(relative):
    box = Box(0.25, 0.5, 0.5, 0.75) if relative else Box(10, 12, 20, 18, "cat", crowd=True, area_px=9.5)
    for orientation in ORIENTATIONS:
        result = upright_boxes(ref_of(box, relative=relative), WIDTH, HEIGHT, orientation)
        assert corners(result.boxes) == [(10, 12, 20, 18)]
        if not relative:
            assert result.boxes == (box,), "label, crowd and area are kept"


@pytest.mark.parametrize(
    ("annotated", "orientation", "expected"),
    [
        ((WIDTH, HEIGHT), 6, "upright"),
        ((HEIGHT, WIDTH), 6, "stored"),
        ((0, 0), 6, "stored"),
        ((HEIGHT, 0), 6, "stored"),
        ((WIDTH, HEIGHT), 3, "stored"),
        ((0, 0), 1, "upright"),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_auto_goes_by_the_annotated_size(annotated, orientation, expected, relative):
    box = Box(0.1, 0.2, 0.4, 0.3) if relative else Box(1, 2, 4, 3)
    frame = {"relative": relative, "width_px": annotated[0], "height_px": annotated[1]}
    auto = upright_boxes(ref_of(box, pixels_of="auto", **frame), WIDTH, HEIGHT, orientation)
    told = upright_boxes(ref_of(box, pixels_of=expected, relative=relative), WIDTH, HEIGHT, orientation)
    other = "stored" if expected == "upright" else "upright"
    if orientation != 1:
        wrong = upright_boxes(ref_of(box, pixels_of=other, relative=relative), WIDTH, HEIGHT, orientation)
        assert auto != wrong
    assert auto == told
    assert auto.faults == ()


def test_a_square_image_is_taken_as_stored_by_auto():
    ref = ref_of(Box(1, 2, 4, 3), pixels_of="auto", width_px=30, height_px=30)
    assert corners(upright_boxes(ref, 30, 30, 6).boxes) == [(27, 1, 28, 4)]


@pytest.mark.parametrize("pixels_of", ["auto", "upright", "stored"])
def test_boxes_annotated_at_another_size_are_faults_that_say_both(pixels_of):
    boxes = Box(1, 2, 4, 3), Box(5, 5, 9, 9)
    ref = ref_of(*boxes, pixels_of=pixels_of, width_px=80, height_px=48)
    result = upright_boxes(ref, WIDTH, HEIGHT, 6)
    assert result.boxes == ()
    assert [fault.place for fault in result.faults] == ["lake/a.jpg: box 1", "lake/a.jpg: box 2"]
    for fault in result.faults:
        assert fault.reason == Reason.BAD_BOX.value == "bad_box"
        for size in ("80 x 48", "40 x 24", "24 x 40"):
            assert size in fault.detail
    relative = ref_of(Box(0.1, 0.2, 0.4, 0.3), pixels_of=pixels_of, relative=True, width_px=80, height_px=48)
    assert upright_boxes(relative, WIDTH, HEIGHT, 6).faults == (), "fractions hold at any size"


def test_boxes_that_leave_the_image_are_cut_and_counted():
    ref = ref_of(Box(-5, 2, 4, 90, "a"), Box(1, 1, 40, 24, "b"), Box(0, 0, 40.05, 24, "c"), Box(0, 0, 41, 3))
    result = upright_boxes(ref, WIDTH, HEIGHT, 1)
    assert corners(result.boxes) == [(0, 2, 4, 24), (1, 1, 40, 24), (0, 0, 40, 24), (0, 0, 40, 3)]
    assert [box.label for box in result.boxes] == ["a", "b", "c", "object"]
    assert result.clipped == 2, "a twentieth of a pixel is rounding"


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((5, 6, 5, 9), "xyxy box (5, 6, 5, 9) is empty"),
        ((5, 6, 7, 6), "(5, 6, 7, 6) is empty"),
        ((7, 2, 5, 9), "(7, 2, 5, 9) is inverted"),
        ((5, 9, 7, 2), "(5, 9, 7, 2) is inverted"),
        ((math.nan, 6, 7, 9), "(nan, 6, 7, 9) is not finite"),
        ((5, 6, math.inf, 9), "(5, 6, inf, 9) is not finite"),
        ((40, 6, 47.25, 9), "(40, 6, 47.25, 9) lies wholly outside the image of 40 x 24 pixels"),
        ((1, -9, 7, -1), "(1, -9, 7, -1) lies wholly outside"),
    ],
)
def test_a_box_that_cannot_be_used_is_a_fault_with_its_numbers(box, words):
    good = Box(1, 2, 3, 4, "a")
    result = upright_boxes(ref_of(good, Box(*box), good), WIDTH, HEIGHT, 1)
    assert result.boxes == (good, good)
    assert result.clipped == 0
    (fault,) = result.faults
    assert (fault.place, fault.reason) == ("lake/a.jpg: box 2", "bad_box")
    assert words in fault.detail


def test_faults_of_relative_and_stored_boxes_say_so():
    ref = ref_of(Box(1.5, 0, 2, 1), relative=True)
    assert "relative xyxy box (1.5, 0, 2, 1)" in upright_boxes(ref, WIDTH, HEIGHT, 1).faults[0].detail
    ref = ref_of(Box(30, 3, 35, 9), pixels_of="stored")  # stored 24 x 40
    assert "the image of 24 x 40 pixels as stored" in upright_boxes(ref, WIDTH, HEIGHT, 8).faults[0].detail


def test_no_boxes_and_unknown_frames():
    old = Fault("boxes.csv:3", "bad_box", "of the source")
    ref = ImageRef("a", "a", frame=BoxFrame("auto", width_px=1, height_px=1), faults=(old,))
    assert upright_boxes(ref, WIDTH, HEIGHT, 1) == Upright((), 0, ())
    with pytest.raises(UsageError, match="'both'"):
        upright_boxes(ref_of(Box(1, 2, 3, 4), pixels_of="both"), WIDTH, HEIGHT, 1)


numbers = st.integers(-60, 60) | st.sampled_from([math.nan, math.inf, -math.inf, 0.5, 39.99])


@given(
    st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=5),
    st.integers(1, 8),
    st.sampled_from(["upright", "stored", "auto"]),
)
def test_every_box_is_used_or_a_fault_and_lies_within_the_image(boxes, orientation, pixels_of):
    ref = ref_of(*(Box(*box, str(n)) for n, box in enumerate(boxes)), pixels_of=pixels_of)
    result = upright_boxes(ref, WIDTH, HEIGHT, orientation)
    assert len(result.boxes) + len(result.faults) == len(boxes)
    assert result.clipped <= len(result.boxes)
    for box in result.boxes:
        assert 0 <= box.xmin < box.xmax <= WIDTH
        assert 0 <= box.ymin < box.ymax <= HEIGHT
        xmin, ymin, xmax, ymax = boxes[int(box.label)]
        assert box.xmax - box.xmin <= (
            ymax - ymin if pixels_of != "upright" and orientation >= 5 else xmax - xmin
        )
