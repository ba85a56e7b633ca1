"""Boxes for training: they lie where their pixels went, in the form that Keras's detectors take."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_builder import make_dataset

from beam_vision.errors import UsageError
from beam_vision.images.codec import encode_png
from beam_vision.records.manifest import read_manifest
from beam_vision.records.reader import load_dataset
from beam_vision.records.splits import SplitRule
from beam_vision.records.targets import boxes_in_output
from beam_vision.types import Box, ImageRef

SIZE = (64, 96)
GREY = np.array([90, 90, 90], np.uint8)
COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def scene(path, size, boxes):
    """A grey image with boxes filled with the colour that their label names."""
    pixels = np.full((size[1], size[0], 3), GREY)
    for box in boxes:
        pixels[int(box.ymin) : int(box.ymax), int(box.xmin) : int(box.xmax)] = COLOURS[box.label]
    path.write_bytes(encode_png(pixels))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Images of several sizes with none to three boxes and, in one of them, a crowd."""
    folder = tmp_path_factory.mktemp("boxes")
    box = {"blue": Box(40, 30, 70, 50, "blue"), "red": Box(10, 12, 30, 26, "red")}
    scenes = [
        ((120, 60), [box["red"], box["blue"]]),
        ((96, 64), []),
        ((80, 100), [box["blue"]]),
        ((100, 80), [Box(0, 0, 20, 40, "green", crowd=True), box["blue"], box["red"]]),
        ((200, 64), [Box(0, 20, 30, 40, "green")]),
    ]
    refs = []
    for number, (size, boxes) in enumerate(scenes):
        path = folder / f"{number}.png"
        scene(path, size, boxes)
        refs.append(ImageRef(str(number), str(path), boxes=boxes))
    made = make_dataset(folder / "out", refs, rule=SplitRule({"all": 1.0}), target_shard_bytes=10**9)
    assert (made.most_boxes, made.box_classes) == (3, ["blue", "green", "red"])
    return str(folder / "out")


def load(dataset, **options):
    data = load_dataset(
        dataset, "all", **{"batch_size": 2, "image_size": SIZE, "targets": "boxes", **options}
    )
    batches = [(images.numpy(), found["boxes"].numpy(), found["labels"].numpy()) for images, found in data]
    return data, [np.concatenate(part) for part in zip(*batches, strict=True)]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center_crop"])
def test_boxes_lie_where_their_pixels_went(dataset, resize, cache):
    _, (images, boxes, labels) = load(dataset, resize=resize, cache=cache)
    assert (boxes.dtype, labels.dtype, boxes.shape, labels.shape) == ("float32", "int64", (5, 3, 4), (5, 3))
    seen = 0
    for image, own, ids in zip(images, boxes, labels, strict=True):
        for box, number in zip(own, ids, strict=True):
            if number < 0:
                assert not box.any()
                continue
            seen += 1
            colour = COLOURS[read_manifest(dataset).box_classes[number]]
            found = np.abs(image - colour).sum(axis=2) < 150  # more of the colour than of the grey
            rows, columns = np.where(found)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, edges, atol=0.75)
    # the crowd is never there; the middle of the widest image has nothing of its box at the left edge
    assert seen == (5 if resize == "center_crop" else 6)


def test_the_boxes_of_an_image_come_first_and_padding_after(dataset):
    _, (_, _, labels) = load(dataset)
    assert labels.tolist() == [[2, 0, -1], [-1, -1, -1], [0, -1, -1], [0, 2, -1], [1, -1, -1]]


@pytest.mark.parametrize("most", [1, 5])
def test_max_boxes(dataset, most):
    data, (_, boxes, labels) = load(dataset, max_boxes=most)
    assert data.element_spec[1]["boxes"].shape.as_list() == [None, most, 4]
    assert data.element_spec[1]["labels"].shape.as_list() == [None, most]
    assert labels[0, :2].tolist() == [2, 0][:most]
    assert boxes.shape == (5, most, 4)


def test_augment_and_shuffle_keep_boxes_with_their_images(dataset):
    def note(images, targets):
        return images, {**targets, "sum": images[:, 0, 0, 0]}

    data = load_dataset(
        dataset, "all", batch_size=2, image_size=SIZE, targets="boxes", shuffle=True, augment=note
    )
    plain = load(dataset)[1]
    expected = {image.tobytes(): (b.tolist(), i.tolist()) for image, b, i in zip(*plain, strict=True)}
    for images, found in data:
        assert set(found) == {"boxes", "labels", "sum"}
        for image, boxes, labels in zip(
            images.numpy(), found["boxes"].numpy(), found["labels"].numpy(), strict=True
        ):
            assert expected[image.tobytes()] == (boxes.tolist(), labels.tolist())


def test_keras_takes_them(dataset):
    """Keras's own layers flip images and boxes of this form."""
    import keras

    flip = keras.layers.RandomFlip("horizontal", bounding_box_format="xyxy", seed=1)
    for images, found in load_dataset(dataset, "all", batch_size=5, image_size=SIZE, targets="boxes"):
        out = flip({"images": images, "bounding_boxes": found}, training=True)
        assert out["bounding_boxes"]["boxes"].shape == (5, 3, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"targets": "masks"}, "none of labels, boxes"), ({"max_boxes": -1}, "max_boxes -1 is less than 0")],
)
def test_mistakes(dataset, options, said):
    with pytest.raises(UsageError, match=said):
        load(dataset, **options)


def test_a_dataset_without_boxes(tmp_path):
    scene(tmp_path / "a.png", (40, 40), [])
    ref = ImageRef("a", str(tmp_path / "a.png"))
    make_dataset(tmp_path / "out", [ref], rule=SplitRule({"all": 1.0}))
    with pytest.raises(UsageError, match="has no boxes"):
        load(str(tmp_path / "out"))


@given(st.integers(0, 6), st.integers(1, 8), st.randoms(use_true_random=False))
def test_against_plain_python(most_found, max_boxes, random):
    """One box at a time."""
    n = 3
    corners = np.array(
        [[sorted(random.random() for _ in range(4)) for _ in range(most_found)] for _ in range(n)], np.float32
    ).reshape(n, most_found, 4)
    ids = np.array([[random.randint(0, 3) for _ in range(most_found)] for _ in range(n)]).reshape(
        n, most_found
    )
    crowd = np.array([[random.randint(0, 1) for _ in range(most_found)] for _ in range(n)]).reshape(
        n, most_found
    )
    sizes = np.array([[random.randint(1, 99), random.randint(1, 99)] for _ in range(n)])
    affines = np.array([[random.random(), random.random(), random.uniform(-40, 40), 0.5] for _ in range(n)])
    boxes, labels = boxes_in_output(
        corners, ids, crowd, sizes, affines, image_size=(50, 40), max_boxes=max_boxes
    )
    for i in range(n):
        expected = []
        for j in range(most_found):
            ax, ay, tx, ty = affines[i]
            width, height = sizes[i]
            xs = [min(max(x * width * ax + tx, 0), 40) for x in corners[i, j, ::2].astype(float)]
            ys = [min(max(y * height * ay + ty, 0), 50) for y in corners[i, j, 1::2].astype(float)]
            area = np.float32(xs[0]) < np.float32(xs[1]) and np.float32(ys[0]) < np.float32(ys[1])
            if ids[i, j] and not crowd[i, j] and area:
                expected.append(([xs[0], ys[0], xs[1], ys[1]], ids[i, j] - 1))
        expected = expected[:max_boxes]
        assert labels[i].tolist() == [number for _, number in expected] + [-1] * (max_boxes - len(expected))
        for found, (box, _) in zip(boxes[i], expected, strict=False):
            np.testing.assert_allclose(found, box, rtol=1e-5, atol=1e-5)
        assert not boxes[i, len(expected) :].any()
