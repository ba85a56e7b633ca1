"""What annotation files say of one box, checked: a Box, or the Fault with its place.

A broken annotation is never repaired and never fails its image: it is a
Fault on the image's ref.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_vision.errors import Reason, VisionError
from beam_vision.failures import shorten
from beam_vision.types import Box, BoxFrame, Fault

BOXES_ON = ("auto", "upright", "stored")
MOST = 1e9
"""A corner further out than this, in pixels or in fractions, is no place in an image."""

_PLACE_CHARS = 120
_NUMBER = (int, float)
_TEXT_OR_NUMBER = (int, float, str)
_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


@dataclass
class Checked:
    """The boxes of one image as they are found, and the faults of those that aren't usable."""

    boxes: list[Box] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def add(self, place: str, make: Callable[..., Box], *args: Any) -> None:
        """Keeps ``make(*args)``, or the VisionError that it raises as a fault at ``place``."""
        try:
            self.boxes.append(make(*args))
        except VisionError as error:
            self.refuse(place, error)

    def refuse(self, place: str, error: VisionError) -> None:
        """Keeps the fault of the annotation at ``place``."""
        self.faults.append(Fault(shorten(place, _PLACE_CHARS), error.reason.value, shorten(error.detail)))

    @property
    def fields(self) -> dict[str, Any]:
        """What is found, as fields of an ImageRef."""
        return {"boxes": tuple(self.boxes), "faults": tuple(self.faults)}


def box(corners: Sequence[float], label: str = "", *, crowd: bool = False, area_px: float = 0.0) -> Box:
    """A box of four corners ``(xmin, ymin, xmax, ymax)``.

    Raises:
      VisionError: ``bad_box``: a corner is not finite or absurdly far out, or the box is empty or inverted;
        or its label isn't valid UTF-8.
    """
    xmin, ymin, xmax, ymax = corners
    if not (-MOST <= xmin < xmax <= MOST and -MOST <= ymin < ymax <= MOST):  # so that NaN is refused too
        shown = ", ".join(f"{corner:g}" for corner in corners)
        raise bad_box(f"its corners ({shown}) {_trouble(xmin, ymin, xmax, ymax)}")
    try:
        label.encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad_box(f"its label {label!r} is not valid UTF-8") from error
    return Box(xmin, ymin, xmax, ymax, label, crowd=crowd, area_px=area_px)


def _trouble(xmin: float, ymin: float, xmax: float, ymax: float) -> str:
    if not all(abs(corner) <= MOST for corner in (xmin, ymin, xmax, ymax)):
        return "are no places in an image"
    if xmin > xmax or ymin > ymax:
        return "are inverted: xmin <= xmax and ymin <= ymax are needed"
    return "hold no area"


def bad_box(why: str) -> VisionError:
    """The error of a box that isn't usable."""
    return VisionError(Reason.BAD_BOX, why)


def number(value: Any, what: str, *, from_text: bool = True) -> float:
    """A finite number that may stand as text.

    Args:
      value: what was found.
      what: its name in the message.
      from_text: whether a text that reads as a number is one.

    Raises:
      VisionError: ``bad_box``: it is none.
    """
    is_number = isinstance(value, _TEXT_OR_NUMBER if from_text else _NUMBER) and not isinstance(value, bool)
    try:
        found = float(value) if is_number else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        shown = "missing" if value is None else f"{shorten(repr(value), 40)}, not a finite number"
        raise bad_box(f"its {what} is {shown}")
    return found


def flag(value: Any, what: str) -> bool:
    """A flag as 0 or 1, true or false, a number or a text; absent (None) is no.

    Raises:
      VisionError: ``bad_box``: it is something else.
    """
    if value is None:
        return False
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    raise bad_box(f"its {what} is {shorten(repr(value), 40)}, not 0 or 1")


def area(value: Any) -> float:
    """An annotated area; 0 (not given) where it isn't a number above 0."""
    try:
        return max(number(value, "area"), 0.0)
    except VisionError:
        return 0.0


def size_px(value: Any) -> int:
    """An annotated width or height; 0 (not given) where it isn't a number from 1 up."""
    try:
        found = number(value, "size")
    except VisionError:
        return 0
    return int(found) if 1 <= found <= MOST else 0


def frame(
    boxes_on: str, default: str = "auto", *, relative: bool = False, width_px: int = 0, height_px: int = 0
) -> BoxFrame:
    """What corners refer to.

    Args:
      boxes_on: ``upright`` or ``stored`` as the user says; ``auto``: what the format's ``default`` is.
      default: ``auto``, ``upright`` or ``stored``.
      relative: whether corners are fractions of the image's width and height.
      width_px: the annotated width, 0 if unknown; the annotated size counts only as a whole.
      height_px: the annotated height, 0 if unknown.
    """
    size = (width_px, height_px) if width_px and height_px else (0, 0)
    return BoxFrame(default if boxes_on == "auto" else boxes_on, relative, *size)
