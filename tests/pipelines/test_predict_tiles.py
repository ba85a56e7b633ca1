"""``beam-vision predict --tile`` end to end: large images in tiles, counted by image."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_vision import metrics, table
from beam_vision.images import codec
from beam_vision.images.tiles import plan_tiles
from beam_vision.pipelines import cli
from beam_vision.sinks.failures import read_failures
from beam_vision.testing import detectors, images, models

SIZES_PX = {"wide": (50, 20), "tall": (17, 40), "turned": (40, 24), "small": (9, 12)}
TILE_PX, OVERLAP = 16, 0.25
IMAGES = 80
"""Of the run that is killed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("models") / "colours"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return detectors.save_saved_model(str(tmp_path_factory.mktemp("models") / "boxes"), trouble="nan")


@pytest.fixture
def lake(tmp_path):
    """Images larger and smaller than a tile, one of them stored turned, and one that is broken."""
    folder = tmp_path / "lake"
    folder.mkdir()
    for seed, (name, (width, height)) in enumerate(SIZES_PX.items()):
        pixels = images.photo(seed, width, height)
        orientation = 6 if name == "turned" else 1
        (folder / f"{name}.png").write_bytes(images.turned(pixels, orientation, "png"))
    (folder / "broken.png").write_bytes(b"nothing of an image")
    return folder


def command(lake, model, output, *more, job="predict", task="embed"):
    argv = [job, "--task", task, "--images", str(lake), "--model", model, "--no-check_model"]
    return [*argv, "--output", str(output), *map(str, more)]


@pytest.fixture
def predict(model, tmp_path):
    """Runs the job in tiles, as the command line does, but for the check of the model in a child process."""

    def run(lake, *more, output=tmp_path / "table", model=model, **job):
        cut = ["--tile", TILE_PX, "--tile_overlap", OVERLAP]
        return cli.main(command(lake, model, output, *cut, *more, **job))

    return run


def rows(folder):
    """The rows in the table's order; its manifest must agree with them."""
    found = [row for path in table.part_paths(str(folder)) for row in pq.read_table(path).to_pylist()]
    assert len({row["key"] for row in found}) == len(found)
    manifest = table.read_manifest(str(folder))
    assert manifest.rows == len(found)
    assert manifest.images == len({row.get("image_key", row["key"]) for row in found})
    assert manifest.inputs == manifest.outputs + manifest.failed + manifest.already_done
    return found


def without_run_ids(found):
    return [{name: value for name, value in row.items() if name != "run_id"} for row in found]


def expected(lake):
    """``{(image, left, top, width, height): scores and embedding}``, each tile as an image of its own."""
    made = {}
    small = codec.DecodeSettings(height_px=models.SIDE_PX, width_px=models.SIDE_PX)
    for name, (width, height) in SIZES_PX.items():
        path = lake / f"{name}.png"
        pixels = codec.decode(path.read_bytes()).pixels
        for tile in plan_tiles(width, height, TILE_PX, OVERLAP):
            place = tile.left_px, tile.top_px, tile.width_px, tile.height_px
            part = pixels[tile.top_px :, tile.left_px :][: tile.height_px, : tile.width_px]
            x = codec.decode(images.encode(np.ascontiguousarray(part), "png"), small).pixels[None] / 255
            vector = models.embedding(x)[0]
            made[(str(path), *place)] = models.scores(x)[0], vector / np.linalg.norm(vector)
    return made


def test_a_row_a_tile_with_its_place_and_what_plain_python_says_of_it(predict, lake, tmp_path, capfd):
    summary = tmp_path / "summary.json"
    assert predict(lake, "--with_embedding", "--summary", summary, task="classify") == 0
    found, plain = rows(tmp_path / "table"), expected(lake)
    assert len(found) == len(plain) > 12
    for row in found:
        place = [row[f"tile_{name}_px"] for name in ("left", "top", "width", "height")]
        scores, vector = plain.pop((row["image_key"], *place))
        # an image that is stored turned is shrunk before it is turned, which rounds otherwise
        atol = 1 / 255 if "turned" in row["image_key"] else 1e-5
        np.testing.assert_allclose(row["embedding"], vector, atol=atol)
        assert row["prediction"] == f"class_{scores.argmax():04d}"
        assert row["key"] == f"{row['image_key']}#tile-{','.join(map(str, place))}"
        assert (row["width"], row["height"]) == SIZES_PX[Path(row["image_key"]).stem]
    assert plain == {}
    said = json.loads(summary.read_text())
    assert (said["inputs"], said["outputs"], said["failed"]) == (5, 4, 1)
    assert f"the table has {len(found)} rows of 4 images" in capfd.readouterr().err


def test_resume_and_redrive_go_by_image(predict, lake, tmp_path):
    assert predict(lake, output=tmp_path / "whole") == 0
    assert predict(lake, "--limit", 3) == 0
    first = rows(tmp_path / "table")
    assert {Path(row["image_key"]).stem for row in first} == {"small", "tall"}
    assert predict(lake, "--resume") == 0
    manifest = table.read_manifest(str(tmp_path / "table"))
    assert (manifest.inputs, manifest.already_done, manifest.outputs, manifest.failed) == (5, 2, 2, 1)
    found = rows(tmp_path / "table")
    assert [row for row in found if row in first] == first
    assert without_run_ids(found) == without_run_ids(rows(tmp_path / "whole"))

    (lake / "broken.png").write_bytes(images.encode(images.photo(7, 40, 16), "png"))
    failures = ["--failures", str(tmp_path / "table" / "failures")]
    assert predict(lake, *failures, job="redrive") == 0
    more = [row for row in rows(tmp_path / "table") if row not in found]
    assert [row["tile_left_px"] for row in more] == [tile.left_px for tile in plan_tiles(40, 16, 16, 0.25)]
    assert {Path(row["image_key"]).stem for row in more} == {"broken"}


@pytest.mark.parametrize("change", [["--tile_overlap", "0.6"], ["--tile", "0"]])
def test_tiles_of_another_kind_are_another_table(predict, lake, tmp_path, capfd, change):
    assert predict(lake) == 0
    before = rows(tmp_path / "table")
    assert predict(lake, "--resume", *change) == 0
    assert "its rows are made again" in capfd.readouterr().err
    found = rows(tmp_path / "table")
    assert len(found) != len(before)
    assert not {row["run_id"] for row in found} & {row["run_id"] for row in before}


def test_a_killed_run_is_resumed_image_by_image(warm, predict, model, tmp_path):
    lake, output = tmp_path / "lake", tmp_path / "table"
    lake.mkdir()
    for number, rgb in enumerate(np.random.default_rng(0).integers(0, 256, (IMAGES, 3), dtype=np.uint8)):
        pixels = np.ascontiguousarray(np.broadcast_to(rgb, (16, 40, 3)))
        (lake / f"{number:04d}.png").write_bytes(images.encode(pixels, "png"))
    argv = command(lake, model, output, "--tile", TILE_PX, "--tile_overlap", OVERLAP, "--flush_sec", 0)
    child = warm.start(["-m", "beam_vision.pipelines.cli", *argv])
    deadline = time.monotonic() + 120
    while not list(output.glob(".staging/*/rows/*.parquet")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    staged = [
        row for path in output.glob(".staging/*/rows/*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    done = {row["image_key"] for row in staged}
    assert 0 < len(done) < IMAGES
    assert predict(lake, "--resume") == 0
    assert metrics.TALLY.counts()[metrics.INFERRED] == IMAGES - len(done)
    found = rows(output)
    assert [row for row in found if row["image_key"] in done] == sorted(staged, key=lambda row: row["key"])
    assert len(found) == 3 * IMAGES
    manifest = table.read_manifest(str(output))
    assert (manifest.already_done, manifest.outputs) == (len(done), IMAGES - len(done))


def test_boxes_of_tiles_are_merged_into_those_of_the_image(predict, detector, tmp_path):
    """Tiles of the detector's own size, and objects no larger than the overlap: a tile holds each whole."""
    drawn = {
        "a": {"red": (50, 50, 74, 70), "green": (120, 10, 140, 30), "blue": (0, 100, 30, 128)},
        "b": {"red": (190, 60, 200, 90)},
        "c": {},
    }
    lake = tmp_path / "scenes"
    lake.mkdir()
    for name, boxes in drawn.items():
        pixels = detectors.scene(128, 200, **boxes)
        (lake / f"{name}.png").write_bytes(images.encode(pixels, "png"))
    culprit = detectors.scene(128, 200, red=(150, 10, 160, 20))
    culprit[:64, :64] = models.CULPRIT_RGB  # one whole tile
    (lake / "culprit.png").write_bytes(images.encode(culprit, "png"))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(detectors.LABELS))
    cut = ["--tile", detectors.SIDE_PX, "--tile_overlap", 0.5, "--class_names", names]
    assert predict(lake, *cut, model=detector, task="detect") == 0
    found = rows(tmp_path / "table")
    assert {
        Path(row["key"]).stem: {
            box["label"]: tuple(box[name] for name in ("xmin", "ymin", "xmax", "ymax"))
            for box in row["boxes"]
        }
        for row in found
    } == drawn
    assert [len(row["boxes"]) for row in found] == [3, 1, 0]
    failures = list(read_failures(str(tmp_path / "table/failures")))
    assert [(failure.key, failure.reason) for failure in failures] == [
        (str(lake / "culprit.png"), "non_finite")
    ]
    assert "tile 0,0,64,64" in failures[0].detail


def test_preflight_says_how_images_are_cut(predict, lake, tmp_path, capfd):
    assert predict(lake, "--preflight_only") == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["tiles"] == {"tile": TILE_PX, "tile_overlap": OVERLAP}
    assert (plan["rows"], plan["detection"]) == ("tiles", None)
