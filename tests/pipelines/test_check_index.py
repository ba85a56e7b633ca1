"""``beam-vision check-index``: ways of searching side by side, and what it says of one that is wrong."""

import json

import numpy as np
import pytest

from beam_vision.pipelines.cli import main
from beam_vision.search.base import Store
from beam_vision.search.compare import Referee
from beam_vision.search.index import Found
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table
from beam_vision.types import Neighbor

ROWS, DIMENSION = 400, 16
FACTS = {"embedding_dim": DIMENSION, "model_digest": "model-a", "preprocessing_digest": "prep-a"}


@pytest.fixture
def lake(tmp_path, capsys):
    write_embeddings(str(tmp_path / "table"), clustered(ROWS, DIMENSION))
    arguments = ["--table", str(tmp_path / "table"), "--output", str(tmp_path / "index")]
    assert main(["build-index", *arguments, "--recall_target", "0.9"]) == 0
    capsys.readouterr()
    return tmp_path


def checked(capsys, *arguments):
    code = main(["check-index", *map(str, arguments), "--output_format", "json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    found = json.loads(shown.out)
    return found, {each["way"]: each for each in found["ways"]}


def test_every_way_agrees_with_numpy(lake, warehouse, capsys):
    """End to end: the vectors in BigQuery, searched there, by NumPy, by DuckDB and by the index."""
    table = copy_table(str(lake / "table"), warehouse, "lake", facts=FACTS)
    whole, ways = checked(capsys, "--table", table, "--index", lake / "index", "--sample", 20, "--k", 5)
    assert (whole["images"], whole["k"]) == (20, 5)
    assert list(ways) == ["numpy", "index (exact)", "duckdb", "bigquery"]
    for each in ways.values():
        assert each["recall_at_k"] == 1.0
        assert each["overlap_at_k"] == 1.0
        assert each["worst_score_difference"] < 1e-6
        assert (each["unknown"], each["too_few"]) == (0, 0)
        assert each["ms_alone"] > 0
        assert each["same_label"] == ways["numpy"]["same_label"]


def test_an_index_that_is_behind_its_table_is_seen(lake, capsys):
    vectors = clustered(ROWS, DIMENSION)
    keys = [f"lake/{row:05d}.jpg" for row in range(ROWS)]
    keys[::2] = [f"new/{row:05d}.jpg" for row in range(0, ROWS, 2)]
    write_embeddings(str(lake / "table"), vectors, keys=keys)
    _, ways = checked(capsys, "--table", lake / "table", "--index", lake / "index", "--sample", 50)
    stale = ways["index (exact)"]
    assert stale["unknown"] > 100
    assert stale["recall_at_k"] < 0.8
    assert ways["duckdb"]["recall_at_k"] == 1.0


def test_the_printed_table(lake, capsys):
    assert main(["check-index", "--table", str(lake / "table"), "--sample", "5", "--k", "3"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split()[:3] == ["way", "overlap@3", "recall@3"]
    assert [line.split()[:3] for line in lines[2:]] == [
        ["numpy", "1.0000", "1.0000"],
        ["duckdb", "1.0000", "1.0000"],
    ]
    assert "5 images of 400, the 3 nearest of each" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "nothing"], "nothing"),
        (["--table", "bigquery://p"], "is not a table of BigQuery"),
        (["--table", "table", "--sample", "0"], "--sample is at least 1"),
        (["--table", "table", "--k", "0"], "--k is at least 1"),
        (["--table", "other", "--index", "index"], "model digests differ: expected model-b, found model-a"),
        (["--table", "one"], "has 1 image with a vector"),
    ],
)
def test_what_can_not_be_compared_ends_with_exit_code_2(lake, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(lake)
    write_embeddings("other", clustered(9, DIMENSION), model_digest="model-b")
    write_embeddings("one", clustered(1, DIMENSION))
    assert main(["check-index", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_referee_marks_wrong_keys_wrong_scores_and_missing_results():
    store = Store([f"k{row}" for row in range(50)], clustered(50, 8))
    referee = Referee(store, ["a", "b"] * 25, sample=10, k=4)

    def wrong(vectors, k):
        """The truth, but for a score, a key that is unknown, and one result less."""
        found = []
        for vector in vectors:
            number = int(np.argmax(store.vectors @ vector))
            best = np.argsort(-(store.vectors @ vector), kind="stable")[:k]
            near = [Neighbor(f"k{row}", float(store.vectors[row] @ vector), 1) for row in best]
            assert near[0].key == f"k{number}"
            near[1] = Neighbor(near[1].key, near[1].score - 0.125, 1)
            near[2] = Neighbor("gone", near[2].score, 1)
            found.append(near[:-1])
        return Found(found, ["as it likes"])

    marked = referee.compare("wrong", wrong)
    assert marked.overlap_at_k == marked.recall_at_k == 0.5
    assert marked.worst_score_difference == pytest.approx(0.125, abs=0.01)
    assert (marked.unknown, marked.too_few, marked.how) == (10, 10, "as it likes")
    labels = [[row % 2 == own % 2 for row in _nearest(store, own)] for own in referee.rows]
    assert marked.same_label == pytest.approx(
        np.mean([np.mean([each[0], each[2]]) for each in labels]), abs=1e-4
    )


def _nearest(store, own):
    order = np.argsort(-(store.vectors @ store.vectors[own]), kind="stable")
    return [row for row in order if row != own][:4]
