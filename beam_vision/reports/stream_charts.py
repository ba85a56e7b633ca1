"""Charts of a streaming job's page: latency over time, counts by class and window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from beam_vision.reports.markup import Markup, tag
from beam_vision.reports.stream_data import CameraStory, ClassCounts, Percentiles, StreamStory
from beam_vision.reports.stream_timeline import Axis, elapsed, utc

WIDTH, HEIGHT = 340.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 16.0, 8.0, 22.0
STEPS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000, 600_000)
CELL_W, CELL_H = 48.0, 24.0
CHAR_PX = 6.4
MAX_LABEL_CHARS = 22


def latency_chart(story: StreamStory, camera: CameraStory) -> Markup:
    """p50 and p95 from capture to row, by window, on a logarithmic scale; the band reaches up to p99."""
    low, high = _range(camera.latency)
    x = Axis(story.start_sec, story.end_sec, LEFT, WIDTH - RIGHT)

    def y(ms: float) -> str:
        share = (math.log(min(max(ms, low), high)) - math.log(low)) / (math.log(high) - math.log(low))
        return f"{HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP):.1f}"

    parts: list[Any] = [tag("title", f"Milliseconds from capture to row of {camera.name}, by window")]
    for step in STEPS_MS:
        if low <= step <= high:
            parts.append(tag("path", class_="rule", d=f"M{LEFT:g} {y(step)}H{WIDTH - RIGHT:g}"))
            parts.append(_tick(_short_ms(step), LEFT - 6, float(y(step)) + 4, "end"))
    for at, label in x.ticks(5):
        parts.append(_tick(label, x(at), HEIGHT - 6, "middle"))
    for window in camera.latency:
        left, right = x(window.start_sec), x(window.end_sec)
        band = f"M{left:.1f} {y(window.p50_ms)}H{right:.1f}V{y(window.p99_ms)}H{left:.1f}Z"
        said = (
            f"{utc(window.start_sec)}: p50 {window.p50_ms:,.0f}, p95 {window.p95_ms:,.0f}, "
            f"p99 {window.p99_ms:,.0f} ms"
        )
        parts.append(tag("path", tag("title", said), class_="band", d=band))
    for name in ("p50", "p95"):
        steps = [
            f"{'M' if i == 0 else 'L'}{x(w.start_sec):.1f} {y(getattr(w, f'{name}_ms'))}H{x(w.end_sec):.1f}"
            for i, w in enumerate(camera.latency)
        ]
        parts.append(tag("path", class_=name, d="".join(steps)))
    return tag("svg", parts, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", class_="spread")


def _range(windows: Sequence[Percentiles]) -> tuple[float, float]:
    """From a round number below the lowest p50 to one above the highest p99."""
    lowest = max(min(window.p50_ms for window in windows), 1.0)
    highest = max(max(window.p99_ms for window in windows), lowest * 2)
    low = max((step for step in STEPS_MS if step <= lowest), default=1)
    return float(low), float(next((step for step in STEPS_MS if step >= highest), highest))


def _short_ms(ms: int) -> str:
    return f"{ms} ms" if ms < 1000 else f"{ms // 1000} s"


def _tick(text: str, x: float, y: float, anchor: str) -> Markup:
    return tag("text", text, class_="tick", x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def class_cells(story: StreamStory, seen: ClassCounts) -> Markup:
    """A row for each class, a column for each window; a cell is as strong as its share of the largest."""
    labels = [_short(name) for name in seen.classes]
    margin = 10 + CHAR_PX * max(map(len, labels), default=0)
    largest = max((count for row in seen.counts for count in row), default=0) or 1
    parts: list[Any] = [tag("title", f"How often {seen.camera} saw each class, by window")]
    in_hours = story.end_sec - story.start_sec >= 7200
    for j, (start, _) in enumerate(story.columns):
        said = elapsed(max(start - story.start_sec, 0), in_hours=in_hours)
        parts.append(_tick(said, margin + CELL_W * (j + 0.5), 12, "middle"))
    for i, (label, row) in enumerate(zip(labels, seen.counts, strict=True)):
        y = 18 + CELL_H * i
        parts.append(
            tag(
                "text",
                tag("title", seen.classes[i]),
                label,
                x=margin - 8,
                y=f"{y + 16:.1f}",
                text_anchor="end",
            )
        )
        for j, count in enumerate(row):
            parts.append(_cell(count, largest, margin + CELL_W * j, y))
    width, height = margin + CELL_W * len(story.columns), 20 + CELL_H * len(labels)
    return tag(
        "svg",
        parts,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        role="img",
        class_="cells",
    )


def _cell(count: int, largest: int, x: float, y: float) -> Markup:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": CELL_W - 2, "height": CELL_H - 2, "rx": 3}
    ground = tag("rect", class_="track", **place)
    if not count:
        return ground
    share = count / largest
    number = tag(
        "text",
        f"{count:,}" if count < 100_000 else f"{count // 1000:,}k",
        x=f"{x + CELL_W / 2 - 1:.1f}",
        y=f"{y + 15.5:.1f}",
        text_anchor="middle",
        style=f"fill: {'var(--card)' if share > 0.55 else 'var(--ink)'}",
    )
    mark = tag("rect", style=f"fill: var(--accent); opacity: {0.15 + 0.85 * share:.2f}", **place)
    return tag("g", ground, mark, number)


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL_CHARS else label[: MAX_LABEL_CHARS - 1] + "\u2026"
