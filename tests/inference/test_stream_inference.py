"""Frames through the model that serves: each ends as one row or one dead letter, at its own time."""

import pickle
import shutil
import time

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.internal import pickler

from beam_vision.errors import UsageError
from beam_vision.images.codec import encode_png
from beam_vision.inference.bundle import read_bundle, set_latest, write_bundle
from beam_vision.inference.engine import Stats
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.serving_load import ServingSettings
from beam_vision.inference.stream_handler import FrameModelHandler, decode_times
from beam_vision.inference.stream_transforms import InferFrames
from beam_vision.stream_types import Frame, FrameInfo, RolloutEvent, frame_key
from beam_vision.testing import models
from beam_vision.testing.pipelines import collect_with_counters
from beam_vision.types import EncodedImage, Failure, ImageRef, Prediction

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9)]
START_SEC = 1_700_000_000.0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    said = {"labels": models.LABELS, "scores_output": "scores", "embedding_output": "embedding"}
    write_bundle(str(root / "v1"), models.save_saved_model, said)
    set_latest(str(root), "v1")
    return root


def frame(number, data=None, side_px=8):
    info = FrameInfo("a", START_SEC + number, message_id=str(number))
    if data is None:
        data = encode_png(np.full((side_px, side_px, 3), COLOURS[number % 4], np.uint8))
    return Frame(info, EncodedImage(ImageRef(frame_key("a", info.capture_sec), "u"), data))


class Timed(beam.DoFn):
    def process(self, element, timestamp=beam.DoFn.TimestampParam):
        yield float(timestamp), element


def infer(root, batches, **given):
    path = str(root / "v1")
    build = InferFrames(read_bundle(path), path, **given)

    def pipeline(p):
        found = p | beam.Create(batches, reshuffle=False) | build
        return type(found)(*(pcoll | f"Timed {i}" >> beam.ParDo(Timed()) for i, pcoll in enumerate(found)))

    return collect_with_counters(pipeline)


def test_every_frame_ends_as_one_row_or_one_dead_letter_at_its_time(root):
    frames = [frame(i, b"no image" if i == 5 else None) for i in range(12)]
    batches = [tuple(frames[:1]), tuple(frames[1:8]), tuple(frames[8:])]
    found, counters = infer(root, batches, run_id="run")
    rows = sorted(found.predicted, key=lambda item: item[0])
    assert [item.info.message_id for _, item in rows] == [str(i) for i in range(12) if i != 5]
    for time_sec, item in rows:
        number = int(item.info.message_id)
        assert time_sec == item.info.capture_sec == START_SEC + number
        assert item.prediction.labels[0].label == models.LABELS[number % 4]
        assert item.prediction.model_digest == read_bundle(str(root / "v1")).model_digest
        assert item.timing.end_sec >= item.timing.start_sec > START_SEC
        took_ms = 1000 * (item.timing.end_sec - item.timing.start_sec)
        assert item.timing.decode_ms + item.timing.infer_ms == pytest.approx(took_ms, abs=0.01)
        assert item.timing.decode_ms > 0
    ((time_sec, dead),) = found.dead
    assert (time_sec, dead.info, dead.data) == (START_SEC + 5, frames[5].info, b"no image")
    assert (dead.failure.reason, dead.failure.run_id) == ("not_an_image", "run")
    ((time_sec, event),) = found.rollouts
    assert isinstance(event, RolloutEvent)
    assert (event.outcome, event.version, time_sec) == (
        "serving",
        "v1",
        pytest.approx(event.time_sec, abs=1e-5),
    )
    assert (counters["images_decoded"], counters["images_inferred"], counters["images_failed"]) == (11, 11, 1)
    assert "model_swaps" not in counters


def test_tiles_give_a_row_each(root):
    found, _ = infer(root, [(frame(0, side_px=16),)], tile_px=8, tile_overlap=0.0)
    keys = {item.prediction.ref.key for _, item in found.predicted}
    assert len(keys) == len(found.predicted) == 4
    assert {item.info.message_id for _, item in found.predicted} == {"0"}


def test_what_isnt_given_is_refused_before_anything_runs(root):
    with pytest.raises(UsageError, match="detector"):
        InferFrames(read_bundle(str(root / "v1")), str(root / "v1"), task="detect")


def handler_of(folder, **how):
    path = str(folder / "v1")
    return FrameModelHandler(path, read_bundle(path), EngineSettings(), ServingSettings(**how))


def test_the_handler_is_pickled_without_a_model(root):
    handler = handler_of(root, root=str(root), overrides={"threshold": 0.5})
    handler.load_model()
    assert len(pickle.dumps(handler)) < 10_000
    again = pickler.loads(pickler.dumps(handler))
    assert again.run_inference([frame(0)], again.load_model())[-1].prediction.labels[0].label == "red"


def test_a_swap_takes_hold_at_the_next_batch_and_its_event_comes_with_it(root, tmp_path):
    for version in ("v1", "v2"):
        shutil.copytree(root / "v1", tmp_path / version)
    set_latest(str(tmp_path), "v1")
    handler = handler_of(tmp_path, root=str(tmp_path), poll_sec=0.02, try_apart=False)
    model = handler.load_model()
    first = handler.run_inference([frame(0)], model)
    assert [getattr(item, "version", None) for item in first] == ["v1", None]
    set_latest(str(tmp_path), "v2")
    deadline = time.monotonic() + 60
    while model.served.version != "v2" and time.monotonic() < deadline:
        time.sleep(0.02)
    second = handler.run_inference([frame(1)], model)
    assert [getattr(item, "version", None) for item in second] == ["v2", None]
    assert [type(item).__name__ for item in handler.run_inference([frame(2)], model)] == ["Predicted"]


def test_decode_times_are_those_of_the_images_that_were_decoded():
    ref = ImageRef("k", "u")
    good = Prediction(ref, 1, 1)
    undecoded, failed = Failure("k", "u", "decode", "r", "d"), Failure("k", "u", "inference", "r", "d")
    stats = Stats(decode_ms=[1.0, 2.0, 3.0])
    assert decode_times([good, undecoded, failed, good], stats) == [1.0, 0.0, 2.0, 3.0]
