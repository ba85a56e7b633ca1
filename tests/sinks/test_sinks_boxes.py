"""Rows of boxes and of tiles: several to an image, which is counted, kept and failed as a whole."""

import itertools
import json
import math
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import metrics, table
from beam_vision.errors import Reason
from beam_vision.failures import Outcome
from beam_vision.search.sql import query
from beam_vision.sinks import output, parts
from beam_vision.sinks.failures import read_failures
from beam_vision.sinks.rows import RowSettings, fault, to_table
from beam_vision.sinks.staging import Flush
from beam_vision.sinks.transforms import ReadKept, WriteTable
from beam_vision.testing.pipelines import collect_with_counters
from beam_vision.types import Box, Failure, ImageRef, Label, Prediction

DIGESTS = {"model_digest": "m", "preprocessing_digest": "p"}
IMAGES = RowSettings(task="detect", embedding_dim=None, **DIGESTS)
BOXES = RowSettings(task="detect", embedding_dim=None, rows="boxes", **DIGESTS)
TILES = RowSettings(task="classify", embedding_dim=2, rows="tiles", **DIGESTS)
RUNS = [f"2025010{day}T000000000000Z" for day in range(1, 8)]
CAT, DOG = Box(1, 2, 5, 6.5, "cat", 0.75), Box(0, 0, 8, 6, "dog", 0.5)


def found(key, boxes=(CAT, DOG), orientation=6):
    return Prediction(
        ImageRef(key, f"/lake/{key}", ("pet",)), 8, 6, boxes=boxes, orientation=orientation, **DIGESTS
    )


def tiles_of(key, count=3, bad=None):
    """The rows of an image that was cut; the one with number ``bad`` has a score that isn't finite."""
    for number in range(count):
        place = {"tile_left_px": 4 * number, "tile_top_px": 0, "tile_width_px": 4, "tile_height_px": 4}
        attributes = {"camera": "7", "image_key": key} | {name: str(value) for name, value in place.items()}
        ref = ImageRef(f"{key}#tile-{number}", f"/lake/{key}", attributes=attributes)
        score = math.nan if number == bad else 0.5
        vector = np.array([1, 0], "<f4").tobytes()
        yield Prediction(ref, 12, 4, (Label("a", score),), vector, **DIGESTS)


def write(folder, run_id, predictions, settings, *, inputs, failed=(), resume=False, already_done=0, **more):
    plan = output.plan_output(str(folder), run_id, settings, resume=resume)

    def build(p):
        kept = p | ReadKept(plan, settings)
        sink = WriteTable(
            plan,
            settings,
            inputs=p | "inputs" >> beam.Create([inputs]),
            kept=kept.files,
            already_done=p | "done" >> beam.Create([already_done]),
            failures=f"{folder}/failures",
            **more,
        )
        # one element, so that the rows of an image stay together, as inference gives them
        good = p | beam.Create([list(predictions)], reshuffle=False) | beam.FlatMap(lambda rows: rows)
        return Outcome(good, p | "bad" >> beam.Create(list(failed))) | sink, kept.keys

    (manifests, keys), counters = collect_with_counters(build)
    assert manifests == [table.read_manifest(str(folder))]
    return manifests[0], sorted(keys), counters


def rows(folder):
    return [row for path in table.part_paths(str(folder)) for row in pq.read_table(path).to_pylist()]


def test_a_row_an_image_has_its_boxes_in_the_order_given():
    row, empty = to_table([found("b", ()), found("a")], IMAGES, "run").to_pylist()
    assert row == {
        "key": "a",
        "uri": "/lake/a",
        "label": "pet",
        "boxes": [
            {"xmin": 1, "ymin": 2, "xmax": 5, "ymax": 6.5, "label": "cat", "score": 0.75},
            {"xmin": 0, "ymin": 0, "xmax": 8, "ymax": 6, "label": "dog", "score": 0.5},
        ],
        "exif_orientation": 6,
        "width": 8,
        "height": 6,
        **DIGESTS,
        "run_id": "run",
        "attributes": [],
    }
    assert (empty["key"], empty["boxes"]) == ("b", [])


def test_a_row_a_box_and_a_row_of_nulls_for_an_image_without():
    made = to_table([found("b", ()), found("a")], BOXES, "run").to_pylist()
    names = ("key", "box", "xmin", "ymin", "xmax", "ymax", "prediction", "score", "label", "width")
    assert [tuple(row[name] for name in names) for row in made] == [
        ("a", 0, 1, 2, 5, 6.5, "cat", 0.75, "pet", 8),
        ("a", 1, 0, 0, 8, 6, "dog", 0.5, "pet", 8),
        ("b", None, None, None, None, None, None, None, "pet", 8),
    ]
    assert {row["exif_orientation"] for row in made} == {6}


def test_a_row_a_tile_says_of_which_image_and_where():
    row = to_table(list(tiles_of("a")), TILES, "run").to_pylist()[1]
    names = ("key", "image_key", "tile_left_px", "tile_top_px", "tile_width_px", "tile_height_px", "width")
    assert [row[name] for name in names] == ["a#tile-1", "a", 4, 0, 4, 4, 12]
    assert (row["prediction"], row["embedding"], dict(row["attributes"])["camera"]) == ("a", [1, 0], "7")


@pytest.mark.parametrize("settings", [IMAGES, BOXES, TILES])
def test_columns_are_those_of_the_table_with_and_without_rows(settings):
    some = list(tiles_of("a")) if settings is TILES else [found("a"), found("b", ())]
    for predictions in ([], some):
        made = to_table(predictions, settings, "run")
        made.validate(full=True)
        assert made.schema.equals(settings.schema())
        assert settings.made(made.schema)
    assert sum(settings.made(other.schema()) for other in (IMAGES, BOXES, TILES)) == 1


def test_a_table_of_an_earlier_version_has_rows_of_images():
    old = {**DIGESTS, "task": "detect", "embedding_dim": None, "options_digest": ""}
    schema = IMAGES.schema().with_metadata({b"beam_vision": json.dumps(old).encode()})
    assert IMAGES.made(schema)
    assert not BOXES.made(schema)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (Box(0, 0, math.inf, 1), Reason.NON_FINITE),
        (Box(0, 0, 1, 1, "a", math.nan), Reason.NON_FINITE),
        (Box(2, 0, 1, 1), Reason.BAD_MODEL_OUTPUT),
        (Box(0, 2, 1, 1), Reason.BAD_MODEL_OUTPUT),
    ],
)
def test_a_box_that_cannot_stand_in_the_table(box, reason):
    assert fault(found("a"), IMAGES) is None
    assert fault(found("a", (CAT, box)), IMAGES).reason is reason


side = st.floats(0, 100, width=32)
box_values = st.tuples(side, side, side, side, st.text("ab", max_size=2), st.floats(0, 1, width=32))


@given(st.lists(st.lists(box_values, max_size=3), max_size=5))
def test_both_kinds_of_rows_hold_the_same_boxes(drawn):
    made = [found(f"k{n}", tuple(Box(*values) for values in boxes)) for n, boxes in enumerate(drawn)]
    for (key, of_key), boxes in zip(
        itertools.groupby(to_table(made, BOXES, "run").to_pylist(), lambda row: row["key"]),
        to_table(made, IMAGES, "run").to_pylist(),
        strict=True,
    ):
        names = ("xmin", "ymin", "xmax", "ymax", "prediction", "score")
        flat = [tuple(row[name] for name in names) for row in of_key if row["box"] is not None]
        assert key == boxes["key"]
        assert flat == [tuple(box.values()) for box in boxes["boxes"]] == drawn[int(key[1:])]


def test_rows_of_boxes_are_counted_by_image(tmp_path):
    bad = found("c", (Box(0, 0, math.nan, 1),))
    failed = [Failure("x", "/lake/x", "read", "not_found", "")]
    manifest, _, counters = write(
        tmp_path, RUNS[0], [found("b", ()), found("a"), bad], BOXES, inputs=4, failed=failed
    )
    assert (manifest.inputs, manifest.outputs, manifest.failed) == (4, 2, 2)
    assert (manifest.rows, manifest.images, manifest.row_kind) == (3, 2, "boxes")
    assert [(row["key"], row["box"]) for row in rows(tmp_path)] == [("a", 0), ("a", 1), ("b", None)]
    assert (counters[metrics.DONE], counters[metrics.FAILED]) == (2, 1)


def test_resume_keeps_all_boxes_of_an_image_and_never_mixes_those_of_two_runs(tmp_path):
    write(tmp_path, RUNS[0], [found("a"), found("b", ())], BOXES, inputs=2)
    plan = output.plan_output(str(tmp_path), RUNS[1], BOXES)
    again = [(found("a", (CAT, DOG, CAT)),), (found("b", (CAT,)),), (found("c"),)]
    parts.stage(plan.staging("rows"), again, BOXES, RUNS[1])
    manifest, keys, _ = write(
        tmp_path, RUNS[2], [found("d", ())], BOXES, inputs=4, resume=True, already_done=3
    )
    assert keys == ["a", "a", "b", "b", "c"]
    assert [(row["key"], row["box"], row["run_id"]) for row in rows(tmp_path)] == [
        ("a", 0, RUNS[0]),
        ("a", 1, RUNS[0]),
        ("b", None, RUNS[0]),
        ("c", 0, RUNS[1]),
        ("c", 1, RUNS[1]),
        ("d", None, RUNS[2]),
    ]
    assert (manifest.rows, manifest.images, manifest.outputs, manifest.already_done) == (6, 4, 1, 3)


def test_an_image_is_staged_whole_however_small_the_files_are(tmp_path):
    made = [*tiles_of("a"), *tiles_of("b", 2), *tiles_of("c", 1)]
    folder, images = tmp_path / "table", []
    original = parts.stage

    def watched(*args):
        images.append([[row.ref.key for row in image] for image in args[1]])
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "stage", watched)
        manifest, _, _ = write(folder, RUNS[0], made, TILES, inputs=3, flush=Flush(most=1))
    assert sorted(images) == [
        [["a#tile-0", "a#tile-1", "a#tile-2"]],
        [["b#tile-0", "b#tile-1"]],
        [["c#tile-0"]],
    ]
    assert (manifest.rows, manifest.images, manifest.outputs, manifest.row_kind) == (6, 3, 3, "tiles")
    _, keys, _ = write(folder, RUNS[1], [], TILES, inputs=3, resume=True, already_done=3)
    assert keys == ["a", "b", "c"]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_one_bad_tile_fails_its_image_once_and_under_the_images_key(tmp_path, bad):
    made = [*tiles_of("a"), *tiles_of("b", bad=bad), *tiles_of("c", 2)]
    manifest, _, counters = write(tmp_path, RUNS[0], made, TILES, inputs=3)
    assert (manifest.inputs, manifest.outputs, manifest.failed, manifest.rows) == (3, 2, 1, 5)
    assert {row["image_key"] for row in rows(tmp_path)} == {"a", "c"}
    assert [failure.key for failure in read_failures(f"{tmp_path}/failures")] == ["b"]
    assert counters[metrics.DONE] == 2


def test_another_kind_of_rows_is_another_table(tmp_path):
    write(tmp_path, RUNS[0], [found("a")], IMAGES, inputs=1)
    plan = output.plan_output(str(tmp_path), RUNS[1], BOXES, resume=True)
    assert plan.differences == ("a row for each of its images, not boxes",)
    manifest, keys, _ = write(tmp_path, RUNS[1], [found("a")], BOXES, inputs=1, resume=True)
    assert (keys, manifest.rows, len(list(Path(tmp_path).glob("*.parquet")))) == ([], 2, 1)


def answer(folder, statement):
    with query(str(folder), statement) as result:
        return sorted(row for batch in result.batches for row in batch)


def test_sql_counts_boxes_in_both_kinds_of_tables(tmp_path):
    made = [found("a"), found("b", ()), found("c", (CAT,))]
    write(tmp_path / "images", RUNS[0], made, IMAGES, inputs=3)
    write(tmp_path / "boxes", RUNS[0], made, BOXES, inputs=3)
    nested = "SELECT box.label, count(*) FROM images, UNNEST(boxes) AS box GROUP BY ALL"
    flat = "SELECT prediction, count(box) FROM images WHERE box IS NOT NULL GROUP BY ALL"
    assert answer(tmp_path / "images", nested) == [("cat", 2), ("dog", 1)]
    assert answer(tmp_path / "boxes", flat) == [("cat", 2), ("dog", 1)]
    assert answer(tmp_path / "boxes", "SELECT count(DISTINCT key) FROM images") == [(3,)]
