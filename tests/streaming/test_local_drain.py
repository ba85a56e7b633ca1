"""The local runner at its ends: drains that take no time, state that is not lost without a word."""

import shutil

import apache_beam as beam
import local_drain_steps as steps
import pytest

from beam_vision.errors import JobError
from beam_vision.stream_types import Message
from beam_vision.streaming.local.checkpoint import Checkpoint
from beam_vision.streaming.local.runner import LocalStreamRunner, RunnerSettings
from beam_vision.streaming.local.seen import Seen
from beam_vision.streaming.local.source import ReadFeed
from beam_vision.streaming.local.state import Cell, Store
from beam_vision.streaming.local.watermark import Watermark
from beam_vision.testing.feeds import ListFeed


def run(tmp_path, *transforms, messages=1):
    steps.FIRED.clear()
    feed = ListFeed([Message(b"%d" % i, message_id=str(i), publish_sec=1e9) for i in range(messages)])
    settings = RunnerSettings(save_every_sec=0.0, wait_sec=0.01)
    pipeline = beam.Pipeline(runner=LocalStreamRunner(feed, str(tmp_path / "state"), settings=settings))
    found = pipeline | ReadFeed()
    for transform in transforms:
        found |= transform
    pipeline.run()
    return list(steps.FIRED)


def test_housekeeping_fires_once_in_a_drain(tmp_path):
    """To fire all that a hundred cameras have to forget twenty times would take a drain half a minute."""
    forget = beam.Map(steps.keyed) | beam.ParDo(steps.ForgetLater())
    assert run(tmp_path, forget) == ["forget"]


def test_a_drain_ends_all_windows_however_many_are_open(tmp_path):
    ends = beam.Map(steps.keyed) | beam.ParDo(steps.EndWindows(300))
    assert run(tmp_path, ends) == ["end"] * 300


def test_an_error_of_a_step_comes_out_as_it_was_and_is_not_logged_besides(tmp_path, caplog):
    with pytest.raises(OSError, match="No space left on device") as raised:
        run(tmp_path, beam.Map(steps.full_disk))
    assert raised.type is OSError
    assert caplog.records == []


def test_state_that_was_removed_under_a_run_ends_it(tmp_path):
    checkpoint, store = Checkpoint(str(tmp_path / "state"), steps={"s"}), Store()
    checkpoint.load(store)
    store.put(Cell("s", "k", None, "a"), 1)
    checkpoint.save(store, {})
    shutil.move(tmp_path / "state", tmp_path / "elsewhere")
    store.put(Cell("s", "k", None, "a"), 2)
    with pytest.raises(JobError, match="was moved or removed while it was in use"):
        checkpoint.save(store, {})
    checkpoint.close()


def test_ids_that_an_emulator_counts_anew_are_other_messages():
    seen = Seen(Store(), 900.0)
    message = Message(b"", message_id="1", publish_sec=1000.0)
    assert [seen.take(message, 1000.0), seen.take(message, 1001.0)] == [True, False]
    assert seen.take(Message(b"", message_id="1", publish_sec=1060.0), 1060.0)


def test_a_capture_time_to_come_does_not_move_the_watermark_ahead_of_the_clock():
    mark = Watermark(5.0)
    mark.observe(1000.0, 10_000.0)
    assert mark.advance(1000.0) == 1000.0
    mark.observe(1000.5, 999.0)
    assert mark.advance(1001.0) == 1000.0
