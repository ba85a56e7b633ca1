"""The exact index and the store, against plain Python."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.search import exact
from beam_vision.search.base import Store, normalised, unit_vectors
from beam_vision.search.exact import ExactIndex
from beam_vision.testing.tables import clustered


@st.composite
def stores(draw, most_rows=40):
    """Stores whose vectors have small whole coordinates, so that many rows tie."""
    dimension = draw(st.integers(1, 5))
    coordinates = st.lists(st.integers(-2, 2), min_size=dimension, max_size=dimension).filter(any)
    raw = draw(st.lists(coordinates, min_size=1, max_size=most_rows))
    numbers = draw(st.permutations(range(len(raw))))
    return Store([f"k{i:03d}" for i in numbers], unit_vectors(np.array(raw, float), dimension))


def brute_force(store, query, k, among=None):
    """Keys and cosines by plain loops over the definition."""
    scored = []
    for row in range(len(store)) if among is None else among:
        vector = store.vectors[row].astype(float)
        cosine = float(vector @ query) / (np.linalg.norm(vector) * np.linalg.norm(query))
        scored.append((-round(min(1.0, max(-1.0, cosine)), 7), store.keys[row]))
    scored.sort()
    return [key for _, key in scored[:k]], [-score for score, _ in scored[:k]]


@given(stores(), st.data())
def test_equals_brute_force_with_ties_by_key(store, data):
    k = data.draw(st.integers(1, 50))
    among = None
    if data.draw(st.booleans()):
        among = np.array(sorted(data.draw(st.sets(st.integers(0, len(store) - 1)))), np.int64)
    queries = store.vectors[data.draw(st.lists(st.integers(0, len(store) - 1), min_size=1, max_size=3))]
    ids, scores, _ = ExactIndex(store).search(queries, k, among=among)
    assert ids.shape == scores.shape == (len(queries), min(k, len(store) if among is None else len(among)))
    for query, found, values in zip(queries, ids, scores, strict=True):
        keys, cosines = brute_force(store, query.astype(float), k, among)
        assert [store.keys[row] for row in found] == keys
        np.testing.assert_allclose(values, cosines, atol=2e-7)


@pytest.mark.parametrize("among", [None, np.arange(0, 997, 3)])
def test_blocks_change_nothing(monkeypatch, among):
    store = Store([str(i) for i in range(997)], clustered(997, 24))
    queries = clustered(20, 24, seed=5)
    whole = ExactIndex(store).search(queries, 9, among=among)
    monkeypatch.setattr(exact, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(exact, "PRODUCTS_AT_ONCE", 3 * 997)
    blocked = ExactIndex(store).search(queries, 9, among=among)
    np.testing.assert_array_equal(whole.ids, blocked.ids)
    np.testing.assert_array_equal(whole.scores, blocked.scores)


def test_one_query_and_many_give_the_same():
    store = Store([str(i) for i in range(500)], clustered(500, 64))
    index = ExactIndex(store)
    together = index.search(store.vectors[:30], 12)
    for row in range(30):
        alone = index.search(store.vectors[row], 12)
        np.testing.assert_array_equal(alone.ids[0], together.ids[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])


def test_an_image_is_its_own_nearest_with_score_one():
    store = Store([str(i) for i in range(300)], clustered(300, 16))
    ids, scores, _ = ExactIndex(store).search(store.vectors, 1)
    np.testing.assert_array_equal(ids[:, 0], np.arange(300))
    assert (scores == 1.0).all()


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.array([[1.0, 0, 0], [0, np.nan, 1]]), "not finite: number 1"),
        (np.array([[1.0, 0, 0], [1, np.inf, 1]]), "not finite: number 1"),
        (np.zeros((1, 3)), "zero: number 0"),
        (np.ones((2, 4)), "4 dimensions, but the index has 3"),
        (np.array([["a", "b", "c"]]), "are numbers"),
        (np.ones((1, 1, 3)), "are numbers"),
    ],
)
def test_queries_that_no_search_can_use_are_refused(queries, message):
    index = ExactIndex(Store(["a", "b"], np.eye(3, dtype=np.float32)[:2]))
    with pytest.raises(UsageError, match=message):
        index.search(queries, 1)


def test_k_below_one_is_refused():
    with pytest.raises(UsageError, match="at least 1"):
        ExactIndex(Store(["a"], np.ones((1, 1), np.float32))).search(np.ones(1), 0)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3)))
def test_normalising_keeps_direction_and_is_done_once(raw):
    vectors = np.array(raw, np.float32).reshape(-1, 3)
    unit, bad = normalised(vectors)
    zero = bad.get("zero", np.empty(0, int))
    np.testing.assert_array_equal(zero, np.flatnonzero((vectors == 0).all(axis=1)))
    good = np.delete(np.arange(len(vectors)), zero)
    np.testing.assert_allclose(np.linalg.norm(unit[good].astype(float), axis=1), 1, atol=2e-6)
    again, _ = normalised(unit[good])
    np.testing.assert_array_equal(again, unit[good])
    largest = np.abs(vectors[good].astype(float)).argmax(axis=1)
    rows = np.arange(len(good))
    assert (np.sign(unit[good][rows, largest]) == np.sign(vectors[good][rows, largest])).all()


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 9))),
        st.tuples(st.just("delete"), st.lists(st.sampled_from("abcdefgh"), unique=True)),
    ),
    max_size=12,
)


@given(OPERATIONS)
def test_upsert_and_delete_equal_a_dict(operations):
    """Keys and vectors stay together through any changes; a hole is filled by the last row, as in ScaNN."""
    index, expected = ExactIndex(Store([], np.empty((0, 2), np.float32))), {}
    for name, what in operations:
        if name == "upsert":
            vectors = {key: np.array([value, 1.0]) for key, value in what.items()}
            index.upsert(list(vectors), np.array(list(vectors.values())).reshape(-1, 2))
            expected.update(vectors)
        else:
            gone = [key for key in what if key in expected]
            before = list(index.store.keys)
            index.delete(gone)
            for key in gone:
                expected.pop(key)
                row = before.index(key)
                before[row] = before[-1]
                before.pop()
            assert index.store.keys == before
    assert set(index.store.keys) == set(expected)
    for row, key in enumerate(index.store.keys):
        assert index.store.row_of[key] == row
        np.testing.assert_allclose(
            index.store.vectors[row], expected[key] / np.linalg.norm(expected[key]), atol=1e-6
        )


def test_deleting_an_unknown_key_changes_nothing():
    store = Store(["a", "b"], np.eye(2, dtype=np.float32))
    with pytest.raises(KeyError, match="c"):
        ExactIndex(store).delete(["a", "c"])
    assert store.keys == ["a", "b"]


def test_upsert_refuses_what_can_not_be_searched():
    store = Store(["a"], np.ones((1, 1), np.float32))
    for keys, vectors in (
        (["b", "b"], [[1.0], [1]]),
        (["b"], [[0.0]]),
        (["b"], [[np.nan]]),
        (["b"], [[1.0, 2]]),
    ):
        with pytest.raises(UsageError):
            ExactIndex(store).upsert(keys, np.array(vectors))
    assert store.keys == ["a"]
    assert len(store.vectors) == 1


def test_many_identical_vectors_come_in_order_of_their_keys():
    keys = ["".join(letters) for letters in itertools.product("cab", repeat=4)]
    store = Store(keys, np.tile(unit_vectors(np.array([[0.3, -0.2, 0.9]]), 3), (len(keys), 1)))
    ids, scores, _ = ExactIndex(store).search(np.array([1.0, 2, 3]), 10)
    assert [keys[row] for row in ids[0]] == sorted(keys)[:10]
    assert len(set(scores[0])) == 1
