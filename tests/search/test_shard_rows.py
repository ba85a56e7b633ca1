"""Rows into files by shard, and back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision import digest, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.search import shard_rows
from beam_vision.search.shard_rows import dimension_of, gather, part_rows, plan_reads
from beam_vision.search.vectors import read_vectors
from beam_vision.testing.sharding import parted, settings_for
from beam_vision.testing.tables import clustered, write_embeddings

ROWS, DIMENSION = 500, 8


@pytest.fixture
def place(tmp_path):
    write_embeddings(str(tmp_path / "t"), 3 * clustered(ROWS, DIMENSION), parts=3)
    return settings_for(str(tmp_path / "t"), str(tmp_path / "i"))


def test_every_row_is_in_its_shard_as_a_plain_read_has_it(place):
    plain = read_vectors(place.table)
    pieces, facts = parted(place)
    assert (facts.rows, facts.bad) == (ROWS, {})
    seen = []
    for number, some in pieces.items():
        found = gather(some, facts, place)
        keys = found.store.keys
        assert keys == sorted(keys)
        assert {digest.bucket(key, 4) for key in keys} == {number}
        rows = [plain.store.row_of[key] for key in keys]
        assert (found.store.vectors == plain.store.vectors[rows]).all()
        assert found.rows.to_pylist() == plain.rows.take(rows).to_pylist()
        assert (found.model_digest, found.preprocessing_digest) == ("model-a", "prep-a")
        seen += keys
    assert sorted(seen) == sorted(plain.store.keys)


def test_rows_written_down_a_few_at_a_time_are_the_same(place, monkeypatch):
    """Small batches: a shard's rows come from many batches, each of one shard."""
    whole = {number: gather(some, *rest) for number, some, *rest in each_shard(place)}
    monkeypatch.setattr(shard_rows, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(shard_rows, "HELD_BYTES", 32 * 4 * DIMENSION)
    pieces, facts = parted(place)
    assert all(len(piece.batches) > 3 for some in pieces.values() for piece in some)
    for number, some in pieces.items():
        found = gather(some[::-1], facts, place)
        assert found.store.keys == whole[number].store.keys
        assert (found.store.vectors == whole[number].store.vectors).all()
        assert found.rows.equals(whole[number].rows)


def each_shard(settings):
    pieces, facts = parted(settings)
    return [(number, some, facts, settings) for number, some in pieces.items()]


def test_parts_with_other_columns_get_the_columns_of_all(place):
    path = storage.join(place.table, "part-run-1-00001.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["label", "attributes"]), path)
    columns = set(read_vectors(place.table).rows.column_names)
    for _, some, facts, settings in each_shard(place):
        rows = gather(some, facts, settings).rows
        assert set(rows.column_names) == columns
        assert 0 < rows.column("label").null_count < len(rows)


def test_a_key_that_stands_twice_is_named(tmp_path):
    keys = [f"k{i}" for i in range(40)]
    keys[33] = "k5"
    write_embeddings(str(tmp_path / "t"), clustered(40, 4), keys=keys, parts=2)
    settings = settings_for(str(tmp_path / "t"), str(tmp_path / "i"))
    pieces, facts = parted(settings)
    with pytest.raises(UsageError, match=r"^at least 1 keys stand more than once in the table at .*/t: k5"):
        for some in pieces.values():
            gather(some, facts, settings)


def test_bad_vectors_are_counted_and_left_out(tmp_path):
    vectors = clustered(60, 4)
    vectors[3], vectors[50, 1], vectors[51] = 0, np.inf, 0
    write_embeddings(str(tmp_path / "t"), vectors, parts=2)
    settings = settings_for(str(tmp_path / "t"), str(tmp_path / "i"), skip_bad_vectors=True)
    pieces, facts = parted(settings)
    assert (facts.rows, facts.bad) == (57, {"not finite": 1, "zero": 2})
    assert facts.bad_keys == {"not finite": ["lake/00050.jpg"], "zero": ["lake/00003.jpg", "lake/00051.jpg"]}
    assert sum(len(gather(some, facts, settings).store) for some in pieces.values()) == 57


def test_a_task_may_begin_with_rows_or_hold_only_rows_without_a_vector(tmp_path):
    vectors = clustered(6, DIMENSION)
    vectors[:2] = np.nan
    write_embeddings(str(tmp_path / "t"), vectors, parts=3)  # the first part's two are the bad ones
    settings = settings_for(str(tmp_path / "t"), str(tmp_path / "i"), skip_bad_vectors=True)
    assert sum(len(gather(some, *rest).store) for _, some, *rest in each_shard(settings)) == 4


def test_tasks_are_row_groups_and_a_large_one_is_not_parted(tmp_path, monkeypatch):
    write_embeddings(str(tmp_path / "t"), clustered(100, 4), parts=2)
    path = storage.join(str(tmp_path / "t"), "part-run-1-00001.parquet")
    pq.write_table(pq.read_table(path), path, row_group_size=20)
    monkeypatch.setattr(shard_rows, "TASK_BYTES", 40 * 4 * 4)
    tasks = plan_reads(str(tmp_path / "t"), 4)
    assert [(task.path[-13:], task.row_groups, task.rows) for task in tasks] == [
        ("00000.parquet", (0,), 50),
        ("00001.parquet", (0, 1), 40),
        ("00001.parquet", (2,), 10),
    ]
    pieces, facts = parted(settings_for(str(tmp_path / "t"), str(tmp_path / "i")))
    assert facts.rows == 100
    assert sum(piece.rows for some in pieces.values() for piece in some) == 100


def test_a_file_that_changed_since_it_was_planned_ends_the_build(place):
    (task, *_) = plan_reads(place.table, DIMENSION)
    pq.write_table(pq.read_table(task.path).slice(7), task.path)
    with pytest.raises(JobError, match="says that it holds 166 rows, and 159 came"):
        part_rows(task, place)


def test_where_nobody_says_the_dimension_it_is_what_most_first_vectors_have(tmp_path):
    vectors = [[1.0, 2.0], [1.0], [3.0, 4.0], None]
    rows = pa.table({"key": ["a", "b", "c", "d"], "embedding": pa.array(vectors, pa.list_(pa.float64()))})
    pq.write_table(rows, tmp_path / "t.parquet")
    assert dimension_of(str(tmp_path / "t.parquet")) == 2
    pq.write_table(rows.slice(3), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="has no row with a vector"):
        dimension_of(str(tmp_path / "t.parquet"))
    pq.write_table(rows.drop_columns(["key"]), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="has no column 'key'"):
        plan_reads(str(tmp_path / "t.parquet"), 2)
