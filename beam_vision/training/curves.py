"""Learning curves as a picture, drawn by Pillow alone."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import ImageDraw

WIDTH_PX, HEIGHT_PX = 960, 420
_MARGIN_PX = (64, 40, 16, 44)
"""Left, upper, right, lower."""
_INK, _GRAY, _LINE = (32, 32, 32), (120, 120, 120), (224, 224, 224)
_COLOURS = ((31, 119, 180), (214, 87, 39), (44, 140, 60), (140, 90, 170), (120, 120, 120), (190, 160, 30))
_NOT_DRAWN = ("number", "step", "seconds", "learning_rate")
_TICKS = 6


def draw_curves(epochs: Sequence[Mapping[str, Any]], *, best_epoch: int = 0) -> bytes:
    """The losses on the left and the other figures on the right, over epochs; a PNG.

    Args:
      epochs: rows of the history: ``number``, and figures as floats; what is None or no number is left out.
      best_epoch: its number is marked by a line; 0: none.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), "white")
    draw = ImageDraw.Draw(image)
    names = [name for name in dict.fromkeys(n for row in epochs for n in row) if name not in _NOT_DRAWN]
    losses = [name for name in names if "loss" in name]
    others = [name for name in names if "loss" not in name]
    shown = [group for group in (losses, others) if group]
    for place, group in enumerate(shown):
        width = WIDTH_PX // len(shown)
        _panel(draw, epochs, group, left_px=place * width, width_px=width, best_epoch=best_epoch)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class _Frame:
    """Where values lie on the picture."""

    left: float
    top: float
    right: float
    bottom: float
    first: float
    last: float
    low: float
    high: float

    def x(self, epoch: float) -> float:
        share = (epoch - self.first) / max(self.last - self.first, 1)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low) / (self.high - self.low) * (self.bottom - self.top)


def _panel(
    draw: ImageDraw.ImageDraw,
    epochs: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    left_px: int,
    width_px: int,
    best_epoch: int,
) -> None:
    curves = {name: _points(epochs, name) for name in names}
    values = [value for points in curves.values() for _, value in points]
    if not values:
        return
    low, high = nice_bounds(min(values), max(values))
    left, top, right, bottom = _MARGIN_PX
    numbers = [row["number"] for row in epochs]
    frame = _Frame(
        *(left_px + left, top, left_px + width_px - right, HEIGHT_PX - bottom),
        *(min(numbers), max(numbers), low, high),
    )
    _axes(draw, frame)
    if best_epoch:
        x = frame.x(best_epoch)
        draw.line([(x, frame.top), (x, frame.bottom)], fill=_GRAY)
        text = f"best: {best_epoch}"
        right_of = x + 4 + draw.textlength(text) < frame.right
        draw.text((x + 4 if right_of else x - 4 - draw.textlength(text), frame.top - 13), text, fill=_GRAY)
    x = frame.left
    for (name, points), colour in zip(curves.items(), _COLOURS * (1 + len(curves) // 6), strict=False):
        at = [(frame.x(number), frame.y(value)) for number, value in points]
        draw.line(at, fill=colour, width=2)
        for px, py in at if len(at) <= 60 else ():
            draw.ellipse([px - 2, py - 2, px + 2, py + 2], fill=colour)
        draw.text((x, 14), name, fill=colour)
        x += draw.textlength(name) + 16


def _axes(draw: ImageDraw.ImageDraw, frame: _Frame) -> None:
    for value in ticks(frame.low, frame.high):
        y = frame.y(value)
        draw.line([(frame.left, y), (frame.right, y)], fill=_LINE)
        text = f"{value:.4g}"
        draw.text((frame.left - 6 - draw.textlength(text), y - 6), text, fill=_INK)
    for value in ticks(frame.first, frame.last, least=1.0):
        text = f"{value:.0f}"
        draw.text((frame.x(value) - draw.textlength(text) / 2, frame.bottom + 8), text, fill=_INK)
    draw.text(((frame.left + frame.right) / 2 - 15, frame.bottom + 24), "epoch", fill=_GRAY)


def _points(epochs: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    found = [(row["number"], row.get(name)) for row in epochs]
    return [(n, value) for n, value in found if isinstance(value, int | float) and math.isfinite(value)]


def ticks(low: float, high: float, *, least: float = 0.0) -> list[float]:
    """Round numbers within the bounds, evenly apart by 1, 2 or 5 times a power of ten: seven of them at most.

    Args:
      low, high: the bounds; where they are equal, it is the only one.
      least: what they are apart at least, above 0 or 0.
    """
    if high <= low:
        return [low]
    rough = max((high - low) / _TICKS, least)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]


def nice_bounds(low: float, high: float) -> tuple[float, float]:
    """Bounds that hold both values, at multiples of a tenth of their range's power of ten, and differ."""
    if high <= low:
        return low - 0.5, high + 0.5
    unit = 10 ** math.floor(math.log10(high - low)) / 2
    return math.floor(low / unit) * unit, math.ceil(high / unit) * unit
