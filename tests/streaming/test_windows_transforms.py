"""CountWindows on Beam's runners: late data, corrections, expiry, bundles."""

import time

import apache_beam as beam
import camera_steps as steps
from apache_beam.testing import test_stream
from apache_beam.transforms.window import TimestampedValue

from beam_vision import metrics, stream_table
from beam_vision.stream_types import Observation
from beam_vision.streaming.windows import WindowSettings
from beam_vision.streaming.windows_transforms import CountWindows
from beam_vision.testing.pipelines import collect, collect_with_counters

SETTINGS = WindowSettings(window_sec=10, allowed_lateness_sec=20)


def row(at_sec, label="x", camera="a"):
    return Observation(camera, float(at_sec), "row", labels=(label,), stage_ms={"total": 5.0})


def at(at_sec, label="x"):
    return TimestampedValue(row(at_sec, label), at_sec)


def counted(stream):
    """(beginning, class, count, pane, timing) of each row of counts, in order."""

    def build(observed):
        steps.keep(observed | CountWindows(SETTINGS), "rows")

    found = [row.values for name, row in steps.run_stream(stream, build) if row.table == stream_table.COUNTS]
    return [
        (int(v["window_start"].timestamp()), v["class"], v["count"], v["pane"], v["timing"]) for v in found
    ]


def test_windows_come_at_their_end_with_the_watermark():
    stream = (
        test_stream.TestStream()
        .advance_watermark_to(0)
        .add_elements([at(1), at(2), at(12)])
        .advance_watermark_to(9)
        .add_elements([at(9, "y")])
        .advance_watermark_to(11)
        .add_elements([at(13)])
        .advance_watermark_to_infinity()
    )
    assert counted(stream) == [
        (0, "x", 2, 3, "on_time"),
        (0, "y", 1, 3, "on_time"),
        (10, "x", 2, 2, "on_time"),
    ]


def test_late_data_gives_corrected_panes_once_for_all_of_a_while():
    now = int(time.time())
    stream = (
        test_stream.TestStream()
        .advance_watermark_to(0)
        .advance_processing_time(now)
        .add_elements([at(1)])
        .advance_watermark_to(12)
        .add_elements([at(2)])
        .add_elements([at(3, "y")])
        .advance_processing_time(60)
        .add_elements([at(4)])
        .advance_processing_time(60)
        .advance_watermark_to_infinity()
    )
    assert counted(stream) == [
        (0, "x", 1, 1, "on_time"),
        (0, "x", 2, 3, "late"),
        (0, "y", 1, 3, "late"),
        (0, "x", 3, 4, "late"),
        (0, "y", 1, 4, "late"),
    ]


def test_what_a_window_owes_is_given_when_it_expires_and_then_nothing_more():
    stream = (
        test_stream.TestStream()
        .advance_watermark_to(0)
        .add_elements([at(1)])
        .advance_watermark_to(12)
        .add_elements([at(2)])
        .advance_watermark_to(31)
        .add_elements([at(3)])
        .advance_watermark_to_infinity()
    )
    metrics.TALLY.clear()
    assert counted(stream) == [(0, "x", 1, 1, "on_time"), (0, "x", 2, 2, "late")]
    assert metrics.TALLY.counts()[metrics.TOO_LATE] == 1
    assert metrics.TALLY.counts()[metrics.LATE_ROWS] == 3  # counts, health, latency


def test_in_a_batch_each_window_comes_once_and_whole():
    observations = [row(i % 40, "xy"[i % 2], "ab"[i % 3 == 0]) for i in range(3000)]
    found, counters = collect_with_counters(lambda p: p | beam.Create(observations) | CountWindows(SETTINGS))
    counts = [r.values for r in found if r.table == stream_table.COUNTS]
    assert sum(v["count"] for v in counts) == 3000
    assert {v["timing"] for v in counts} == {"on_time"}
    health = [r.values for r in found if r.table == stream_table.HEALTH]
    assert sorted((v["camera"], int(v["window_start"].timestamp())) for v in health) == [
        (camera, start) for camera in "ab" for start in (0, 10, 20, 30)
    ]
    assert sum(v["rows"] for v in health) == 3000
    assert counters.get(metrics.TOO_LATE, 0) == 0
    assert len({r.row_id for r in found}) == len(found)


def test_the_run_stands_in_each_row():
    found = collect(lambda p: p | beam.Create([row(1)]) | CountWindows(SETTINGS, run_id="run-7"))
    assert {r.values["run_id"] for r in found} == {"run-7"}
