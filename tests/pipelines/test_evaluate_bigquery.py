"""``beam-vision evaluate`` with predictions, metrics and failures in BigQuery; on the emulator."""

import json

import numpy as np
import pytest

from beam_vision.evaluation.summary import HEADLINES
from beam_vision.pipelines import cli
from beam_vision.pipelines.evaluate_output import add_to_table
from beam_vision.sinks.rows import RowSettings
from beam_vision.testing.detections import write_coco, write_detections
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table
from beam_vision.types import Box
from beam_vision.warehouse import tables

SIZE_PX = (64, 48)
SETTINGS = {"embedding_dim": None, "model_digest": "model-a", "preprocessing_digest": "prep-a"}


@pytest.fixture
def lake(tmp_path, warehouse):
    """Truth, and detections in a folder and in two tables: a row an image, and a row a box."""
    rng = np.random.default_rng(7)
    truth, found = {}, {}
    (tmp_path / "images").mkdir()
    for number in range(9):
        name = f"{number}.png"
        boxes = [make_box(rng) for _ in range(rng.integers(0, 4))]
        truth[name] = boxes
        near = [Box(b.xmin + 1, b.ymin, b.xmax, b.ymax, b.label, 0.5) for b in boxes]
        found[str(tmp_path / "images" / name)] = [make_box(rng, score=0.75), *near]
    write_coco(str(tmp_path / "truth.json"), truth, size_px=SIZE_PX)
    for rows in ("images", "boxes"):
        folder = str(tmp_path / rows) + "-table"
        write_detections(folder, found, size_px=SIZE_PX, rows=rows, parts=2)
        facts = tables.batch_form(RowSettings(task="detect", rows=rows, **SETTINGS)).facts
        copy_table(folder, warehouse, rows, facts=facts)
    return tmp_path


def make_box(rng, score=1.0):
    x, y = (float(value) for value in rng.integers(0, 30, 2))
    return Box(x, y, x + 12, y + 14, ("cat", "dog")[rng.integers(2)], score)


def run(folder, predictions, *more, output="out", truth="truth.json"):
    return cli.main(
        [
            *("evaluate", "--task", "detect", "--predictions", predictions, "--truth", str(folder / truth)),
            *("--image_root", str(folder / "images"), "--output", output, *more),
        ]
    )


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_a_table_gives_the_numbers_of_the_same_detections_in_a_folder(lake, warehouse):
    assert run(lake, str(lake / "images-table"), output=str(lake / "parquet")) == 0
    expected = metrics_of(lake / "parquet")
    assert 0 < expected["metrics"]["AP50"] < 1
    code = run(lake, warehouse.uri("boxes"), output=f"{lake / 'out'},{warehouse.uri('metrics')}")
    assert code == 0
    metrics = metrics_of(lake / "out")
    for name in ("metrics", "classes", "accounts", "digests"):
        assert metrics[name] == expected[name]
    assert metrics["predictions"] == warehouse.uri("boxes")
    in_table = warehouse.rows(
        f"SELECT * FROM {warehouse.name('metrics').sql} ORDER BY label IS NOT NULL, label"
    )
    assert [row["label"] for row in in_table] == [None, "cat", "dog"]
    assert {row["run_id"] for row in in_table} == {metrics["run_id"]}
    add_to_table(warehouse.name("metrics"), {**metrics, "run_id": "20261122T100000000000Z"})
    assert warehouse.count("metrics") == 6
    for name in HEADLINES:
        column = name.replace("@", "_")
        assert in_table[0][column] == pytest.approx(expected["metrics"][name])
        assert in_table[1][column] == pytest.approx(expected["classes"][0][name])
    assert in_table[0]["images"] == 9
    assert in_table[0]["truths"] == sum(row["truths"] for row in in_table[1:3])
    assert in_table[0]["model_digest"] == "model-a"
    assert in_table[0]["evaluated_at"].strftime("%Y%m%dT%H%M%S%fZ") == in_table[0]["run_id"]
    made = warehouse.client.get_table(warehouse.name("metrics").path)
    assert made.time_partitioning.field == "evaluated_at"
    assert all(each.description for each in made.schema)


def test_failures_go_to_a_table_in_the_place_of_those_before(lake, warehouse):
    letter = warehouse.uri("letters")
    bad = json.loads((lake / "truth.json").read_text())
    bad["annotations"].append({"id": 900, "image_id": 77, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25})
    (lake / "bad.json").write_text(json.dumps(bad))
    to_table = ("--failures", letter)
    assert run(lake, warehouse.uri("images"), *to_table, output=str(lake / "out"), truth="bad.json") == 0
    (row,) = warehouse.rows(f"SELECT * FROM {warehouse.name('letters').sql}")
    assert (row["job"], row["output"]) == ("evaluate", str(lake / "out"))
    assert "77" in row["detail"] or "77" in row["key"]
    assert run(lake, warehouse.uri("images"), *to_table, output=str(lake / "out")) == 0
    assert warehouse.count("letters") == 0


def test_truth_may_be_a_table_with_boxes(lake, warehouse):
    boxes = "ARRAY(SELECT AS STRUCT b.xmin, b.ymin, b.xmax, b.ymax, b.label FROM UNNEST(boxes) AS b) AS boxes"
    name, source = warehouse.name("truth").sql, warehouse.name("images").sql
    warehouse.client.query(f"CREATE TABLE {name} AS SELECT uri, {boxes} FROM {source}").result()
    argv = ["--task", "detect", "--predictions", warehouse.uri("boxes"), "--truth", warehouse.uri("truth")]
    assert cli.main(["evaluate", *argv, "--output", str(lake / "out")]) == 0
    assert metrics_of(lake / "out")["metrics"]["mAP"] == pytest.approx(1)


def test_mistakes_are_named_before_anything_runs(lake, warehouse, tmp_path, capsys):
    write_embeddings(str(tmp_path / "embedded"), clustered(4, 4))
    settings = RowSettings(task="embed", **{**SETTINGS, "embedding_dim": 4})
    embedded = copy_table(
        str(tmp_path / "embedded"), warehouse, "embedded", facts=tables.batch_form(settings).facts
    )
    foreign = copy_table(str(tmp_path / "embedded"), warehouse, "foreign")
    good, out = warehouse.uri("images"), str(lake / "out")
    for predictions, output, said in (
        (warehouse.uri("none"), out, "there is no such table"),
        (embedded, out, "table of the task 'embed'"),
        (foreign, out, "neither the columns key and boxes"),
        (good, f"{out},{out}2", "names 2 folders and 0 tables"),
        (good, warehouse.uri("metrics"), "names 0 folders and 1 tables"),
        (good, f"{out},{embedded}", 'its kind is "beam-vision table"'),
        ("bigquery://nowhere", out, "is not a table of BigQuery"),
    ):
        assert run(lake, predictions, output=output) == 2
        assert said in capsys.readouterr().err
    assert not (lake / "out").exists()
    assert run(lake, good, "--preflight_only", output=f"{out},{warehouse.uri('metrics')}") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["table"]) == (9, warehouse.uri("metrics"))
    assert "metrics" not in warehouse.tables()
