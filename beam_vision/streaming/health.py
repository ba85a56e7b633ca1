"""The health of a camera: one state at a time, the first that holds of those below."""

from __future__ import annotations

from dataclasses import dataclass, fields

from beam_vision.errors import UsageError
from beam_vision.images.hashing import hamming
from beam_vision.streaming.measure import Measured

SILENT = "silent"
"""It sent nothing for ``silent_sec``."""
FROZEN = "frozen"
"""It sends the same bytes again and again."""
BLACK = "black"
"""Its frames are dark: the lens is covered, or the light is off."""
BLURRED = "blurred"
"""Its frames hold no edges: out of focus, fogged, or a blank wall."""
SKEWED = "skewed"
"""Its clock is off the server's, or its frames are long under way."""
OK = "ok"
"""None of these."""

STATES = (SILENT, FROZEN, BLACK, BLURRED, SKEWED, OK)

_LEAVES_AT = 1.2
"""A camera is black or blurred until the measure is above its bound by this factor: it doesn't flicker."""


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """When a frame is like the one before, and when a camera is ill.

    Attributes:
      gate_distance: a frame whose hash differs in at most so many of 64 bits from that of the last frame
        that went to inference is gated; -1: none is.
      heartbeat_sec: after so long a frame goes to inference all the same.
      silent_sec: without a frame for so long a camera is silent; 0: never.
      frozen_sec: with the same bytes for so long, and at least three times, it is frozen; 0: never.
      black_below: it is black when the mean grey value, 0..255, is below; 0: never.
      blurred_below: it is blurred when the variance of the Laplacian of a 128 x 72 thumbnail is below;
        photographs have 300 to 4000, badly out of focus about 10; 0: never.
      skew_sec: it is skewed when publish time and capture time are further apart; 0: never.
      measure_every_sec: how often a camera's frames are looked at, where gating doesn't look at each.
      settle_sec: black, blurred and skewed must hold for so long to count, and so must their end.
      gap_factor: frames so many times further apart than usual are a gap.
      forget_sec: what is known of a camera is forgotten when it has been silent for so long.

    Raises:
      UsageError: a value is out of range.
    """

    gate_distance: int = -1
    heartbeat_sec: float = 10.0
    silent_sec: float = 30.0
    frozen_sec: float = 10.0
    black_below: float = 16.0
    blurred_below: float = 20.0
    skew_sec: float = 10.0
    measure_every_sec: float = 1.0
    settle_sec: float = 2.0
    gap_factor: float = 3.0
    forget_sec: float = 86_400.0

    def __post_init__(self) -> None:
        if not -1 <= self.gate_distance <= 64:
            raise UsageError(
                f"gate_distance is {self.gate_distance}: use 0 to 64 bits, or -1 to gate nothing"
            )
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if not value >= 0:
                raise UsageError(f"{field.name} is {value}: it can't be below 0")
        if self.gap_factor <= 1:
            raise UsageError(f"gap_factor is {self.gap_factor}: it must be above 1")

    @property
    def gates(self) -> bool:
        """Whether any frame may be gated."""
        return self.gate_distance >= 0


def is_like(a: Measured, b: Measured, settings: WatchSettings) -> bool:
    """Whether two frames are so alike that the second needs no inference."""
    return settings.gates and hamming(a.hash, b.hash) <= settings.gate_distance


def condition(
    was: str,
    *,
    same_frames: int,
    same_sec: float,
    measured: Measured | None,
    skew_sec: float | None,
    settings: WatchSettings,
) -> tuple[str, str]:
    """The state that a frame speaks for, and one sentence why.

    Args:
      was: the camera's state before.
      same_frames: how many frames in a row had the same bytes, this one included.
      same_sec: over how long.
      measured: the last look at a frame, if there was one.
      skew_sec: publish time less capture time, where both are known.
      settings: the bounds.
    """
    if settings.frozen_sec and same_frames >= 3 and same_sec >= settings.frozen_sec:
        return FROZEN, f"the same {same_frames} frames over {same_sec:.1f} s"
    if measured is not None:
        bound = settings.black_below * (_LEAVES_AT if was == BLACK else 1)
        if measured.brightness < bound:
            return BLACK, f"brightness {measured.brightness:.1f} of 255 is below {bound:g}"
        bound = settings.blurred_below * (_LEAVES_AT if was == BLURRED else 1)
        if measured.sharpness < bound:
            return BLURRED, f"sharpness {measured.sharpness:.1f} is below {bound:g}"
    if settings.skew_sec and skew_sec is not None and abs(skew_sec) > settings.skew_sec:
        side = "after" if skew_sec > 0 else "before"
        return (
            SKEWED,
            f"published {abs(skew_sec):.1f} s {side} it was taken; {settings.skew_sec:g} s are usual",
        )
    return OK, ""
