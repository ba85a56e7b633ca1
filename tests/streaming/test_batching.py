"""Batches of frames: bounded by count, bytes and time; nobody waits without need; nothing is left behind."""

import time

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_pipeline, test_stream
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.stream_types import Frame, FrameInfo, frame_key
from beam_vision.streaming.batching import (
    BUSY_SHARE,
    BatchSettings,
    Costs,
    Held,
    images_to_keep_up,
    wait_sec,
)
from beam_vision.streaming.batching_transforms import BatchFrames
from beam_vision.testing.pipelines import collect
from beam_vision.types import EncodedImage, ImageRef

START_SEC = 1_700_000_000.0


def frame(number, camera="a", size_bytes=10):
    capture_sec = START_SEC + number
    ref = ImageRef(frame_key(camera, capture_sec), f"pubsub:{number}")
    return Frame(FrameInfo(camera, capture_sec, message_id=str(number)), EncodedImage(ref, b"x" * size_bytes))


def ids(batch):
    return [item.info.message_id for item in batch]


def held_after(sizes, gap_sec=0.0, start_sec=100.0):
    held = Held()
    for i, size in enumerate(sizes):
        held = held.add(size, start_sec + i * gap_sec)
    return held


@pytest.mark.parametrize(
    "wrong", [{"max_images": 0}, {"max_bytes": 0}, {"shards": 0}, {"max_latency_ms": -1.0}]
)
def test_bounds_must_be_positive(wrong):
    with pytest.raises(UsageError):
        BatchSettings(**wrong)


def test_the_rate_is_that_of_steady_arrivals_and_fades():
    held = held_after([1] * 600, gap_sec=1 / 30)
    assert held.rate == pytest.approx(30, rel=0.02)
    later = held.emptied().add(1, held.last_sec + 20)
    assert later.rate < 1
    assert (later.images, later.size_bytes) == (1, 1)


def test_costs_are_found_from_batches_of_several_sizes():
    costs = Costs()
    for n in (1, 4, 2, 8, 1, 16, 3):
        costs = costs.seen(n, 0.010 + 0.003 * n)
    assert costs.split() == (pytest.approx(0.010), pytest.approx(0.003))


def test_costs_of_one_size_are_split_evenly():
    costs = Costs()
    for _ in range(50):
        costs = costs.seen(4, 0.040)
    fixed, each = costs.split()
    assert fixed == pytest.approx(0.020)
    assert each == pytest.approx(0.005)
    assert Costs().split() == (0.0, 0.0)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 5)), min_size=1, max_size=30))
def test_costs_are_never_negative(batches):
    costs = Costs()
    for images, seconds in batches:
        costs = costs.seen(images, seconds)
    assert all(cost >= 0 for cost in costs.split())


@given(rate=st.floats(0, 1000), fixed=st.floats(0, 1), each=st.floats(0, 1), most=st.integers(1, 64))
def test_the_smallest_batch_that_keeps_up(rate, fixed, each, most):
    n = images_to_keep_up(rate, fixed, each, most)
    assert 1 <= n <= most
    if n < most:
        assert rate * (fixed / n + each) <= BUSY_SHARE + 1e-6
    if n > 1:
        assert rate * (fixed / (n - 1) + each) >= BUSY_SHARE - 1e-6


def costs_of(fixed, each):
    costs = Costs()
    for n in (1, 8, 32):
        costs = costs.seen(n, fixed + each * n)
    return costs


def test_at_a_low_rate_no_frame_waits():
    held = held_after([10] * 200, gap_sec=1 / 15).emptied().add(10, 200.0)
    assert wait_sec(held, costs_of(0.010, 0.003), BatchSettings(), 200.0) == 0


def test_at_a_high_rate_frames_wait_for_enough_others():
    held = held_after([10] * 2000, gap_sec=1 / 200).emptied()
    held = held.add(10, held.last_sec + 1 / 200)
    waits = wait_sec(held, costs_of(0.010, 0.003), BatchSettings(), held.last_sec)
    # 200 * (0.010 / n + 0.003) <= 1.1 from n = 4 on: three more at 200 a second
    assert waits == pytest.approx(3 / 200, rel=0.05)


def test_where_one_thread_does_all_no_frame_waits_however_high_the_rate():
    held = held_after([10] * 2000, gap_sec=1 / 900).emptied()
    held = held.add(10, held.last_sec)
    assert wait_sec(held, costs_of(0.010, 0.003), BatchSettings(), held.last_sec) > 0
    assert wait_sec(held, costs_of(0.010, 0.003), BatchSettings(waits=False), held.last_sec) == 0


def test_in_overload_frames_wait_for_a_full_batch_and_never_past_the_bound():
    settings = BatchSettings(max_images=1000, max_latency_ms=50)
    held = held_after([10] * 2000, gap_sec=1 / 900).emptied()
    now_sec = held.last_sec + 1
    held = held.add(10, now_sec)
    assert wait_sec(held, costs_of(0.010, 0.003), settings, now_sec) == pytest.approx(0.050)
    assert wait_sec(held, costs_of(0.010, 0.003), settings, now_sec + 0.040) == pytest.approx(0.010)
    assert wait_sec(held, costs_of(0.010, 0.003), settings, now_sec + 1) == 0


@given(
    sizes=st.lists(st.integers(0, 60), max_size=40), most=st.integers(1, 9), latency=st.sampled_from([0, 200])
)
def test_batches_keep_both_bounds_and_lose_nothing(sizes, most, latency):
    """Of the decisions alone: as the transform makes them, without Beam."""
    settings = BatchSettings(max_images=most, max_bytes=100, max_latency_ms=latency)
    batches, held, current = [], Held(), []
    for size in sizes:
        if not held.has_room(size, settings):
            batches.append(current)
            held, current = held.emptied(), []
        held = held.add(size, 1.0)
        current.append(size)
        if held.is_full(settings):
            batches.append(current)
            held, current = held.emptied(), []
    assert [s for batch in [*batches, current] for s in batch] == sizes
    for batch in batches:
        assert len(batch) <= most
        assert sum(batch) <= 100
        assert batch


@pytest.mark.parametrize("latency_ms", [0, 200])
def test_a_bundle_is_cut_at_the_bounds_and_nothing_stays_behind(latency_ms):
    frames = [frame(i, size_bytes=40 if i == 5 else 10) for i in range(11)]
    settings = BatchSettings(max_images=4, max_bytes=60, max_latency_ms=latency_ms)
    batches = collect(lambda p: p | beam.Create(frames, reshuffle=False) | BatchFrames(settings))
    assert sorted(int(i) for batch in batches for i in ids(batch)) == list(range(11))
    assert max(map(len, batches)) == 4
    assert all(sum(len(item.image.data) for item in batch) <= 60 for batch in batches)
    assert len(batches) <= 5
    assert all(item.info.queued_sec > START_SEC for batch in batches for item in batch)


def test_frames_of_a_camera_share_a_shard():
    frames = [frame(i, camera=f"c{i % 6}") for i in range(60)]
    settings = BatchSettings(shards=3, max_images=100)
    batches = collect(lambda p: p | beam.Create(frames, reshuffle=False) | BatchFrames(settings))
    cameras = [{item.info.camera for item in batch} for batch in batches]
    assert len(cameras) in (2, 3)
    assert sum(map(len, cameras)) == 6


def test_windows_are_not_mixed_without_state():
    frames = [frame(i) for i in (0, 1, 100, 101, 102)]
    batches = collect(
        lambda p: (
            p
            | beam.Create(frames, reshuffle=False)
            | beam.Map(lambda f: TimestampedValue(f, f.info.capture_sec))
            | beam.WindowInto(FixedWindows(60))
            | BatchFrames(BatchSettings(max_latency_ms=0))
        )
    )
    assert sorted(map(ids, batches)) == [["0", "1"], ["100", "101", "102"]]


FOUND = []


class Keep(beam.DoFn):
    """Appends to a list of this process (``assert_that`` groups, and this runner ends a group too soon)."""

    def process(self, batch, timestamp=beam.DoFn.TimestampParam):
        FOUND.append((ids(batch), float(timestamp)))


def run_stream(stream, settings):
    FOUND.clear()
    options = PipelineOptions()
    options.view_as(StandardOptions).streaming = True
    with test_pipeline.TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        _ = p | stream.with_output_types(Frame) | BatchFrames(settings) | beam.ParDo(Keep())
    return list(FOUND)


def at(number):
    return TimestampedValue(frame(number), START_SEC + number)


def test_a_partial_batch_goes_when_its_timer_is_due():
    """The first two frames go by the clock, before the third one comes."""
    stream = (
        test_stream.TestStream()
        .advance_processing_time(int(time.time()))
        .add_elements([at(0), at(1)])
        .advance_processing_time(60)
        .add_elements([at(2)])
        .advance_watermark_to_infinity()
    )
    found = run_stream(stream, BatchSettings(max_latency_ms=200))
    assert found == [(["0", "1"], START_SEC), (["2"], START_SEC + 2)]


def test_what_is_held_goes_when_the_input_ends():
    """The clock of this stream stays at 0, so that no other timer is ever due."""
    stream = test_stream.TestStream().add_elements([at(0), at(1)]).advance_watermark_to_infinity()
    assert run_stream(stream, BatchSettings(max_latency_ms=1000)) == [(["0", "1"], START_SEC)]
