"""DropRepeats and WatchCameras on Beam's runners."""

import itertools
import time

import apache_beam as beam
import camera_steps as steps
import numpy as np
import pytest
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue

from beam_vision import metrics
from beam_vision.stream_types import Frame
from beam_vision.streaming import camera_transforms
from beam_vision.streaming.camera_transforms import DropRepeats, WatchCameras, by_camera, by_time
from beam_vision.streaming.health import BLACK, OK, SILENT, WatchSettings
from beam_vision.testing import images
from beam_vision.testing.pipelines import collect, collect_with_counters

START = 1_700_000_000.0
NIGHT = images.encode(np.zeros((48, 64, 3), np.uint8), "png")
SCENES = [images.encode(images.photo(seed, 64, 48), "jpeg") for seed in range(4)]


@pytest.fixture(autouse=True)
def _on_time():
    steps.AHEAD_SEC[0] = 0.0


def test_in_a_batch_each_frame_passes_once():
    frames = [steps.frame(START + i % 50, camera="ab"[i % 2]) for i in range(300)]
    kept, observed = collect(lambda p: p | beam.Create(frames) | DropRepeats())
    assert sorted(f.image.ref.key for f in kept) == sorted({f.image.ref.key for f in frames})
    assert len(kept) + len(observed) == 300
    assert {(seen.kind, seen.camera) for seen in observed} == {("duplicate", "a"), ("duplicate", "b")}


def drop_stream(after_sec):
    """The same frame twice; the stream's clock and ours move on by so much between."""

    def build(frames):
        dofn = camera_transforms.DropRepeatsDoFn(600, clock=steps.clock)
        keyed = frames | beam.Map(by_time).with_output_types(tuple[str, Frame])
        found = keyed | beam.ParDo(dofn).with_outputs("observed", main="frame")
        steps.keep(found.frame | beam.Map(steps.advance, after_sec), "frame")
        steps.keep(found["observed"], "observed")

    same = TimestampedValue(steps.frame(START), START)
    stream = (
        test_stream.TestStream()
        .advance_processing_time(int(time.time()))
        .add_elements([same])
        .advance_processing_time(after_sec)
        .add_elements([same])
        .advance_watermark_to_infinity()
    )
    return [name for name, _ in steps.run_stream(stream, build)]


def test_a_repetition_is_known_until_after_its_horizon():
    assert drop_stream(590) == ["frame", "observed"]
    steps.AHEAD_SEC[0] = 0.0
    assert drop_stream(700) == ["frame", "frame"]


def watched(frames, **settings):
    found, counters = collect_with_counters(
        lambda p: (
            p | beam.Create(frames, reshuffle=False) | WatchCameras(WatchSettings(**settings), run_id="run-3")
        )
    )
    return found, counters


def test_in_a_batch_cameras_are_watched_apart():
    frames = []
    for i in range(20):
        frames.append(steps.frame(START + i, SCENES[i % 4], "fine"))
        frames.append(steps.frame(START + i, NIGHT if 5 <= i < 10 else SCENES[i % 4], "dark"))
        frames.append(steps.frame(START + i + 60 * (i > 9), SCENES[i % 4], "away"))
    found, counters = watched(frames)
    assert len(found.frames) == 60
    assert found.dead == []
    stories = {}
    for row in sorted(found.alerts, key=lambda row: row.time_sec):
        stories.setdefault(row.camera, []).append((row.time_sec - START, row.values["state"]))
        assert row.values["run_id"] == "run-3"
    assert stories == {"dark": [(7, BLACK), (12, OK)], "away": [(39, SILENT), (70, OK)]}
    assert counters[metrics.ALERTS] == 4
    assert len(found.observed) == 60


def test_like_frames_are_gated_and_what_that_saves_is_counted():
    metrics.TALLY.clear()
    metrics.TALLY.add(metrics.INFERRED, 10)
    metrics.TALLY.add_observation(metrics.INFERENCE_MS, 400)
    frames = [steps.frame(START + i / 10, SCENES[i // 10]) for i in range(40)]
    found, counters = watched(frames, gate_distance=2)
    assert [f.info.capture_sec for f in found.frames] == [START, START + 1, START + 2, START + 3]
    assert [seen.kind for seen in found.observed].count("gated") == 36
    assert counters[metrics.GATED] == 36
    assert counters[metrics.SAVED_MS] == 36 * 40
    assert sum(seen.saved_sec for seen in found.observed) == pytest.approx(36 * 0.04)
    metrics.TALLY.clear()


def test_every_frame_that_cannot_be_decoded_goes_to_inference():
    broken = [data for data, _ in itertools.islice(images.hostile_files().values(), 30)]
    frames = [steps.frame(START + i, data) for i, data in enumerate(broken)]
    found, _ = watched(frames, gate_distance=0, frozen_sec=0)
    assert [f.image.data for f in found.frames] == broken


def test_a_frame_at_which_we_fail_is_a_dead_letter_and_the_rest_goes_on():
    frames = [
        steps.frame(START, SCENES[0]),
        steps.frame(START + 1, "text"),
        steps.frame(START + 2, SCENES[1]),
    ]
    found, counters = watched(frames)
    (dead,) = found.dead
    assert dead.failure.reason == "unexpected"
    assert dead.failure.run_id == "run-3"
    assert dead.failure.key == frames[1].image.ref.key
    assert [f.info.capture_sec for f in found.frames] == [START, START + 2]
    assert sorted(seen.kind for seen in found.observed) == ["failed", "frame", "frame"]
    assert counters[metrics.FAILED] == 1


def watch_stream(stream, after_sec):
    """What is told of cameras, when our clock moves on by so much with each frame."""

    def build(frames):
        dofn = camera_transforms.WatchDoFn(WatchSettings(silent_sec=30), clock=steps.clock)
        keyed = frames | beam.Map(by_camera).with_output_types(tuple[str, Frame])
        found = keyed | beam.ParDo(dofn).with_outputs("observed", "alerts", main="frame")
        steps.keep(found.frame | beam.Map(steps.advance, after_sec), "frame")
        steps.keep(found["observed"], "observed")
        steps.keep(found["alerts"], "alert")

    found = steps.run_stream(stream, build)
    kinds = [seen.kind for name, seen in found if name == "observed"]
    return kinds, [(row.time_sec - START, row.values["state"]) for name, row in found if name == "alert"]


def test_silence_is_found_by_the_clock():
    """No capture time tells of it: the second frame was taken a second after the first, and came 40 s later.

    So it ends, by the camera's clock, before it began: the alert's time is moved behind that of the first.
    """
    at = [TimestampedValue(steps.frame(START + i, SCENES[i]), START + i) for i in range(2)]
    stream = (
        test_stream.TestStream()
        .advance_processing_time(int(time.time()))
        .add_elements(at[:1])
        .advance_processing_time(40)
        .add_elements(at[1:])
        .advance_watermark_to_infinity()
    )
    kinds, alerts = watch_stream(stream, 40)
    assert kinds == ["frame", "silent", "frame"]
    assert alerts == [(30, SILENT), (pytest.approx(30.000001), OK)]
    assert alerts[0] < alerts[1]


def test_a_camera_that_sends_is_not_silent():
    stream = test_stream.TestStream().advance_processing_time(int(time.time()))
    for i in range(5):
        at = TimestampedValue(steps.frame(START + 20 * i, SCENES[i % 4]), START + 20 * i)
        stream = stream.add_elements([at]).advance_processing_time(20)
    assert watch_stream(stream.advance_watermark_to_infinity(), 20) == (["frame"] * 5, [])
