"""The time lines of a streaming job's cameras as one inline SVG: rates, states, failures, rollouts."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from beam_vision.reports.markup import Markup, amount, tag
from beam_vision.reports.stream_data import CameraStory, Rollout, Span, StreamStory, Window
from beam_vision.reports.stream_style import STATES

WIDTH = 1060.0
LEFT, RIGHT, TOP, FOOT = 128.0, 12.0, 42.0, 22.0
LANE, RATE = 108.0, 58.0
"""Height of a camera's lane, and of the rates in it."""
BAND = 13.0
CHAR_PX = 6.2
MAX_CAMERAS = 24
"""A page shows so many lanes at most."""
MAX_MARKS = 400
WORDS = {True: "serves", False: "\u2717 refused"}
TICKS_SEC = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800)


def lanes(story: StreamStory, cameras: Sequence[CameraStory]) -> Markup:
    """A lane for each camera over one axis of time, with lines where the model changed."""
    height = TOP + LANE * len(cameras) + FOOT
    peak = max((rate for camera in cameras for rate in _rates(story, camera)), default=0.0) or 1.0
    x = Axis(story.start_sec, story.end_sec, LEFT, WIDTH - RIGHT)
    parts: list[Any] = [tag("title", "Messages a second, states and failures of each camera over time")]
    parts += _time_axis(x, TOP - 4, height - FOOT)
    for i, camera in enumerate(cameras):
        parts.append(_lane(story, camera, x, TOP + LANE * i, peak))
    parts += _rollout_lines(story.rollouts, x, height - FOOT)
    return tag(
        "svg", parts, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", class_="lanes", width=f"{WIDTH:g}"
    )


class Axis:
    """Seconds to pixels, clipped at both ends."""

    def __init__(self, start_sec: float, end_sec: float, left: float, right: float) -> None:
        self.start_sec, self.end_sec, self.left, self.right = start_sec, end_sec, left, right

    def __call__(self, time_sec: float) -> float:
        """Where a time lies."""
        span = max(self.end_sec - self.start_sec, 1e-9)
        share = min(max((time_sec - self.start_sec) / span, 0.0), 1.0)
        return self.left + share * (self.right - self.left)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round times since the start, with their labels: ``m:ss``, ``h:mm`` from two hours on."""
        span = self.end_sec - self.start_sec
        step = next((step for step in TICKS_SEC if span / step <= most), TICKS_SEC[-1])
        return [
            (self.start_sec + i * step, elapsed(i * step, in_hours=span >= 7200))
            for i in range(int(span // step) + 1)
        ]


def elapsed(seconds: float, *, in_hours: bool = False) -> str:
    """``1:05`` for 65 seconds; ``2:10`` for two hours and ten minutes with ``in_hours``."""
    whole = round(seconds / 60 if in_hours else seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def utc(time_sec: float, form: str = "%H:%M:%S") -> str:
    """A time in UTC."""
    return datetime.datetime.fromtimestamp(time_sec, datetime.timezone.utc).strftime(form)


def state_class(state: str) -> str:
    """The class of a state's colour."""
    return f"state-{state}" if state in STATES else "state-other"


def _rates(story: StreamStory, camera: CameraStory) -> list[float]:
    by_window = [_rate(window) for window in camera.windows]
    return by_window + [rows / story.bin_sec for rows in camera.rows_by_bin]


def _rate(window: Window) -> float:
    return window.messages / max(window.end_sec - window.start_sec, 1e-9)


def _time_axis(x: Axis, top: float, bottom: float) -> list[Markup]:
    parts = []
    for at, label in x.ticks(12):
        parts.append(tag("path", class_="rule", d=f"M{x(at):.1f} {top:.1f}V{bottom:.1f}"))
        parts.append(
            tag("text", label, class_="tick", x=f"{x(at):.1f}", y=f"{bottom + 15:.1f}", text_anchor="middle")
        )
    return parts


def _lane(story: StreamStory, camera: CameraStory, x: Axis, top: float, peak: float) -> Markup:
    base = top + RATE
    p95 = "" if camera.p95_ms is None else f"p95 {camera.p95_ms:,.0f} ms"
    facts = [amount(camera.total("rows"), "row"), f"{camera.total('gated'):,} gated", p95]
    words = [tag("text", camera.name or "(unknown)", class_="name", x=0, y=f"{top + 13:.1f}")]
    words += [
        tag("text", fact, class_="fact", x=0, y=f"{top + 30 + 15 * i:.1f}") for i, fact in enumerate(facts)
    ]
    words.append(
        tag("text", f"{peak:,.0f}/s", class_="tick", x=LEFT - 6, y=f"{top + 9:.1f}", text_anchor="end")
    )
    return tag(
        "g",
        words,
        _areas(camera, x, base, peak),
        _bars(story, camera, x, base, peak),
        tag("path", class_="rule", d=f"M{x.left:.1f} {base:.1f}H{x.right:.1f}"),
        [_state(span, x, base + 5) for span in camera.spans],
        _marks(camera.failed_at, x, base + BAND + 8),
    )


def _areas(camera: CameraStory, x: Axis, base: float, peak: float) -> list[Markup]:
    """Behind the bars: all messages of a window as its mean rate, the failed ones on top."""
    found = []
    for window in camera.windows:
        left, right = x(window.start_sec), x(window.end_sec)
        if not window.messages or right <= left:
            continue
        height = RATE * min(_rate(window) / peak, 1)
        failed = height * window.failed / window.messages
        said = (
            f"{utc(window.start_sec)}: {amount(window.rows, 'row')}, {window.gated:,} gated, "
            f"{window.duplicates:,} repeated, {window.failed:,} failed"
        )
        place = {"x": f"{left:.1f}", "width": f"{right - left:.1f}"}
        found.append(
            tag(
                "g",
                tag("title", said),
                tag("rect", class_="gated", y=f"{base - height:.1f}", height=f"{height:.1f}", **place),
                tag("rect", class_="failed", y=f"{base - height:.1f}", height=f"{failed:.1f}", **place),
            )
        )
    return found


def _bars(story: StreamStory, camera: CameraStory, x: Axis, base: float, peak: float) -> Markup | None:
    """Rows a second, a bar for each bin, as one path."""
    words = []
    for i, rows in enumerate(camera.rows_by_bin):
        left = x(story.start_sec + i * story.bin_sec)
        right = x(story.start_sec + (i + 1) * story.bin_sec)
        if rows and right > left:
            height = RATE * min(rows / story.bin_sec / peak, 1)
            gap = 0.7 if right - left > 3 else 0.0
            words.append(f"M{left:.1f} {base:.1f}v{-height:.1f}h{right - left - gap:.1f}v{height:.1f}z")
    return tag("path", class_="rows", d="".join(words)) if words else None


def _state(span: Span, x: Axis, top: float) -> Markup:
    left, right = x(span.start_sec), x(span.end_sec)
    said = f"{span.state}: {utc(span.start_sec)} to {utc(span.end_sec)}"
    place = {"x": f"{left:.1f}", "y": f"{top:.1f}", "height": BAND, "rx": 2}
    kind = state_class(span.state)
    parts = [tag("title", said), tag("rect", class_=kind, width=f"{max(right - left - 1, 1):.1f}", **place)]
    if len(span.state) * CHAR_PX + 8 < right - left:
        style = "state on-ok" if kind == "state-ok" else "state"
        parts.append(tag("text", span.state, class_=style, x=f"{left + 5:.1f}", y=f"{top + 10:.1f}"))
    return tag("g", parts)


def _marks(times: Sequence[float], x: Axis, top: float) -> Markup | None:
    """A tick for each failure, those of one pixel as one."""
    places = sorted({round(x(at), 1) for at in times if at})[:MAX_MARKS]
    if not places:
        return None
    return tag("path", class_="mark", d="".join(f"M{place:g} {top:.1f}v7" for place in places))


def _rollout_lines(rollouts: Sequence[Rollout], x: Axis, bottom: float) -> list[Markup]:
    """A line through all lanes for each; labels that would touch stand in two rows."""
    parts, ends = [], [-1e9, -1e9]
    for rollout in rollouts:
        at = x(rollout.time_sec)
        label = f"{rollout.version} {WORDS[rollout.swapped]}"
        width = len(label) * 6.6
        row = 0 if at - 4 > ends[0] else 1
        end = at + width > x.right
        ends[row] = at if end else at + width
        kind = "swap" if rollout.swapped else "refused"
        y = 12 + 15 * row
        parts.append(tag("path", class_=kind, d=f"M{at:.1f} {y + 4:.1f}V{bottom:.1f}"))
        parts.append(
            tag(
                "text",
                tag("title", f"{utc(rollout.time_sec)} {rollout.reason}"),
                label,
                class_="said" if rollout.swapped else "said no",
                x=f"{at:.1f}",
                y=f"{y:.1f}",
                text_anchor="end" if end else "start",
            )
        )
    return parts
