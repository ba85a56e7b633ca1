"""The step function of one camera, without Beam and mostly without images."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import stream_table
from beam_vision.errors import UsageError
from beam_vision.stream_types import FrameInfo
from beam_vision.streaming.camera import CameraState, alert_row, take, wake
from beam_vision.streaming.health import BLACK, BLURRED, FROZEN, OK, SILENT, SKEWED, WatchSettings
from beam_vision.streaming.measure import Measured

NIGHT_AND_DAY = 1_700_000_000.0
FINE = Measured(120.0, 500.0, 0)
DARK = Measured(3.0, 1.0, 0)
DIM = Measured(17.0, 500.0, 0)
FOGGED = Measured(120.0, 5.0, 0)


def settings(**changed):
    return WatchSettings(**{"measure_every_sec": 0.0, **changed})


class Camera:
    """Sends frames to the step function and keeps what it said."""

    def __init__(self, **changed):
        self.settings = settings(**changed)
        self.state, self.changes, self.passed, self.seen, self.looks = None, [], [], [], 0

    def send(self, at_sec, measured=FINE, *, data=None, delay_sec=0.1, now_sec=None, frame_sec=0.0):
        def look():
            self.looks += 1
            return measured

        capture = NIGHT_AND_DAY + at_sec
        info = FrameInfo("gate", capture, publish_sec=capture + delay_sec)
        digest = repr(at_sec if data is None else data).encode()
        now = NIGHT_AND_DAY + (at_sec if now_sec is None else now_sec)
        step = take(self.state, info, digest, look, self.settings, now_sec=now, frame_sec=frame_sec)
        self.state = step.state
        self.changes += step.changes
        self.passed.append(step.passes)
        self.seen.append(step.observation)
        return step

    def wait(self, until_sec):
        """Wakes it whenever it asked for it, until then."""
        woken = []
        while self.state is not None and self.state.wakes_sec <= NIGHT_AND_DAY + until_sec:
            step = wake(self.state, "gate", self.settings, now_sec=self.state.wakes_sec)
            self.state = step.state
            self.changes += step.changes
            woken.append(step.observation)
        return [seen for seen in woken if seen]

    def story(self):
        return [(round(change.time_sec - NIGHT_AND_DAY, 3), change.state) for change in self.changes]


def test_a_healthy_camera_says_nothing_and_all_its_frames_pass():
    camera = Camera()
    for i in range(20):
        camera.send(i / 10)
    assert camera.story() == []
    assert all(camera.passed)
    assert {(seen.kind, seen.state, seen.brightness) for seen in camera.seen} == {("frame", OK, 120.0)}
    assert camera.seen[5].skew_sec == pytest.approx(0.1)


def test_frames_like_the_last_one_that_passed_are_gated_with_a_heartbeat():
    camera = Camera(gate_distance=6, heartbeat_sec=1.0)
    for i in range(25):
        camera.send(i / 10, frame_sec=0.02)
    assert [i for i, passed in enumerate(camera.passed) if passed] == [0, 10, 20]
    gated = [seen for seen in camera.seen if seen.kind == "gated"]
    assert len(gated) == 22
    assert all(seen.saved_sec == 0.02 for seen in gated)
    assert all(seen.saved_sec == 0 for seen in camera.seen if seen.kind == "frame")


def test_slow_drift_adds_up_until_a_frame_passes():
    """Each frame is 2 bits from the one before: the fourth is 8 bits from the one that passed."""
    camera = Camera(gate_distance=6)
    for i in range(9):
        camera.send(i / 10, Measured(120.0, 500.0, (1 << (2 * i)) - 1))
    assert [i for i, passed in enumerate(camera.passed) if passed] == [0, 4, 8]


@pytest.mark.parametrize(("distance", "passes"), [(-1, True), (3, True), (4, False), (64, False)])
def test_the_gate_is_inclusive(distance, passes):
    camera = Camera(gate_distance=distance)
    camera.send(0, Measured(120.0, 500.0, 0b1111))
    assert camera.send(0.1, Measured(120.0, 500.0, 0)).passes is passes


def test_a_frame_that_cannot_be_decoded_passes_and_is_no_reference():
    camera = Camera(gate_distance=6)
    for i, measured in enumerate([FINE, None, FINE, None]):
        camera.send(i, measured)
    assert camera.passed == [True, True, False, True]
    assert camera.seen[1].brightness is None


def test_without_a_gate_frames_are_looked_at_now_and_then():
    camera = Camera(measure_every_sec=1.0)
    for i in range(30):
        camera.send(i / 10)
    assert camera.looks == 3
    assert sum(seen.brightness is not None for seen in camera.seen) == 3


def test_the_same_bytes_are_not_looked_at_again():
    camera = Camera(gate_distance=0)
    for i in range(5):
        camera.send(i / 10, data="same")
    assert camera.looks == 1
    assert all(seen.brightness == 120.0 for seen in camera.seen)


def test_frozen_is_told_once_and_its_end_at_the_first_other_frame():
    camera = Camera(frozen_sec=2.0)
    for i in range(10):
        camera.send(i / 2, data="same" if 2 <= i < 8 else i)
    assert camera.story() == [(3.0, FROZEN), (4.0, OK)]
    assert camera.changes[0].detail == "the same 5 frames over 2.0 s"
    assert camera.changes[1].previous == FROZEN
    assert [seen.state for seen in camera.seen].count(FROZEN) == 2


def test_two_equal_frames_far_apart_are_not_frozen():
    camera = Camera(frozen_sec=2.0, silent_sec=0)
    camera.send(0, data="same")
    camera.send(10, data="same")
    assert camera.story() == []


@pytest.mark.parametrize(("ill", "state"), [(DARK, BLACK), (FOGGED, BLURRED)])
def test_dark_and_blurred_must_settle_and_so_must_their_end(ill, state):
    camera = Camera(settle_sec=2.0)
    for i in range(20):
        camera.send(i / 2, ill if 4 <= i < 12 or i in (1, 18) else FINE)
    assert camera.story() == [(4.0, state), (8.0, OK)]
    assert "below" in camera.changes[0].detail


def test_at_the_bound_the_state_does_not_flicker():
    """Dim frames are too bright to become black, and too dark to end it."""
    camera = Camera(settle_sec=0, black_below=16.0)
    for i, measured in enumerate([DIM, DARK, DIM, DIM, FINE]):
        camera.send(i, measured)
    assert camera.story() == [(1.0, BLACK), (4.0, OK)]


@pytest.mark.parametrize(("delay_sec", "word"), [(30.0, "after"), (-30.0, "before")])
def test_a_clock_that_is_off_is_told(delay_sec, word):
    camera = Camera(skew_sec=10.0)
    for i in range(5):
        camera.send(i, delay_sec=delay_sec)
    assert camera.story() == [(2.0, SKEWED)]
    assert word in camera.changes[0].detail


def test_what_is_worse_goes_first():
    camera = Camera(settle_sec=0, frozen_sec=2.0)
    for i in range(6):
        camera.send(i, DARK, data="same", delay_sec=60)
    assert camera.story() == [(0.0, BLACK), (2.0, FROZEN)]


def test_silence_is_told_once_by_the_clock_and_counted_while_it_lasts():
    camera = Camera(silent_sec=30.0)
    for i in range(11):
        camera.send(i)
    camera.state = camera.state._replace(wakes_sec=NIGHT_AND_DAY + 30)
    woken = camera.wait(110)
    assert camera.story() == [(40.0, SILENT)]
    assert [round(seen.capture_sec - NIGHT_AND_DAY) for seen in woken] == [40, 70, 100]
    assert {(seen.kind, seen.state) for seen in woken} == {("silent", SILENT)}
    camera.send(115)
    assert camera.story()[1:] == [(115.0, OK)]


def test_a_timer_that_fires_early_changes_nothing():
    state = CameraState(NIGHT_AND_DAY, NIGHT_AND_DAY, wakes_sec=NIGHT_AND_DAY + 30)
    early = wake(state, "gate", settings(silent_sec=30.0), now_sec=NIGHT_AND_DAY + 7)
    assert (early.state, early.changes, early.observation) == (state, (), None)
    silent = wake(state, "gate", settings(silent_sec=30.0), now_sec=NIGHT_AND_DAY + 31).state
    again = wake(silent, "gate", settings(silent_sec=30.0), now_sec=NIGHT_AND_DAY + 40)
    assert (again.state, again.changes, again.observation) == (silent, (), None)


def test_a_camera_that_stays_away_is_forgotten():
    camera = Camera(silent_sec=30.0, forget_sec=100.0)
    camera.send(0)
    camera.state = camera.state._replace(wakes_sec=NIGHT_AND_DAY + 30)
    camera.wait(1000)
    assert camera.state is None
    assert camera.story() == [(30.0, SILENT)]


def test_silence_shows_in_capture_times_too():
    """As in a backfill, where frames come at once; the alert is the same as by the clock."""
    camera = Camera(silent_sec=30.0)
    for at in (0, 1, 2, 60, 61):
        camera.send(at, now_sec=1000)
    assert camera.story() == [(32.0, SILENT), (60.0, OK)]


def test_a_pause_much_longer_than_usual_is_a_gap():
    camera = Camera()
    times = [*(i / 10 for i in range(11)), 2.0, 2.1, 2.2]
    for at in times:
        camera.send(at)
    assert [i for i, seen in enumerate(camera.seen) if seen.gap] == [11]
    assert camera.seen[11].gap_sec == pytest.approx(1.0)
    assert camera.seen[0].gap_sec == 0


def test_a_new_pace_is_learned():
    camera = Camera()
    for i in range(31):
        camera.send(i / 30)
    for i in range(40):
        camera.send(2.0 + i)
    gaps = [seen.gap for seen in camera.seen]
    assert 1 < sum(gaps) < 15
    assert not any(gaps[-20:])


def test_a_frame_that_comes_late_passes_and_says_nothing_of_health():
    camera = Camera(gate_distance=64)
    camera.send(5)
    before = camera.state
    step = camera.send(4, DARK, now_sec=6)
    assert step.passes
    assert (step.observation.kind, step.changes) == ("frame", ())
    assert step.state == before._replace(behind=1, arrived_sec=NIGHT_AND_DAY + 6)


def test_a_clock_that_was_set_back_is_followed():
    camera = Camera(settle_sec=2.0)
    camera.send(3600)
    for i in range(60):
        camera.send(i / 10, DARK)
    assert camera.story() == [(4.0, BLACK)]
    assert camera.state.capture_sec == NIGHT_AND_DAY + 5.9


def test_the_row_of_an_alert_fits_its_table_and_has_a_lasting_id():
    import pyarrow as pa

    camera = Camera(settle_sec=0)
    camera.send(0, DARK)
    row = alert_row("gate", camera.changes[0], "run-1")
    schema = stream_table.schema(stream_table.ALERTS)
    assert set(row.values) == set(schema.names)
    assert pa.Table.from_pylist([row.values], schema).to_pylist() == [row.values]
    assert row.row_id == alert_row("gate", camera.changes[0], "run-2").row_id
    assert row.row_id == "gate/alerts/2023-11-14T22:13:20.000000Z/black"


@pytest.mark.parametrize(
    "wrong", [{"gate_distance": 65}, {"gate_distance": -2}, {"silent_sec": -1}, {"gap_factor": 1}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        WatchSettings(**wrong)


EVENTS = st.lists(
    st.tuples(
        st.floats(-100, 100),
        st.sampled_from([FINE, DARK, FOGGED, None, Measured(90.0, 300.0, 2**64 - 1)]),
        st.sampled_from(["a", "b"]),
    ),
    max_size=60,
)


@given(EVENTS, st.sampled_from([-1, 0, 10]))
def test_whatever_comes_states_follow_each_other_and_the_heartbeat_holds(events, distance):
    camera = Camera(gate_distance=distance, heartbeat_sec=10.0, settle_sec=1.0, frozen_sec=2.0)
    state, since = OK, 0.0
    for at, measured, data in events:
        step = camera.send(at, measured, data=data)
        for change in step.changes:
            assert (change.previous, change.state != state) == (state, True)
            assert change.time_sec > since
            state, since = change.state, change.time_sec
        assert step.observation.state == step.state.state == state
        if not step.passes:
            assert distance >= 0
            assert step.observation.capture_sec - step.state.passed_sec < 10
        hash(step.state)  # immutable all through
