"""Tallies and the windows of one camera, without Beam."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import stream_table
from beam_vision.errors import UsageError
from beam_vision.stream_types import Observation
from beam_vision.streaming import windows
from beam_vision.streaming.tally import Tally, merged, tally
from beam_vision.streaming.windows import LATE, ON_TIME, CameraWindows, WindowSettings

SETTINGS = WindowSettings(window_sec=10, allowed_lateness_sec=20)
SECOND = 1_000_000


def row(at_sec, *labels, total_ms=10.0):
    return Observation("a", at_sec, "row", labels=labels, stage_ms={"infer": 2.0, "total": total_ms})


def frame(at_sec, state="ok", **more):
    return Observation("a", at_sec, "frame", state=state, **more)


class Stream:
    """The windows of a camera, with what was given so far."""

    def __init__(self):
        self.state, self.panes = CameraWindows(), []

    def add(self, *observations):
        for seen in observations:
            start = SETTINGS.start(seen.capture_sec)
            after = windows.take(self.state, start, tally([seen]), SETTINGS)
            if after is None:
                return False
            self.state = after
        return True

    def reach(self, time_sec):
        return self._given(windows.reach(self.state, time_sec * SECOND, SETTINGS))

    def correct(self):
        return self._given(windows.correct(self.state))

    def due(self):
        time = windows.next_time(self.state, SETTINGS)
        return None if time is None else time / SECOND

    def _given(self, given):
        self.state = given.state
        self.panes += given.panes
        return [(p.start // SECOND, p.timing, p.tally.observations) for p in given.panes]


OBSERVATIONS = st.lists(
    st.builds(
        Observation,
        st.just("a"),
        st.integers(0, 100).map(float),
        st.sampled_from(["frame", "gated", "row", "failed", "duplicate"]),
        labels=st.lists(st.sampled_from("xy"), max_size=2),
        state=st.sampled_from(["", "ok", "black"]),
        brightness=st.none() | st.integers(0, 255).map(float),
        gap=st.booleans(),
        gap_sec=st.integers(0, 9).map(float),
        saved_sec=st.integers(0, 3).map(float),
        stage_ms=st.dictionaries(st.sampled_from(["infer", "total"]), st.integers(-5, 500).map(float)),
    ),
    max_size=5,
)


@given(OBSERVATIONS, OBSERVATIONS, OBSERVATIONS)
def test_tallies_merge_in_any_order(a, b, c):
    whole = tally(a + b + c)
    assert merged(tally(a), merged(tally(b), tally(c))) == whole
    assert merged(merged(tally(c), tally(a)), tally(b)) == whole


def test_merging_changes_neither():
    a, b = tally([row(1, "x")]), tally([row(2, "x"), frame(3)])
    merged(a, b)
    assert a == tally([row(1, "x")])
    assert b == tally([row(2, "x"), frame(3)])


def test_a_window_is_given_at_its_end_and_corrected_as_a_whole():
    stream = Stream()
    stream.add(row(1, "x"), row(9.999, "x"), row(10, "y"))
    assert stream.due() == 10
    assert stream.reach(9.9) == []
    assert stream.reach(10) == [(0, ON_TIME, 2)]
    assert stream.due() == 20
    assert stream.correct() == []
    assert stream.add(row(2, "x"), row(3, "y"))
    assert stream.correct() == [(0, LATE, 4)]
    assert stream.panes[-1].tally.labels == {"x": 3, "y": 1}
    assert stream.correct() == []
    assert stream.reach(20) == [(10, ON_TIME, 1)]


def test_an_expiring_window_gives_what_it_owes_and_then_takes_nothing():
    stream = Stream()
    stream.add(row(1))
    stream.reach(10)
    assert stream.due() == 30
    assert stream.add(row(2))
    assert stream.reach(30) == [(0, LATE, 2)]
    assert stream.due() is None
    assert not stream.add(row(3))
    assert stream.add(row(11))


def test_a_window_that_comes_wholly_late_is_given_all_the_same():
    stream = Stream()
    stream.add(row(21))
    stream.reach(29)
    assert stream.add(row(1))
    assert stream.due() == 10
    assert stream.reach(10) == [(0, ON_TIME, 1)]
    assert stream.state.reached == 29 * SECOND


def test_a_drain_gives_all_and_a_restart_completes_it_with_a_greater_pane():
    stream = Stream()
    stream.add(row(1, "x"))
    saved = stream.state
    early = stream.reach(10**9)
    assert early == [(0, ON_TIME, 1)]
    stream.state = saved
    stream.add(row(2, "x"))
    assert stream.reach(10) == [(0, ON_TIME, 2)]
    first, second = (windows.rows("a", pane, SETTINGS) for pane in stream.panes)
    assert {r.row_id for r in first}.isdisjoint(r.row_id for r in second)
    assert max(r.values["pane"] for r in first) < min(r.values["pane"] for r in second)


def test_times_before_the_epoch_and_between_microseconds_have_their_window():
    assert SETTINGS.start(-0.1) == -10 * SECOND
    assert SETTINGS.start(9.9999999) == 10 * SECOND  # a time counts to the microsecond, rounded
    assert WindowSettings(window_sec=0.5).start(1.75) == 1_500_000


def test_the_rows_of_a_window():
    pane = windows.Pane(
        1_700_000_000 * SECOND,
        tally(
            [
                frame(1.0, brightness=100.0, skew_sec=0.2, gap_sec=0.5),
                frame(2.0, state="black", brightness=50.0, skew_sec=0.4, gap=True, gap_sec=4.0),
                Observation("a", 1.5, "gated", state="ok", saved_sec=0.25),
                Observation("a", 1.6, "duplicate"),
                Observation("a", 1.7, "failed", reason="truncated"),
                row(1.0, "cat", total_ms=100.0),
                row(2.0, "dog", "cat", total_ms=200.0),
            ]
        ),
        ON_TIME,
    )
    made = windows.rows("a", pane, SETTINGS, "run-1")
    by_table = {}
    for each in made:
        assert each.row_id == each.values["row_id"]
        assert each.time_sec == 1_700_000_000
        by_table.setdefault(each.table, []).append(each.values)
    counts = by_table[stream_table.COUNTS]
    assert [(c["class"], c["count"], c["pane"]) for c in counts] == [("cat", 2, 7), ("dog", 1, 7)]
    (health,) = by_table[stream_table.HEALTH]
    assert {name: health[name] for name in ("frames", "rows", "gated", "duplicates", "failed", "gaps")} == {
        **{"frames": 3, "rows": 2, "gated": 1, "duplicates": 1, "failed": 1, "gaps": 1},
    }
    assert (health["rate_per_sec"], health["longest_gap_sec"], health["saved_sec"]) == (0.3, 4.0, 0.25)
    assert (health["brightness"], health["sharpness"]) == (75.0, None)
    assert health["skew_sec"] == pytest.approx(0.3)
    assert (health["state"], health["states"]) == ("black", ["black", "ok"])
    infer, total = by_table[stream_table.LATENCY]
    assert (infer["stage"], total["stage"], total["frames"], total["max_ms"]) == ("infer", "total", 2, 200.0)
    assert total["p50_ms"] == pytest.approx(100, rel=0.01)
    assert made[0].row_id == "a/counts/2023-11-14T22:13:20.000000Z/cat/7"


def test_rows_fit_their_tables():
    import pyarrow as pa

    pane = windows.Pane(0, tally([frame(1), row(1, "cat"), Observation("a", 2, "silent")]), LATE)
    for each in windows.rows("a", pane, SETTINGS):
        schema = stream_table.schema(each.table)
        assert set(each.values) == set(schema.names)
        assert pa.Table.from_pylist([dict(each.values)], schema).to_pylist() == [each.values]


def test_a_window_of_a_silent_camera_has_no_frames():
    pane = windows.Pane(0, tally([Observation("a", 5, "silent", state="silent")]), ON_TIME)
    (health,) = windows.rows("a", pane, SETTINGS)
    assert (health.values["frames"], health.values["state"]) == (0, "silent")


@pytest.mark.parametrize("wrong", [{"window_sec": 0}, {"allowed_lateness_sec": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        WindowSettings(**wrong)


@given(st.lists(st.integers(0, 79), max_size=80), st.integers(0, 10**6))
def test_the_last_panes_hold_all_that_was_not_too_late(times, seed):
    """Frames come in any order, the watermark moves at any time: the last panes count all that was taken."""
    rng, stream, taken, watermark = random.Random(seed), Stream(), 0, 0
    for at in times:
        taken += stream.add(row(float(at)))
        if rng.random() < 0.3:
            watermark += rng.randrange(15)
            while stream.due() is not None and stream.due() <= watermark:
                stream.reach(stream.due())
        if rng.random() < 0.2:
            stream.correct()
    stream.reach(10**6)
    assert stream.state.windows == {}
    last = {}
    for pane in stream.panes:
        assert pane.tally.observations > last.get(pane.start, 0)  # each pane is greater than the one before
        last[pane.start] = pane.tally.observations
    assert sum(last.values()) == taken


def test_an_empty_tally():
    assert tally([]).observations == 0
    assert tally([]).mean("brightness") is None
    assert tally([]).last == Tally().last
