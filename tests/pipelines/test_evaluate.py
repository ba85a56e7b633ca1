"""``beam-vision evaluate``: from a table and annotations to numbers, a page and the accounts."""

import contextlib
import io
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_vision import table
from beam_vision.errors import JobError, UsageError
from beam_vision.evaluation.summary import HEADLINES
from beam_vision.pipelines import cli, evaluate
from beam_vision.testing.detections import write_coco, write_detections
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.types import Box

SIZE_PX = (64, 48)
LABELS = ("cat", "dog", "owl")


@pytest.fixture
def lake(tmp_path):
    return make_lake(tmp_path)


def make_lake(folder, number=12, seed=3):
    """``{name: boxes}`` of truth and of detections by key, with the images and both files on disk."""
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    os.makedirs(folder / "images")
    for i in range(number):
        name = f"{i:02d}.png"
        Image.fromarray(rng.integers(0, 255, (SIZE_PX[1], SIZE_PX[0], 3), np.uint8)).save(
            folder / "images" / name
        )
        truth[name] = [make_box(rng) for _ in range(rng.integers(0, 5))]
        near = [
            replace(
                box,
                xmax=box.xmax - float(rng.integers(0, 5)),
                score=float(rng.integers(1, 9) / 8),
                crowd=False,
            )
            for box in truth[name]
            if rng.random() < 0.8
        ]
        extra = [replace(make_box(rng), score=0.25, crowd=False) for _ in range(rng.integers(0, 3))]
        found[key(folder, name)] = sorted(near + extra, key=lambda box: -box.score)
    write_coco(str(folder / "truth.json"), truth, size_px=SIZE_PX)
    write_detections(str(folder / "table"), found, size_px=SIZE_PX, parts=2)
    return truth, found


def key(folder, name):
    return str(folder / "images" / name)


def make_box(rng):
    x, y = (float(value) for value in rng.integers(0, 30, 2))
    side = float(rng.integers(8, 18))
    return Box(x, y, x + side, y + side, LABELS[rng.integers(3)], crowd=bool(rng.random() < 0.1))


def arguments(folder, *more, truth="truth.json", predictions="table", output="out"):
    return [
        *("--task", "detect", "--predictions", str(folder / predictions), "--truth", str(folder / truth)),
        *("--image_root", str(folder / "images"), "--output", str(folder / output), *more),
    ]


def metrics_of(folder, output="out"):
    return json.loads((folder / output / "metrics.json").read_text())


def numbers(metrics):
    return [metrics["metrics"][name] for name in HEADLINES]


def pycocotools_says(folder, found):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        ids = {key(folder, image["file_name"]): image["id"] for image in truth.dataset["images"]}
        categories = {category["name"]: category["id"] for category in truth.dataset["categories"]}
        results = [
            {
                "image_id": ids[name],
                "category_id": categories[box.label],
                "bbox": [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin],
                "score": box.score,
            }
            for name, boxes in found.items()
            for box in boxes
            if name in ids and box.label in categories
        ]
        made = COCOeval(truth, truth.loadRes(results), "bbox")
        made.evaluate()
        made.accumulate()
        made.summarize()
    return [None if number < 0 else pytest.approx(number, abs=1e-6) for number in made.stats]


def test_a_table_against_coco_truth(tmp_path, lake, capsys):
    truth, found = lake
    summary = tmp_path / "summary.json"
    assert evaluate.run(arguments(tmp_path, "--summary", str(summary))) == 0
    metrics = metrics_of(tmp_path)
    assert numbers(metrics) == pycocotools_says(tmp_path, found)
    assert metrics["metrics"]["APl"] is None
    assert 0.2 < metrics["metrics"]["AP50"] < 1
    assert [row["label"] for row in metrics["classes"]] == list(LABELS)
    assert len(metrics["curves"]["classes"]["cat"]["curve50"]) == len(metrics["curves"]["recall"]) == 101
    assert np.mean(metrics["curves"]["mean"]["curve"]) == pytest.approx(metrics["metrics"]["mAP"])
    rows = pq.read_table(tmp_path / "out" / "classes.parquet").to_pylist()
    assert rows == metrics["classes"]
    printed = capsys.readouterr().out
    assert f"mAP {metrics['metrics']['mAP']:.3f}" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert all(label in page for label in LABELS)
    accounts = json.loads(summary.read_text())
    assert (accounts["inputs"], accounts["outputs"], accounts["failed"]) == (12, 12, 0)
    assert accounts["annotations"]["boxes"] == sum(map(len, truth.values()))
    assert accounts["digests"] == {"model": "model-a", "preprocessing": "prep-a"}
    left = {name for name in os.listdir(tmp_path / "out") if name != "failures"}
    assert left == {"metrics.json", "classes.parquet", "report.html"}


def test_a_table_of_boxes_and_a_manifest_give_the_same_numbers(tmp_path, lake):
    truth, found = lake
    write_detections(str(tmp_path / "boxes"), found, size_px=SIZE_PX, rows="boxes", parts=3)
    evaluate.run(arguments(tmp_path, predictions="boxes"))
    assert numbers(metrics_of(tmp_path)) == pycocotools_says(tmp_path, found)
    with open(tmp_path / "truth.jsonl", "w") as file:
        for name, boxes in truth.items():
            plain = [box for box in boxes if not box.crowd]
            objects = [
                {"xmin": b.xmin, "ymin": b.ymin, "xmax": b.xmax, "ymax": b.ymax, "label": b.label}
                for b in plain
            ]
            file.write(json.dumps({"uri": name, "boxes": objects}) + "\n")
    write_coco(
        str(tmp_path / "truth.json"),
        {name: [box for box in boxes if not box.crowd] for name, boxes in truth.items()},
        size_px=SIZE_PX,
    )
    evaluate.run(arguments(tmp_path, truth="truth.jsonl", output="other"))
    evaluate.run(arguments(tmp_path))  # replaces what the first run wrote
    assert metrics_of(tmp_path, "other")["metrics"]["AR@100"] == metrics_of(tmp_path)["metrics"]["AR@100"]
    assert numbers(metrics_of(tmp_path)) == pycocotools_says(tmp_path, found)


def test_images_and_labels_that_do_not_meet_are_named(tmp_path, lake):
    _, found = lake
    names = list(found)
    del found[names[1]]
    found[key(tmp_path, "99.png")] = [Box(0, 0, 10, 10, "cat", 0.5)]
    found = {
        name: [replace(box, label="Owl") if box.label == "owl" else box for box in boxes]
        for name, boxes in found.items()
    }
    write_detections(str(tmp_path / "table"), found, size_px=SIZE_PX)
    assert evaluate.run(arguments(tmp_path)) == 0
    metrics = metrics_of(tmp_path)
    assert numbers(metrics) == pycocotools_says(tmp_path, found)
    assert metrics["accounts"]["images_missing"] == metrics["accounts"]["rows_without_truth"] == 1
    notes = "\n".join(metrics["notes"])
    assert f"without a row in the table: 1 (e.g. {names[1]})" in notes
    assert "99.png" in notes
    assert "of which the truth has no object: 'Owl'" in notes
    assert "never predicted: 'owl'" in notes
    assert "Owl" not in metrics["curves"]["classes"]


def test_nothing_in_common_is_an_error_with_both_keys(tmp_path, lake, capsys):
    argv = arguments(tmp_path)
    argv[argv.index("--image_root") + 1] = str(tmp_path)
    assert cli.main(["evaluate", *argv]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "00.png") in said
    assert key(tmp_path, "00.png") in said
    assert "--image_root" in said
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_truth_on_stored_pixels_is_turned(tmp_path):
    os.makedirs(tmp_path / "images")
    write_coco(str(tmp_path / "truth.json"), {"a.jpg": [Box(0, 0, 10, 20, "cat")]}, size_px=(60, 100))
    found = {key(tmp_path, "a.jpg"): [Box(80, 0, 100, 10, "cat", 0.5)]}
    write_detections(str(tmp_path / "table"), found, size_px=(100, 60), orientation=6)
    evaluate.run(arguments(tmp_path))
    assert metrics_of(tmp_path)["metrics"]["mAP"] == pytest.approx(1)
    evaluate.run(arguments(tmp_path, "--boxes_on", "upright", output="upright"))
    assert metrics_of(tmp_path, "upright")["metrics"]["mAP"] == 0


def test_relative_truth_takes_the_size_of_the_row(tmp_path):
    for folder in ("images", "labels"):
        os.makedirs(tmp_path / "yolo" / folder)
    for name in ("a", "b"):
        (tmp_path / "yolo" / "images" / f"{name}.jpg").touch()  # no image is opened
        (tmp_path / "yolo" / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "yolo" / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    found = {str(tmp_path / "yolo" / "images" / "a.jpg"): [Box(50, 25, 150, 75, "cat", 0.5)]}
    write_detections(str(tmp_path / "table"), found, size_px=(200, 100))
    argv = arguments(tmp_path, truth="yolo")
    del argv[argv.index("--image_root") : argv.index("--output")]
    assert evaluate.run(argv) == 0
    metrics = metrics_of(tmp_path)
    assert metrics["metrics"]["AR@1"] == 0.5
    assert metrics["classes"][0]["truths"] == 2
    assert [metrics["classes"][0][f"truths_{size}"] for size in ("small", "medium", "large")] == [0, 1, 0]
    assert any("of no known size: 1 (e.g. " in note for note in metrics["notes"])


def test_what_is_broken_in_the_truth_is_counted(tmp_path, lake):
    content = json.loads((tmp_path / "truth.json").read_text())
    content["annotations"] += [
        {"id": 900, "image_id": 1, "category_id": 77, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
        {"id": 901, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 5], "area": 0, "iscrowd": 0},
        {"id": 902, "image_id": 5000, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
    ]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    summary = tmp_path / "summary.json"
    with pytest.raises(JobError, match="1 of 13 images failed"):
        evaluate.run(arguments(tmp_path, "--max_failure_rate", "0.01", "--summary", str(summary)))
    accounts = json.loads(summary.read_text())
    assert (accounts["inputs"], accounts["outputs"], accounts["failed"]) == (13, 12, 1)
    assert accounts["annotations"]["failed_by_reason"] == {"bad_box": 1, "unknown_category": 1}
    lines = [path.read_text() for path in (tmp_path / "out" / "failures").glob("*.jsonl")]
    assert "5000" in "".join(lines)
    assert any("annotation 900" in note for note in metrics_of(tmp_path)["notes"])


def test_truth_without_boxes_cannot_be_measured(tmp_path, lake):
    write_coco(str(tmp_path / "truth.json"), {name: [] for name in lake[0]})
    with pytest.raises(JobError, match="no image of the truth has a usable box"):
        evaluate.run(arguments(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictions": "none"}, "no table at"),
        ({"predictions": "embedded"}, "table of the task 'embed'"),
        ({"predictions": "foreign"}, "neither the columns key and boxes"),
        ({"truth": "none.json"}, "--truth .*none.json"),
        ({"truth": "images"}, "folder of images without boxes"),
        ({"output": "images"}, "holds 00.png"),
        ({"output": "truth.json"}, "is a file"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, lake, change, message):
    write_embeddings(str(tmp_path / "embedded"), clustered(8, 4))
    write_embeddings(str(tmp_path / "foreign"), clustered(8, 4))
    os.unlink(tmp_path / "foreign" / table.MANIFEST)
    argv = arguments(tmp_path, **change)
    if change.get("truth") == "images":
        argv.remove("--image_root")
        argv.remove(str(tmp_path / "images"))
    with pytest.raises(UsageError, match=message):
        evaluate.run(argv)


def test_preflight_says_what_would_be_done(tmp_path, lake, capsys):
    assert evaluate.run(arguments(tmp_path, "--preflight_only")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["truth"] == {"format": "coco", "paths": [str(tmp_path / "truth.json")]}
    assert (plan["rows"], plan["parts"]) == (12, 2)
    assert not (tmp_path / "out").exists()
