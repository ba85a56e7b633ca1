"""ScaNN behind the same API: recall, no padding, changes, files; tuning to a recall target."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.search import scann_index, tune
from beam_vision.search.base import Store
from beam_vision.search.exact import ExactIndex, search_exact
from beam_vision.search.scann_index import Effort
from beam_vision.testing.tables import clustered

if not deps.have("scann"):
    pytest.skip("there is no ScaNN for this platform", allow_module_level=True)

ROWS, DIMENSION = 3000, 32


def silent(line):
    pass


def store_of(rows=ROWS, dimension=DIMENSION, seed=0):
    return Store([f"k{i:05d}" for i in range(rows)], clustered(rows, dimension, seed=seed))


def recall(index, queries, k=10, among=None):
    """The share of the exact neighbours found, and a check of every promise that holds for each result."""
    hits = index.search(queries, k, among=among)
    true_ids, true_scores = search_exact(index.store, queries, k, among=among)
    assert hits.ids.shape == true_ids.shape
    for found, scores, query in zip(hits.ids, hits.scores, queries, strict=True):
        assert len(set(found.tolist())) == len(found)
        assert among is None or np.isin(found, among).all()
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, index.store.vectors[found] @ query, atol=1e-5)
    return (hits.scores >= true_scores[:, -1:]).mean(), hits.how


@pytest.fixture(scope="module", params=[False, True], ids=["hash", "tree"])
def trained(request):
    index = scann_index.train(store_of(), tree=request.param)
    assert tune.tune(index, 0.95, progress=silent)
    return index


def test_reaches_the_recall_it_was_tuned_to_on_other_queries(trained):
    share, how = recall(trained, clustered(200, DIMENSION))  # the same clusters, other samples of them
    assert share >= 0.9
    assert how == trained.backend
    assert tune.measure(trained).recall >= 0.95


@pytest.mark.parametrize("k", [1, 10, 100, 700, ROWS, 2 * ROWS])
def test_gives_as_many_as_there_are_and_never_padding(trained, k):
    queries = trained.store.vectors[: 200 if k <= 100 else 30]
    share, _ = recall(trained, queries, k=min(k, ROWS))
    assert share >= 0.9
    assert trained.search(queries, k).ids.shape == (len(queries), min(k, ROWS))


def test_the_least_effort_still_gives_k(trained):
    """With one leaf and one candidate ScaNN pads with row 0 and NaN; the search is widened instead."""
    tuned, trained.effort = trained.effort, Effort(1, 1)
    try:
        recall(trained, trained.store.vectors[:50], k=60)
    finally:
        trained.effort = tuned


def test_a_small_subset_is_searched_exactly(trained):
    among = np.arange(3, ROWS, 70)
    share, how = recall(trained, trained.store.vectors[:20], k=10, among=among)
    assert share == 1.0
    assert how == f"exact over the {len(among)} that match"


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_large_subset_is_searched_by_a_wider_search(trained, monkeypatch, share):
    monkeypatch.setattr(scann_index, "EXACT_MATCHES", 100)
    among = np.flatnonzero(np.random.default_rng(1).random(ROWS) < share)
    found, how = recall(trained, trained.store.vectors[:100], k=10, among=among)
    assert found >= 0.9
    if share > 0.4:
        assert how.startswith(f"{trained.backend}, over the {len(among):,} that match")


def test_a_subset_far_from_the_query_is_found_all_the_same(trained, monkeypatch):
    monkeypatch.setattr(scann_index, "EXACT_MATCHES", 100)
    query = trained.store.vectors[0]
    among = np.sort(np.argsort(trained.store.vectors @ query)[: ROWS // 3])
    found, _ = recall(trained, query[None], k=10, among=among)
    assert found >= 0.9


def test_no_row_matches(trained):
    assert trained.search(trained.store.vectors[:2], 10, among=np.empty(0, np.int64)).ids.shape == (2, 0)


@pytest.mark.parametrize("tree", [False, True])
def test_upsert_and_delete_equal_a_rebuild(tree):
    new = clustered(ROWS, DIMENSION, seed=9)
    index = scann_index.train(store_of(), tree=tree)
    assert tune.tune(index, 0.95, progress=silent)
    replaced, added = [f"k{i:05d}" for i in range(0, 200)], [f"new{i}" for i in range(150)]
    deleted = [f"k{i:05d}" for i in range(200, 600, 2)]
    index.upsert([*replaced, *added], new[:350])
    index.delete(deleted)
    expected = {f"k{i:05d}": vector for i, vector in enumerate(clustered(ROWS, DIMENSION))}
    expected.update(zip([*replaced, *added], new[:350], strict=True))
    for key in deleted:
        del expected[key]
    assert {key: index.store.vectors[row].tobytes() for row, key in enumerate(index.store.keys)} == {
        key: vector.tobytes() for key, vector in expected.items()
    }
    # the new rows lie elsewhere than those it was trained on: tuned with them, they are found as well
    rows = [index.store.row_of[key] for key in (*replaced, *added)]
    assert tune.tune(index, 0.95, progress=silent, changed=rows)
    for queries in (np.array(list(expected.values()))[::20], new[:350]):
        share, how = recall(index, queries)
        assert share >= 0.92
        assert how == index.backend
    gone = index.search(clustered(ROWS, DIMENSION)[200:600:2], 5)
    assert not {index.store.keys[row] for row in gone.ids.ravel()} & set(deleted)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 99), min_size=1, max_size=30, unique=True))))
def test_any_changes_keep_rows_and_searcher_in_step(changes):
    index = scann_index.train(store_of(80, 16), tree=False)
    vectors = clustered(100, 16, seed=3)
    for adds, numbers in changes:
        keys = [f"k{number:05d}" for number in numbers]
        if adds:
            index.upsert(keys, vectors[numbers])
        else:
            index.delete([key for key in keys if key in index.store.row_of])
    rows = len(index.store)
    assert index.searcher.size() == rows
    if rows > 20:  # what ScaNN holds of a row goes with the products of that row's vector, and no other's
        queries = clustered(60, 16, seed=4)
        proposed, near = index.searcher.search_batched(queries, final_num_neighbors=rows)
        assert (np.sort(proposed, axis=1) == np.arange(rows)).all()
        hashed = np.take_along_axis(near, np.argsort(proposed, axis=1), axis=1)
        true = queries @ index.store.vectors.T
        for row in range(rows):
            assert np.corrcoef(hashed[:, row], true[:, row])[0, 1] > 0.8


def test_saved_files_load_from_another_folder(trained, tmp_path):
    trained.save(str(tmp_path / "first"))
    shutil.move(tmp_path / "first", tmp_path / "second")
    store = Store(trained.store.keys, trained.store.vectors)
    loaded = scann_index.load(str(tmp_path / "second"), store, trained.parameters)
    assert loaded.parameters == trained.parameters
    queries = clustered(20, DIMENSION, seed=4)
    np.testing.assert_array_equal(loaded.search(queries, 10).ids, trained.search(queries, 10).ids)
    loaded.upsert(["another"], queries[:1])
    loaded.effort = Effort(200, 55)
    assert loaded.store.keys[loaded.search(queries[0], 1).ids[0, 0]] == "another"


def test_no_pickle_is_written_or_read(trained, tmp_path):
    trained.save(str(tmp_path))
    assert not list(tmp_path.rglob("*.pkl"))
    (tmp_path / "scann" / "scann_docids.pkl").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(UsageError, match="not a ScaNN folder that beam-vision wrote"):
        scann_index.load(str(tmp_path), trained.store, trained.parameters)


def test_broken_or_foreign_files_are_refused(trained, tmp_path):
    trained.save(str(tmp_path))
    other = Store(trained.store.keys[:-1], trained.store.vectors[:-1])
    with pytest.raises(UsageError, match="holds 3000 rows, the index 2999"):
        scann_index.load(str(tmp_path), other, trained.parameters)
    (tmp_path / "scann" / "hashed_dataset.npy").unlink()
    with pytest.raises(UsageError, match="build the index again"):
        scann_index.load(str(tmp_path), trained.store, trained.parameters)


def test_what_would_abort_the_process_is_refused():
    vectors = clustered(100, 8)
    vectors[3, 2] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        scann_index.train(Store([str(i) for i in range(100)], vectors), tree=True)
    with pytest.raises(UsageError, match="at least 16 rows"):
        scann_index.train(store_of(15, 4), tree=False)


@pytest.mark.parametrize("dimension", [1, 2, 3, 7])
@pytest.mark.parametrize("tree", [False, True])
def test_small_and_odd_dimensions(dimension, tree):
    index = scann_index.train(store_of(200, dimension), tree=tree)
    recall(index, index.store.vectors[:10], k=5)


def test_tuning_says_so_when_the_target_is_out_of_reach(monkeypatch):
    monkeypatch.setattr(tune, "MOST_REORDERED", 12)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ROWS, 96)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = scann_index.train(Store([str(i) for i in range(ROWS)], vectors), tree=False)
    assert not tune.tune(index, 0.999, progress=silent)


def test_a_higher_target_takes_more_effort():
    index = scann_index.train(store_of(), tree=True)
    spent = []
    for target in (0.6, 0.9, 0.99):
        assert tune.tune(index, target, progress=silent)
        assert tune.measure(index).recall >= target
        spent.append(index.effort.leaves_to_search)
    assert spent[0] < spent[-1]


def test_measured_recall_is_what_comparing_sets_gives(trained):
    _, rows = tune.samples(ROWS)
    measured = tune.measure(trained)
    right = 0
    found = trained.search(trained.store.vectors[rows], 11).ids
    true, _ = search_exact(trained.store, trained.store.vectors[rows], 11)
    for row, mine, theirs in zip(rows, found, true, strict=True):
        right += len({*[other for other in mine if other != row][:10]} & {*theirs.tolist()})
    assert measured.queries == len(rows)
    assert measured.recall == pytest.approx(right / (10 * len(rows)), abs=0.002)  # but for ties
    assert 0 < measured.query_ms_median <= measured.query_ms_p95


@pytest.mark.parametrize("rows", [1, 2, 5, 11, 30])
def test_few_rows_are_measured_too(rows):
    measured = tune.measure(ExactIndex(store_of(rows, 3)))
    assert measured.recall == 1.0
    assert measured.k == min(10, rows - 1)


def test_identical_rows_do_not_upset_the_measure():
    store = Store([str(i) for i in range(60)], np.tile(np.array([[0.6, 0.8]], np.float32), (60, 1)))
    assert tune.Referee(ExactIndex(store), np.arange(60)).recall(ExactIndex(store)) == 1.0


@given(st.integers(1, 5000), st.integers(1, 600))
def test_samples_are_disjoint_where_they_can_be(rows, each):
    tuning, checking = tune.samples(rows, each)
    assert len(set(tuning)) == len(set(checking)) == min(rows, each)
    if rows >= 2 * each:
        assert not set(tuning) & set(checking)
    np.testing.assert_array_equal(tuning, tune.samples(rows, each)[0])


@given(st.integers(1, 200), st.integers(0, 250))
def test_bisection_finds_the_first_step_that_passes(steps, least):
    found = tune._first(steps, lambda step: step >= least)
    assert found == min(least, steps - 1)


@given(st.integers(1, 50), st.integers(1, 6000))
def test_a_ladder_climbs_to_its_top(least, most):
    ladder = tune._ladder(least, most)
    assert ladder == sorted(set(ladder))
    assert ladder[0] == min(least, most)
    assert ladder[-1] == most


BESIDE_TENSORFLOW = """
import numpy as np
def tensorflow():
    import tensorflow as tf
    assert float(tf.reduce_sum(tf.ones([3])).numpy()) == 3.0
def scann():
    from beam_vision.search import scann_index
    from beam_vision.search.base import Store
    from beam_vision.testing.tables import clustered
    vectors = clustered(400, 8)
    index = scann_index.train(Store([str(i) for i in range(400)], vectors), tree=False)
    assert index.search(vectors[:4], 3).ids[:, 0].tolist() == [0, 1, 2, 3]
for step in ({first}, {second}, {first}):
    step()
"""


@pytest.mark.parametrize("order", [("tensorflow", "scann"), ("scann", "tensorflow")])
def test_works_beside_tensorflow_loaded_before_or_after(order):
    code = BESIDE_TENSORFLOW.format(first=order[0], second=order[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_its_log_lines_stay_off_stderr(capfd):
    scann_index.train(store_of(300, 8), tree=True)
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError), scann_index.quiet_native_log():
        os.write(2, b"what ScaNN said")
        raise RuntimeError
    assert capfd.readouterr().err == "what ScaNN said"
