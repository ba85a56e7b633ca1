"""Simulated cameras: what each episode does to the frames, and that a plan always gives the same bytes."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_vision.errors import UsageError, VisionError
from beam_vision.images.codec import decode
from beam_vision.images.hashing import dhash, hamming
from beam_vision.stream_types import iso_time
from beam_vision.streaming.simulate import TEXT, Episode, SimulatedCamera, simulate, view_box

START = 1_795_000_000.0


def photo(seed):
    """Coarse noise: every part looks different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC))


PHOTOS = {"a": photo(1), "b": photo(2)}


def camera(*episodes, name="one", **settings):
    small = {"width_px": 96, "height_px": 72, "frames_per_sec": 4, "scene_sec": 5}
    return SimulatedCamera(name=name, scenes=("a", "b"), episodes=episodes, **{**small, **settings})


def frames(*episodes, seconds=8, **settings):
    return list(simulate([camera(*episodes, **settings)], PHOTOS, seconds))


def look(frame):
    return dhash(decode(frame.data).pixels)


def test_a_plan_gives_the_same_bytes_and_another_seed_gives_others():
    plan = [Episode(1, 3, "broken"), Episode(4, 5, "frozen")]
    assert frames(*plan) == frames(*plan)
    assert all(one.data != other.data for one, other in zip(frames(), frames(seed=1), strict=True))


def test_frames_come_on_time_and_show_one_photograph_after_the_other():
    found = frames()
    assert [frame.offset_sec for frame in found] == [i / 4 for i in range(32)]
    assert [frame.sequence for frame in found] == list(range(32))
    assert [frame.label for frame in found] == ["a"] * 20 + ["b"] * 12
    assert all(Image.open(io.BytesIO(frame.data)).size == (96, 72) for frame in found)


def test_a_moving_camera_sees_something_else_and_a_still_one_almost_the_same():
    found = frames(Episode(2, 4, "still"))
    still = [frame for frame in found if 2 <= frame.offset_sec < 4]
    assert len({frame.data for frame in still}) == len(still)
    assert max(hamming(look(still[0]), look(frame)) for frame in still) <= 6
    assert hamming(look(found[0]), look(found[7])) > 10


def test_a_frozen_camera_sends_the_same_bytes_at_new_times():
    found = [frame for frame in frames(Episode(2, 4, "frozen")) if 1.75 <= frame.offset_sec < 4]
    assert len({frame.data for frame in found}) == 1
    assert len({frame.attributes(START)["capture_time"] for frame in found}) == 9
    assert [frame.trouble for frame in found] == [""] + ["frozen"] * 8


def test_a_camera_that_is_frozen_from_the_start_has_a_frame():
    found = frames(Episode(0, 2, "frozen"), seconds=2)
    assert len({frame.data for frame in found}) == 1
    assert decode(found[0].data).width_px == 96


def test_a_black_camera_is_dark_and_a_silent_one_sends_nothing():
    found = frames(Episode(2, 3, "black"), Episode(4, 6, "silent"))
    assert {frame.offset_sec for frame in found if decode(frame.data).pixels.mean() < 8} == {
        2,
        2.25,
        2.5,
        2.75,
    }
    assert not [frame for frame in found if 4 <= frame.offset_sec < 6]
    assert next(frame.sequence for frame in found if frame.offset_sec >= 6) == 24


def test_broken_frames_are_cut_off_or_text_or_without_a_time():
    found = {frame.trouble: frame for frame in frames(Episode(0, 8, "broken")) if frame.trouble}
    assert set(found) == {"truncated", "not_an_image", "no_time"}
    with pytest.raises(VisionError, match="truncated"):
        decode(found["truncated"].data)
    assert found["not_an_image"].data == TEXT
    assert "capture_time" not in found["no_time"].attributes(START)
    assert decode(found["no_time"].data).height_px == 72
    whole = [frame for frame in frames(Episode(0, 8, "broken")) if not frame.trouble]
    assert len(whole) == 24


def test_a_repeated_frame_is_the_same_twice():
    found = frames(Episode(1, 2, "repeated"), seconds=3)
    twice = [frame for frame in found if 1 <= frame.offset_sec < 2]
    assert len(found) == 16
    assert twice[::2] == twice[1::2]
    assert twice[0].attributes(START) == twice[1].attributes(START)


def test_attributes_are_those_of_a_message():
    assert frames()[5].attributes(START) == {
        "camera": "one",
        "sequence": "5",
        "capture_time": iso_time(START + 1.25),
    }


def test_frames_of_several_cameras_come_in_the_order_of_their_times():
    cameras = [camera(name="slow", frames_per_sec=1), camera(name="quick", frames_per_sec=5)]
    found = list(simulate(cameras, PHOTOS, 4))
    assert [frame.offset_sec for frame in found] == sorted(frame.offset_sec for frame in found)
    assert [frame.camera for frame in found].count("slow") == 4
    assert [frame.camera for frame in found].count("quick") == 20


def test_mistakes_of_a_plan_are_said():
    with pytest.raises(UsageError, match="camera one has no photograph to look at: \\['c'\\]"):
        list(simulate([SimulatedCamera(name="one", scenes=("a", "c"))], PHOTOS, 1))
    with pytest.raises(UsageError, match="no scenes"):
        list(simulate([SimulatedCamera(name="one", scenes=())], PHOTOS, 1))
    with pytest.raises(UsageError, match="not 'dreaming'"):
        Episode(0, 1, "dreaming")


@given(
    size=st.tuples(st.integers(20, 4000), st.integers(20, 4000)),
    at_sec=st.floats(0, 1e6),
    seed=st.integers(0, 99),
)
def test_the_view_lies_in_the_photograph(size, at_sec, seed):
    one = camera(seed=seed)
    left, top, right, bottom = view_box(one, size, at_sec)
    assert left >= -1e-6
    assert top >= -1e-6
    assert right <= size[0] + 1e-6
    assert bottom <= size[1] + 1e-6
    assert (right - left) / (bottom - top) == pytest.approx(96 / 72)
