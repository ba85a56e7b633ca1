"""``beam-vision search --table bigquery://...``, against the same search of the same vectors by NumPy."""

import json

import numpy as np
import pytest

from beam_vision.pipelines.cli import main
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table

ROWS, DIMENSION = 200, 8
FACTS = {"embedding_dim": DIMENSION, "model_digest": "model-a", "preprocessing_digest": "prep-a"}


@pytest.fixture
def lake(warehouse, tmp_path):
    write_embeddings(str(tmp_path / "table"), clustered(ROWS, DIMENSION))
    np.save(tmp_path / "several.npy", clustered(30, DIMENSION, seed=5))
    copy_table(str(tmp_path / "table"), warehouse, "lake", facts=FACTS)
    return tmp_path


def search(capsys, *arguments):
    code = main(["search", *map(str, arguments), "--output_format", "json"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out else None, shown.err


def same(found, truth):
    assert len(found) == len(truth) > 0
    for one, other in zip(found, truth, strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-6)
        assert one == other


def test_the_same_answer_as_numpy(lake, warehouse, capsys):
    """By key, and by several vectors with a filter; the cost and the way are said, temporary tables gone."""
    for asked in (
        ["--key", "lake/00004.jpg", "--k", 3],
        [
            "--vector",
            lake / "several.npy",
            "--k",
            4,
            "--where",
            "label = 'even' AND attributes['camera'] = 'b'",
        ],
    ):
        code, found, err = search(capsys, "--table", warehouse.uri("lake"), *asked)
        assert code == 0, err
        assert "USD" in err
        assert "searched: " in err
        same(found, search(capsys, "--table", lake / "table", *asked)[1])
    assert len(found) == 30 * 4
    assert warehouse.tables() == ["lake"]
    code, found, _ = search(capsys, "--table", warehouse.uri("lake"), "--engine", "numpy", *asked)
    assert len(found) == 30 * 4


def test_an_index_joined_with_the_table_as_it_is_now(lake, warehouse, capsys):
    assert main(["build-index", "--table", str(lake / "table"), "--output", str(lake / "index")]) == 0
    capsys.readouterr()
    warehouse.client.query(
        f"UPDATE {warehouse.name('lake').sql} SET label = 'new' WHERE key = 'lake/00004.jpg'"
    ).result()
    asked = ["--key", "lake/00004.jpg", "--k", 2, "--include_self"]
    code, found, err = search(capsys, "--index", lake / "index", "--table", warehouse.uri("lake"), *asked)
    assert code == 0, err
    assert found[0]["label"] == "new"
    assert found[1]["label"] != "new"
    assert found[1]["attributes"]["camera"] in "abc"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "lake/0004.jpg"], "no image with the key 'lake/0004.jpg'; did you mean 'lake/00"),
        (["--key", "lake/00004.jpg", "--where", "true) OR (true"], "--where 'true) OR (true' is not one"),
        (["--key", "lake/00004.jpg", "--where", "key IN (SELECT 'a')"], "a subquery can't stand there"),
        (["--key", "lake/00004.jpg", "--k", "0"], "--k is at least 1"),
    ],
)
def test_what_can_not_be_done_ends_with_exit_code_2(lake, warehouse, capsys, arguments, message):
    code, found, err = search(capsys, "--table", warehouse.uri("lake"), *arguments)
    assert (code, found) == (2, None)
    assert message in err
