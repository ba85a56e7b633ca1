"""``beam-vision search``, as it is called."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from beam_vision.pipelines.cli import main
from beam_vision.table import read_manifest
from beam_vision.testing import models
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table

ROWS, DIMENSION = 200, 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    write_embeddings(str(folder / "table"), clustered(ROWS, DIMENSION))
    assert main(["build-index", "--table", str(folder / "table"), "--output", str(folder / "index")]) == 0
    np.save(folder / "one.npy", clustered(ROWS, DIMENSION)[4])
    np.save(folder / "three.npy", clustered(ROWS, DIMENSION)[4:7])
    np.save(folder / "bad.npy", np.full(DIMENSION, np.nan))
    np.save(folder / "zero.npy", np.zeros((2, DIMENSION)))
    np.save(folder / "objects.npy", np.array([{"a": 1}], object))
    (folder / "text.npy").write_text("not an array")
    return folder


def search(capsys, *arguments):
    code = main(["search", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def found(capsys, *arguments):
    code, out, err = search(capsys, *arguments, "--output_format", "json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("where_to_look", ["index", "table", "duckdb"])
def test_by_key(place, capsys, where_to_look):
    at = ["--key", "lake/00004.jpg", f"--{where_to_look}", place / where_to_look]
    if where_to_look == "duckdb":
        at[2:] = ["--table", place / "table", "--engine", "duckdb"]
    without = found(capsys, *at, "--k", 3)
    assert [each["rank"] for each in without] == [1, 2, 3]
    assert set(without[0]) == {"key", "uri", "score", "rank", "label", "attributes"}
    scores = clustered(ROWS, DIMENSION) @ clustered(ROWS, DIMENSION)[4]
    expected = [f"lake/{row:05d}.jpg" for row in np.argsort(-scores)[:4]]
    assert [each["key"] for each in without] == expected[1:]
    assert without[0]["score"] == pytest.approx(np.sort(scores)[-2], abs=1e-6)
    assert without[0]["uri"] == f"/data/{expected[1]}"
    having = found(capsys, *at, "--k", 4, "--include_self")
    assert [each["key"] for each in having] == expected
    assert having[0]["score"] == 1.0


def test_a_relative_path_stands_for_the_key_of_a_local_file(tmp_path, capsys, monkeypatch):
    vectors = clustered(20, DIMENSION)
    keys = [str(tmp_path / "lake" / f"{row}.jpg") for row in range(20)]
    write_embeddings(str(tmp_path / "table"), vectors, keys=keys)
    monkeypatch.chdir(tmp_path)
    nearest = found(capsys, "--table", "table", "--key", "lake/4.jpg", "--k", 1, "--include_self")
    assert nearest[0]["key"] == keys[4]


def test_by_vector_file(place, capsys):
    one = found(capsys, "--index", place / "index", "--vector", place / "one.npy", "--k", 2)
    assert one[0]["key"] == "lake/00004.jpg"
    assert "query" not in one[0]
    three = found(capsys, "--index", place / "index", "--vector", place / "three.npy", "--k", 2)
    assert [each["query"] for each in three] == [0, 0, 1, 1, 2, 2]
    assert [each["key"] for each in three[::2]] == [f"lake/{row:05d}.jpg" for row in (4, 5, 6)]
    assert three[:2] == [{"query": 0, **each} for each in one]


def test_the_filter_holds_and_gives_k(place, capsys):
    where = "label = 'even' AND attributes['camera'] = 'b'"
    rows = found(capsys, "--index", place / "index", "--key", "lake/00001.jpg", "--k", 20, "--where", where)
    assert len(rows) == 20
    assert {row["label"] for row in rows} == {"even"}
    assert {row["attributes"]["camera"] for row in rows} == {"b"}


def test_an_index_finds_and_a_table_describes(place, tmp_path, capsys):
    """Labels as the table has them by now; a row that is gone stays as the index knew it, and it is said."""
    keys = write_embeddings(
        str(tmp_path), clustered(ROWS, DIMENSION)[:100], labels=["new"] * 100, attributes=[{"a": "b"}] * 100
    )
    code, out, err = search(
        capsys,
        *("--index", place / "index", "--table", tmp_path, "--key", "lake/00004.jpg"),
        *("--k", 50, "--output_format", "json"),
    )
    assert code == 0, err
    rows = json.loads(out)
    assert [row["label"] == "new" for row in rows] == [row["key"] in keys for row in rows]
    gone = sum(row["key"] not in keys for row in rows)
    assert 0 < gone < 50
    assert f"{gone} of 50 are no longer in " in err


def test_more_than_there_are_is_said(place, capsys):
    code, out, err = search(
        capsys, "--index", place / "index", "--key", "lake/00001.jpg", "--k", 999, "--output_format", "json"
    )
    assert code == 0
    assert len(json.loads(out)) == ROWS - 1
    assert f"only {ROWS - 1} rows are there: all are given" in err


def test_the_printed_table(place, capsys):
    code, out, err = search(capsys, "--index", place / "index", "--vector", place / "one.npy", "--k", 2)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["rank", "score", "label", "key", "attributes"]
    assert lines[2].split() == ["1", "1.0000", "even", "lake/00004.jpg", "{camera:", "b}"]
    assert len(lines) == 4
    assert "searched: exact" in err
    _, out, _ = search(capsys, "--index", place / "index", "--vector", place / "three.npy", "--k", 1)
    assert [line.split()[0] for line in out.splitlines()] == ["query", "─────", "0", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exactly one of --image, --key, --vector is needed, and none was given"),
        (["--key", "a", "--vector", "one.npy"], "--key and --vector was given"),
        (["--key", "a", "--table", "table"], "no image with the key 'a'"),
        (["--key", "lake/00004.jpg", "--table", "nothing"], "nothing"),
        (["--key", "a", "--engine", "duckdb"], "--engine duckdb searches a --table"),
        (["--image", "a.jpg"], "--image FILE and --model DIR go together"),
        (["--key", "a", "--model", "m"], "--image FILE and --model DIR go together"),
        (["--key", "lake/0004.jpg"], "no image with the key 'lake/0004.jpg'; did you mean 'lake/"),
        (["--key", "lake/00004.jpg", "--k", "0"], "--k is at least 1"),
        (["--key", "lake/00004.jpg", "--where", "lable = 'x'"], '"lable" not found'),
        (["--vector", "bad.npy"], "1 of 1 query vectors are not finite"),
        (["--vector", "zero.npy"], "2 of 2 query vectors are zero"),
        (["--vector", "objects.npy"], "not a .npy file of numbers"),
        (["--vector", "text.npy"], "not a .npy file of numbers"),
        (["--vector", "missing.npy"], "no such file"),
        (["--image", "missing.jpg", "--model", "m"], "no such file"),
    ],
)
def test_wrong_arguments_end_with_exit_code_2(place, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    code, out, err = search(capsys, "--index", "index", *arguments)
    assert code == 2
    assert out == ""
    assert message in err


def test_bad_vectors_of_a_table_can_be_left_out(tmp_path, capsys):
    vectors = clustered(20, 4)
    vectors[3] = 0
    write_embeddings(str(tmp_path), vectors)
    code, _, err = search(capsys, "--table", tmp_path, "--key", "lake/00001.jpg")
    assert code == 2
    assert "--skip_bad_vectors" in err
    code, out, err = search(
        capsys, "--table", tmp_path, "--key", "lake/00001.jpg", "--skip_bad_vectors", "--k", 99
    )
    assert code == 0
    assert len(out.splitlines()) == 2 + 18
    assert "1 zero (lake/00003.jpg); left out" in err


@pytest.mark.parametrize(
    ("table", "engine", "message"),
    [
        ("bigquery://p.d.t", "auto", "'p' is not a project's id"),
        ("bigquery://project.d.t", "duckdb", "--engine duckdb can't search bigquery://project.d.t"),
        ("folder", "bigquery", "--engine bigquery can't search folder: take numpy or duckdb"),
    ],
)
def test_an_engine_that_can_not_search_the_table_is_refused(capsys, table, engine, message):
    code, _, err = search(capsys, "--table", table, "--engine", engine, "--key", "a")
    assert code == 2
    assert message in err


def test_no_index_is_refused(tmp_path, capsys):
    code, _, err = search(capsys, "--index", tmp_path, "--key", "a")
    assert code == 2
    assert "no index at" in err


COLOURS = {"red": (220, 30, 20), "green": (20, 200, 40), "blue": (10, 40, 230), "dark": (20, 20, 20)}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Images of the model's own size, a real model, the table that it makes of them, and its index."""
    from beam_vision.inference.bundle import read_bundle
    from beam_vision.pipelines.model_options import overrides_of
    from beam_vision.pipelines.search import Options

    folder = tmp_path_factory.mktemp("coloured")
    model = models.save_saved_model(str(folder / "model"))
    names, vectors = [], []
    for first, one in COLOURS.items():
        for second, other in COLOURS.items():
            image = Image.new("RGB", (8, 8), one)
            image.paste(other, (4, 0, 8, 4))
            names.append(f"{first}-{second}.png")
            image.save(folder / names[-1])
            vectors.append(models.embedding(np.asarray(image)[None] / 255)[0])
    spec = read_bundle(model, overrides_of(Options(model=model), task="embed"))
    write_embeddings(
        str(folder / "table"),
        np.array(vectors),
        keys=names,
        model_digest=spec.model_digest,
        preprocessing_digest=spec.preprocessing_digest,
    )
    assert main(["build-index", "--table", str(folder / "table"), "--output", str(folder / "index")]) == 0
    return folder


def test_by_image_file(coloured, capsys):
    """A file finds itself among the vectors that NumPy made of the same pixels."""
    for name in ("red-blue.png", "dark-green.png"):
        rows = found(
            capsys,
            "--index",
            coloured / "index",
            "--image",
            coloured / name,
            "--model",
            coloured / "model",
            "--k",
            2,
        )
        assert rows[0]["key"] == name
        assert rows[0]["score"] == pytest.approx(1, abs=1e-4)
        assert rows[1]["score"] < rows[0]["score"]


def test_an_image_prepared_in_another_way_is_refused_with_both_digests(coloured, capsys):
    with open(os.path.join(coloured, "index", "manifest.json")) as file:
        index = json.load(file)
    at = ["--index", coloured / "index", "--image", coloured / "red-blue.png", "--model", coloured / "model"]
    code, out, err = search(capsys, *at, "--value_range=-1..1")
    assert (code, out) == (2, "")
    assert f"preprocessing digests differ: expected {index['preprocessing_digest']}, found " in err


def test_another_model_is_refused_with_both_digests(coloured, place, capsys):
    code, _, err = search(
        capsys,
        "--index",
        place / "index",
        "--image",
        coloured / "red-blue.png",
        "--model",
        coloured / "model",
    )
    assert code == 2
    assert "model digests differ: expected model-a, found " in err


def test_an_image_file_against_a_table_in_bigquery(coloured, place, warehouse, capsys):
    """Found by its own pixels there too; a table of another model is refused with both digests."""
    for name, folder in (("lake", coloured), ("other", place)):
        facts = read_manifest(str(folder / "table")).to_json()
        copy_table(str(folder / "table"), warehouse, name, facts=facts)
    asked = ["--image", coloured / "red-blue.png", "--model", coloured / "model", "--k", 2]
    rows = found(capsys, "--table", warehouse.uri("lake"), *asked)
    assert rows[0]["key"] == "red-blue.png"
    assert rows[0]["score"] == pytest.approx(1, abs=1e-4)
    code, _, err = search(capsys, "--table", warehouse.uri("other"), *asked)
    assert code == 2
    assert "model digests differ: expected model-a, found " in err


def test_a_file_that_is_no_image_is_refused_with_its_reason(coloured, capsys):
    (coloured / "broken.png").write_bytes((coloured / "red-blue.png").read_bytes()[:60])
    code, _, err = search(
        capsys,
        "--index",
        coloured / "index",
        "--image",
        coloured / "broken.png",
        "--model",
        coloured / "model",
    )
    assert code == 2
    assert "broken.png: truncated" in err
