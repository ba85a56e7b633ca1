"""Scores to labels, outputs to vectors, images to batches: by brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError, VisionError
from beam_vision.inference import embed
from beam_vision.inference.classify import Labeler, decide_activation, default_labels, probabilities
from beam_vision.inference.decoding import slices
from beam_vision.types import Label

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]], np.float32)
SOFT = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
INDEPENDENT = np.array([[0.9, 0.8, 0.1], [0.2, 0.01, 0.6]], np.float32)


@pytest.mark.parametrize(
    ("scores", "asked", "multi_label", "expected"),
    [
        (LOGITS, "auto", None, ("softmax", False)),
        (SOFT, "auto", None, ("none", False)),
        (INDEPENDENT, "auto", None, ("none", True)),
        (INDEPENDENT, "auto", False, ("none", False)),
        (LOGITS, "auto", True, ("sigmoid", True)),
        (LOGITS[:, :1], "auto", None, ("sigmoid", False)),
        (INDEPENDENT[:, :1], "auto", None, ("none", False)),
        (np.zeros((4, 3), np.float32), "auto", None, ("softmax", False)),
        (LOGITS, "sigmoid", None, ("sigmoid", True)),
        (SOFT, "softmax", None, ("softmax", False)),
        (SOFT, "none", None, ("none", False)),
        (LOGITS, "none", None, ("none", True)),
    ],
)
def test_the_activation_is_told_by_the_scores(scores, asked, multi_label, expected):
    assert decide_activation(scores, asked, multi_label) == expected


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8))
def test_probabilities_are_stable(row):
    scores = np.array([row], np.float32)
    soft = probabilities(scores, "softmax")
    assert np.isfinite(soft).all()
    assert soft.sum() == pytest.approx(1, abs=1e-5)
    sigmoid = probabilities(scores, "sigmoid")[0]
    for x, p in zip(row, sigmoid, strict=True):
        expected = 1 / (1 + math.exp(-x)) if x > -700 else 0.0
        assert p == pytest.approx(expected, abs=1e-6)


def labeler(labels=(), **options):
    settings = {"activation": "none", "multi_label": False, "threshold": 0.5, "top_k": 5}
    return Labeler(labels, **{**settings, **options})


def test_labels_come_highest_first_and_ties_by_class():
    (found,) = labeler(top_k=3)(np.array([[0.1, 0.4, 0.4, 0.1]], np.float32))
    assert [label.label for label in found] == ["class_0001", "class_0002", "class_0000"]
    assert found[0] == Label("class_0001", pytest.approx(0.4))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 30))
def test_labels_are_those_of_a_full_sort(row, top_k):
    scores = np.array([row], np.float32) / 5
    (found,) = labeler(top_k=top_k)(scores)
    if len(row) == 1:
        return
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))[:top_k]
    assert [label.label for label in found] == [f"class_{c:04d}" for c in order]


def test_multi_label_gives_what_reaches_the_threshold():
    found = labeler(("a", "b", "c"), multi_label=True)(INDEPENDENT)
    assert [[label.label for label in row] for row in found] == [["a", "b"], ["c"]]
    assert labeler(("a", "b", "c"), multi_label=True, threshold=0.95)(INDEPENDENT) == [(), ()]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("no", "yes"), [("yes", 0.75), ("no", 0.25)]),
        ((), [("class_0001", 0.75), ("class_0000", 0.25)]),
        (("smoke",), [("smoke", 0.75)]),
    ],
)
def test_a_single_score_is_of_the_positive_class(labels, expected):
    (found,) = labeler(labels, activation="sigmoid")(np.array([[math.log(3)]], np.float32))
    assert [(label.label, pytest.approx(label.score)) for label in found] == expected


def test_labels_of_a_wrong_number_are_told():
    with pytest.raises(UsageError, match="gives 3 scores but there are 2 labels"):
        labeler(("a", "b"))(SOFT)
    with pytest.raises(UsageError, match="--top_k is 0"):
        labeler(top_k=0)


def test_default_labels_sort_as_text():
    assert default_labels(2) == ("class_0000", "class_0001")
    many = default_labels(20_000)
    assert list(many) == sorted(many)


def test_maps_are_averaged_and_single_places_squeezed():
    rng = np.random.default_rng(0)
    output = rng.random((3, 2, 5, 7), np.float32)
    np.testing.assert_allclose(embed.rows(output), output.mean(axis=(1, 2)))
    np.testing.assert_allclose(embed.rows(output, layout="NCHW"), output.mean(axis=(2, 3)))
    for shape in ((3, 1, 1, 7), (3, 7, 1, 1)):
        np.testing.assert_array_equal(
            embed.rows(output.reshape(-1)[:21].reshape(shape)), output.reshape(-1)[:21].reshape(3, 7)
        )
    with pytest.raises(VisionError, match=r"shape \[3, 2, 5\]"):
        embed.rows(output[..., 0])


@given(
    st.lists(
        st.lists(st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False), min_size=3, max_size=3),
        min_size=1,
        max_size=6,
    )
)
def test_vectors_get_length_one(vectors):
    given_vectors = np.array(vectors, np.float32)
    found, kept = embed.normalize(given_vectors)
    np.testing.assert_array_equal(kept, (given_vectors != 0).any(axis=1))
    exact = given_vectors.astype(np.float64)
    for vector, unit, is_kept in zip(exact, found, kept, strict=True):
        assert np.isfinite(unit).all()
        if is_kept:
            np.testing.assert_allclose(unit, vector / np.linalg.norm(vector), rtol=1e-5, atol=1e-6)
        else:
            assert not unit.any()


@given(st.integers(0, 1000), st.integers(1, 100), st.integers(1, 40))
def test_slices_cover_everything_once_within_bounds(images, batch_size, multiple):
    cuts = slices(images, batch_size, multiple)
    assert [i for start, stop in cuts for i in range(start, stop)] == list(range(images))
    sizes = [stop - start for start, stop in cuts]
    assert all(size <= max(batch_size, multiple) for size in sizes)
    assert all(size % multiple == 0 for size in sizes[:-1])
    assert sizes[:-1] == sorted(sizes[:-1])


def test_slices_start_small():
    assert [stop - start for start, stop in slices(100, 32)] == [4, 8, 16, 32, 32, 8]
    assert [stop - start for start, stop in slices(40, 32, 8)] == [8, 16, 16]


def test_what_fits_one_batch_is_cut_once_at_most():
    assert slices(32, 32) == [(0, 16), (16, 32)]
    assert slices(20, 32, 8) == [(0, 8), (8, 20)]
    assert slices(15, 32) == [(0, 15)]
    assert slices(20, 32, 32) == [(0, 20)]
    assert slices(0, 32) == []
