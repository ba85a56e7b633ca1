"""One camera: from a frame, and what is known of its camera, to what becomes of it and what is known then."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from beam_vision import stream_table
from beam_vision.stream_types import FrameInfo, Observation, StreamRow, as_datetime, iso_time
from beam_vision.streaming.health import FROZEN, OK, SILENT, WatchSettings, condition, is_like
from beam_vision.streaming.measure import Measured

_MOST_BEHIND = 20
"""After so many frames in a row that are no newer than one before, the camera's clock was set back."""
_KNOWS_PACE = 5
"""So many frames tell how far apart a camera's frames usually are."""
_PACE_WEIGHT = 0.1
_MICROSECOND = 1e-6


class CameraState(NamedTuple):
    """What is known of a camera; about 300 bytes.

    Attributes:
      capture_sec: when its newest frame was taken.
      arrived_sec: when a frame last came, by our clock.
      state: its health; since ``changed_sec``, by its clock.
      candidate, candidate_sec: another state, and since when frames have spoken for it.
      digest: of the newest frame's bytes; ``same_frames`` in a row have it, since ``same_sec``.
      measured: the last look at a frame, at ``measured_sec``.
      passed: the look at the last frame that went to inference, taken at ``passed_sec``.
      pace_sec: how far apart its frames usually are.
      intervals: how many intervals between frames that was learned from, up to enough.
      behind: so many frames in a row were no newer than the newest.
      wakes_sec: when its silence is looked at next, by our clock.
    """

    capture_sec: float
    arrived_sec: float
    state: str = OK
    changed_sec: float = -math.inf
    candidate: str = ""
    candidate_sec: float = 0.0
    digest: bytes = b""
    same_frames: int = 0
    same_sec: float = 0.0
    measured: Measured | None = None
    measured_sec: float = 0.0
    passed: Measured | None = None
    passed_sec: float = 0.0
    pace_sec: float = 0.0
    intervals: int = 0
    behind: int = 0
    wakes_sec: float = 0.0


@dataclass(frozen=True)
class Change:
    """A camera's state changed: when, by its clock, to what, from what, and why."""

    time_sec: float
    state: str
    previous: str
    detail: str


@dataclass(frozen=True)
class Taken:
    """What a frame gives.

    Attributes:
      state: what is known of the camera now.
      passes: whether the frame goes to inference.
      observation: for the counts.
      changes: of the camera's state, in order.
    """

    state: CameraState
    passes: bool
    observation: Observation
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Woken:
    """What the passing of time gives.

    Attributes:
      state: what is known of the camera now; None: forget it.
      observation: for the counts; None while the camera isn't silent.
      changes: of the camera's state.
    """

    state: CameraState | None
    observation: Observation | None = None
    changes: tuple[Change, ...] = ()


def take(
    before: CameraState | None,
    info: FrameInfo,
    digest: bytes,
    look: Callable[[], Measured | None],
    settings: WatchSettings,
    *,
    now_sec: float,
    frame_sec: float = 0.0,
) -> Taken:
    """Takes a frame in.

    A frame that is no newer than the newest goes to inference, and tells nothing of the camera's health.

    Args:
      before: what was known; None at first.
      info: of the frame.
      digest: of its bytes.
      look: looks at the frame; called at most once, and only where that is needed.
      settings: the bounds.
      now_sec: our clock.
      frame_sec: what inference of one frame takes, which gating saves.
    """
    skew = info.publish_sec - info.capture_sec if info.publish_sec else None
    if before is not None and info.capture_sec <= before.capture_sec and before.behind < _MOST_BEHIND:
        return _late(before, info, skew, now_sec)
    before = _begun(before, info, now_sec)
    gap_sec = info.capture_sec - before.capture_sec
    measured = _look(before, info, digest, look, settings)
    known = _with_bytes(before, info, digest, measured, now_sec)
    known, changes = _with_health(known, before, gap_sec, skew, settings)
    gated = _is_gated(known, measured, info, settings)
    if not gated and measured is not None:
        known = known._replace(passed=measured, passed_sec=info.capture_sec)
    seen = Observation(
        info.camera,
        info.capture_sec,
        kind="gated" if gated else "frame",
        state=known.state,
        brightness=measured.brightness if measured else None,
        sharpness=measured.sharpness if measured else None,
        skew_sec=skew,
        gap_sec=gap_sec,
        gap=_is_gap(before, gap_sec, settings),
        saved_sec=frame_sec if gated else 0.0,
    )
    return Taken(_with_pace(known, before, gap_sec), not gated, seen, changes)


def wake(state: CameraState, camera: str, settings: WatchSettings, *, now_sec: float) -> Woken:
    """Looks, at ``state.wakes_sec`` or earlier, whether a camera is silent; when next is in the state."""
    quiet_sec = now_sec - state.arrived_sec
    if quiet_sec < settings.silent_sec:
        return Woken(state._replace(wakes_sec=state.arrived_sec + settings.silent_sec))
    if now_sec < state.wakes_sec:
        return Woken(state)
    changes: tuple[Change, ...] = ()
    if state.state != SILENT:
        state, change = _silenced(state, state.capture_sec, settings)
        changes = (change,)
    seen = Observation(camera, state.capture_sec + quiet_sec, kind="silent", state=SILENT)
    if quiet_sec >= settings.forget_sec:
        return Woken(None, observation=seen, changes=changes)
    return Woken(state._replace(wakes_sec=now_sec + settings.silent_sec), observation=seen, changes=changes)


def alert_row(camera: str, change: Change, run_id: str = "") -> StreamRow:
    """The row of the alerts table for a change; the same change has the same id in every run."""
    row_id = f"{camera}/{stream_table.ALERTS}/{iso_time(change.time_sec)}/{change.state}"
    values = {
        "row_id": row_id,
        "camera": camera,
        "time": as_datetime(change.time_sec),
        "state": change.state,
        "previous": change.previous,
        "detail": change.detail,
        "run_id": run_id,
    }
    return StreamRow(stream_table.ALERTS, row_id, camera, change.time_sec, values)


def _begun(before: CameraState | None, info: FrameInfo, now_sec: float) -> CameraState:
    """What is known before a frame: of a new camera nothing, and little where its clock was set back."""
    fresh = CameraState(info.capture_sec, now_sec)
    if before is None:
        return fresh
    if info.capture_sec > before.capture_sec:
        return before
    return fresh._replace(state=before.state, changed_sec=before.changed_sec, wakes_sec=before.wakes_sec)


def _late(before: CameraState, info: FrameInfo, skew_sec: float | None, now_sec: float) -> Taken:
    """A frame that came after a newer one."""
    known = before._replace(behind=before.behind + 1, arrived_sec=now_sec)
    seen = Observation(info.camera, info.capture_sec, kind="frame", state=before.state, skew_sec=skew_sec)
    return Taken(known, True, seen)


def _look(
    before: CameraState,
    info: FrameInfo,
    digest: bytes,
    look: Callable[[], Measured | None],
    settings: WatchSettings,
) -> Measured | None:
    """What a look at the frame shows, if one is due; of the same bytes what was seen before."""
    if digest == before.digest and before.measured_sec == before.capture_sec:
        return before.measured
    due = before.measured is None or info.capture_sec - before.measured_sec >= settings.measure_every_sec
    return look() if settings.gates or due else None


def _with_bytes(
    before: CameraState, info: FrameInfo, digest: bytes, measured: Measured | None, now_sec: float
) -> CameraState:
    same = digest == before.digest
    return before._replace(
        capture_sec=info.capture_sec,
        arrived_sec=now_sec,
        behind=0,
        digest=digest,
        same_frames=before.same_frames + 1 if same else 1,
        same_sec=before.same_sec if same else info.capture_sec,
        measured=measured or before.measured,
        measured_sec=info.capture_sec if measured else before.measured_sec,
    )


def _with_health(
    known: CameraState, before: CameraState, gap_sec: float, skew_sec: float | None, settings: WatchSettings
) -> tuple[CameraState, tuple[Change, ...]]:
    """The state with its health, and the changes that led there."""
    changes: list[Change] = []
    if settings.silent_sec and gap_sec > settings.silent_sec and known.state != SILENT:
        known, change = _silenced(known, before.capture_sec, settings)
        changes.append(change)
    spoken, detail = condition(
        known.state,
        same_frames=known.same_frames,
        same_sec=known.capture_sec - known.same_sec,
        measured=known.measured,
        skew_sec=skew_sec,
        settings=settings,
    )
    if spoken == known.state:
        return known._replace(candidate=""), tuple(changes)
    at_once = spoken == FROZEN or known.state in (FROZEN, SILENT)
    if not at_once:
        if known.candidate != spoken:
            known = known._replace(candidate=spoken, candidate_sec=known.capture_sec)
        if known.capture_sec - known.candidate_sec < settings.settle_sec:
            return known, tuple(changes)
    known, change = _changed(known, known.capture_sec, spoken, detail or f"no longer {known.state}")
    return known, (*changes, change)


def _silenced(state: CameraState, last_sec: float, settings: WatchSettings) -> tuple[CameraState, Change]:
    """The camera is silent since its last frame."""
    detail = f"no frame for {settings.silent_sec:g} s"
    return _changed(state, last_sec + settings.silent_sec, SILENT, detail)


def _changed(state: CameraState, time_sec: float, to: str, detail: str) -> tuple[CameraState, Change]:
    """The state with another health; never before the change before, so that the last one is the last."""
    time_sec = max(time_sec, state.changed_sec + _MICROSECOND)
    change = Change(time_sec, to, state.state, detail)
    return state._replace(state=to, candidate="", changed_sec=time_sec), change


def _is_gated(
    known: CameraState, measured: Measured | None, info: FrameInfo, settings: WatchSettings
) -> bool:
    if measured is None or known.passed is None:
        return False
    recent = info.capture_sec - known.passed_sec < settings.heartbeat_sec
    return recent and is_like(known.passed, measured, settings)


def _is_gap(before: CameraState, gap_sec: float, settings: WatchSettings) -> bool:
    return before.intervals >= _KNOWS_PACE and gap_sec > settings.gap_factor * before.pace_sec


def _with_pace(known: CameraState, before: CameraState, gap_sec: float) -> CameraState:
    """Learns the pace; one long pause hardly changes it, a new pace is learned within some ten frames."""
    if gap_sec == 0:
        return known
    if before.intervals < _KNOWS_PACE:
        pace = (before.pace_sec * before.intervals + gap_sec) / (before.intervals + 1)
        return known._replace(pace_sec=pace, intervals=before.intervals + 1)
    step = min(gap_sec, 5 * before.pace_sec) - before.pace_sec
    return known._replace(pace_sec=before.pace_sec + _PACE_WEIGHT * step)
