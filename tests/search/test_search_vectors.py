"""Reading embeddings from tables, good and bad."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search import places
from beam_vision.search.vectors import read_vectors
from beam_vision.testing.tables import clustered, write_embeddings


def write_parquet(path, keys, embedding, **columns):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"embedding": embedding, "key": keys, **columns}), path)


def test_reads_all_parts_in_order_with_the_other_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ROWS_AT_ONCE", 7)
    vectors = clustered(50, 6)
    keys = write_embeddings(str(tmp_path / "t"), vectors, parts=3)
    read = read_vectors(str(tmp_path / "t"))
    assert read.store.keys == keys == read.rows.column("key").to_pylist()
    np.testing.assert_array_equal(read.store.vectors, vectors)
    assert read.rows.column("label").to_pylist()[:3] == ["even", "odd", "even"]
    assert "embedding" not in read.rows.column_names
    assert (read.model_digest, read.preprocessing_digest, read.run_id) == ("model-a", "prep-a", "run-1")
    assert read.skipped == {}


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2), pa.list_(pa.int16())],
)
def test_reads_tables_made_elsewhere(tmp_path, kind):
    write_parquet(tmp_path / "t" / "a.parquet", ["x", "y"], pa.array([[3, 4], [0, -2]], kind))
    read = read_vectors(str(tmp_path / "t"))
    np.testing.assert_allclose(read.store.vectors, [[0.6, 0.8], [0, -1]], atol=1e-7)
    assert (read.model_digest, read.run_id) == ("", "")


BAD = [[1.0, 0], None, [1.0, 2, 3], [float("nan"), 1], [0.0, 0], [1.0, None], [1e300, 1], [0.0, 2]]


def test_bad_vectors_are_refused_with_their_keys_and_reasons(tmp_path):
    write_parquet(tmp_path / "t" / "a.parquet", list("abcdefgh"), pa.array(BAD, pa.list_(pa.float64())))
    with pytest.raises(UsageError) as caught:
        read_vectors(str(tmp_path / "t"))
    text = str(caught.value)
    assert "6 vectors can't be searched" in text
    assert "1 missing (b)" in text
    assert "1 not of 2 dimensions (c)" in text
    assert "3 not finite (d, f, g)" in text
    assert "1 zero (e)" in text
    assert "--skip_bad_vectors" in text


def test_bad_vectors_can_be_left_out(tmp_path):
    write_parquet(
        tmp_path / "t" / "a.parquet",
        list("abcdefgh"),
        pa.array(BAD, pa.list_(pa.float64())),
        label=list("ABCDEFGH"),
    )
    read = read_vectors(str(tmp_path / "t"), skip_bad_vectors=True)
    assert read.store.keys == ["a", "h"]
    assert read.rows.column("label").to_pylist() == ["A", "H"]
    np.testing.assert_array_equal(read.store.vectors, [[1, 0], [0, 1]])
    assert read.skipped == {
        "missing": ["b"],
        "not of 2 dimensions": ["c"],
        "not finite": ["d", "f", "g"],
        "zero": ["e"],
    }


def test_only_the_first_few_of_many_bad_keys_are_shown(tmp_path):
    vectors = clustered(30, 4)
    vectors[5:25] = 0
    write_embeddings(str(tmp_path / "t"), vectors)
    with pytest.raises(UsageError) as caught:
        read_vectors(str(tmp_path / "t"))
    assert "20 zero (lake/00005.jpg, " in str(caught.value)
    assert "lake/00009.jpg, ...)" in str(caught.value)
    assert "00010" not in str(caught.value)


def test_leading_missing_vectors_do_not_hide_the_dimension(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ROWS_AT_ONCE", 2)
    embedding = pa.array([None, None, None, [1.0, 2.0, 2.0]], pa.list_(pa.float32()))
    write_parquet(tmp_path / "t" / "a.parquet", list("abcd"), embedding)
    read = read_vectors(str(tmp_path / "t"), skip_bad_vectors=True)
    assert read.store.keys == ["d"]
    assert read.store.dimension == 3
    assert read.skipped == {"missing": ["a", "b", "c"]}


def test_a_key_that_stands_twice_is_refused(tmp_path):
    write_embeddings(str(tmp_path / "t"), clustered(6, 3), keys=["a", "b", "a", "c", "b", "d"], parts=2)
    with pytest.raises(UsageError, match=r"2 keys stand more than once .*: a, b$"):
        read_vectors(str(tmp_path / "t"))


@pytest.mark.parametrize("column", ["model_digest", "preprocessing_digest"])
def test_vectors_of_two_kinds_are_refused_with_both_digests(tmp_path, column):
    write_embeddings(str(tmp_path / "t"), clustered(4, 3), **{column: "one"})
    whole = pq.read_table(tmp_path / "t" / "part-run-1-00000.parquet")
    place = whole.schema.get_field_index(column)
    mixed = whole.set_column(place, whole.schema.field(place), [["one", "other", "one", "one"]])
    pq.write_table(mixed, tmp_path / "t" / "part-run-1-00000.parquet")
    with pytest.raises(
        DigestMismatch, match=f"{column.partition('_')[0]} digests differ: expected one, found other"
    ):
        read_vectors(str(tmp_path / "t"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"key": ["a"]}, "no column 'embedding', only key"),
        ({"embedding": [[1.0]]}, "no column 'key', only embedding"),
        ({"key": ["a"], "embedding": ["text"]}, "holds string, not lists of numbers"),
        ({"key": ["a", None], "embedding": [[1.0], [2.0]]}, "1 rows of .* have no key"),
        ({"key": pa.array([], pa.string()), "embedding": pa.array([], pa.list_(pa.float32()))}, "no row"),
    ],
)
def test_tables_without_keyed_vectors_are_refused(tmp_path, columns, message):
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "t" / "a.parquet")
    with pytest.raises(UsageError, match=message):
        read_vectors(str(tmp_path / "t"))


def test_no_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no table at"):
        read_vectors(str(tmp_path / "nowhere"))


def test_reads_from_an_object_store(tmp_path, gcs):
    from beam_vision import storage

    vectors = clustered(20, 4)
    keys = write_embeddings(str(tmp_path / "t"), vectors, parts=2)
    for path in (tmp_path / "t").iterdir():
        storage.write_bytes(f"{gcs}/vectors/t/{path.name}", path.read_bytes())
    read = read_vectors(f"{gcs}/vectors/t")
    assert read.store.keys == keys
    np.testing.assert_array_equal(read.store.vectors, vectors)
