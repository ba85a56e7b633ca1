"""What the page of a streaming job shows, as plain values. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """A stretch of time in which a camera was in one state."""

    start_sec: float
    end_sec: float
    state: str


@dataclass(frozen=True)
class Window:
    """What became of a camera's messages in a window; a corrected count in the place of the first one."""

    start_sec: float
    end_sec: float
    rows: int = 0
    gated: int = 0
    duplicates: int = 0
    failed: int = 0

    @property
    def messages(self) -> int:
        """All of them."""
        return self.rows + self.gated + self.duplicates + self.failed


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds from capture to row, of a window."""

    start_sec: float
    end_sec: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Alert:
    """A camera's state changed."""

    time_sec: float
    camera: str
    state: str
    previous: str
    detail: str


@dataclass(frozen=True)
class Broken:
    """A message or frame in the dead letter. ``data``: its payload; empty where that is large."""

    time_sec: float
    camera: str
    key: str
    stage: str
    reason: str
    detail: str
    data: bytes = b""


@dataclass(frozen=True)
class BrokenGroup:
    """Failures of one reason: how many, and a few of them."""

    reason: str
    total: int
    examples: Sequence[Broken]


@dataclass(frozen=True)
class Rollout:
    """A model version was taken into service, or refused."""

    time_sec: float
    version: str
    model_digest: str
    outcome: str
    reason: str
    load_sec: float
    rows: int = 0

    @property
    def swapped(self) -> bool:
        """Whether it was taken into service."""
        return self.outcome == "serving"


@dataclass(frozen=True, kw_only=True)
class CameraStory:
    """All of a camera.

    Attributes:
      name: of the camera; empty for messages that didn't say theirs.
      rows_by_bin: how many rows by :attr:`StreamStory.bin_sec`, from :attr:`StreamStory.start_sec` on.
      windows: what became of its messages, by window.
      spans: its states.
      failed_at: when its broken frames were taken, or came in.
      latency: by window.
      p95_ms: from capture to row, over all of its rows; None without any.
      gaps: how often it paused; ``longest_gap_sec``: the longest pause.
      saved_sec: inference time that gating spared.
      skew_sec: by how much its clock is behind the server's, on average; None where unknown.
      brightness: the lowest and the highest of a window, 0..255.
      sharpness: likewise: variance of the Laplacian.
    """

    name: str
    rows_by_bin: Sequence[int] = ()
    windows: Sequence[Window] = ()
    spans: Sequence[Span] = ()
    failed_at: Sequence[float] = ()
    latency: Sequence[Percentiles] = ()
    p95_ms: float | None = None
    gaps: int = 0
    longest_gap_sec: float = 0.0
    saved_sec: float = 0.0
    skew_sec: float | None = None
    brightness: tuple[float, float] | None = None
    sharpness: tuple[float, float] | None = None

    def total(self, kind: str) -> int:
        """How many messages became ``rows``, ``gated``, ``duplicates``, ``failed``; ``messages``: all."""
        return sum(getattr(window, kind) for window in self.windows)


@dataclass(frozen=True)
class ClassCounts:
    """How often each class was seen by a camera: ``counts[i][j]`` is of ``classes[i]`` in column j."""

    camera: str
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    others: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamStory:
    """All that the page shows.

    Attributes:
      folder: where the tables are.
      start_sec, end_sec: what the timelines span.
      bin_sec: width of a bar of a timeline.
      cameras: by name.
      rows, failed: how many rows the tables of predictions and failures hold.
      counted_rows, counted_failed: how many of them the cameras' counts hold.
      gated, duplicates: how many messages became that, by the counts.
      alerts, rollouts: in order of time.
      columns: the windows (start, end) that ``classes`` counts by.
      stages: stage -> (p50, p95, p99) in milliseconds over all rows.
      outside: how many rows lie outside of the span, because their time is far from all others'.
      runs: ids of the runs that wrote the tables.
    """

    folder: str
    start_sec: float
    end_sec: float
    bin_sec: float
    cameras: Sequence[CameraStory] = ()
    rows: int = 0
    failed: int = 0
    counted_rows: int = 0
    counted_failed: int = 0
    gated: int = 0
    duplicates: int = 0
    alerts: Sequence[Alert] = ()
    rollouts: Sequence[Rollout] = ()
    broken: Sequence[BrokenGroup] = ()
    columns: Sequence[tuple[float, float]] = ()
    classes: Sequence[ClassCounts] = ()
    stages: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    outside: int = 0
    runs: Sequence[str] = ()
