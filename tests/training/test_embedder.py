"""Embedders: balanced batches from TFRecords, recall, and one that beats pixels on images it never saw."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.records.indexed import IndexedSplit
from beam_vision.records.reader import decode_settings, load_dataset
from beam_vision.testing.datasets import write_dataset
from beam_vision.training.config import ModelConfig, from_dict
from beam_vision.training.embedder import build_embedder, evaluate_embedder, recall_at_1
from beam_vision.training.job import train_job
from beam_vision.training.recipe import check_job
from beam_vision.training.sampling import balanced_batches, batch_shape, paired_classes, plan_batch

SIDE = 16


def noise(labels, seed=0, side=SIDE):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    return [(each, [label] if label else []) for each, label in zip(pixels, labels, strict=True)]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """20 images of a, 5 of b, 2 of c, 1 of d, 3 without a label."""
    folder = tmp_path_factory.mktemp("uneven") / "dataset"
    labels = [*"abcab", None, *"aaab", None, *"daaaaaacaaaaaab", None, *"baa"]
    write_dataset(folder, {"train": noise(labels)}, shards=3)
    return str(folder)


def settings():
    return decode_settings((SIDE, SIDE))


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_any_image_is_what_the_reader_reads(uneven, cache_bytes):
    split = IndexedSplit(uneven, "train", settings(), cache_bytes=cache_bytes)
    data = load_dataset(uneven, "train", batch_size=99, image_size=(SIDE, SIDE))
    images, ids = (np.asarray(part) for part in next(iter(data)))
    wanted = {
        image.tobytes(): label
        for image, label in zip(images.astype(np.uint8), ids, strict=True)
        if label >= 0
    }
    assert sorted(split.labels) == sorted(wanted.values())
    for _ in range(2):  # the second time from what was kept
        order = np.random.default_rng(1).permutation(len(split.labels))
        found = split.read(order)
        assert [wanted[image.tobytes()] for image in found] == list(split.labels[order])


def test_images_that_cannot_be_read_are_named(uneven):
    split = IndexedSplit(uneven, "train", settings())
    file, offset, _ = split._places[4]
    shard = split._paths[file]
    whole = shard.read_bytes()
    at = whole.index(b"IHDR", int(offset))
    shard.write_bytes(whole[:at] + b"XXXX" + whole[at + 4 :])
    try:
        with pytest.raises(ValueError, match=r"image train/\d+"):
            split.read(np.array([4]))
    finally:
        shard.write_bytes(whole)


def test_splits_that_have_no_such_batches(uneven):
    with pytest.raises(UsageError, match="no split 'tset', only train"):
        IndexedSplit(uneven, "tset", settings())


def test_batches_are_balanced_and_the_same_from_any_step(uneven):
    split = IndexedSplit(uneven, "train", settings(), cache_bytes=2**20)
    there = [np.asarray(ids) for _, ids in balanced_batches(split, 2, 3, seed=5).take(30)]
    for ids in there:
        _, counts = np.unique(ids, return_counts=True)
        assert list(counts) == [3, 3]
    seen = np.concatenate(there)
    assert set(seen) == {0, 1, 2}  # d has one image only
    assert all((seen == number).sum() > 30 for number in range(3))  # a has ten times as many images as c
    images, ids = next(iter(balanced_batches(split, 2, 3, seed=5, first_step=17)))
    np.testing.assert_array_equal(ids, there[17])
    assert images.shape == (6, SIDE, SIDE, 3)
    other = [np.asarray(ids) for _, ids in balanced_batches(split, 2, 3, seed=6).take(30)]
    assert any((one != two).any() for one, two in zip(there, other, strict=True))


def test_each_replica_has_a_balanced_part(uneven):
    split = IndexedSplit(uneven, "train", settings())
    for _, ids in balanced_batches(split, 2, 3, replicas=2).take(5):
        for part in np.split(np.asarray(ids), 2):
            assert list(np.unique(part, return_counts=True)[1]) == [3, 3]


@given(
    st.lists(st.integers(0, 5), min_size=4, max_size=60).filter(
        lambda ids: len(paired_classes(np.array(ids))) > 1
    ),
    st.integers(2, 9),
    st.integers(0, 2**40),
)
def test_plans_have_classes_and_images(labels, images, step):
    labels = np.array(labels)
    groups = paired_classes(labels)
    found = plan_batch(groups, 2, images, seed=1, step=step)
    assert len(found) == 2 * images
    for part in np.split(found, 2):
        assert len(set(labels[part])) == 1
        size = (labels == labels[part[0]]).sum()
        assert len(set(part)) == min(images, size)  # none twice, unless there are too few
        assert np.unique(part, return_counts=True)[1].max() <= -(-images // size)
    assert set(labels[found[:images]]) != set(labels[found[images:]])
    np.testing.assert_array_equal(found, plan_batch(groups, 2, images, seed=1, step=step))


def test_the_shape_of_a_batch():
    assert batch_shape(None, batch_size=64, classes=10) == (10, 6)
    assert batch_shape(None, batch_size=64, classes=1000) == (16, 4)
    assert batch_shape({"images": 5}, batch_size=64, classes=1000) == (8, 5)
    for balanced, message in [
        ({"clases": 3}, "did you mean 'classes'"),
        ({"classes": 11}, "2 to 10"),
        ({"images": 1}, "at least 2"),
    ]:
        with pytest.raises(UsageError, match=message):
            batch_shape(balanced, batch_size=64, classes=10)
    with pytest.raises(UsageError, match="needs two; there are 1"):
        batch_shape(None, batch_size=64, classes=1)


def test_recall_by_hand():
    vectors = np.array([[0, 0], [0, 1], [5, 5], [5, 6], [0, 1.4], [9, 9]], float)
    ids = np.array([0, 0, 1, 1, 1, 2])
    assert recall_at_1(vectors, ids) == pytest.approx(3 / 5)  # the last has no other of its class
    assert recall_at_1(vectors[:0], ids[:0]) == 0
    assert recall_at_1(vectors[:2], np.array([0, 1])) == 0


def test_recall_is_what_a_loop_finds():
    rng = np.random.default_rng(0)
    vectors, ids = rng.normal(size=(1100, 3)), rng.integers(0, 4, 1100)
    vectors[:, 0] += 2 * ids
    right = 0
    for i, vector in enumerate(vectors):
        distances = ((vectors - vector) ** 2).sum(axis=1)
        distances[i] = np.inf
        right += ids[distances.argmin()] == ids[i]
    assert recall_at_1(vectors, ids) == pytest.approx(right / 1100, abs=0.002)


@pytest.mark.parametrize(("architecture", "dim", "length"), [("compact", 24, 24), ("compact", 0, 192)])
def test_embeddings_have_unit_length(architecture, dim, length):
    model = build_embedder(ModelConfig(architecture=architecture, embedding_dim=dim), 32, seed=3)
    images = np.stack([image for image, _ in noise("abc", side=32)])
    assert images.dtype == np.uint8
    found = model(images, training=False)
    assert set(found) == {"embedding"}
    assert found["embedding"].shape == (3, length)
    np.testing.assert_allclose(np.linalg.norm(found["embedding"], axis=1), 1, atol=1e-5)
    again = build_embedder(ModelConfig(architecture=architecture, embedding_dim=dim), 32, seed=3)
    np.testing.assert_allclose(found["embedding"], again(images)["embedding"], atol=1e-6)


def test_figures_of_nothing():
    assert evaluate_embedder(None, []) == {"images": 0, "recall_at_1": 0.0}


def job(folder, **sections):
    base = {"data": {"dataset": str(folder), "image_size": 32}, "run": {"steps": 4, "jit": False}}
    merged = {name: {**base.get(name, {}), **sections.get(name, {})} for name in {**base, **sections}}
    return from_dict({"task": "embed", **merged})


def test_a_dataset_without_pairs_is_refused(tmp_path):
    manifest = write_dataset(tmp_path / "d", {"train": noise("aaab")})
    with pytest.raises(UsageError, match="two images or more, and needs two; there are 1"):
        train_job(job(tmp_path / "d"), manifest)
    with pytest.raises(UsageError, match="there are 1"):
        check_job(job(tmp_path / "d"), manifest)


def test_too_many_classes_a_batch_are_refused_before_anything_is_read(tmp_path):
    manifest = write_dataset(tmp_path / "d", {"train": noise("aaabbc")})
    asked = job(tmp_path / "d", data={"balanced": {"classes": 3}})
    with pytest.raises(UsageError, match=r"data\.balanced\.classes must be 2 to 2"):
        check_job(asked, manifest)
    check_job(job(tmp_path / "d", data={"balanced": {"classes": 2}}), manifest)


@pytest.mark.slow
def test_it_finds_digits_better_than_pixels_do(digits):
    """The proof: of 400 scans that it never saw, more have their like nearest by embedding than by pixels."""
    folder, manifest = digits
    run = {"steps": 130, "steps_per_epoch": 65}
    trained = train_job(job(folder, run=run, data={"batch_size": 60, "image_size": 24}), manifest)
    found = trained.evaluation
    assert found["images"] == 400
    assert 0.9 < found["pixels_recall_at_1"] < found["recall_at_1"], found
    assert trained.metrics["test_recall_at_1"] == found["recall_at_1"]
    assert trained.steps == 130
    assert trained.history[-1]["validation_recall_at_1"] > 0.9
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """scikit-learn's 1,797 scans of 8x8, enlarged to 24x24."""
    scans = deps.need("sklearn.datasets").load_digits()
    pixels = np.kron(np.clip(scans.images * 16, 0, 255).astype(np.uint8), np.ones((1, 3, 3), np.uint8))
    pixels = list(np.repeat(pixels[..., None], 3, axis=3))
    images = [(each, [str(target)]) for each, target in zip(pixels, scans.target, strict=True)]
    random.Random(0).shuffle(images)  # scans of one hand follow each other, and are much alike
    folder = tmp_path_factory.mktemp("digits") / "dataset"
    splits = {"test": images[:400], "validation": images[400:600], "train": images[600:]}
    return folder, write_dataset(folder, splits)
