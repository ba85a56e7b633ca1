"""What goes on right now, by camera, for the person who watches: kept in this process, for the last seconds.

The steps of a job that runs here tell :data:`BOARD`; a terminal table reads it. Nothing depends on it: the
counts that last are the job's tables.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from beam_vision import stream_table
from beam_vision.stream_types import Observation, StreamRow

SPAN_SEC = 5
"""Rates and latencies are of so many seconds before now."""
MAX_LATENCIES = 1000
"""So many latencies a camera are kept at most: the newest."""
ENDS = frozenset({"row", "gated", "failed", "duplicate"})
"""The kinds of observation that a message ends as: exactly one of them each."""
NO_CAMERA = "(unknown)"
"""Stands for the camera of messages that didn't say theirs."""


@dataclass(frozen=True)
class CameraNow:
    """A camera as it is now.

    Attributes:
      camera: its name, or :data:`NO_CAMERA`.
      rate_per_sec: messages that ended, in whatever way, a second, over the last :data:`SPAN_SEC`.
      p95_ms: 95th percentile of capture-to-row over the same time; None without a row.
      rows, gated, failed, duplicates: in all, since the start.
      state: its health state, as last told; empty before.
      label: the label of its last row.
      idle_sec: since anything was last told of it.
    """

    camera: str
    rate_per_sec: float
    p95_ms: float | None
    rows: int
    gated: int
    failed: int
    duplicates: int
    state: str
    label: str
    idle_sec: float


@dataclass(frozen=True)
class BoardNow:
    """All cameras, by name, and the model that serves.

    Attributes:
      cameras: sorted by name.
      model_digest: of the model that serves; empty before one does.
      version: the name of its folder.
      swaps: how often a model took another's place.
      refused: how many candidates were refused.
    """

    cameras: Sequence[CameraNow] = ()
    model_digest: str = ""
    version: str = ""
    swaps: int = 0
    refused: int = 0


@dataclass
class _Kept:
    """What is kept of a camera: totals, and ``[second, messages]`` and ``(time, ms)`` of the last seconds."""

    totals: Counter = field(default_factory=Counter)
    seconds: deque = field(default_factory=lambda: deque(maxlen=SPAN_SEC + 2))
    latencies: deque = field(default_factory=lambda: deque(maxlen=MAX_LATENCIES))
    state: str = ""
    label: str = ""
    first_sec: float = 0.0
    last_sec: float = 0.0


class Board:
    """Figures by camera; any thread may tell and read.

    Args:
      clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._cameras: dict[str, _Kept] = {}
        self._now = BoardNow()

    def clear(self) -> None:
        """Forgets all: a new run begins."""
        with self._lock:
            self._cameras = {}
            self._now = BoardNow()

    def observe(self, observation: Observation) -> None:
        """Counts what became of a frame."""
        now = self._clock()
        with self._lock:
            kept = self._camera(observation.camera, None if observation.kind == "silent" else now)
            if observation.state:
                kept.state = observation.state
            if observation.kind in ENDS:
                _count(kept, observation.kind, now)
            if observation.kind == "row":
                kept.label = observation.labels[0] if observation.labels else ""
                if "total" in observation.stage_ms:
                    kept.latencies.append((now, observation.stage_ms["total"]))

    def tell(self, row: StreamRow) -> None:
        """Takes in a row that is more than a count: an alert, a rollout, a failure of nobody's camera."""
        now = self._clock()
        with self._lock:
            if row.table == stream_table.ALERTS:
                self._camera(row.camera, None).state = row.values["state"]
            elif row.table == stream_table.ROLLOUTS:
                self._now = _with_rollout(self._now, row)
            elif row.table == stream_table.FAILURES and not row.camera:
                _count(self._camera("", now), "failed", now)

    def snapshot(self) -> BoardNow:
        """How things stand now."""
        now = self._clock()
        with self._lock:
            cameras = tuple(_camera_now(name, kept, now) for name, kept in sorted(self._cameras.items()))
            said = self._now
        return BoardNow(cameras, said.model_digest, said.version, said.swaps, said.refused)

    def _camera(self, name: str, now: float | None) -> _Kept:
        """The camera's record; ``now``: it has just been heard of, which an alert about its silence isn't."""
        name = name or NO_CAMERA
        kept = self._cameras.get(name)
        if kept is None:
            start = self._clock() if now is None else now
            kept = self._cameras[name] = _Kept(first_sec=start, last_sec=start)
        if now is not None:
            kept.last_sec = now
        return kept


def _count(kept: _Kept, kind: str, now: float) -> None:
    kept.totals[kind] += 1
    second = math.floor(now)
    if kept.seconds and kept.seconds[-1][0] == second:
        kept.seconds[-1][1] += 1
    else:
        kept.seconds.append([second, 1])


def _with_rollout(board: BoardNow, row: StreamRow) -> BoardNow:
    values = row.values
    if values["outcome"] != "serving":
        return BoardNow((), board.model_digest, board.version, board.swaps, board.refused + 1)
    swaps = board.swaps + bool(values["previous_digest"])
    return BoardNow((), values["model_digest"], values["version"], swaps, board.refused)


def _camera_now(name: str, kept: _Kept, now: float) -> CameraNow:
    """Rates are over whole seconds, the one that is going on left out once there are others."""
    last = math.floor(now)
    span = min(max(last - math.floor(kept.first_sec), 1), SPAN_SEC)
    recent = sum(count for second, count in kept.seconds if last - span <= second < last)
    times = sorted(ms for at, ms in kept.latencies if at >= now - SPAN_SEC)
    return CameraNow(
        camera=name,
        rate_per_sec=recent / span,
        p95_ms=times[math.ceil(0.95 * len(times)) - 1] if times else None,
        rows=kept.totals["row"],
        gated=kept.totals["gated"],
        failed=kept.totals["failed"],
        duplicates=kept.totals["duplicate"],
        state=kept.state,
        label=kept.label,
        idle_sec=max(0.0, now - kept.last_sec),
    )


BOARD = Board()
"""This process's board."""
