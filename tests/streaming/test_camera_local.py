"""Cameras on the local runner: what is known of them outlives a drain and a restart."""

import time

import apache_beam as beam
import camera_steps as steps
import pytest

from beam_vision import stream_table
from beam_vision.stream_types import Message
from beam_vision.streaming.camera_transforms import DropRepeats, WatchCameras
from beam_vision.streaming.feeds.base import Feed, Received
from beam_vision.streaming.local.runner import LocalStreamRunner, RunnerSettings
from beam_vision.streaming.local.source import MarkTime, ReadFeed
from beam_vision.streaming.windows import WindowSettings
from beam_vision.streaming.windows_transforms import CountWindows


class ListFeed(Feed):
    """Capture times of a list as messages."""

    source = "a list"

    def __init__(self, times):
        self.left, self.acked = list(times), 0

    def open(self):
        pass

    def pull(self, max_messages, max_bytes, timeout_sec):
        taken, self.left = self.left[:5], self.left[5:]
        return [Received(Message(str(at).encode(), publish_sec=time.time()), str(at)) for at in taken]

    def ack(self, tokens):
        self.acked += len(tokens)

    def stop(self):
        self.left = []

    def close(self):
        pass

    @property
    def exhausted(self):
        return not self.left

    @property
    def waiting(self):
        return len(self.left)


def run(feed, state):
    """Frames of a minute's windows through all steps of a camera; what was kept."""
    steps.FOUND.clear()
    pipeline = beam.Pipeline(runner=LocalStreamRunner(feed, str(state), settings=RunnerSettings()))
    frames = pipeline | ReadFeed() | beam.Map(steps.frame_of) | beam.ParDo(MarkTime())
    once = frames | DropRepeats()
    watched = once.frames | WatchCameras()
    observed = (once.observed, watched.observed) | beam.Flatten()
    steps.keep(watched.frames, "frame")
    steps.keep(watched.alerts, "alert")
    steps.keep(observed | CountWindows(WindowSettings(window_sec=60)), "row")
    pipeline.run()
    return list(steps.FOUND)


def frames_of(found):
    return [element.info.capture_sec for name, element in found if name == "frame"]


def health(found):
    rows = [row.values for name, row in found if name == "row" and row.table == stream_table.HEALTH]
    return {values["window_start"]: values for values in sorted(rows, key=by_window_and_pane)}


def by_window_and_pane(values):
    return values["window_start"], values["pane"]


@pytest.fixture
def times():
    """A second apart, up to now, on either side of a minute's end."""
    minute = time.time() // 60 * 60
    return [minute - 10 + i for i in range(20)]


def test_a_restart_after_a_drain_knows_the_frames_and_completes_the_windows(tmp_path, times):
    first, feed = run(ListFeed(times[:15]), tmp_path), ListFeed(times)
    assert frames_of(first) == times[:15]
    assert [row["frames"] for row in health(first).values()] == [10, 5]
    second = run(feed, tmp_path)
    assert frames_of(second) == times[15:]
    assert feed.acked == 20
    last = {**health(first), **health(second)}
    assert [(row["frames"], row["duplicates"]) for row in last.values()] == [(10, 10), (10, 5)]
    ids = [row.row_id for name, row in first + second if name == "row"]
    assert len(ids) == len(set(ids))
    assert [name for name, _ in first + second].count("alert") == 0
