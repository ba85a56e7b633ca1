"""Where boxes and their labels go on a picture: plain numbers, for SVG and for pixels alike.

A label is a plate beside its box. It never leaves the picture, and it doesn't cover another label: one
for which there is no room is left out (its box still stands), and so is that of a true box beside its hit.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from beam_vision.reports.detection_data import DrawnBox, Scene

TEXT_SIZE = 11.5
PAD = 3.5
MAX_SHARE = 0.2
"""The part of a picture that labels may cover in all."""
MIN_ROOM = 6000.0
"""What labels may cover on a small picture all the same, in square units: three labels or so."""
MAX_COVERED = 0.02
"""The part of a label that another may cover before it is left out."""

PREFIX = {"false_alarm": "\u2717 ", "miss": "missed ", "crowd": "crowd of "}
_ORDER = ("miss", "false_alarm", "hit", "detection", "truth", "crowd")
_NARROW = frozenset("iljtfr.,:;'|![]() ")
_WIDE = frozenset("mwMW@%")

Area = tuple[float, float, float, float]
"""(xmin, ymin, xmax, ymax), in units of the picture."""


@dataclass(frozen=True)
class Plate:
    """A label on the picture: where it is, what it says, and of which box."""

    area: Area
    text: str
    box: DrawnBox


@dataclass(frozen=True)
class Overlay:
    """What to draw on a picture of ``width`` x ``height`` units.

    Attributes:
      boxes: each box with its area, the largest first, so that small ones lie on top.
      plates: the labels.
      left_out: labels for which there was no room.
    """

    width: float
    height: float
    boxes: Sequence[tuple[Area, DrawnBox]]
    plates: Sequence[Plate]
    left_out: int


def text_width(text: str, size: float = TEXT_SIZE) -> float:
    """About how wide ``text`` is in a bold sans-serif of ``size``; a renderer fits the text to it."""
    return size * sum(map(_em, text))


def _em(char: str) -> float:
    if char in _NARROW:
        return 0.36
    if char in _WIDE or unicodedata.east_asian_width(char) in "WF":
        return 1.0
    return 0.72 if char.isupper() else 0.62


def caption(box: DrawnBox) -> str:
    """What the label of a box says: its class, its score, and a mark when it is wrong."""
    return "".join(_words(box))


def _words(box: DrawnBox) -> tuple[str, str]:
    name = " ".join(box.label.split())
    return PREFIX.get(box.kind, "") + name, "" if box.score is None else f" {box.score:.2f}"


def lay_out(
    scene: Scene,
    width: float,
    height: float,
    *,
    text_size: float = TEXT_SIZE,
    measure: Callable[[str], float] | None = None,
) -> Overlay:
    """Boxes and labels of a scene on a picture of ``width`` x ``height`` units.

    Args:
      scene: with the size of its image.
      width: of the picture that the whole image fills.
      height: of it.
      text_size: of the labels, in units.
      measure: how wide a text is; :func:`text_width` when None.
    """
    sx, sy = width / scene.width_px, height / scene.height_px
    areas = [(box.xyxy[0] * sx, box.xyxy[1] * sy, box.xyxy[2] * sx, box.xyxy[3] * sy) for box in scene.boxes]
    pairs = list(zip(areas, scene.boxes, strict=True))
    wide = measure or (lambda text: text_width(text, text_size))
    plates: list[Plate] = []
    room = max(MAX_SHARE * width * height, MIN_ROOM)
    named = [pair for pair in pairs if pair[1].kind != "truth" or not scene.count("hit")]
    for area, box in sorted(named, key=_first_labels):
        text, length = _fitted(box, width - 2 * PAD, wide)
        size = (length + 2 * PAD, text_size * 1.3)
        if room < size[0] * size[1]:
            break
        place = _place(area, size, (width, height), [plate.area for plate in plates], areas)
        if place is not None:
            plates.append(Plate(place, text, box))
            room -= size[0] * size[1]
    pairs.sort(key=lambda pair: -_size(pair[0]))
    return Overlay(width, height, pairs, plates, len(named) - len(plates))


def _first_labels(pair: tuple[Area, DrawnBox]) -> tuple[int, float, float]:
    """Mistakes have the first call on room, then the surest, then the largest."""
    area, box = pair
    return _ORDER.index(box.kind), -(box.score or 0.0), -_size(area)


def _fitted(box: DrawnBox, most: float, wide: Callable[[str], float]) -> tuple[str, float]:
    """The label of a box, its name shortened until it is at most `most` wide; and its width."""
    name, score = _words(box)
    text = name + score
    while wide(text) > most and len(name) > 1:
        name = name[:-2].rstrip() + "\u2026"
        text = name + score
    return text, min(wide(text), most)


def _place(
    box: Area, size: tuple[float, float], picture: tuple[float, float], plates: list[Area], boxes: list[Area]
) -> Area | None:
    """The best place of a plate of ``size`` beside ``box``; None when each covers other plates."""
    w, h = size
    x0, y0, x1, y1 = box
    outside = [(x0, y0 - h), (x1 - w, y0 - h), (x0, y1), (x1 - w, y1), (x1, y0), (x0 - w, y0)]
    inside = [(x0, y0), (x1 - w, y0), (x0, y1 - h), (x1 - w, y1 - h)]
    best: tuple[float, Area] | None = None
    for rank, (x, y) in enumerate(outside + inside):
        kept_x, kept_y = min(max(x, 0.0), picture[0] - w), min(max(y, 0.0), picture[1] - h)
        area = (kept_x, kept_y, kept_x + w, kept_y + h)
        if sum(_common(area, other) for other in plates) > MAX_COVERED * w * h:
            continue
        covered = sum(_common(area, other) / max(_size(other), w * h) for other in boxes)
        moved = (abs(kept_x - x) + abs(kept_y - y)) / h
        cost = rank * 0.05 + covered + 0.3 * moved
        if best is None or cost < best[0]:
            best = (cost, area)
    return best[1] if best else None


def _common(a: Area, b: Area) -> float:
    """The area that two have in common."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)


def _size(a: Area) -> float:
    return max(a[2] - a[0], 0.0) * max(a[3] - a[1], 0.0)
