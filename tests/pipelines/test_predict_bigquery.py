"""``beam-vision predict --output bigquery://...`` end to end, against the same run into a folder."""

import json

import numpy as np
import pytest

from beam_vision import metrics
from beam_vision.pipelines import cli
from beam_vision.sinks.failures import read_failures
from beam_vision.testing import images, models

pytestmark = pytest.mark.usefixtures("warm_children")

OF_THE_RUN = ("run_id", "written_at", "row_digest")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("models") / "colours"))


@pytest.fixture
def lake(tmp_path):
    """Six good images in three classes, and a broken one."""
    folder = tmp_path / "lake"
    images.make_lake(folder, per_class=2)
    (folder / "red" / "text.jpg").write_bytes(b"this is not an image\n")
    return folder


@pytest.fixture
def predict(model, lake, tmp_path, warehouse):
    def run(*more, output=None, job="predict", task="classify"):
        output = output or warehouse.uri("lake")
        argv = [job, "--task", task, "--images", str(lake), "--model", model, "--no-check_model"]
        staging = ["--staging", str(tmp_path / "staging")]
        return cli.main([*argv, "--output", str(output), *staging, *map(str, more)])

    return run


def all_of(warehouse, table="lake"):
    return {row["key"]: row for row in warehouse.rows(f"SELECT * FROM {warehouse.name(table).sql}")}


def said(row):
    """What a row says of its image, whatever it was stored in."""
    kept = {name: value for name, value in row.items() if name not in OF_THE_RUN}
    return {
        **kept,
        "attributes": dict(map(tuple, (map(dict.values, row["attributes"])))) if row["attributes"] else {},
    }


def summary_of(path):
    found = json.loads(path.read_text())
    return tuple(found[name] for name in ("inputs", "outputs", "failed", "already_done"))


def test_rows_are_those_of_a_folder_and_a_run_again_changes_none(predict, warehouse, lake, tmp_path, capfd):
    import pyarrow.parquet as pq

    assert predict("--with_embedding") == 0
    found = all_of(warehouse)
    assert predict("--with_embedding", output=tmp_path / "folder") == 0
    (path,) = (tmp_path / "folder").glob("*.parquet")
    expected = {row["key"]: row for row in pq.read_table(path).to_pylist()}
    assert len(found) == 6 == warehouse.count("lake")
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        np.testing.assert_array_equal(np.float32(found[key]["embedding"]), np.float32(row["embedding"]))
        assert {**said(found[key]), "embedding": 0} == {**said(row), "embedding": 0}
    capfd.readouterr()
    assert predict("--with_embedding") == 0
    assert "6 rows were loaded; 0 rows of the table changed" in capfd.readouterr().err
    assert all_of(warehouse) == found
    assert warehouse.tables() == ["lake", "lake_failures"]
    assert not list((tmp_path / "staging").rglob("*.parquet"))
    failed = warehouse.rows(f"SELECT * FROM {warehouse.name('lake_failures').sql}")
    assert [(row["key"], row["reason"], row["job"], row["output"]) for row in failed] == [
        (str(lake / "red" / "text.jpg"), "not_an_image", "predict", warehouse.uri("lake"))
    ]


def test_a_row_that_says_something_else_is_updated_alone(predict, warehouse, lake, capfd):
    assert predict() == 0
    before = all_of(warehouse)
    moved = next(path for path in sorted((lake / "red").iterdir()) if path.name != "text.jpg")
    manifest = lake.parent / "manifest.csv"
    lines = [
        f"{path},{'crimson' if path == moved else path.parent.name}" for path in sorted(lake.rglob("*.*"))
    ]
    manifest.write_text("\n".join(["uri,label", *lines, ""]))
    capfd.readouterr()
    assert predict("--images", manifest) == 0
    assert "6 rows were loaded; 1 rows of the table changed" in capfd.readouterr().err
    after = all_of(warehouse)
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {str(moved)}
    assert after[str(moved)]["label"] == "crimson"
    assert after[str(moved)]["written_at"] > before[str(moved)]["written_at"]


def test_resume_leaves_out_what_the_table_holds(predict, warehouse, tmp_path):
    assert predict("--limit", 3) == 0
    first = all_of(warehouse)
    assert predict("--resume", "--summary", tmp_path / "summary.json") == 0
    found = all_of(warehouse)
    assert summary_of(tmp_path / "summary.json") == (7, 6 - len(first), 1, len(first))
    assert {key: found[key] for key in first} == first
    assert len(found) == 6


def test_redrive_takes_the_failures_of_this_output_alone(predict, warehouse, lake, tmp_path):
    assert predict() == 0
    assert predict("--failures", warehouse.uri("lake_failures"), output=tmp_path / "folder") == 0
    assert warehouse.count("lake_failures") == 2
    (lake / "red" / "text.jpg").write_bytes((next(iter((lake / "blue").iterdir()))).read_bytes())
    more = ["--failures", warehouse.uri("lake_failures"), "--summary", tmp_path / "summary.json"]
    assert predict(*more, job="redrive") == 0
    assert summary_of(tmp_path / "summary.json") == (1, 1, 0, 0)
    assert warehouse.count("lake") == 7
    left = warehouse.rows(f"SELECT output FROM {warehouse.name('lake_failures').sql}")
    assert left == [{"output": str(tmp_path / "folder")}]


def test_failures_of_a_table_into_a_folder(predict, warehouse, tmp_path):
    assert predict("--failures", tmp_path / "failures") == 0
    assert [failure.reason for failure in read_failures(str(tmp_path / "failures"))] == ["not_an_image"]
    assert warehouse.tables() == ["lake"]


@pytest.mark.parametrize("kind", ["view", "columns", "model", "dataset"])
def test_what_can_not_be_written_is_refused_before_an_image_is_read(predict, warehouse, capfd, kind):
    if kind == "view":
        warehouse.rows(f"CREATE VIEW {warehouse.name('lake').sql} AS SELECT 1 AS one")
        why = "is a view"
    elif kind == "columns":
        warehouse.rows(f"CREATE TABLE {warehouse.name('lake').sql} (key INT64, uri STRING)")
        why = "other columns"
    elif kind == "model":
        assert predict("--limit", 2) == 0
        why = "digests differ"
    more = ["--top_k", 2] if kind == "model" else []
    output = warehouse.uri("lake")
    if kind == "dataset":
        output, why = f"bigquery://{warehouse.project}.nowhere.lake", "there is no dataset"
    before = warehouse.tables()
    metrics.TALLY.clear()
    assert predict(*more, output=output) == 2
    assert why in capfd.readouterr().err
    assert warehouse.tables() == before
    assert metrics.TALLY.counts() == {}


def test_preflight_says_what_would_be_done_and_does_nothing(predict, warehouse, capfd):
    assert predict("--preflight_only") == 0
    plan = json.loads(capfd.readouterr().out)
    assert (plan["output"], plan["output_holds"]) == (warehouse.uri("lake"), "no table")
    assert plan["failures"] == warehouse.uri("lake_failures")
    assert warehouse.tables() == []


def test_workers_elsewhere_need_a_folder_that_they_see(predict, warehouse, capfd):
    assert predict("--runner", "DataflowRunner") == 2
    assert "give --staging gs://BUCKET/FOLDER" in capfd.readouterr().err


def test_nothing_coming_in_leaves_the_table_as_it_is(predict, warehouse, tmp_path, capfd):
    assert predict() == 0
    (tmp_path / "void").mkdir()
    assert predict("--images", tmp_path / "void") == 1
    assert "was left as it is" in capfd.readouterr().err
    assert (warehouse.count("lake"), warehouse.count("lake_failures")) == (6, 1)


def test_failures_of_another_job_and_their_redrive(warehouse, lake, tmp_path):
    place, output = warehouse.uri("failed"), tmp_path / "data"
    argv = ["--images", str(lake), "--output", str(output), "--failures", place]
    assert cli.main(["create-tfrecords", *argv]) == 0
    (row,) = warehouse.rows(f"SELECT * FROM {warehouse.name('failed').sql}")
    assert (row["job"], row["output"], row["attempt"]) == ("create-tfrecords", str(output), 1)
    (lake / "red" / "text.jpg").write_bytes((next(iter((lake / "blue").iterdir()))).read_bytes())
    assert cli.main(["redrive", *argv]) == 0
    assert warehouse.count("failed") == 0
