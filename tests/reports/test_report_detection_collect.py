"""From a table of detections to sheets: either kind of row, the same sample each time, bounded."""

import math
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision import table
from beam_vision.errors import UsageError
from beam_vision.reports import detection
from beam_vision.reports.detection_collect import overview, read_scenes, report_of
from beam_vision.reports.detection_data import DrawnBox, Scene

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def written(path, schema, rows):
    filled = [{name: row.get(name) for name in schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(filled, schema=schema), path)


def of(label, score, x=1.0):
    return {"xmin": x, "ymin": 2.0, "xmax": 30.0, "ymax": 40.0, "label": label, "score": score}


def expected():
    cat, dog = (
        DrawnBox((1.0, 2.0, 30.0, 40.0), label, score) for label, score in (("cat", 0.75), ("dog", 0.5))
    )
    return [Scene("a", "ua", 64, 48, [cat, dog]), Scene("b", "ub", 64, 48, [])]


def test_rows_of_images_are_read(tmp_path):
    size = {"width": 64, "height": 48}
    written(
        tmp_path / "p.parquet",
        table.schema(predictions=False, embedding_dim=None, boxes=True),
        [
            {"key": "a", "uri": "ua", **size, "boxes": [of("cat", 0.75), of("dog", 0.5)]},
            {"key": "b", "uri": "ub", **size, "boxes": []},
        ],
    )
    assert list(read_scenes(str(tmp_path))) == expected()


def test_rows_of_boxes_give_the_same(tmp_path):
    size = {"width": 64, "height": 48}
    rows = [
        {
            "key": "a",
            "uri": "ua",
            **size,
            "box": i,
            "prediction": b["label"],
            **{n: b[n] for n in (*CORNERS, "score")},
        }
        for i, b in enumerate([of("cat", 0.75), of("dog", 0.5)])
    ]
    rows.append({"key": "b", "uri": "ub", **size})
    schema = table.schema(predictions=False, embedding_dim=None, boxes=True, rows="boxes")
    written(tmp_path / "p.parquet", schema, rows)
    assert list(read_scenes(str(tmp_path))) == expected()


def test_boxes_that_are_not_finite_are_left_out(tmp_path):
    schema = table.schema(predictions=False, embedding_dim=None, boxes=True)
    boxes = [of("cat", 0.75), of("cat", math.nan), of("cat", 0.5, math.inf), of("cat", None)]
    written(tmp_path / "p.parquet", schema, [{"key": "a", "uri": "ua", "boxes": boxes}])
    (found,) = read_scenes(str(tmp_path))
    assert [box.score for box in found.boxes] == [0.75]
    assert (found.width_px, found.height_px) == (0, 0)


def test_a_table_without_boxes_is_refused(tmp_path):
    written(
        tmp_path / "p.parquet", table.schema(predictions=True, embedding_dim=None), [{"key": "a", "uri": "u"}]
    )
    with pytest.raises(UsageError, match="has no boxes"):
        list(read_scenes(str(tmp_path)))


def many(number):
    for i in range(number):
        boxes = [DrawnBox((0, 0, 9, 9), f"class {i % 3}", 0.2 + (i % 7) / 10)] * (1 + i % 2)
        yield Scene(f"key {i}", f"uri {i}", 64, 48, boxes)


def test_sample_is_bounded_and_does_not_depend_on_order():
    given = list(many(300))
    found = overview(given, per_label=4)
    assert found == overview(random.Random(1).sample(given, 300), per_label=4)
    assert [len(sheet.scenes) for sheet in found.sheets] == [4] * 4
    assert found.images == 300
    assert sum(sheet.total for sheet in found.sheets) == 300


def test_counts_and_the_threshold():
    high, low = DrawnBox((0, 0, 9, 9), "cat", 0.9), DrawnBox((0, 0, 9, 9), "dog", 0.29)
    given = [
        Scene("a", "a", 9, 9, [high, high, low]),
        Scene("b", "b", 9, 9, [low]),
        Scene("c", "c", 9, 9, []),
    ]
    found = overview(given)
    assert (found.images, found.empty, found.boxes) == (3, 2, {"cat": 2})
    assert [(sheet.name, sheet.total) for sheet in found.sheets] == [("cat", 1), ("Nothing detected", 2)]
    assert found.sheets[0].scenes[0].boxes == [high, high]
    assert found.sheets[0].explanation.startswith("2 in 1 image;")
    lower = overview(given, score_threshold=0.1)
    assert lower.boxes == {"cat": 2, "dog": 2}
    assert lower.empty == 1


def test_of_many_labels_the_most_frequent_have_sheets():
    given = [
        Scene(f"{i}", "u", 9, 9, [DrawnBox((0, 0, 9, 9), f"c{j}", 0.9) for j in range(i)])
        for i in range(1, 9)
    ]
    found = overview(given, max_labels=3)
    assert [sheet.name for sheet in found.sheets] == ["c0", "c1", "c2"]
    assert len(found.boxes) == 8


def test_the_report_of_a_table_can_be_drawn(tmp_path):
    schema = table.schema(predictions=False, embedding_dim=None, boxes=True)
    written(tmp_path / "p.parquet", schema, [{"key": "a", "uri": "gone", "boxes": [of("cat", 0.75)]}])
    report = report_of(str(tmp_path), title="what was found")
    assert report.subtitle == "1 detection of 1 class in 1 image; 0 without any"
    text = detection.render(report)
    assert "what was found" in text
    assert "there is no file at gone" in text
