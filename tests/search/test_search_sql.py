"""SQL over a table: what can be asked, what is refused, and that nothing else can be reached."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision.errors import UsageError
from beam_vision.search import sql
from beam_vision.testing.tables import clustered, write_embeddings

ROWS, DIMENSION = 120, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sql") / "it's a table"
    write_embeddings(str(folder), clustered(ROWS, DIMENSION), parts=3)
    (folder / "failures").mkdir()
    failures = [
        {
            "key": "lake/x.jpg",
            "uri": "/data/lake/x.jpg",
            "stage": "decode",
            "reason": reason,
            "detail": "é",
            "attempt": 2,
            "run_id": "run-1",
        }
        for reason in ("truncated", "truncated", "empty")
    ]
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in failures)
    (folder / "failures" / "part-run-1-00000.jsonl").write_text(lines, encoding="utf-8")
    return str(folder)


def ask(folder, statement):
    with sql.query(folder, statement) as result:
        return [row for batch in result.batches for row in batch]


def test_all_parts_are_one_view(folder):
    assert ask(folder, "SELECT count(*), count(DISTINCT key) FROM images") == [(ROWS, ROWS)]
    by_camera = ask(folder, "SELECT attributes['camera'], count(*) FROM images GROUP BY 1 ORDER BY 1")
    assert by_camera == [("a", 40), ("b", 40), ("c", 40)]


def test_cosine_similarity_is_numpys(folder):
    rows = ask(
        folder,
        "SELECT key, cosine_similarity(embedding, embedding_of('lake/00005.jpg')) AS score "
        "FROM images ORDER BY score DESC, key",
    )
    vectors = clustered(ROWS, DIMENSION)
    expected = {f"lake/{i:05d}.jpg": score for i, score in enumerate(vectors @ vectors[5])}
    assert rows[0][0] == "lake/00005.jpg"
    for key, score in rows:
        assert score == pytest.approx(expected[key], abs=1e-6)


def test_vectors_can_be_written_out_and_compared_by_duckdbs_own_functions(folder):
    text = np.array2string(clustered(ROWS, DIMENSION)[2], separator=",", max_line_width=10_000)
    ((key,),) = ask(
        folder, f"SELECT key FROM images ORDER BY cosine_similarity(embedding, {text}) DESC LIMIT 1"
    )
    assert key == "lake/00002.jpg"
    ((score,),) = ask(
        folder,
        "SELECT array_cosine_similarity(embedding, embedding) FROM images WHERE key = 'lake/00002.jpg'",
    )
    assert score == pytest.approx(1, abs=1e-6)


def test_a_zero_vector_is_like_nothing_and_sorts_last(tmp_path):
    write_embeddings(str(tmp_path), np.array([[0, 0], [1, 0], [-1, 0]]), keys=["zero", "same", "opposite"])
    rows = ask(
        str(tmp_path),
        "SELECT key, cosine_similarity(embedding, embedding_of('same')) AS s FROM images ORDER BY s DESC",
    )
    assert rows == [("same", 1.0), ("opposite", -1.0), ("zero", None)]


def test_an_unknown_key_has_no_embedding(folder):
    assert ask(folder, "SELECT embedding_of('nowhere')") == [(None,)]


def test_failures_are_a_view_even_when_there_are_none(folder, tmp_path):
    counted = "SELECT reason, count(*), max(attempt), any_value(detail) FROM failures GROUP BY 1 ORDER BY 1"
    assert ask(folder, counted) == [("empty", 1, 2, "é"), ("truncated", 2, 2, "é")]
    write_embeddings(str(tmp_path), clustered(5, 2))
    assert ask(str(tmp_path), "SELECT count(*) FROM failures") == [(0,)]


def test_columns_with_one_name_are_told_apart(folder):
    with sql.query(folder, "SELECT key, key, 1 AS key_2, width FROM images") as result:
        assert result.names == ["key", "key_2", "key_2_2", "width"]
        assert len(next(result.batches)[0]) == 4


def test_rows_come_in_batches(folder):
    with sql.query(folder, "SELECT a.key FROM images a, images b LIMIT 2500") as result:
        assert [len(batch) for batch in result.batches] == [1000, 1000, 500]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY images TO 'x.csv'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW images",
        "SELECT 1; SELECT 2",
        "",
        "SET enable_external_access = true",
        "ATTACH 'x.db'",
        "INSTALL httpfs",
        "EXPLAIN ANALYZE COPY images TO 'x'",
    ],
)
def test_only_one_select_is_run(folder, statement):
    with pytest.raises(UsageError, match="one SELECT"):
        ask(folder, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('http://localhost/x.parquet')",
        "SELECT * FROM statement",
    ],
)
def test_nothing_but_the_table_can_be_read(folder, statement):
    with pytest.raises(UsageError):
        ask(folder, statement)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT lable FROM images", '"lable" not found'),
        ("SELECT key FROM image", "image does not exist"),
        ("SELEC 1", "syntax error"),
        ("SELECT label::INT FROM images", "Could not convert"),
    ],
)
def test_errors_are_one_line_and_name_the_columns(folder, statement, message):
    with pytest.raises(UsageError) as caught:
        ask(folder, statement)
    assert message in str(caught.value)
    assert "its columns: key, uri, label, embedding, width," in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_made_elsewhere(tmp_path):
    """Lists without a fixed length get one when all have the same; parts may differ in their columns."""
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0], None], pa.list_(pa.float64()))
    pq.write_table(pa.table({"key": ["a", "b", "c"], "embedding": vectors}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"key": ["d"], "label": ["dog"]}), tmp_path / "2.parquet")
    rows = ask(
        str(tmp_path), "SELECT key, label, cosine_similarity(embedding, [3, 4]) FROM images ORDER BY key"
    )
    assert rows == [
        ("a", None, pytest.approx(0.6)),
        ("b", None, pytest.approx(0.8)),
        ("c", None, None),
        ("d", "dog", None),
    ]


def test_a_table_without_embeddings_is_readable(tmp_path):
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "1.parquet")
    assert ask(str(tmp_path), "FROM images") == [("a",)]


def test_no_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no table at"):
        ask(str(tmp_path), "SELECT 1")


def test_reads_from_an_object_store(folder, gcs):
    from pathlib import Path

    from beam_vision import storage

    for path in Path(folder).rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{gcs}/sql/{path.relative_to(folder)}", path.read_bytes())
    assert ask(f"{gcs}/sql", "SELECT count(*), (SELECT count(*) FROM failures) FROM images") == [(ROWS, 3)]
