"""What golden images tell: whether a model says what it said, and how well it does."""

import numpy as np
import pytest

from beam_vision.images.codec import encode_png
from beam_vision.inference.bundle import read_bundle, write_spec
from beam_vision.inference.golden import GoldenImage, Said, pack_golden, read_golden
from beam_vision.inference.golden_quality import differs, quality
from beam_vision.testing import detectors
from beam_vision.types import Box, Label


def vector(*numbers):
    found = np.array(numbers, "<f4")
    return (found / np.linalg.norm(found)).tobytes()


def image(label=None, boxes=None):
    return GoldenImage("i", b"", label, boxes, Said())


def labels(*pairs):
    return Said(labels=tuple(Label(*pair) for pair in pairs))


def box(left, label="cat", score=0.9):
    return Box(left, 0, left + 10, 10, label, score)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (labels(("a", 0.9), ("b", 0.1)), labels(("a", 0.88), ("b", 0.12)), False),
        (labels(("a", 0.9)), labels(("a", 0.8)), True),
        (labels(("a", 0.5), ("b", 0.49)), labels(("b", 0.5), ("a", 0.49)), False),
        (labels(("a", 0.9)), labels(("b", 0.9)), True),
        (labels(("a", 0.9)), Said(failed="why"), True),
        (Said(failed="why"), Said(failed="another"), False),
        (Said(failed="why"), labels(("a", 0.9)), True),
        (Said(embedding=vector(1, 0)), Said(embedding=vector(1, 0.1)), False),
        (Said(embedding=vector(1, 0)), Said(embedding=vector(1, 1)), True),
        (Said(embedding=vector(1, 0)), Said(embedding=vector(1, 0, 0)), True),
        (Said(embedding=vector(1, 0)), Said(), True),
        (Said(boxes=(box(0), box(50))), Said(boxes=(box(51), box(1), box(99))), False),
        (Said(boxes=(box(0), box(50))), Said(boxes=(box(0),)), True),
        (Said(boxes=(box(0), box(1))), Said(boxes=(box(0),)), True),
        (Said(boxes=(box(0, score=0.3),)), Said(), False),
        (Said(boxes=(box(0),)), Said(boxes=(box(0, "dog"),)), True),
    ],
)
def test_what_differs(before, now, expected):
    assert differs(before, now) is expected


def test_quality_of_labels_is_the_share_that_is_right():
    images = [image("a"), image("b"), image(), image("c"), image("a")]
    said = [
        labels(("a", 0.9)),
        labels(("a", 0.9)),
        labels(("z", 1.0)),
        Said(failed="why"),
        labels(("a", 0.1)),
    ]
    assert quality(images, said, "classify") == 0.5
    assert quality([image()], [labels(("a", 0.9))], "classify") is None


def test_quality_of_embeddings_is_whether_the_nearest_has_the_label():
    images = [image("a"), image("a"), image("b"), image("b"), image("alone"), image()]
    vectors = [vector(1, 0), vector(1, 0.1), vector(0, 1), vector(1, 0.05), vector(0.1, 1), vector(0, 1)]
    said = [Said(embedding=item) for item in vectors]
    # the second "b" lies among the "a"s, and so spoils both of theirs; the first "b" is nearest to "alone"
    assert quality(images, said, "embed") == 0.0
    said[3] = Said(embedding=vector(0, 1))
    assert quality(images, said, "embed") == 1.0
    said[3] = Said(failed="why")
    assert quality(images, said, "embed") == 0.5
    assert quality([image("a"), image("b")], said[:2], "embed") is None
    assert quality([image("a"), image("a")], [Said(failed="x"), said[0]], "embed") == 0.0


def test_quality_of_boxes_is_their_f1():
    images = [image(boxes=(box(0), box(50))), image(boxes=()), image(), image(boxes=(box(0, "dog"),))]
    said = [
        Said(boxes=(box(2), box(90), box(51, score=0.4))),
        Said(boxes=(box(0),)),
        Said(boxes=(box(0),)),
        Said(boxes=(box(0, "dog"),)),
    ]
    # true 3, found 2 of them, in 4 boxes of images with truth
    assert quality(images, said, "detect") == pytest.approx(2 * 2 / (3 + 4))
    assert quality([image(boxes=())], [Said()], "detect") is None


def test_a_detectors_golden_images(tmp_path):
    folder = detectors.save_saved_model(str(tmp_path / "detector"))
    pixels = detectors.scene(64, 64, red=(8, 8, 24, 24))
    write_spec(folder, read_bundle(folder, {"task": "detect", "height_px": 64, "width_px": 64}))
    truth = [Box(8, 8, 24, 24, "whatever it is called")]
    packed = pack_golden(folder, [encode_png(pixels)], [truth])
    assert read_golden(folder) == packed
    (found,) = packed.images
    assert found.boxes == tuple(truth)
    assert [item.label for item in found.said.boxes]
    named = GoldenImage("i", b"", None, tuple(found.said.boxes[:1]), Said())
    assert quality([named], [found.said], "detect") > 0
