"""COCO's evaluation against pycocotools: every array, every class, 360 images, ties and crowds."""

import functools
import random

import numpy as np
import pytest
from evaluation_scenes import CLASSES, make_images, reference

from beam_vision.evaluation.images import EvaluatedImage, evaluate, tallies
from beam_vision.evaluation.summary import HEADLINES, headlines
from beam_vision.evaluation.tally import DETECTION, ClassTally, curves_of, merge

SEEDS = (0, 1, 2)


def evaluated(image):
    return EvaluatedImage(f"{image.id}.jpg", "", image.id, 640, 480, image.truth, image.detections)


@functools.cache
def scenes(seed):
    images = make_images(seed)
    return images, reference(images)


def bundled(images, seed):
    """Tallies by class: images in random order, in bundles of random size, merged pair by pair at random."""
    rng = random.Random(seed)
    images = rng.sample(images, len(images))
    bundles = []
    while images:
        size = rng.randint(1, 25)
        here, images = images[:size], images[size:]
        bundle = {}
        for image in here:
            for label, tally in tallies(evaluated(image)):
                bundle.setdefault(label, ClassTally()).absorb(tally)
        bundles.append(bundle)
    while len(bundles) > 1:
        rng.shuffle(bundles)
        one, other = bundles.pop(), bundles.pop()
        bundles.append(
            {label: merge(b[label] for b in (one, other) if label in b) for label in {*one, *other}}
        )
    return bundles[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_array_equals_pycocotools(seed):
    images, expected = scenes(seed)
    found = bundled(images, seed)
    for k, label in enumerate(CLASSES):
        curves = curves_of(found.get(label, ClassTally()))
        for name in ("precision", "recall", "scores"):
            theirs = np.moveaxis(expected.eval[name], -3, 0)[k]
            np.testing.assert_allclose(
                getattr(curves, name), theirs, atol=1e-6, rtol=0, err_msg=f"{label} {name}"
            )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_twelve_numbers_equal_pycocotools(seed):
    images, expected = scenes(seed)
    ours = headlines(evaluate(map(evaluated, images)))
    assert list(ours) == list(HEADLINES)
    np.testing.assert_allclose(list(ours.values()), expected.stats, atol=1e-6, rtol=0)
    assert 0.05 < ours["mAP"] < 0.95


def test_the_scenes_hold_what_evaluations_disagree_on():
    images = [image for seed in SEEDS for image in scenes(seed)[0]]
    assert len(images) >= 300
    scores = [box.score for image in images for box in image.detections]
    assert len(set(scores)) < 0.01 * len(scores)
    assert max(sum(box.label == CLASSES[0] for box in image.detections) for image in images) > 100
    assert any(not image.truth and image.detections for image in images)
    assert any(image.truth and not image.detections for image in images)
    assert any(not image.truth and not image.detections for image in images)
    assert sum(box.crowd for image in images for box in image.truth) > 50
    expected = scenes(0)[1].eval
    assert (expected["precision"] == -1).all(axis=(0, 1, 3, 4)).sum() == 2
    assert (expected["recall"][:, :, 0, 2] == 0).all(axis=0).sum() >= 1


def test_the_order_of_equal_scores_matters_in_these_scenes():
    images, expected = scenes(0)
    turned = [EvaluatedImage("", "", 10_000 - i.id, 640, 480, i.truth, i.detections) for i in images]
    ours = headlines(evaluate(turned))
    assert abs(ours["mAP"] - expected.stats[0]) > 1e-5


def test_merging_in_any_order_gives_the_same_bits():
    images, _ = scenes(1)
    one, other = bundled(images, 10), bundled(images, 11)
    assert one.keys() == other.keys()
    for label in one:
        for ours, theirs in zip(curves_of(one[label]), curves_of(other[label]), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_detection_takes_23_bytes_and_few_arrays():
    assert DETECTION.itemsize == 23
    images, _ = scenes(0)
    parts = [tally for image in images for _, tally in tallies(evaluated(image))] * 3
    whole = merge(parts)
    assert len(parts) > 1000
    assert len(whole.chunks) < 520
    assert len(whole.detections) == sum(len(part.detections) for part in parts)
    assert all(len(part.chunks) <= 1 for part in parts)
