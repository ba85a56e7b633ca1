"""Which frames came before: the capture times of a camera's frames, packed, ten seconds of them together.

A frame is the same when :func:`~beam_vision.stream_types.frame_key` is: camera, and capture time to the
microsecond. Held key by key, a minute of 30 frames a second would be 1800 cells of state; packed, it is six
of 1.2 KB.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from beam_vision.stream_types import FrameInfo

SPAN_SEC = 10
_SPAN_MICROS = SPAN_SEC * 1_000_000
_HEAD = struct.Struct("<d")


class Place(NamedTuple):
    """Where a frame is remembered: the name of ten seconds of its camera, and its microsecond in them."""

    name: str
    micros: int


class Seen(NamedTuple):
    """What a frame gives.

    Attributes:
      state: what is remembered now.
      repeated: whether the frame came before.
      forget_sec: when the state is to be forgotten, where that has changed; else None.
    """

    state: bytes
    repeated: bool
    forget_sec: float | None = None


def place(info: FrameInfo) -> Place:
    """Where a frame is remembered."""
    span, micros = divmod(round(info.capture_sec * 1e6), _SPAN_MICROS)
    return Place(f"{info.camera}/{span * SPAN_SEC}", micros)


def see(state: bytes | None, micros: int, horizon_sec: float, now_sec: float) -> Seen:
    """Takes a frame in.

    Args:
      state: what was remembered of its ten seconds; None at first.
      micros: of :class:`Place`.
      horizon_sec: for at least so long after a frame its repetitions are known as such.
      now_sec: our clock.
    """
    if state is None:
        forget_sec = 0.0
        packed = b""
    else:
        forget_sec = forget_time(state)
        packed = state[_HEAD.size :]
        if bool((np.frombuffer(packed, "<u4") == micros).any()):
            return Seen(state, True)
    packed += struct.pack("<I", micros)
    if forget_sec >= now_sec + horizon_sec:
        return Seen(_HEAD.pack(forget_sec) + packed, False)
    forget_sec = now_sec + horizon_sec + SPAN_SEC  # not each frame moves it
    return Seen(_HEAD.pack(forget_sec) + packed, False, forget_sec)


def forget_time(state: bytes) -> float:
    """When a state is to be forgotten, by our clock."""
    return _HEAD.unpack_from(state)[0]
