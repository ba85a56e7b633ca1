"""The windows of one camera: which are open, when each is given, and the rows that are made of it.

A window is given at its end, and again, whole, when something that belongs to it comes later, until
``allowed_lateness_sec`` after its end. How many observations a row counts is its ``pane``: of two panes of
a window the one with the greater number is the later and the complete one. So it is after a restart too: a
window that a drain gave early goes on where it was saved, and a run that is repeated gives the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from beam_vision import stream_table
from beam_vision.errors import UsageError
from beam_vision.stream_types import StreamRow, as_datetime, iso_time
from beam_vision.streaming.tally import Tally, merged

ON_TIME = "on_time"
LATE = "late"

_QUANTILES = (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99))


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """How time is cut.

    Attributes:
      window_sec: how long a window is; windows begin at multiples of it since the epoch.
      allowed_lateness_sec: how long after its end, by the watermark, a window still takes things in.

    Raises:
      UsageError: a value is out of range.
    """

    window_sec: float = 60.0
    allowed_lateness_sec: float = 120.0

    def __post_init__(self) -> None:
        if not self.window_sec >= 0.001:
            raise UsageError(f"window_sec is {self.window_sec}: it must be at least a millisecond")
        if not self.allowed_lateness_sec >= 0:
            raise UsageError(f"allowed_lateness_sec is {self.allowed_lateness_sec}: it can't be below 0")

    def start(self, time_sec: float) -> int:
        """The beginning, in microseconds since the epoch, of the window that a time belongs to."""
        return round(time_sec * 1e6) // self._window_micros * self._window_micros

    def end(self, start: int) -> int:
        """The end of the window that begins at ``start``; all times in microseconds."""
        return start + self._window_micros

    def expiry(self, start: int) -> int:
        """When a window is forgotten."""
        return self.end(start) + round(self.allowed_lateness_sec * 1e6)

    @property
    def _window_micros(self) -> int:
        return round(self.window_sec * 1e6)


@dataclass(frozen=True)
class OpenWindow:
    """What a window holds, and how many observations it held when it was last given; 0: it wasn't yet."""

    tally: Tally
    given: int = 0

    @property
    def owes(self) -> bool:
        """Whether it was given and then took more in."""
        return 0 < self.given < self.tally.observations


@dataclass(frozen=True)
class CameraWindows:
    """The windows of one camera.

    Attributes:
      windows: those that are open, by their beginning.
      reached: how far the watermark has come at least; windows that expired before are forgotten.
    """

    windows: Mapping[int, OpenWindow] = field(default_factory=dict)
    reached: int = -(1 << 62)

    @property
    def owes(self) -> bool:
        """Whether a window took something in after it was given."""
        return any(window.owes for window in self.windows.values())


class Pane(NamedTuple):
    """A window as it is given."""

    start: int
    tally: Tally
    timing: str


class Given(NamedTuple):
    """What one event gives: the windows then, and the panes that are due."""

    state: CameraWindows
    panes: tuple[Pane, ...] = ()


def take(state: CameraWindows, start: int, more: Tally, settings: WindowSettings) -> CameraWindows | None:
    """Takes observations of one window in; None: it is forgotten already, they come too late."""
    if settings.expiry(start) <= state.reached:
        return None
    window = state.windows.get(start)
    window = OpenWindow(merged(window.tally, more), window.given) if window else OpenWindow(more)
    return CameraWindows({**state.windows, start: window}, state.reached)


def reach(state: CameraWindows, time: int, settings: WindowSettings) -> Given:
    """The watermark has come to ``time``: gives windows that have ended, forgets those that expired."""
    panes, kept = [], {}
    for start in sorted(state.windows):
        window = state.windows[start]
        expired = settings.expiry(start) <= time
        if not window.given and settings.end(start) <= time:
            panes.append(Pane(start, window.tally, ON_TIME))
            window = OpenWindow(window.tally, window.tally.observations)
        elif window.owes and expired:
            panes.append(Pane(start, window.tally, LATE))
        if not expired:
            kept[start] = window
    return Given(CameraWindows(kept, max(state.reached, time)), tuple(panes))


def correct(state: CameraWindows) -> Given:
    """Gives the windows again that took something in after they were given."""
    panes = tuple(Pane(start, w.tally, LATE) for start, w in sorted(state.windows.items()) if w.owes)
    given = {pane.start: OpenWindow(pane.tally, pane.tally.observations) for pane in panes}
    return Given(CameraWindows({**state.windows, **given}, state.reached), panes)


def next_time(state: CameraWindows, settings: WindowSettings) -> int | None:
    """When :func:`reach` has something to do next, in event time; None: never."""
    times = (
        settings.expiry(start) if window.given else settings.end(start)
        for start, window in state.windows.items()
    )
    return min(times, default=None)


def rows(camera: str, pane: Pane, settings: WindowSettings, run_id: str = "") -> list[StreamRow]:
    """A pane as rows: a count for each class, one of health, latency for each stage."""
    start_sec = pane.start / 1e6
    common = {
        "camera": camera,
        "window_start": as_datetime(start_sec),
        "window_end": as_datetime(settings.end(pane.start) / 1e6),
        "pane": pane.tally.observations,
        "timing": pane.timing,
        "run_id": run_id,
    }

    def row(table: str, values: dict[str, Any], *which: str) -> StreamRow:
        place = "/".join((camera, table, iso_time(start_sec), *which))
        row_id = f"{place}/{pane.tally.observations}"
        return StreamRow(table, row_id, camera, start_sec, {"row_id": row_id, **common, **values})

    tally = pane.tally
    counts = [
        row(stream_table.COUNTS, {"class": label, "count": tally.labels[label]}, label)
        for label in sorted(tally.labels)
    ]
    stages = [stage for stage in stream_table.STAGES if stage in tally.stages]
    latency = [row(stream_table.LATENCY, _latency(tally, stage), stage) for stage in stages]
    return [*counts, row(stream_table.HEALTH, _health(tally, settings)), *latency]


def _health(tally: Tally, settings: WindowSettings) -> dict[str, Any]:
    kinds = tally.kinds
    frames = kinds.get("frame", 0) + kinds.get("gated", 0)
    return {
        "frames": frames,
        "rows": kinds.get("row", 0),
        "gated": kinds.get("gated", 0),
        "duplicates": kinds.get("duplicate", 0),
        "failed": kinds.get("failed", 0),
        "gaps": tally.gaps,
        "rate_per_sec": frames / settings.window_sec,
        "longest_gap_sec": tally.longest_gap_sec,
        "skew_sec": tally.mean("skew_sec"),
        "brightness": tally.mean("brightness"),
        "sharpness": tally.mean("sharpness"),
        "saved_sec": tally.sums.get("saved_sec", 0.0),
        "state": tally.last[1] or None,
        "states": sorted(tally.states),
    }


def _latency(tally: Tally, stage: str) -> dict[str, Any]:
    sketch = tally.stages[stage]
    quantiles = {name: sketch.quantile(q) for name, q in _QUANTILES}
    largest = sketch.largest if sketch.count else None
    return {"stage": stage, "frames": sketch.count, **quantiles, "max_ms": largest}
