"""Augmentation: seeded, within range, small, never mirrored."""

import numpy as np

from beam_vision import deps
from beam_vision.training.augment import augment

tf = deps.need("tensorflow")


def augmented(images, seed=(1, 2)):
    return np.asarray(augment(tf.constant(images), tf.constant(seed, tf.int32)))


def test_shape_type_and_seed():
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 32, 3), dtype=np.uint8)
    first = augmented(images)
    assert first.shape == images.shape
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, augmented(images))
    assert (first != augmented(images, seed=(3, 4))).any()


def test_images_of_a_batch_differ():
    one = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    found = augmented(np.repeat(one, 8, axis=0))
    assert len({image.tobytes() for image in found}) > 4


def test_a_spot_moves_by_a_sixteenth_of_the_side_at_most():
    images = np.zeros((64, 32, 32, 3), np.uint8)
    images[:, 10, 20] = 255
    found = augmented(images).astype(int).sum(axis=3)
    places = np.array([np.unravel_index(image.argmax(), image.shape) for image in found])
    assert np.abs(places - [10, 20]).max() == 2
    assert len({tuple(place) for place in places}) > 10


def test_black_and_white_stay_in_range():
    for value in (0, 255):
        found = augmented(np.full((32, 16, 16, 3), value, np.uint8)).astype(int)
        assert abs(found.mean() - value) < 30
        assert found.min() >= 0
        assert found.max() <= 255


def test_it_runs_inside_a_graph():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    seeds = tf.data.Dataset.from_tensors(tf.constant([1, 2], tf.int32))
    data = tf.data.Dataset.zip((tf.data.Dataset.from_tensors(images), seeds)).map(augment)
    np.testing.assert_array_equal(np.asarray(next(iter(data))), augmented(images))
