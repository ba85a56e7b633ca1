"""Precision-recall curves as inline SVG. Colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from beam_vision.reports.detection_data import Curve
from beam_vision.reports.markup import Markup, join, tag

WIDTH, HEIGHT = 240.0, 176.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 8.0, 8.0, 34.0
TICKS = (0.0, 0.5, 1.0)
STYLES = ("first", "second", "third")


def charts(curves: Sequence[Curve], labels: Sequence[str]) -> Markup:
    """Small multiples: the mean first, then ``labels`` in the order given; a line for each IoU."""
    ious = sorted({curve.iou for curve in curves})
    cards = []
    for label in (None, *labels):
        own = sorted((curve for curve in curves if curve.label == label), key=lambda curve: curve.iou)
        if own:
            cards.append(_card(label, own, ious))
    return join([_legend(ious), tag("div", cards, class_="curves")])


def _card(label: str | None, curves: Sequence[Curve], ious: Sequence[float]) -> Markup:
    name = "mean over classes" if label is None else label
    figures = " / ".join(f"{curve.ap:.2f}" for curve in curves)
    head = tag("header", tag("h3", name), tag("span", figures, class_="soft", title=_said(curves)))
    return tag("div", head, chart(name, curves, ious), class_="card mean" if label is None else "card")


def _said(curves: Sequence[Curve]) -> str:
    return ", ".join(f"{curve.ap:.3f} at IoU {curve.iou:g}" for curve in curves)


def chart(name: str, curves: Sequence[Curve], ious: Sequence[float]) -> Markup:
    """One chart: recall to the right, precision upwards, both 0..1."""
    parts: list[Any] = [tag("title", f"Precision against recall of {name}: average {_said(curves)}")]
    for tick in TICKS:
        x, y = _x(tick), _y(tick)
        parts.append(
            tag("path", class_="rule", d=f"M{x:.1f} {_y(1):.1f}V{_y(0):.1f}M{_x(0):.1f} {y:.1f}H{_x(1):.1f}")
        )
        parts.append(tag("text", f"{tick:g}", x=f"{x:.1f}", y=f"{_y(0) + 14:.1f}", text_anchor="middle"))
        parts.append(tag("text", f"{tick:g}", x=f"{LEFT - 6:.1f}", y=f"{y + 4:.1f}", text_anchor="end"))
    area, lines = None, []
    for curve in reversed(curves):
        style = STYLES[min(list(ious).index(curve.iou), len(STYLES) - 1)]
        line = path(curve)
        if style == STYLES[0]:
            area = tag("path", class_="area", d=f"{line}V{_y(0):.1f}H{_x(curve.recall[0]):.1f}Z")
        lines.append(tag("path", class_=f"line {style}", d=line))
    parts += [area, lines]
    middle = (_y(0) + _y(1)) / 2
    parts.append(tag("text", "recall", x=f"{_x(0.5):.1f}", y=f"{HEIGHT - 4:.1f}", text_anchor="middle"))
    turn = f"rotate(-90 10 {middle:.1f})"
    parts.append(tag("text", "precision", x=10, y=f"{middle:.1f}", text_anchor="middle", transform=turn))
    return tag("svg", parts, viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", role="img", class_="curve")


def path(curve: Curve) -> str:
    """The curve as SVG path data: steps, a corner only where precision changes."""
    points = list(zip(curve.recall, curve.precision, strict=True))
    words = [f"M{_x(points[0][0]):.1f} {_y(points[0][1]):.1f}"]
    for (before, was), (_, precision) in pairwise(points):
        if precision != was:
            words.append(f"H{_x(before):.1f}V{_y(precision):.1f}")
    words.append(f"H{_x(points[-1][0]):.1f}")
    return "".join(words)


def _legend(ious: Sequence[float]) -> Markup:
    items = []
    for style, iou in zip(STYLES, ious, strict=False):
        line = tag("path", class_=f"line {style}", d="M2 10H32")
        items.append(
            tag(
                "span",
                tag("svg", line, viewBox="0 0 34 20", width=34, height=20, class_="curve"),
                f"IoU {iou:g}",
            )
        )
    return tag("div", items, class_="legend")


def _x(recall: float) -> float:
    return LEFT + recall * (WIDTH - LEFT - RIGHT)


def _y(precision: float) -> float:
    return TOP + (1 - precision) * (HEIGHT - TOP - BOTTOM)
