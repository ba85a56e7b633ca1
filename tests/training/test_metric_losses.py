"""Metric losses: against the definitions in loops, their gradients, and what they ask of a batch."""

import numpy as np
import pytest

from beam_vision import deps
from beam_vision.training.config import LossConfig
from beam_vision.training.losses import build_loss
from beam_vision.training.metric_losses import (
    batch_recall_at_1,
    build_metric_loss,
    supervised_contrastive,
    triplet_semi_hard,
)

keras = deps.need("keras")
tf = deps.need("tensorflow")

IDS = np.array([0, 0, 1, 1, 1, 2, 0, 3, 2])


def unit_vectors(number, dim=5, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(number, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def triplet_by_hand(ids, vectors, margin):
    """The mean over anchors of the mean over their pairs, by the paper's words."""
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    anchors = []
    for a in range(len(ids)):
        negatives = distances[a, ids != ids[a]]
        costs = []
        for p in range(len(ids)):
            if p != a and ids[p] == ids[a] and len(negatives):
                farther = negatives[negatives > distances[a, p]]
                chosen = farther.min() if len(farther) else negatives.max()
                costs.append(max(0.0, distances[a, p] - chosen + margin))
        if costs:
            anchors.append(np.mean(costs))
    return np.mean(anchors) if anchors else 0.0


def contrastive_by_hand(ids, vectors, temperature):
    cosines = vectors @ vectors.T / temperature
    anchors = []
    for i in range(len(ids)):
        others = [a for a in range(len(ids)) if a != i]
        total = np.exp(cosines[i, others]).sum()
        costs = [-np.log(np.exp(cosines[i, p]) / total) for p in others if ids[p] == ids[i]]
        if costs:
            anchors.append(np.mean(costs))
    return np.mean(anchors)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0])
def test_triplet_is_the_definition(seed, margin):
    vectors = unit_vectors(len(IDS), seed=seed)
    found = np.asarray(triplet_semi_hard(IDS, vectors, margin))
    assert found.shape == (len(IDS),)
    assert found[7] == 0  # the only one of its class
    assert found.mean() == pytest.approx(triplet_by_hand(IDS, vectors, margin), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_contrastive_is_the_definition(temperature):
    vectors = unit_vectors(len(IDS), seed=3)
    found = np.asarray(supervised_contrastive(IDS, vectors, temperature))
    assert found.mean() == pytest.approx(contrastive_by_hand(IDS, vectors, temperature), rel=1e-4)


@pytest.mark.parametrize("loss", [triplet_semi_hard, supervised_contrastive])
@pytest.mark.parametrize(
    ("ids", "finite_only"), [([0, 1, 2], False), ([4, 4, 4], True), ([0, 0, 1], True), ([5], False)]
)
def test_odd_batches_are_finite(loss, ids, finite_only):
    vectors = tf.constant(unit_vectors(len(ids)))
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        found = loss(tf.constant(ids), vectors)
    gradient = tape.gradient(found, vectors)
    assert np.isfinite(found.numpy()).all()
    assert gradient is None or np.isfinite(tf.convert_to_tensor(gradient).numpy()).all()
    assert finite_only or not found.numpy().any()  # without a pair there is nothing to learn


def test_one_class_alone_has_no_triplets():
    assert not np.asarray(triplet_semi_hard([4, 4, 4], unit_vectors(3))).any()


@pytest.mark.parametrize("name", ["triplet", "supervised_contrastive"])
@pytest.mark.parametrize("jit", [False, True])
def test_gradients_part_the_classes(name, jit):
    ids = tf.constant(np.repeat(np.arange(4), 4))
    loss = build_metric_loss(
        name, margin=1.0
    )  # with a small one, triplets soon have nothing to learn from four
    free = tf.Variable(np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32))

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            cost = loss(ids, tf.math.l2_normalize(free, axis=1))
        free.assign_sub(3.0 * tape.gradient(cost, free))
        return cost

    costs = [float(step()) for _ in range(60)]
    assert costs[-1] < costs[0]
    assert np.asarray(batch_recall_at_1(ids, tf.math.l2_normalize(free, axis=1))).mean() == 1


def test_recall_within_a_batch():
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.95, 0.05]], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_array_equal(batch_recall_at_1([0, 0, 1, 1, 2], vectors), [0, 0, 1, 1, 0])


def test_half_precision_and_columns_of_ids_give_the_same():
    vectors = unit_vectors(len(IDS))
    for loss in (triplet_semi_hard, supervised_contrastive):
        plain = np.asarray(loss(IDS, vectors))
        np.testing.assert_array_equal(plain, loss(IDS[:, None].astype(np.float32), vectors))
        np.testing.assert_allclose(plain, loss(IDS, tf.cast(vectors, tf.float16)), atol=0.05)


def test_settings_reach_the_loss_and_are_kept():
    vectors = unit_vectors(len(IDS))
    config = LossConfig(name="triplet", margin=1.0)
    made = build_loss(config, task="embed", classes=4)
    assert float(made(IDS, vectors)) == pytest.approx(triplet_by_hand(IDS, vectors, 1.0), abs=1e-5)
    assert type(made).from_config(made.get_config()).margin == 1.0
    warm = build_loss(LossConfig(name="supervised_contrastive", temperature=0.7), task="embed", classes=4)
    assert float(warm(IDS, vectors)) == pytest.approx(contrastive_by_hand(IDS, vectors, 0.7), rel=1e-4)
