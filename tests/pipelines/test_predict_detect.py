"""``beam-vision predict --task detect`` end to end, against what was drawn."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_vision import metrics, table
from beam_vision.pipelines import cli
from beam_vision.sinks.failures import read_failures
from beam_vision.testing import detectors, images

HEIGHT_PX, WIDTH_PX = 64, 128  # the detector's input is 64 x 64, so that even corners come back exactly
DRAWN = {
    "pair": {"red": (10, 8, 30, 20), "blue": (64, 30, 128, 64)},
    "three": {"red": (0, 0, 4, 64), "green": (40, 10, 60, 20), "blue": (70, 40, 90, 50)},
    "none": {},
    "green": {"green": (100, 2, 120, 12)},
}
SCORES = dict(zip(detectors.LABELS, detectors.SCORES, strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return detectors.save_saved_model(str(tmp_path_factory.mktemp("models") / "boxes"))


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_text("\n".join(detectors.LABELS))
    return path


@pytest.fixture
def lake(tmp_path):
    """Each of ``DRAWN``, ``pair`` once more for each EXIF orientation, and two that are broken."""
    folder = tmp_path / "lake"
    folder.mkdir()
    for name, boxes in DRAWN.items():
        pixels = detectors.scene(HEIGHT_PX, WIDTH_PX, **boxes)
        (folder / f"{name}.png").write_bytes(images.encode(pixels, "png"))
    for orientation in range(2, 9):
        pixels = detectors.scene(HEIGHT_PX, WIDTH_PX, **DRAWN["pair"])
        (folder / f"pair_{orientation}.png").write_bytes(images.turned(pixels, orientation, "png"))
    for name in ("broken_a.png", "broken_b.png"):
        (folder / name).write_bytes(b"nothing of an image")
    return folder


@pytest.fixture
def predict(model, names, tmp_path):
    """Runs the job as the command line does, but for the check of the model in a child process."""

    def run(lake, *more, job="predict", output=tmp_path / "table", task="detect", model=model):
        argv = [job, "--task", task, "--images", str(lake), "--model", model, "--no-check_model"]
        argv += ["--class_names", str(names)] if task == "detect" else []
        return cli.main([*argv, "--output", str(output), *map(str, more)])

    return run


def rows(folder):
    """The rows in the table's order; its manifest must agree with them."""
    found = [row for path in table.part_paths(str(folder)) for row in pq.read_table(path).to_pylist()]
    manifest = table.read_manifest(str(folder))
    assert manifest.rows == len(found)
    assert manifest.images == len({row.get("image_key", row["key"]) for row in found})
    assert manifest.inputs == manifest.outputs + manifest.failed + manifest.already_done
    return found


def by_name(found):
    """``{file name: [(label, score, corners), ...]}`` of a table of images."""
    return {
        Path(row["key"]).stem: [
            (box["label"], round(box["score"], 4), (box["xmin"], box["ymin"], box["xmax"], box["ymax"]))
            for box in row["boxes"]
        ]
        for row in found
    }


def expected(*, least=0.05, most=100):
    """The same for what was drawn."""
    drawn = {**DRAWN, **{f"pair_{orientation}": DRAWN["pair"] for orientation in range(2, 9)}}
    made = {}
    for name, boxes in drawn.items():
        scored = [(label, SCORES[label], box) for label, box in boxes.items() if SCORES[label] >= least]
        made[name] = sorted(scored, key=lambda item: -item[1])[:most]
    return made


def test_pictures_show_the_images_with_their_boxes(predict, lake, tmp_path):
    page, picture = tmp_path / "found.html", tmp_path / "found.png"
    assert predict(lake, "--pictures", page) == 0
    shown = page.read_text()
    assert all(f"{name}.png" in shown for name in ("three", "green", "none"))  # there are more of the others
    assert "red 0.90" in shown
    assert predict(lake, "--pictures", picture, "--resume") == 0
    with Image.open(picture) as sheet:
        assert sheet.format == "PNG"
        assert len(sheet.getcolors(1 << 24)) > 20


@pytest.mark.parametrize(("task", "name"), [("embed", "found.png"), ("detect", "found.pdf")])
def test_pictures_of_something_else_are_refused(predict, lake, capsys, task, name):
    assert predict(lake, "--pictures", name, task=task) == 2
    assert f"--pictures {name} goes with --task detect" in capsys.readouterr().err


def without_run_ids(found):
    return [{name: value for name, value in row.items() if name != "run_id"} for row in found]


def test_boxes_lie_where_they_were_drawn_in_pixels_of_the_upright_image(predict, lake, tmp_path):
    summary = tmp_path / "summary.json"
    assert predict(lake, "--summary", summary) == 0
    found = rows(tmp_path / "table")
    assert by_name(found) == expected()
    assert {(row["width"], row["height"]) for row in found} == {(WIDTH_PX, HEIGHT_PX)}
    turned = {Path(row["key"]).stem: row["exif_orientation"] for row in found}
    assert turned == {**dict.fromkeys(DRAWN, 1), **{f"pair_{number}": number for number in range(2, 9)}}
    said = json.loads(summary.read_text())
    assert (said["inputs"], said["outputs"], said["failed"]) == (13, 11, 2)
    assert said["failed_by_reason"] == {"not_an_image": 2}
    assert any("brought to 64 x 64 px (height x width) by stretch" in note for note in said["notes"])


def test_a_row_a_box_says_the_same_and_loses_no_image(predict, lake, tmp_path, capfd):
    assert predict(lake, output=tmp_path / "images") == 0
    assert predict(lake, "--rows", "boxes") == 0
    assert "rows of 11 images in 1 parts" in capfd.readouterr().err
    whole, found = rows(tmp_path / "images"), rows(tmp_path / "table")
    corners = ("xmin", "ymin", "xmax", "ymax")
    flat = []
    for row in whole:
        for number, box in enumerate(row["boxes"] or [{}]):
            values = (box.get("label"), box.get("score"), *map(box.get, corners))
            flat.append((row["key"], number if box else None, *values))
    wanted = ("key", "box", "prediction", "score", *corners)
    assert [tuple(row[name] for name in wanted) for row in found] == flat
    assert sum(row["box"] is None for row in found) == 1
    manifest = table.read_manifest(str(tmp_path / "table"))
    assert (manifest.inputs, manifest.outputs, manifest.failed) == (13, 11, 2)


@pytest.mark.parametrize(
    ("rows_are", "statement"),
    [
        ("images", "SELECT box.label, count(*) AS n FROM images, UNNEST(boxes) AS box GROUP BY ALL"),
        ("boxes", "SELECT prediction AS label, count(*) AS n FROM images WHERE box >= 0 GROUP BY ALL"),
    ],
)
def test_sql_over_boxes(predict, lake, tmp_path, capfd, rows_are, statement):
    assert predict(lake, "--rows", rows_are) == 0
    capfd.readouterr()
    assert cli.main(["sql", statement, "--table", str(tmp_path / "table"), "--output_format", "json"]) == 0
    counted = {row["label"]: row["n"] for row in json.loads(capfd.readouterr().out)}
    assert counted == {"red": 9, "green": 2, "blue": 9}


def test_again_the_same_table_and_resume_computes_only_what_is_missing(predict, lake, tmp_path):
    more = ["--rows", "boxes"]
    assert predict(lake, *more, output=tmp_path / "whole") == 0
    assert predict(lake, *more, "--limit", 6) == 0
    first = rows(tmp_path / "table")
    assert predict(lake, *more, "--resume", "--summary", tmp_path / "summary.json") == 0
    said = json.loads((tmp_path / "summary.json").read_text())
    done = len({row["key"] for row in first})
    assert (said["inputs"], said["outputs"], said["failed"], said["already_done"]) == (13, 11 - done, 2, done)
    assert metrics.TALLY.counts()[metrics.INFERRED] == 11 - done
    found = rows(tmp_path / "table")
    assert [row for row in found if row in first] == first
    assert without_run_ids(found) == without_run_ids(rows(tmp_path / "whole"))
    assert predict(lake, *more) == 0
    assert without_run_ids(rows(tmp_path / "table")) == without_run_ids(found)


@pytest.mark.parametrize(
    ("change", "boxes"),
    [
        (["--score_threshold", 0.75], expected(least=0.75)),
        (["--max_detections", 1], expected(most=1)),
        (["--resize", "letterbox"], expected()),
    ],
)
def test_what_decides_on_boxes_makes_the_rows_again(predict, lake, tmp_path, capfd, change, boxes):
    assert predict(lake) == 0
    assert predict(lake, "--resume", *change) == 0
    assert by_name(rows(tmp_path / "table")) == boxes
    said = capfd.readouterr().err
    assert "its rows are made again" in said
    assert f"by {'letterbox' if 'letterbox' in change else 'stretch'}" in said


def test_redrive_adds_the_boxes_of_what_was_repaired(predict, lake, tmp_path):
    more = ["--rows", "boxes"]
    assert predict(lake, *more) == 0
    before = rows(tmp_path / "table")
    pixels = detectors.scene(HEIGHT_PX, WIDTH_PX, **DRAWN["three"])
    (lake / "broken_a.png").write_bytes(images.encode(pixels, "png"))
    failures = tmp_path / "table" / "failures"
    assert predict(lake, *more, "--failures", failures, job="redrive") == 0
    found = rows(tmp_path / "table")
    added = [row for row in found if row not in before]
    assert len(found) == len(before) + 3
    assert [(Path(row["key"]).stem, row["box"], row["prediction"]) for row in added] == [
        ("broken_a", 0, "red"),
        ("broken_a", 1, "green"),
        ("broken_a", 2, "blue"),
    ]
    assert [(Path(f.key).stem, f.attempt) for f in read_failures(str(failures))] == [("broken_b", 2)]
    assert predict(lake, "--failures", failures, job="redrive") == 2


def test_preflight_says_what_the_detector_sees_and_what_is_kept(predict, lake, tmp_path, capfd):
    more = ["--preflight_only", "--rows", "boxes", "--nms", "soft_linear", "--resize", "letterbox"]
    assert predict(lake, *more) == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["detection"] == {
        "detector": "tf_od",
        "score_threshold": 0.05,
        "max_detections": 100,
        "nms": "soft_linear",
        "nms_iou": 0.5,
    }
    assert (plan["rows"], plan["tiles"], plan["preprocessing"]["resize"]) == ("boxes", None, "letterbox")
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--task", "embed", "--rows", "boxes"], "--rows boxes goes with --task detect"),
        (["--tile", "-1"], "--tile is -1"),
        (["--tile", "32", "--tile_overlap", "1"], "--tile_overlap is 1.0"),
        (["--nms_iou", "2"], "--nms_iou is 2.0"),
        (["--score_threshold", "-0.1"], "--score_threshold is -0.1"),
        (["--max_detections", "0"], "--max_detections is 0"),
    ],
)
def test_wrong_arguments_end_in_2_and_are_named(predict, lake, tmp_path, capfd, more, said):
    assert predict(lake, *more) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "table").exists()


def test_a_table_of_boxes_has_nothing_to_search_by(predict, lake, tmp_path, capfd):
    assert predict(lake) == 0
    place = str(tmp_path / "table")
    index = str(tmp_path / "index")
    for argv in (
        ["build-index", "--table", place, "--output", index],
        ["search", "--table", place, "--key", str(lake / "none.png")],
    ):
        assert cli.main(argv) == 2
        assert "`beam-vision predict --task embed`" in capfd.readouterr().err
    assert not Path(index).exists()


def test_the_images_of_a_coco_file(predict, lake, tmp_path):
    files = ["pair.png", "three.png", "gone.png"]
    coco = {
        "images": [
            {"id": number, "file_name": name, "width": WIDTH_PX, "height": HEIGHT_PX}
            for number, name in enumerate(files)
        ],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 8, 20, 12]}],
        "categories": [{"id": 1, "name": "red"}],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco))
    assert predict(path, "--image_root", lake) == 0
    assert by_name(rows(tmp_path / "table")) == {name: expected()[name] for name in ("pair", "three")}
    assert [f.reason for f in read_failures(str(tmp_path / "table/failures"))] == ["not_found"]
