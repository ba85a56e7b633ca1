"""Augmentation: what each step does to pixels, labels and boxes; seeds."""

import numpy as np
import pytest
from PIL import Image

from beam_vision import deps
from beam_vision.training import augmentation_geometry as geometry
from beam_vision.training.augmentation import build_augmentation
from beam_vision.training.augmentation_steps import KINDS, LIGHT

tf = deps.need("tensorflow")

SIDE = 32
ALL = [{name: None} for name in KINDS]
FOR_ALL = [{name: None} for name, kind in KINDS.items() if "detect" in kind.tasks]


def photos(number, seed=0):
    """Smooth pictures, uint8: noise of 4x4 enlarged."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (number, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((SIDE, SIDE), 3)) for one in small])


def changed(steps, images, targets, task="classify", seed=(1, 2), classes=3):
    augment = build_augmentation(steps, task=task, image_size_px=images.shape[1], classes=classes)
    found, after = augment(tf.constant(images), targets, tf.constant(seed))
    return np.asarray(found), tf.nest.map_structure(np.asarray, after)


def boxed(number, boxes=((4, 6, 20, 18), (0, 0, 0, 0)), classes=(2, -1)):
    return {
        "boxes": np.tile(np.array(boxes, np.float32), (number, 1, 1)),
        "classes": np.tile(np.array(classes), (number, 1)),
    }


@pytest.mark.parametrize("step", ALL, ids=lambda step: next(iter(step)))
def test_every_kind_changes_images_by_their_own_draw_and_the_same_by_seed(step):
    images = np.repeat(photos(1), 8, axis=0)
    if "mixup" in step or "cutmix" in step:  # of equal images there is nothing to mix
        images = photos(8)
    ids = np.arange(8) % 3
    first, labels = changed([step], images, ids)
    assert (first.dtype, first.shape) == (np.uint8, images.shape)
    assert (first != images).any()
    assert len({image.tobytes() for image in first}) > 1
    again, again_labels = changed([step], images, ids)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(labels, again_labels)
    assert (first != changed([step], images, ids, seed=(1, 3))[0]).any()
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    if "mix" not in next(iter(step)) and "cutmix" not in step:
        np.testing.assert_array_equal(labels, np.eye(3)[ids])


@pytest.mark.parametrize("step", ALL, ids=lambda step: next(iter(step)))
def test_probability_zero_changes_nothing(step):
    (name,) = step
    images = photos(4)
    found, labels = changed([{name: {"probability": 0}}], images, np.array([0, 1, 2, 0]))
    assert np.abs(found.astype(int) - images).max() <= 1  # matrices of 1 still go through floats
    np.testing.assert_array_equal(labels, np.eye(3)[[0, 1, 2, 0]])


@pytest.mark.parametrize(
    ("direction", "ways"),
    [("horizontal", {0, 1}), ("vertical", {0, 2}), ("both", {0, 1, 2, 3})],
)
def test_flips_are_exact_and_boxes_follow(direction, ways):
    images = np.repeat(photos(1), 40, axis=0)
    found, after = changed([{"flip": direction}], images, boxed(40), task="detect")
    one, box = images[0], np.array([4, 6, 20, 18])
    mirrored = {
        0: (one, box),
        1: (one[:, ::-1], [SIDE - 20, 6, SIDE - 4, 18]),
        2: (one[::-1], [4, SIDE - 18, 20, SIDE - 6]),
        3: (one[::-1, ::-1], [SIDE - 20, SIDE - 18, SIDE - 4, SIDE - 6]),
    }
    seen = set()
    for image, boxes, classes in zip(found, after["boxes"], after["classes"], strict=True):
        (way,) = [way for way, (whole, _) in mirrored.items() if (image == whole).all()]
        np.testing.assert_allclose(boxes, [mirrored[way][1], [0] * 4], atol=1e-4)
        assert list(classes) == [2, -1]
        seen.add(way)
    assert seen == ways


GEOMETRY = [
    [{"rotation": 0.1}],
    [{"zoom": 0.3}],
    [{"translation": 0.3}],
    [{"crop": {"area": 0.4, "ratio": 1}}],
    [{"rotation": 0.05}, {"zoom": 0.2}, {"flip": "both"}, {"translation": 0.1}, {"crop": 0.7}],
    [{"randaugment": {"count": 3, "magnitude": 0.9}}],
]


@pytest.mark.parametrize("steps", GEOMETRY, ids=lambda steps: "-".join(next(iter(step)) for step in steps))
def test_boxes_follow_their_pixels(steps):
    """A white rectangle on black, and the box of what is white afterwards."""
    steps = [
        {name: {**(value if isinstance(value, dict) else {next(iter(KINDS[name].parameters)): value})}}
        for step in steps
        for name, value in step.items()
    ]
    side = 96
    images = np.zeros((40, side, side, 3), np.uint8)
    images[:, 30:66, 24:60] = 255
    augment = build_augmentation(steps, task="detect", image_size_px=side)
    if "randaugment" in steps[0]:  # its colours would change what is white
        augment.layers[0]._recoloured = lambda images, change, sign: images
    found, after = augment(tf.constant(images), boxed(40, [(24, 30, 60, 66)], [0]), tf.constant([7, 8]))
    fill = geometry.GRAY
    moved = turned = 0
    for image, box, number in zip(
        found.numpy(), after["boxes"].numpy(), after["classes"].numpy(), strict=True
    ):
        rows, columns = np.nonzero(image[..., 0].astype(float) > (255 + fill) / 2)
        if number[0] < 0:
            assert len(rows) < 0.4 * 36 * 36 * 2
            continue
        there = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (np.abs(there - box[0]) < 2.6).all(), (there, box)
        moved += np.abs(there - [24, 30, 60, 66]).max() > 2
        turned += 1
    assert turned > 20
    assert moved > 10


def test_boxes_that_leave_the_image_are_dropped_and_the_others_come_first():
    boxes = np.array([[[0, 0, 8, 8], [20, 20, 28, 28], [24, 2, 31, 9]]], np.float32)
    backward = geometry.matrices(1, move=(6.5, 0.0))  # all goes 6.5 to the left
    moved, classes = geometry.warp_boxes(boxes, np.array([[5, 6, 7]]), backward, tf.constant([32.0, 32.0]))
    np.testing.assert_allclose(moved[0], [[13.5, 20, 21.5, 28], [17.5, 2, 24.5, 9], [0] * 4], atol=1e-4)
    assert list(np.asarray(classes)[0]) == [6, 7, -1]  # of the first 1.5 of 8 pixels are left


def test_one_resampling_of_many_steps_shows_what_several_would():
    first, second = geometry.matrices(1, angle=0.4, scale=(0.8, 0.8)), geometry.matrices(1, move=(3.0, -2.0))
    images = tf.cast(photos(1), tf.float32)
    once = geometry.warp_images(images, first @ second, fill="constant")
    twice = geometry.warp_images(
        geometry.warp_images(images, first, fill="constant"), second, fill="constant"
    )
    assert np.abs(once - twice)[:, 8:-8, 8:-8].max() < 12
    assert np.abs(once - images).max() > 60


def test_warping_turns_clockwise_as_pillow_does():
    image = photos(1)[0]
    wanted = np.asarray(Image.fromarray(image).rotate(20, Image.Resampling.BILINEAR), float)
    backward = geometry.matrices(1, angle=np.deg2rad(20))
    found = geometry.warp_images(image[None].astype(np.float32), backward, fill="constant")[0]
    assert np.abs(found - wanted)[8:-8, 8:-8].max() < 1.5


def test_contrast_brightness_and_saturation_keep_to_their_range():
    gray = np.full((64, SIDE, SIDE, 3), 100, np.uint8)
    found = changed([{"brightness": 0.1}], gray, np.zeros(64, int))[0].mean(axis=(1, 2, 3))
    assert 74 <= found.min() < 85 < 115 < found.max() <= 126
    np.testing.assert_array_equal(
        changed([{"contrast": 0.5}, {"saturation": 1}], gray, np.zeros(64, int))[0], gray
    )
    white = np.full((8, SIDE, SIDE, 3), 250, np.uint8)
    assert changed([{"brightness": 1}], white, np.zeros(8, int))[0].max() == 255  # doesn't wrap around


def test_cutout_paints_a_square_and_drops_what_it_hides():
    images = np.full((200, SIDE, SIDE, 3), 9, np.uint8)
    targets = boxed(200, [(2, 2, 6, 6), (0, 0, 32, 32)], (1, 0))
    found, after = changed([{"cutout": {"size": 0.5, "value": 200}}], images, targets, task="detect")
    painted = (found == 200).all(axis=3)
    assert painted.sum(axis=(1, 2)).max() == 16 * 16
    assert (painted | (found == 9).all(axis=3)).all()
    hidden = painted[:, 2:6, 2:6].mean(axis=(1, 2)) > 0.75
    assert 5 < hidden.sum() < 100
    np.testing.assert_array_equal(hidden, (after["classes"] != 1).all(axis=1))
    np.testing.assert_array_equal((after["classes"] == 0).any(axis=1), True)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixes_share_labels_as_they_share_pixels(kind):
    """Each image is one flat value of its own, so that its mean says how much of which is in it."""
    values = np.array([0, 60, 240], np.uint8)
    ids = np.arange(60) % 3
    images = np.broadcast_to(values[ids][:, None, None, None], (60, SIDE, SIDE, 3)).copy()
    found, labels = changed([{kind: {"alpha": 1.0}}], images, ids)
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), labels @ values.astype(float), atol=0.6)
    mixed = (labels.max(axis=1) < 0.999).mean()
    assert 0.3 < mixed < 0.9  # a third has an equal one for its other
    assert (labels[np.arange(60), ids] > 0.02).mean() > 0.9  # never without itself, but for rare draws
    if kind == "cutmix":
        assert set(np.unique(found)) <= set(values)


def test_mixes_of_several_labels_an_image():
    labels = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    found = changed([{"mixup": 1.0}], photos(3), labels)[1]
    assert found.min() >= 0
    assert found.max() <= 1
    assert found[0, 0] == pytest.approx(found[0, 1]) or found[0].max() < 1


def test_lambda_of_a_small_alpha_is_near_the_ends():
    _, labels = changed([{"mixup": {"alpha": 0.05}}], np.repeat(photos(4), 100, axis=0), np.arange(400) % 3)
    own = labels[np.arange(400), np.arange(400) % 3]
    assert np.isfinite(own).all()
    assert ((own < 0.01) | (own > 0.99)).mean() > 0.7


@pytest.mark.parametrize("task", ["classify", "embed", "detect"])
def test_targets_of_each_task_keep_their_form(task):
    images = photos(6).astype(np.float32)
    targets = {"classify": np.array([0, 1, 2, 0, 1, -1]), "embed": np.arange(6), "detect": boxed(6)}[task]
    found, after = changed(FOR_ALL, images, targets, task=task)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 255
    if task == "classify":
        np.testing.assert_array_equal(after, np.eye(4)[[0, 1, 2, 0, 1, 3]][:, :3])
    elif task == "embed":
        np.testing.assert_array_equal(after, targets)
    else:
        assert {name: part.shape for name, part in after.items()} == {"boxes": (6, 2, 4), "classes": (6, 2)}
        reader = {"boxes": targets["boxes"], "labels": targets["classes"]}
        named = changed(FOR_ALL, images, reader, task=task)[1]
        np.testing.assert_array_equal(named["labels"], after["classes"])


def test_what_lies_beyond_the_edge():
    images = np.full((32, SIDE, SIDE, 3), 10, np.uint8)
    steps = [{"translation": 0.5}]
    assert set(np.unique(changed(steps, images, np.zeros(32, int))[0])) == {10}  # its own reflection
    assert changed(steps, images, boxed(32), task="detect")[0].max() == round(geometry.GRAY)
    wrapped = [{"translation": {"factor": 0.5, "fill": "constant"}}]
    assert changed(wrapped, images, np.zeros(32, int))[0].max() == round(geometry.GRAY)


def batches(number):
    return tf.data.Dataset.from_tensor_slices((photos(4 * number), np.arange(4 * number) % 3)).batch(4)


def test_a_dataset_goes_on_at_any_step_as_if_it_had_not_stopped():
    steps = [{"rotation": 0.1}, {"mixup": 0.5}, {"cutout": None}]
    augment = build_augmentation(steps, task="classify", image_size_px=SIDE, classes=3, seed=9)
    all_of_it = [np.asarray(images) for images, _ in augment.over(batches(3).repeat(), first_step=0).take(6)]
    assert (all_of_it[0] != all_of_it[3]).any()  # the same images, a pass later
    rest = augment.over(batches(3).repeat().skip(4), first_step=4).take(2)
    for images, wanted in zip(rest, all_of_it[4:], strict=True):
        np.testing.assert_array_equal(images[0], wanted)


def test_passes_differ_and_runs_do_not():
    def passes(seed):
        augment = build_augmentation(LIGHT, task="classify", image_size_px=SIDE, classes=3, seed=seed)
        data = augment.over(batches(2))
        assert data.cardinality() == 2
        return [np.concatenate([np.asarray(images) for images, _ in data]) for _ in range(2)]

    first, second = passes(3)
    assert (first != second).any()
    np.testing.assert_array_equal([first, second], passes(3))
    assert (first != passes(4)[0]).any()


def test_without_a_seed_it_draws_its_own():
    made = [build_augmentation(LIGHT, task="embed", image_size_px=SIDE, seed=3) for _ in range(2)]
    images = tf.constant(photos(2))
    one, other = ([np.asarray(augment(images, [0, 1])[0]) for _ in range(2)] for augment in made)
    np.testing.assert_array_equal(one, other)
    assert (one[0] != one[1]).any()


def test_no_steps_still_give_labels_their_form():
    images = photos(3)
    found, labels = changed([], images, np.array([2, 1, 0]))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(labels, np.eye(3)[[2, 1, 0]])
