"""One shard from its rows; recall over all; what is kept and what is made anew."""

import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_vision import deps, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.search import build, shard_build, shards, tune
from beam_vision.search.index import open_index, open_table
from beam_vision.search.shard_build import BuiltShard, build_shard, commit, recall_over
from beam_vision.search.shards import Shard
from beam_vision.testing.sharding import build_in_shards, parted, settings_for
from beam_vision.testing.tables import clustered, write_embeddings

needs_scann = pytest.mark.skipif(not deps.have("scann"), reason="there is no ScaNN for this platform")
ROWS, DIMENSION = 400, 8
LATER, LAST = "20260202T000000000000Z", "20260303T000000000000Z"


@pytest.fixture
def place(tmp_path):
    write_embeddings(str(tmp_path / "t"), clustered(ROWS, DIMENSION), parts=2)
    return settings_for(str(tmp_path / "t"), str(tmp_path / "i"))


def names(settings):
    return {each.number: each.name for each in shards.read_manifest(settings.output).shards}


def again(settings, run_id, **changes):
    old = shards.read_manifest(settings.output)
    return replace(settings, run_id=run_id, replaces=old.run_id, **changes)


def folder_of(settings):
    return sorted(os.listdir(settings.output))


def test_nothing_is_left_but_the_shards_and_the_manifest(place):
    manifest = build_in_shards(place)
    assert folder_of(place) == sorted(["manifest.json", *(each.name for each in manifest.shards)])
    assert (manifest.rows, manifest.dimension, manifest.made) == (ROWS, DIMENSION, [0, 1, 2, 3])
    assert (manifest.model_digest, manifest.preprocessing_digest) == ("model-a", "prep-a")
    assert manifest == shards.read_manifest(place.output)
    assert sum(len(open_index(storage.join(place.output, each.name))) for each in manifest.shards) == ROWS


def test_only_the_shard_of_a_changed_row_is_made_anew(place):
    build_in_shards(place)
    before = names(place)
    vectors = clustered(ROWS, DIMENSION)
    vectors[17] = -vectors[17]
    write_embeddings(place.table, vectors, parts=3)  # in other parts: where rows lie doesn't matter
    manifest = build_in_shards(again(place, LATER, reuse=True))
    own = shard_of("lake/00017.jpg", 4)
    assert manifest.made == [own]
    assert {number for number, name in names(place).items() if name != before[number]} == {own}
    assert before[own] not in folder_of(place)
    found, truth = open_index(place.output), open_table(place.table)
    assert found.search(vectors[:20], 5).neighbors == truth.search(vectors[:20], 5).neighbors


def shard_of(key, count):
    from beam_vision.digest import bucket

    return bucket(key, count)


def test_a_changed_column_is_a_change_and_other_settings_are_other_shards(place):
    build_in_shards(place)
    path = storage.join(place.table, "part-run-1-00000.parquet")
    rows = pq.read_table(path)
    labels = rows.column("label").to_pylist()
    labels[5] = "renamed"
    at = rows.column_names.index("label")
    pq.write_table(rows.set_column(at, rows.schema.field("label"), [labels]), path)
    assert build_in_shards(again(place, LATER, reuse=True)).made == [shard_of("lake/00005.jpg", 4)]
    (found,) = open_index(place.output).search_key("lake/00005.jpg", 1, include_self=True).neighbors
    assert found[0].label == "renamed"
    assert build_in_shards(again(place, LAST, reuse=True, recall_target=0.9)).made == [0, 1, 2, 3]


def test_without_reuse_all_is_made_anew_beside_the_old_one(place):
    build_in_shards(place)
    before = names(place)
    opened = open_index(place.output)
    manifest = build_in_shards(again(place, LATER))
    assert manifest.made == [0, 1, 2, 3]
    assert not set(before.values()) & set(names(place).values())
    assert len(opened.search(clustered(1, DIMENSION), 5).neighbors[0]) == 5  # who had it open goes on


def test_a_run_finds_what_it_made_itself_when_a_bundle_is_tried_again(place):
    pieces, facts = parted(place)
    first = build_shard(0, pieces[0], facts, place)
    second = build_shard(0, pieces[0], facts, place)
    assert first.is_new
    assert second.is_new
    assert first.shard.name == second.shard.name
    os.unlink(storage.join(place.output, first.shard.name, "manifest.json"))  # not whole: killed on the way
    assert build_shard(0, pieces[0], facts, place).shard.name != first.shard.name


def test_the_commit_counts_rows_and_sees_another_build(place):
    pieces, facts = parted(place)
    built = [build_shard(number, some, facts, place) for number, some in pieces.items()]
    with pytest.raises(JobError, match=r"400 rows of .* can be searched, but the shards hold [123]"):
        commit(built[1:], facts, place)
    assert not shards.is_sharded(place.output)
    commit(built, facts, place)
    commit(built, facts, place)  # tried again
    with pytest.raises(JobError, match=r"another build wrote .* meanwhile"):
        commit(built, facts, replace(place, run_id=LATER))


def test_twice_the_same_key_and_bad_vectors_end_the_build(tmp_path):
    keys = [f"k{i}" for i in range(ROWS)]
    keys[200] = "k3"
    write_embeddings(str(tmp_path / "t"), clustered(ROWS, DIMENSION), keys=keys, parts=2)
    settings = settings_for(str(tmp_path / "t"), str(tmp_path / "i"))
    with pytest.raises(UsageError, match=r"1 keys stand more than once in the table at .*: k3"):
        build_in_shards(settings)
    assert not shards.is_sharded(settings.output)


def answering(exact, found, number=0):
    shard = Shard(number=number, name="", rows=1, backend="", recall_at_10=1, query_ms_median=1)
    return BuiltShard(shard, True, np.array(exact, float), np.array(found, float))


def test_recall_is_of_the_merged_results(monkeypatch):
    monkeypatch.setattr(tune, "NEIGHBOURS", 2)
    one = answering([[0.9, 0.5]], [[0.9, 0.5]])
    none = answering([[0.8, 0.7]], [[0.6, 0.2]], 1)
    assert recall_over([one]) == 1.0
    assert recall_over([one, none]) == 0.5  # of 0.9 and 0.8 the second is missed
    assert recall_over([one, answering([[0.4, 0.3]], [[0.1, 0.1]], 1)]) == 1.0  # what it missed isn't near
    assert recall_over([answering([[0.9, -np.inf]], [[0.9, -np.inf]])]) == 1.0
    assert recall_over([answering([[0.9, -np.inf]], [[-np.inf, -np.inf]])]) == 0.0
    assert recall_over([answering([[-np.inf, -np.inf]], [[-np.inf, -np.inf]])]) == 1.0
    tied = answering([[0.9, 0.9]], [[0.9, -np.inf]])
    assert recall_over([tied, answering([[0.9, 0.1]], [[0.9, 0.1]], 1)]) == 1.0  # one of equals for another


@needs_scann
def test_scann_shards_reach_the_recall_against_exact_search_over_all(tmp_path):
    vectors = clustered(6000, 16)
    write_embeddings(str(tmp_path / "t"), vectors, parts=2)
    settings = settings_for(
        str(tmp_path / "t"), str(tmp_path / "i"), shards=3, backend="scann_ah", recall_target=0.9
    )
    manifest = build_in_shards(settings)
    opened = open_index(str(tmp_path / "i"))
    assert opened.backend == "scann_ah, 3 shards"
    queries, k = clustered(100, 16, seed=12), 10
    truth = open_table(str(tmp_path / "t")).search(queries, k).neighbors
    found = opened.search(queries, k).neighbors
    scores = {(query, each.key): each.score for query, near in enumerate(truth) for each in near}
    right = [
        each.score == scores[query, each.key]
        for query, near in enumerate(found)
        for each in near
        if (query, each.key) in scores
    ]
    assert all(right)
    assert len(right) / (k * len(queries)) >= 0.85
    assert manifest.recall_at_10 >= 0.85
    assert manifest.recall_queries == 256
    assert manifest.backends == "scann_ah"


@needs_scann
def test_an_update_changes_a_trained_shard_row_by_row(tmp_path, monkeypatch):
    vectors = clustered(1010, 8)
    write_embeddings(str(tmp_path / "t"), vectors[:1000])
    settings = settings_for(
        str(tmp_path / "t"), str(tmp_path / "i"), shards=2, backend="scann_ah", recall_target=0.8
    )
    old = build_in_shards(settings)
    write_embeddings(str(tmp_path / "t"), vectors[5:], keys=[f"lake/{i:05d}.jpg" for i in range(5, 1010)])
    trained = []
    train = build.scann_index.train
    monkeypatch.setattr(build.scann_index, "train", lambda *a, **b: trained.append(a) or train(*a, **b))
    earlier = tuple((each.number, each.name) for each in old.shards)
    manifest = build_in_shards(again(settings, LATER, reuse=True, earlier=earlier))
    assert manifest.made == [0, 1]
    assert not trained
    opened = open_index(str(tmp_path / "i"))
    assert opened.knows("lake/01004.jpg")
    assert len(opened) == 1005
    assert [each.index.backend for each in opened.shards] == ["scann_ah", "scann_ah"]


def test_a_recall_below_the_target_is_said(place, monkeypatch):
    monkeypatch.setattr(shard_build, "recall_over", lambda several: 0.5)
    manifest = build_in_shards(place)
    assert manifest.notes == [
        "over all shards recall@10 is 0.5, below the 0.95 that each shard was tuned to; build with a higher "
        "--recall_target"
    ]


def test_what_shards_note_is_said_once(tmp_path):
    write_embeddings(str(tmp_path / "t"), clustered(60, 4))
    settings = settings_for(str(tmp_path / "t"), str(tmp_path / "i"), shards=1, backend="scann_ah")
    assert build_in_shards(settings).notes == [
        "1 of 1 shards: exact, not scann_ah: 60 rows are too few to train on"
    ]


@pytest.mark.parametrize("name", ["vectors.npy", "rows.parquet", "manifest.json"])
@pytest.mark.parametrize("kept", [0, 0.5, None], ids=["empty", "cut", "gone"])
def test_a_damaged_shard_is_named_and_made_anew(place, name, kept):
    build_in_shards(place)
    before = names(place)
    path = next(p for p in storage.list_tree(storage.join(place.output, before[2])) if p.endswith(name))
    content = storage.read_bytes(path)
    os.remove(path)
    if kept is not None:
        with open(path, "wb") as file:
            file.write(content[: int(len(content) * kept)])
    with pytest.raises(UsageError, match=f"{before[2]}.*(damaged|lacks|lists).*build"):
        open_index(place.output)
    manifest = build_in_shards(again(place, LATER, reuse=True, earlier=tuple(before.items())))
    assert manifest.made == [2]
    assert len(open_index(place.output)) == ROWS


def test_a_shard_with_other_vectors_than_it_was_made_of_is_made_anew(place):
    build_in_shards(place)
    folder = storage.join(place.output, names(place)[1])
    path = next(p for p in storage.list_tree(folder) if p.endswith("vectors.npy"))
    vectors = np.load(path)
    np.save(path, vectors[::-1])
    manifest = build_in_shards(again(place, LATER, reuse=True))
    assert manifest.made == [1]
    found = open_index(place.output).search(vectors[:3], 1).neighbors
    assert found == open_table(place.table).search(vectors[:3], 1).neighbors
