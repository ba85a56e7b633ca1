"""Large images in tiles: every object once, in pixels of the whole; a row a tile for other tasks."""

import apache_beam as beam
import numpy as np
import pytest
from PIL import Image

from beam_vision.errors import UsageError
from beam_vision.images.codec import encode_png
from beam_vision.images.tiles import plan_tiles
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.engine import Engine, warm_up
from beam_vision.inference.loader import load
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.spec import ModelSpec
from beam_vision.inference.tiling import TileDecoder
from beam_vision.inference.transforms import Infer
from beam_vision.testing import detectors, models
from beam_vision.testing.pipelines import collect_with_counters
from beam_vision.types import EncodedImage, Failure, ImageRef, Prediction

TILE_PX = 64
LARGE = detectors.scene(160, 200, red=(10, 12, 30, 40), green=(52, 20, 76, 50), blue=(150, 100, 190, 150))
"""Tiles of 64 begin at columns 0, 45, 90, 136 and rows 0, 48, 96: green lies across the edge at 64."""


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return detectors.save_saved_model(str(tmp_path_factory.mktemp("detector") / "m"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("classifier") / "m"))


def engine(path, *, task="detect", said=(), **settings):
    labels = detectors.LABELS if task == "detect" else models.LABELS
    spec = read_bundle(path, {"labels": labels, "task": task, "interpolation": "nearest", **dict(said)})
    model = load(path, spec)
    warm_up(model)
    settings = {"tile_px": TILE_PX, "tile_overlap": 0.2, "batch_size": 5, **settings}
    made = Engine(spec, EngineSettings(task=task, **settings))
    return lambda images: made.results(images, model)


def encoded(pixels, key="k", **attributes):
    return EncodedImage(ImageRef(key, "u", attributes=attributes), encode_png(pixels))


def boxes(prediction):
    assert isinstance(prediction, Prediction), prediction
    return sorted((box.label, box.xmin, box.ymin, box.xmax, box.ymax) for box in prediction.boxes)


def truth(pixels):
    return sorted((label, *map(float, box)) for label, box in detectors.boxes_of(pixels).items())


def test_an_object_on_an_edge_comes_out_once_and_whole(detector):
    ((found,), stats) = engine(detector)([encoded(LARGE)])
    assert len(plan_tiles(200, 160, TILE_PX, 0.2)) == 12
    assert boxes(found) == truth(LARGE)
    assert (found.ref.key, found.width_px, found.height_px) == ("k", 200, 160)
    assert stats.batch_sizes == [5, 5, 2]
    assert len(stats.decode_ms) == 1


def test_tiles_of_many_images_share_batches_and_results_keep_their_order(detector):
    rng = np.random.default_rng(2)
    images, expected = [], []
    for i in range(9):
        height, width = rng.integers(40, 150, 2)
        x, y = rng.integers(0, width - 20), rng.integers(0, height - 20)
        pixels = detectors.scene(height, width, **{detectors.LABELS[i % 3]: (x, y, x + 16, y + 16)})
        images.append(encoded(pixels, f"k{i}"))
        expected.append(truth(pixels))
    results, stats = engine(detector, said={"resize": "letterbox"})(images)
    assert [item.ref.key for item in results] == [f"k{i}" for i in range(9)]
    for found, right in zip(results, expected, strict=True):
        assert [item[0] for item in boxes(found)] == [item[0] for item in right]
        np.testing.assert_allclose(np.array(boxes(found)[0][1:]), right[0][1:], atol=1.6)
    assert set(stats.batch_sizes[:-1]) == {5}
    for batch_size in (1, 64):
        assert engine(detector, said={"resize": "letterbox"}, batch_size=batch_size)(images)[0] == results


def test_a_fixed_batch_and_a_model_that_decodes_by_itself(tmp_path):
    path = detectors.save_saved_model(str(tmp_path / "fixed"), batch=2)
    assert boxes(engine(path, batch_size=3)([encoded(LARGE)])[0][0]) == truth(LARGE)
    path = detectors.save_image_bytes_model(str(tmp_path / "bytes"))
    small = detectors.scene(30, 40, red=(5, 5, 20, 25))
    large, whole = engine(path)([encoded(LARGE), encoded(small)])[0]
    assert boxes(large) == truth(LARGE)
    np.testing.assert_allclose(np.array(boxes(whole)[0][1:]), truth(small)[0][1:], atol=1)


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_tiles_are_of_the_upright_image(orientation, detector, tmp_path):
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "turned.png"
    Image.fromarray(LARGE).transpose(back[orientation]).save(file, exif=exif)
    ((found,), _) = engine(detector)([EncodedImage(ImageRef("k", "u"), file.read_bytes())])
    assert boxes(found) == truth(LARGE)
    assert (found.width_px, found.height_px, found.orientation) == (200, 160, orientation)


def test_a_row_a_tile_for_labels_and_embeddings(classifier):
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    predict = engine(classifier, task="classify", with_embedding=True, tile_px=16, tile_overlap=0.0)
    rows = predict([encoded(pixels, "lake/a.png", camera="7"), encoded(pixels[:8, :8], "b")])[0]
    plan = plan_tiles(40, 24, 16, 0.0)
    assert [len(item) for item in rows] == [len(plan), 1] == [6, 1]
    plain = engine(classifier, task="classify", with_embedding=True, tile_px=0)
    for row, tile in zip(rows[0], plan, strict=True):
        place = (tile.left_px, tile.top_px, tile.width_px, tile.height_px)
        assert row.ref.key == "lake/a.png#tile-" + ",".join(map(str, place))
        names = ("tile_left_px", "tile_top_px", "tile_width_px", "tile_height_px")
        expected = {
            "camera": "7",
            "image_key": "lake/a.png",
            **dict(zip(names, map(str, place), strict=True)),
        }
        assert row.ref.attributes == expected
        assert (row.ref.uri, row.width_px, row.height_px) == ("u", 40, 24)
        cut = pixels[tile.top_px : tile.top_px + 16, tile.left_px : tile.left_px + 16]
        ((alone,), _) = plain([encoded(cut)])
        assert row.labels == alone.labels
        np.testing.assert_allclose(np.frombuffer(row.embedding, "<f4"), np.frombuffer(alone.embedding, "<f4"))
    assert rows[1][0].ref.key == "b#tile-0,0,8,8"


def run(path, images, **settings):
    spec = read_bundle(path, {"task": "detect", "labels": detectors.LABELS})
    return collect_with_counters(
        lambda p: (
            p
            | beam.Create(images, reshuffle=False)
            | Infer(spec, path, task="detect", tile_px=TILE_PX, batch_size=4, run_id="r", **settings)
        )
    )


def test_a_failed_tile_fails_its_image_and_names_itself(tmp_path):
    path = detectors.save_saved_model(str(tmp_path / "m"), trouble="raises")
    bad = np.array(LARGE)
    bad[96:, 136:] = models.CULPRIT_RGB
    images = [encoded(LARGE, "a"), encoded(bad, "bad"), encoded(LARGE, "c"), encoded(LARGE, "cut")]
    images[3] = EncodedImage(images[3].ref, images[3].data[:200])
    outcome, counters = run(path, images)
    assert {item.ref.key: boxes(item) for item in outcome.good} == {"a": truth(LARGE), "c": truth(LARGE)}
    failed = {item.key: item for item in outcome.failed}
    assert {key: (item.stage, item.reason, item.run_id) for key, item in failed.items()} == {
        "bad": ("inference", "model_error", "r"),
        "cut": ("decode", "truncated", "r"),
    }
    assert failed["bad"].detail.startswith("tile 136,96,64,64: ")
    assert "tile" not in failed["cut"].detail
    assert (counters["images_inferred"], counters["images_failed"], counters["images_decoded"]) == (2, 2, 3)


def test_rows_of_tiles_flow_through_a_pipeline(classifier):
    pixels = np.full((16, 40, 3), 90, np.uint8)
    outcome, counters = collect_with_counters(
        lambda p: (
            p
            | beam.Create([encoded(pixels, "a"), encoded(pixels, "b")], reshuffle=False)
            | Infer(read_bundle(classifier), classifier, task="embed", tile_px=16, tile_overlap=0.0)
        )
    )
    assert sorted(item.ref.attributes["image_key"] for item in outcome.good) == ["a"] * 3 + ["b"] * 3
    assert len({item.ref.key for item in outcome.good}) == 6
    assert counters["images_inferred"] == 2


def test_most_detections_hold_for_the_whole_image(detector):
    ((found,), _) = engine(detector, max_detections=2)([encoded(LARGE)])
    assert [box.label for box in found.boxes] == ["red", "green"]


def test_what_is_opened_ahead_is_bounded_by_what_it_takes_in_memory(monkeypatch):
    monkeypatch.setattr("beam_vision.inference.tiling.MAX_AHEAD_BYTES", 1)
    spec = ModelSpec(height_px=8, width_px=8, scores_output="s")
    decoder = TileDecoder(spec, EngineSettings(tile_px=16, tile_overlap=0.0, batch_size=1, decode_threads=1))
    opened, real = [], decoder._open_guard
    decoder._open_guard = lambda ref, image: (opened.append(ref.key), real(ref, image))[1]
    images = [encoded(np.zeros((32, 32, 3), np.uint8), f"k{i}") for i in range(6)]
    first = next(decoder.tile_chunks(images))
    assert [type(item).__name__ for item in first.wait()] == ["Prepared"]
    assert len(opened) <= 2


def test_nothing_but_junk(detector):
    results, stats = engine(detector)([EncodedImage(ImageRef(f"k{i}", "u"), b"junk") for i in range(7)])
    assert [type(item) for item in results] == [Failure] * 7
    assert [item.key for item in results] == [f"k{i}" for i in range(7)]
    assert (stats.batch_sizes, stats.decode_ms) == ([], [])


def test_tiles_of_examples_are_refused():
    spec = ModelSpec(input_kind="tf_example", scores_output="s")
    with pytest.raises(UsageError, match="--tile doesn't go with a model of tf"):
        EngineSettings(tile_px=64).check(spec)
