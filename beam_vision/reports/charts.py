"""Inline SVG: bars of time and the confusion matrix. Colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence

from beam_vision.reports.data import Confusion
from beam_vision.reports.markup import Markup, tag

CELL_PX = 27
CHAR_PX = 6.6
MAX_LABEL_CHARS = 18
BAR_WIDTH_PX = 300
BAR_HEIGHT_PX = 12


def bar(value: float, largest: float, *, label: str) -> Markup:
    """A horizontal bar as long as ``value`` is of ``largest``, on a track of the full length."""
    share = value / largest if largest > 0 else 0.0
    height = BAR_HEIGHT_PX
    return tag(
        "svg",
        tag("title", label),
        tag("rect", class_="track", width=BAR_WIDTH_PX, height=height, rx=3),
        tag("rect", class_="bar", width=f"{max(share * BAR_WIDTH_PX, 2):.1f}", height=height, rx=3),
        viewBox=f"0 0 {BAR_WIDTH_PX} {height}",
        width=BAR_WIDTH_PX,
        height=height,
        role="img",
    )


def confusion_matrix(confusion: Confusion) -> Markup:
    """A matrix with a row for each true class and a column for each predicted one.

    A cell is as strong as its share of its row: the diagonal in the accent colour, mistakes in the other.
    """
    labels = [_short(label) for label in confusion.labels]
    margin = 12 + CHAR_PX * max((len(label) for label in labels), default=0)
    side = CELL_PX * len(labels)
    parts = [
        _cell(confusion, row, column, margin) for row in range(len(labels)) for column in range(len(labels))
    ]
    for i, label in enumerate(labels):
        middle = margin + CELL_PX * (i + 0.5)
        parts.append(tag("text", label, x=f"{margin - 8:.1f}", y=f"{middle + 4:.1f}", text_anchor="end"))
        turn = f"rotate(-90 {middle + 4:.1f} {margin - 8:.1f})"
        parts.append(tag("text", label, x=f"{middle + 4:.1f}", y=f"{margin - 8:.1f}", transform=turn))
    whole = margin + side + 1
    return tag(
        "svg",
        tag("title", "Confusion matrix: a row for each true class, a column for each predicted class"),
        parts,
        viewBox=f"0 0 {whole:.0f} {whole:.0f}",
        width=f"{whole:.0f}",
        height=f"{whole:.0f}",
        style=f"min-width: {whole * 0.8:.0f}px; height: auto",
        role="img",
    )


def _cell(confusion: Confusion, row: int, column: int, margin: float) -> Markup:
    count = confusion.counts[row][column]
    share = count / max(sum(confusion.counts[row]), 1)
    x, y = margin + CELL_PX * column, margin + CELL_PX * row
    colour = "var(--accent)" if row == column else "var(--bad)"
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": CELL_PX - 1, "height": CELL_PX - 1, "rx": 3}
    ground = tag("rect", class_="track", **place)
    if not count:
        return ground
    said = f"{confusion.labels[row]} taken for {confusion.labels[column]}: {count:,} ({share:.0%})"
    opacity = f"{0.25 + 0.75 * share:.2f}"
    ink = "var(--card)" if share > 0.5 else "var(--ink)"
    number = tag(
        "text",
        f"{count:,}" if count < 10_000 else f"{count // 1000}k",
        x=f"{x + (CELL_PX - 1) / 2:.1f}",
        y=f"{y + CELL_PX / 2 + 3.5:.1f}",
        text_anchor="middle",
        style=f"font-size: 10.5px; fill: {ink}",
    )
    mark = tag("rect", style=f"fill: {colour}; opacity: {opacity}", **place)
    return tag("g", tag("title", said), ground, mark, number)


def mistakes(confusion: Confusion, most: int = 10) -> list[tuple[str, str, int]]:
    """The most frequent mistakes: (true class, predicted class, how often), the most frequent first."""
    found = [
        (confusion.labels[row], confusion.labels[column], count)
        for row, counts in enumerate(confusion.counts)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(found, key=lambda item: (-item[2], item[0], item[1]))[:most]


def total_and_correct(counts: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many images are in a confusion matrix, and how many lie on its diagonal."""
    return sum(map(sum, counts)), sum(counts[i][i] for i in range(len(counts)))


def _short(label: str) -> str:
    return label if len(label) <= MAX_LABEL_CHARS else label[: MAX_LABEL_CHARS - 1] + "\u2026"
