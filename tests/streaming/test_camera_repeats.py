import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.stream_types import FrameInfo, frame_key
from beam_vision.streaming import repeats

NOW = 1_700_000_000.0


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40_000_000)), max_size=40),
)
def test_repeated_is_what_has_the_same_key(frames):
    """Each frame twice over, in any order: the keys decide."""
    states, keys = {}, set()
    for camera, micros in frames * 2:
        info = FrameInfo(camera, NOW + micros / 1e6)
        place = repeats.place(info)
        seen = repeats.see(states.get(place.name), place.micros, 600, NOW)
        key = frame_key(info.camera, info.capture_sec)
        assert seen.repeated == (key in keys)
        keys.add(key)
        states[place.name] = seen.state


def test_state_is_small_and_its_timer_moves_seldom():
    state, moved = None, 0
    for i in range(300):  # ten seconds of 30 frames a second
        seen = repeats.see(state, i * 33_333, 600, NOW + i / 30)
        state, moved = seen.state, moved + (seen.forget_sec is not None)
    assert len(state) == 8 + 300 * 4
    assert moved == 1
    assert repeats.forget_time(state) >= NOW + 10 + 600


def test_a_frame_that_comes_much_later_moves_the_timer():
    first = repeats.see(None, 1, 600, NOW)
    later = repeats.see(first.state, 2, 600, NOW + 500)
    assert later.forget_sec >= NOW + 1100
    assert repeats.forget_time(later.state) == later.forget_sec


def test_a_repetition_changes_nothing():
    state = repeats.see(None, 7, 600, NOW).state
    assert repeats.see(state, 7, 600, NOW + 1) == (state, True, None)


def test_before_the_epoch_there_is_a_place_too():
    assert repeats.place(FrameInfo("a", -0.5)) == ("a/-10", 9_500_000)
    assert 0 <= repeats.place(FrameInfo("a", float(np.nextafter(10, 0)))).micros < 10_000_000
