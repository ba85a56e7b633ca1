"""Index folders: built, opened, moved, replaced, updated, killed in the middle, read while they change."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision import deps
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search import build as build_module
from beam_vision.search import bundle
from beam_vision.search.build import choose_backend
from beam_vision.search.index import build, open_index, open_table, update
from beam_vision.testing.tables import clustered, write_embeddings

needs_scann = pytest.mark.skipif(not deps.have("scann"), reason="there is no ScaNN for this platform")
ROWS, DIMENSION = 600, 16


@pytest.fixture
def place(tmp_path):
    """A table and where its index goes."""
    write_embeddings(str(tmp_path / "table"), clustered(ROWS, DIMENSION), parts=2)
    return str(tmp_path / "table"), str(tmp_path / "index")


def results(index, rows=(0, 7, 99), **options):
    """What searches by key give, as plain values."""
    return [index.search_key(f"lake/{row:05d}.jpg", 5, **options).neighbors for row in rows]


def test_an_index_gives_what_its_table_gives(place):
    table_folder, output = place
    built = build(table_folder, output)
    assert (built.manifest.backend, built.manifest.rows, built.manifest.dimension) == (
        "exact",
        ROWS,
        DIMENSION,
    )
    assert (built.manifest.metric, built.manifest.recall_at_10) == ("cosine", 1.0)
    assert (built.manifest.model_digest, built.manifest.preprocessing_digest) == ("model-a", "prep-a")
    assert built.manifest.table_run_id == "run-1"
    assert built.manifest.query_ms_median > 0
    assert open_index(output).manifest == built.manifest
    assert results(open_index(output)) == results(open_table(table_folder))


def test_a_neighbour_carries_what_the_table_says_of_it(place):
    build(*place)
    (first, *_), *_ = open_index(place[1]).search(clustered(ROWS, DIMENSION)[[7]], 1).neighbors
    assert (first.key, first.uri, first.rank, first.score) == (
        "lake/00007.jpg",
        "/data/lake/00007.jpg",
        1,
        1.0,
    )
    assert (first.label, first.attributes) == ("odd", {"camera": "b"})


def test_a_search_by_key_leaves_the_image_itself_out(place):
    opened = open_table(place[0])
    without = opened.search_key("lake/00003.jpg", 5).neighbors[0]
    having = opened.search_key("lake/00003.jpg", 6, include_self=True).neighbors[0]
    assert having[0].key == "lake/00003.jpg"
    assert [each.key for each in having[1:]] == [each.key for each in without]
    assert [each.rank for each in without] == [1, 2, 3, 4, 5]


def test_twins_of_the_query_are_kept(tmp_path):
    vectors = np.tile(clustered(1, 4), (12, 1))
    write_embeddings(str(tmp_path / "t"), vectors, keys=[f"k{i:02d}" for i in range(12)])
    found = open_table(str(tmp_path / "t")).search_key("k11", 3).neighbors[0]
    assert [each.key for each in found] == ["k00", "k01", "k02"]


def test_an_unknown_key_names_the_nearest(place):
    with pytest.raises(
        UsageError, match=r"no image with the key 'lake/0012.jpg'; did you mean 'lake/\d*12\d*.jpg'"
    ):
        open_table(place[0]).search_key("lake/0012.jpg")


def test_more_than_there_are_gives_all_and_says_so(place):
    opened = open_table(place[0])
    found = opened.search(clustered(2, DIMENSION), ROWS + 1)
    assert [len(query) for query in found.neighbors] == [ROWS, ROWS]
    assert any(f"only {ROWS} rows are there" in note for note in found.notes)
    assert not any("only" in note for note in opened.search(clustered(1, DIMENSION), ROWS).notes)
    by_key = opened.search_key("lake/00000.jpg", ROWS)
    assert len(by_key.neighbors[0]) == ROWS - 1
    assert any(f"only {ROWS - 1} rows" in note for note in by_key.notes)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(place, k):
    opened = open_table(place[0])
    with pytest.raises(UsageError, match="at least 1"):
        opened.search_key("lake/00000.jpg", k)
    with pytest.raises(UsageError, match="at least 1"):
        opened.search(clustered(1, DIMENSION), k)


def test_queries_of_another_model_are_refused(place):
    opened = open_table(place[0])
    opened.require_made_by(model_digest="model-a", preprocessing_digest="prep-a")
    with pytest.raises(DigestMismatch, match="model digests differ: expected model-a, found model-b"):
        opened.require_made_by(model_digest="model-b", preprocessing_digest="prep-a")
    with pytest.raises(DigestMismatch, match="preprocessing digests differ: expected prep-a, found prep-b"):
        opened.require_made_by(model_digest="model-a", preprocessing_digest="prep-b")


@pytest.mark.parametrize(
    ("rows", "backend"),
    [(1, "exact"), (19_999, "exact"), (20_000, "scann_ah"), (99_999, "scann_ah"), (100_000, "scann_tree")],
)
def test_the_backend_suits_the_size(rows, backend):
    assert choose_backend(rows) == backend


@needs_scann
@pytest.mark.parametrize("backend", ["scann_ah", "scann_tree"])
def test_a_scann_index_can_be_moved_and_reaches_its_recall(tmp_path, backend):
    write_embeddings(str(tmp_path / "t"), clustered(2000, DIMENSION))
    built = build(str(tmp_path / "t"), str(tmp_path / "first"), backend=backend, recall_target=0.9)
    assert built.manifest.backend == backend
    assert built.manifest.recall_at_10 >= 0.9
    assert built.manifest.recall_queries == 256
    before = results(open_index(str(tmp_path / "first")))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "first", tmp_path / "elsewhere" / "second")
    shutil.rmtree(tmp_path / "t")
    moved = open_index(str(tmp_path / "elsewhere" / "second"))
    assert results(moved) == before
    assert moved.index.backend == backend
    exact = moved.search_key("lake/00000.jpg", 5, where="label = 'even'")
    assert "searched: exact over the 1,000 that match" in exact.notes


@needs_scann
def test_a_target_out_of_reach_gives_an_exact_index_and_says_so(place, monkeypatch):
    monkeypatch.setattr(build_module.tune, "MOST_REORDERED", 11)
    built = build(*place, backend="scann_tree", recall_target=1.0)
    assert built.manifest.backend == "exact"
    assert built.manifest.notes == ["exact, not scann_tree: it can't reach recall@10 1.0 on these vectors"]


def test_too_few_rows_for_scann_give_an_exact_index(tmp_path):
    write_embeddings(str(tmp_path / "t"), clustered(20, 4))
    built = build(str(tmp_path / "t"), str(tmp_path / "i"), backend="scann_ah")
    assert built.manifest.backend == "exact"
    assert "20 rows are too few" in built.manifest.notes[0]


def test_bad_vectors_are_counted_in_the_manifest(tmp_path):
    vectors = clustered(30, 4)
    vectors[3], vectors[5, 1] = 0, np.nan
    write_embeddings(str(tmp_path / "t"), vectors)
    with pytest.raises(UsageError, match=r"1 not finite \(lake/00005.jpg\); 1 zero \(lake/00003.jpg\)"):
        build(str(tmp_path / "t"), str(tmp_path / "i"))
    with pytest.raises(UsageError, match="no index at"):
        open_index(str(tmp_path / "i"))
    built = build(str(tmp_path / "t"), str(tmp_path / "i"), skip_bad_vectors=True)
    assert built.manifest.skipped == {"not finite": 1, "zero": 1}
    assert built.manifest.rows == 28


@pytest.mark.parametrize(
    ("option", "message"), [({"recall_target": 0}, "0..1"), ({"backend": "faiss"}, "one of")]
)
def test_wrong_options_are_refused(place, option, message):
    with pytest.raises(UsageError, match=message):
        build(*place, **option)


def test_the_folder_of_something_else_is_left_alone(place):
    before = sorted(os.listdir(place[0]))
    with pytest.raises(UsageError, match="'beam-vision table', not of an index"):
        build(place[0], place[0])
    assert sorted(os.listdir(place[0])) == before
    with pytest.raises(UsageError, match="an index is a local folder"):
        build(place[0], "gs://lake/index")


def test_a_damaged_index_is_refused(place):
    build(*place)
    data = os.path.join(place[1], open_index(place[1]).manifest.data)
    pq.write_table(pq.read_table(f"{data}/rows.parquet").slice(1), f"{data}/rows.parquet")
    with pytest.raises(UsageError, match="doesn't hold what its manifest says"):
        open_index(place[1])
    os.unlink(f"{data}/vectors.npy")
    with pytest.raises(UsageError, match=r"lacks .*vectors.npy; build it again"):
        open_index(place[1])


def test_a_newer_format_is_refused(place):
    build(*place)
    path = os.path.join(place[1], "manifest.json")
    with open(path) as file:
        manifest = json.load(file)
    with open(path, "w") as file:
        json.dump({**manifest, "format_version": 99}, file)
    with pytest.raises(UsageError, match="newer beam-vision"):
        open_index(place[1])


def test_a_new_build_replaces_the_old_one_and_leaves_nothing_behind(place, tmp_path):
    build(*place)
    opened = open_index(place[1])
    before = results(opened)
    write_embeddings(place[0], clustered(50, 8, seed=3), model_digest="model-b")
    os.mkdir(os.path.join(place[1], ".building-left-by-a-killed-build"))
    build(*place)
    assert open_index(place[1]).manifest.model_digest == "model-b"
    names = sorted(os.listdir(place[1]))
    assert names == [".lock", open_index(place[1]).manifest.data, "manifest.json"]
    assert results(opened) == before  # who had it open goes on with what it was


def test_two_writers_do_not_meet(place):
    build(*place)
    with bundle.locked(place[1]), pytest.raises(UsageError, match="another process is writing"):
        build(*place)
    build(*place)


CHILD = """
import os, signal, sys
from beam_vision.search import bundle
from beam_vision.search.index import build
die = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
module, name = {target}
setattr(module, name, die)
build(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize(
    "target",
    [
        '(bundle, "_write_rows")',  # vectors are written aside, rows not yet
        '(bundle.os, "rename")',  # all is written aside
        '(bundle.storage, "write_json")',  # the data folder stands, the manifest is the old one
    ],
)
def test_a_build_killed_in_the_middle_leaves_the_old_index(place, target):
    build(*place)
    before = results(open_index(place[1]))
    write_embeddings(place[0], clustered(ROWS, DIMENSION, seed=8))
    done = subprocess.run([sys.executable, "-c", CHILD.format(target=target), *place], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert results(open_index(place[1])) == before
    build(*place)
    assert results(open_index(place[1])) == results(open_table(place[0])) != before
    assert len(os.listdir(place[1])) == 3


def test_the_first_build_killed_leaves_no_index(place):
    target = '(bundle.storage, "write_json")'
    subprocess.run([sys.executable, "-c", CHILD.format(target=target), *place], timeout=120)
    with pytest.raises(UsageError, match="no index at"):
        open_index(place[1])
    build(*place)
    assert len(open_index(place[1])) == ROWS


def test_readers_see_one_index_or_the_other_while_it_is_replaced(place, tmp_path):
    """Each of two tables has vectors, labels and digest of its own; a mixture would show."""
    other = str(tmp_path / "other")
    write_embeddings(other, -clustered(ROWS, DIMENSION), labels=["other"] * ROWS, model_digest="model-b")
    build(*place)
    stop, errors, seen = threading.Event(), [], set()

    def read():
        while not stop.is_set():
            try:
                opened = open_index(place[1])
                (first,), *_ = opened.search(clustered(ROWS, DIMENSION)[[4]], 1).neighbors
                seen.add((opened.model_digest, first.score == 1.0, first.label))
            except Exception as error:  # noqa: BLE001  (whatever it is, the test fails by it)
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        build(other, place[1])
        build(*place)
    stop.set()
    reader.join()
    assert not errors
    assert seen == {("model-a", True, "even"), ("model-b", False, "other")}


def test_a_reader_who_is_overtaken_opens_the_new_index(place, monkeypatch):
    build(*place)
    open_data, overtaken = bundle._open, []

    def replaced_before_it_is_opened(data, manifest):
        if not overtaken:
            overtaken.append(manifest.data)
            write_embeddings(place[0], clustered(50, 8), model_digest="model-b")
            build(*place)
        return open_data(data, manifest)

    monkeypatch.setattr(bundle, "_open", replaced_before_it_is_opened)
    opened = open_index(place[1])
    assert opened.model_digest == "model-b"
    assert len(opened) == 50
    assert not os.path.exists(os.path.join(place[1], overtaken[0]))


def changed_table(folder):
    """200 fewer than 2,000 rows at first; then 30 replaced, 20 gone, 40 new, and labels changed all over."""
    vectors = clustered(2000, DIMENSION)
    keys = [f"lake/{i:05d}.jpg" for i in range(2000)]
    write_embeddings(folder, vectors[:1800], keys=keys[:1800])
    yield
    fresh = clustered(2000, DIMENSION, seed=0)[::-1]
    now = dict(zip(keys[20:1840], vectors[20:1840], strict=True))
    now.update(zip(keys[100:130], fresh[:30], strict=True))
    order = sorted(now, key=lambda key: key[::-1])
    write_embeddings(folder, np.array([now[key] for key in order]), keys=order, labels=["new"] * len(order))
    yield


@pytest.mark.parametrize(
    "backend",
    ["exact", pytest.param("scann_ah", marks=needs_scann), pytest.param("scann_tree", marks=needs_scann)],
)
def test_an_update_equals_a_rebuild(tmp_path, backend):
    table_folder, output = str(tmp_path / "table"), str(tmp_path / "index")
    steps = changed_table(table_folder)
    next(steps)
    build(table_folder, output, backend=backend, recall_target=0.9)
    next(steps)
    built = update(table_folder, output)
    assert (built.added, built.replaced, built.deleted) == (40, 30, 20)
    assert built.trained == (backend == "exact")
    assert built.manifest.backend == backend
    assert built.manifest.recall_at_10 >= 0.9
    assert built.manifest.changed_rows == (0 if backend == "exact" else 90)
    updated, rebuilt = open_index(output), open_table(table_folder)
    assert sorted(updated.index.store.keys) == sorted(rebuilt.index.store.keys)
    for key, row in updated.index.store.row_of.items():
        other = rebuilt.index.store.vectors[rebuilt.index.store.row_of[key]]
        np.testing.assert_array_equal(updated.index.store.vectors[row], other)
    assert updated.rows.column("key").to_pylist() == updated.index.store.keys
    assert set(updated.rows.column("label").to_pylist()) == {"new"}
    queries = clustered(2000, DIMENSION)[::10]
    mine, truth = updated.search(queries, 10).neighbors, rebuilt.search(queries, 10).neighbors
    right = [len({n.key for n in a} & {n.key for n in b}) for a, b in zip(mine, truth, strict=True)]
    assert np.mean(right) >= 8.7
    everything = updated.search(queries[:3], 5, where="label = 'new'").neighbors
    assert everything == rebuilt.search(queries[:3], 5, where="label = 'new'").neighbors


def test_an_update_without_changes_writes_nothing(place):
    build(*place)
    before = open_index(place[1]).manifest
    built = update(*place)
    assert (built.added, built.replaced, built.deleted, built.trained) == (0, 0, 0, False)
    assert open_index(place[1]).manifest == before
    assert update(*place, recall_target=0.8).manifest.recall_target == 0.8


def test_an_update_of_columns_alone_reaches_the_index(place):
    build(*place)
    write_embeddings(place[0], clustered(ROWS, DIMENSION), labels=["relabelled"] * ROWS)
    built = update(*place)
    assert (built.added, built.replaced, built.deleted) == (0, 0, 0)
    assert results(open_index(place[1]))[0][0][0].label == "relabelled"


@needs_scann
def test_many_changes_train_anew(place):
    build(*place, backend="scann_ah", recall_target=0.9)
    vectors = clustered(ROWS, DIMENSION)
    vectors[: ROWS // 5] = clustered(ROWS // 5, DIMENSION, seed=6)
    write_embeddings(place[0], vectors)
    built = update(*place)
    assert built.replaced == ROWS // 5
    assert built.trained
    assert (built.manifest.trained_rows, built.manifest.changed_rows) == (ROWS, 0)


@needs_scann
def test_changes_add_up_until_it_is_trained_anew(place):
    build(*place, backend="scann_ah", recall_target=0.8)
    vectors = clustered(ROWS, DIMENSION)
    trained = []
    for step in range(3):
        vectors[40 * step : 40 * step + 25] = clustered(25, DIMENSION, seed=step + 1)
        write_embeddings(place[0], vectors)
        trained.append(update(*place).trained)
    assert trained == [False, False, True]


@pytest.mark.parametrize("what", ["model_digest", "preprocessing_digest"])
def test_an_update_from_another_model_is_refused(place, what):
    build(*place)
    write_embeddings(place[0], clustered(ROWS, DIMENSION), **{what: "another"})
    with pytest.raises(DigestMismatch, match=r"found another; build .* anew, without --incremental"):
        update(*place)


def test_an_update_needs_an_index_of_the_same_dimension(place):
    with pytest.raises(UsageError, match="no index at"):
        update(*place)
    assert not os.path.exists(place[1])
    build(*place)
    write_embeddings(place[0], clustered(ROWS, 4))
    with pytest.raises(UsageError, match="vectors of 16, the table of 4 dimensions"):
        update(*place)


WITHOUT_SCANN = """
import importlib.abc, json, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "scann":
            raise ModuleNotFoundError("No module named 'scann'", name="scann")
sys.meta_path.insert(0, Missing())
from beam_vision.errors import UsageError
from beam_vision.search import build as build_module
from beam_vision.search.index import build, open_index, update
table, index, mine = sys.argv[1:]
opened = open_index(index)
found = opened.search_key("lake/00003.jpg", 5, where="label = 'odd'")
build_module.EXACT_BELOW_ROWS = 10
auto = build(table, mine)
again = update(table, mine, recall_target=0.5)
try:
    build(table, mine, backend="scann_ah")
except UsageError as error:
    refused = str(error)
print(json.dumps({
    "notes": found.notes, "keys": [each.key for each in found.neighbors[0]], "backend": opened.index.backend,
    "built": [auto.manifest.backend, again.manifest.backend], "why": auto.manifest.notes, "refused": refused,
}))
"""


@needs_scann
def test_without_scann_all_is_served_exactly_by_the_same_calls(place, tmp_path):
    build(*place, backend="scann_ah", recall_target=0.9)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SCANN, *place, str(tmp_path / "mine")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    truth = open_table(place[0]).search_key("lake/00003.jpg", 5, where="label = 'odd'").neighbors[0]
    assert said["keys"] == [each.key for each in truth]
    assert said["backend"] == "exact"
    assert "ScaNN is not installed here: this scann_ah index is searched exactly" in said["notes"]
    assert said["built"] == ["exact", "exact"]
    assert said["why"] == ["exact, not scann_ah: ScaNN is not installed here"]
    assert "pip install 'scann" in said["refused"]


def test_a_table_with_only_keys_and_vectors_is_enough(tmp_path):
    vectors = pa.array(clustered(30, 4).tolist(), pa.list_(pa.float32()))
    pq.write_table(
        pa.table({"key": [str(i) for i in range(30)], "embedding": vectors}), tmp_path / "t.parquet"
    )
    build(str(tmp_path / "t.parquet"), str(tmp_path / "i"))
    (first, *_), *_ = open_index(str(tmp_path / "i")).search_key("4", 2).neighbors
    assert (first.uri, first.label, first.attributes) == ("", None, {})
