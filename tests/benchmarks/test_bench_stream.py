"""The streaming benchmark's arithmetic."""

import pytest

from benchmarks import stream_figures as figures
from benchmarks.stream_cameras import FRAME_BYTES, make_frames
from benchmarks.stream_figures import BARE, HALF, Memory, Run


def test_quantiles_are_measured_values_by_nearest_rank():
    values = list(range(1, 101))
    assert [figures.quantile(values, q) for q in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert figures.quantile([3.0], 0.99) == 3.0
    assert figures.quantile([2.0, 1.0], 0.95) == 2.0


def test_a_backlogs_rate_is_that_of_its_middle():
    batches = [i // 10 * 0.5 for i in range(200)]  # ten rows each half second
    slow_start = [at + 5.0 if at else 0.0 for at in batches]
    assert figures.drained_rate(slow_start) == pytest.approx(20.0)
    with pytest.raises(ValueError, match="too small"):
        figures.drained_rate([1.0] * 50)


def test_memory_that_is_flat_after_its_start_does_not_grow():
    seconds = [float(i) for i in range(120)]
    flat = Memory(seconds, [100.0 + min(i, 20) for i in range(120)], 5000)
    assert figures.growth(flat) == (0.0, 0.0)
    leaks = Memory(seconds, [100.0 + i / 60 for i in range(120)], 5000)
    a_minute, a_thousand = figures.growth(leaks)
    assert a_minute == pytest.approx(1.0)
    assert a_thousand == pytest.approx(119 / 60 / 5)


def test_ratios_are_of_the_same_round():
    rates = {BARE: [100.0, 50.0, 80.0], "topic": [90.0, 45.0, 88.0]}
    tops = [Run(name, i, 0.0, rate) for name, found in rates.items() for i, rate in enumerate(found)]
    half = [Run(BARE, i, HALF, 40.0, [10.0 * (i + 1)]) for i in range(3)]
    half += [Run("topic", i, HALF, 40.0, [12.0 * (i + 1)]) for i in range(3)]
    runs = [*tops, *half]
    assert figures.rate_ratio(runs, "topic") == pytest.approx(0.9)
    assert figures.latency_ratio(runs, "topic", HALF, 0.95) == pytest.approx(1.2)
    assert figures.top_rate(runs, BARE) == 80.0
    page = figures.verdict(runs, None, (BARE, "topic"))
    assert "90% of the bare loop's top rate" in page
    assert "p95 at half load 1.20" in page
    assert "| beam-vision, topic | 88.0 (45.0 to 90.0) | 90% |" in figures.top_table(runs, (BARE, "topic"))
    assert "| 50% | 40 | beam-vision, topic | 24 | 24 | 24 | 1.20 |" in figures.latency_table(
        runs, (BARE, "topic")
    )


def test_frames_are_of_the_size_that_is_said_and_differ():
    frames = make_frames()
    assert len(set(frames)) == len(frames)
    sizes = [len(frame) for frame in frames]
    assert 0.8 * FRAME_BYTES < min(sizes) <= max(sizes) <= FRAME_BYTES
