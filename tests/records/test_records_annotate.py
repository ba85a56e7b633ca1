"""Boxes of an annotation file -> those of a record: fractions of what is stored, areas in its pixels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.images.boxes import exif_transform
from beam_vision.records.annotate import annotate
from beam_vision.records.encode import EncodeSettings, PixelSums, Stored, store
from beam_vision.testing.images import ORIENTATIONS, encode, photo, turned
from beam_vision.types import Box, BoxFrame, Fault, ImageRef

PIXELS = photo(3, 60, 40)
IDS = {"cat": 1, "dog": 2}


def annotated(boxes, *, orientation=1, max_side=None, ids=IDS, **ref):
    stored = store(turned(PIXELS, orientation), EncodeSettings(max_side_px=max_side))
    return annotate(ImageRef("k", "a/b.jpg", boxes=boxes, **ref), stored, ids)


def corners(box):
    return (box.xmin, box.ymin, box.xmax, box.ymax)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("max_side", "shrunk"), [(None, 1), (20, 1 / 3)])
def test_boxes_are_fractions_of_the_upright_image(orientation, max_side, shrunk):
    found = annotated([Box(6, 4, 30, 40, "cat", score=0.5)], orientation=orientation, max_side=max_side)
    (box,) = found.boxes
    assert corners(box) == pytest.approx((0.1, 0.1, 0.5, 1.0))
    assert (box.label, box.score, box.crowd) == ("cat", 1.0, False)
    stored_size = (20, 13) if max_side else (60, 40)
    assert box.area_px == pytest.approx(0.4 * 0.9 * stored_size[0] * stored_size[1])
    assert (found.clipped, found.faults) == (0, ())


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_on_stored_pixels_are_turned(orientation):
    size = (40, 60) if orientation >= 5 else (60, 40)
    drawn = (3, 5, 20, 30)
    found = annotated([Box(*drawn, "cat")], orientation=orientation, frame=BoxFrame("stored"))
    expected = exif_transform(np.array([drawn]), orientation, *size)[0] / [60, 40, 60, 40]
    assert corners(found.boxes[0]) == pytest.approx(tuple(expected))


def test_area_is_as_annotated_or_that_of_the_box_and_shrinks_with_the_image():
    boxes = [Box(0, 0, 30, 20, "cat", area_px=120.0, crowd=True), Box(0, 0, 30, 20, "dog")]
    assert [(b.area_px, b.crowd) for b in annotated(boxes).boxes] == [(120.0, True), (600.0, False)]
    areas = [box.area_px for box in annotated(boxes, max_side=30).boxes]
    assert areas == [30.0, 150.0]
    senseless = [Box(0, 0, 30, 20, "cat", area_px=area) for area in (-1.0, math.nan, math.inf)]
    assert [box.area_px for box in annotated(senseless).boxes] == [600.0] * 3


def test_boxes_are_cut_at_the_edge_and_counted():
    found = annotated([Box(-6, -4, 90, 20, "cat"), Box(1, 1, 2, 2, "dog")])
    assert corners(found.boxes[0]) == (0.0, 0.0, 1.0, 0.5)
    assert found.boxes[0].area_px == 60 * 20
    assert (len(found.boxes), found.clipped) == (2, 1)


@pytest.mark.parametrize(
    "box",
    [Box(60, 0, 70, 10), Box(5, 5, 5, 9), Box(9, 9, 5, 5), Box(0, 0, math.nan, 4), Box(0, 0, 4, math.inf)],
)
def test_a_box_without_area_is_a_fault_and_the_others_stay(box):
    good = Box(0, 0, 30, 20, "cat")
    found = annotated([good, Box(*corners(box), "cat"), good])
    assert len(found.boxes) == 2
    assert [(f.place, f.reason) for f in found.faults] == [("a/b.jpg: box 2", "bad_box")]


def test_faults_of_the_file_come_first_and_a_box_has_only_one():
    own = Fault("x.json: annotation 7", "bad_box", "said")
    boxes = [Box(9, 9, 5, 5, "pig"), Box(0, 0, 9, 9, "pig"), Box(0, 0, 9, 9), Box(0, 0, 9, 9, "dog")]
    found = annotated(boxes, faults=(own,))
    assert [box.label for box in found.boxes] == ["dog"]
    assert found.faults[0] == own
    assert [(f.place, f.reason) for f in found.faults[1:]] == [
        ("a/b.jpg: box 1", "bad_box"),
        ("a/b.jpg: box 2", "unknown_category"),
        ("a/b.jpg: box 3", "unknown_category"),
    ]
    assert "'pig'" in found.faults[2].detail
    assert found.faults[3].detail == "its category 'object' is not in the class list"


@pytest.mark.parametrize(
    ("labels", "expected"), [(("cat",), "cat"), ((), "object"), (("cat", "dog"), "object")]
)
def test_a_box_without_a_category(labels, expected):
    boxes = (Box(0, 0, 9, 9), Box(1, 1, 8, 8, "dog"))
    found = annotated(boxes, labels=labels, ids={"cat": 1, "dog": 2, "object": 3})
    assert [box.label for box in found.boxes] == [expected, "dog"]
    assert not found.faults


@given(
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5),
    st.integers(0, 60),
)
def test_every_stored_box_has_an_area_within_the_image(width, height, fractions, digits):
    """However thin it is, and whatever float32 makes of it."""
    boxes = [
        Box(x * width, y * height, x * width + w * width * 2.0**-digits, y * height + h * height, "cat")
        for x, y, w, h in fractions
    ]
    stored = Stored(b"", "png", width, height, (width, height), 1, PixelSums())
    found = annotate(ImageRef("k", "u", boxes=boxes), stored, IDS)
    assert len(found.boxes) + len(found.faults) == len(boxes)
    for box in found.boxes:
        values = np.array(corners(box))
        np.testing.assert_array_equal(values, values.astype(np.float32))
        assert 0 <= box.xmin < box.xmax <= 1
        assert 0 <= box.ymin < box.ymax <= 1
        assert box.area_px >= 0


def test_an_image_without_annotations_has_none():
    stored = store(encode(PIXELS, "png"), EncodeSettings())
    found = annotate(ImageRef("k", "u"), stored, {})
    assert (found.boxes, found.clipped, found.faults) == ((), 0, ())
