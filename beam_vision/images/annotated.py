"""Annotated boxes in pixels of the upright image, once the open file tells its size and orientation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from beam_vision.errors import Reason, UsageError
from beam_vision.images import boxes as bx
from beam_vision.types import Box, BoxFrame, Fault, ImageRef

ROUNDING_PX = 0.1
"""A box that leaves the image by no more is put right silently: annotations are rounded numbers."""

UNNAMED = "object"
"""The category of a box that has none, in an image without just one label."""

_Size = tuple[int, int]


@dataclass(frozen=True)
class Upright:
    """The boxes of an image in one format, and what could not be used.

    Attributes:
      boxes: xyxy in pixels of the upright image, within it, :func:`categorised`; in the order of the ref's.
      clipped: how many of them left the image by more than :data:`ROUNDING_PX` and were cut at its edges.
      faults: the others, each with what is wrong: not finite, inverted, empty, wholly outside, or
        annotated for an image of another size.
    """

    boxes: tuple[Box, ...]
    clipped: int
    faults: tuple[Fault, ...]


def categorised(ref: ImageRef) -> ImageRef:
    """The ref with a category for each box: where none was annotated, the image's one label or ``object``."""
    if all(box.label for box in ref.boxes):
        return ref
    name = ref.labels[0] if len(ref.labels) == 1 else UNNAMED
    return replace(ref, boxes=tuple(box if box.label else replace(box, label=name) for box in ref.boxes))


def upright_boxes(ref: ImageRef, width_px: int, height_px: int, orientation: int) -> Upright:
    """The boxes of ``ref`` as its frame says, turned upright and cut at the edges of the image.

    Args:
      ref: with ``boxes`` and their ``frame``; its own ``faults`` are not repeated in the result.
      width_px: width of the upright image.
      height_px: its height.
      orientation: the EXIF orientation of the file, 1..8.

    Raises:
      UsageError: a frame whose ``pixels_of`` is none of ``upright``, ``stored`` and ``auto``.
    """
    if not ref.boxes:
        return Upright((), 0, ())
    ref = categorised(ref)
    frame, upright = ref.frame, (width_px, height_px)
    stored = upright[::-1] if orientation >= 5 else upright
    misfit = _misfit(frame, upright, stored)
    if misfit:
        return Upright((), 0, tuple(_fault(ref, n, misfit) for n in range(len(ref.boxes))))
    turned = _pixels_of(frame, upright, stored) == "stored"
    drawn_on = stored if turned else upright
    corners = np.array([(box.xmin, box.ymin, box.xmax, box.ymax) for box in ref.boxes], np.float64)
    pixels = bx.from_relative(corners, *drawn_on) if frame.relative else corners
    if turned:
        pixels = bx.exif_transform(pixels, orientation, *stored)
    image = f"the image of {_by(drawn_on)} pixels{' as stored' if drawn_on != upright else ''}"
    return _sorted_out(ref, corners, pixels, upright, image)


def _sorted_out(ref: ImageRef, corners: np.ndarray, pixels: np.ndarray, size: _Size, image: str) -> Upright:
    """The usable boxes of ``pixels``, cut; faults show ``corners``, as they stand in the annotation."""
    inside = bx.clip(pixels, *size)
    left_by_px = np.abs(pixels - inside).max(axis=1)
    kept: list[Box] = []
    faults: list[Fault] = []
    clipped = 0
    for n, box in enumerate(ref.boxes):
        trouble = _trouble(corners[n], inside[n])
        if trouble:
            numbers = ", ".join(f"{value:.10g}" for value in corners[n])
            what = "relative xyxy box" if ref.frame.relative else "xyxy box"
            faults.append(_fault(ref, n, f"the {what} ({numbers}) {trouble} {image}"))
            continue
        clipped += bool(left_by_px[n] > ROUNDING_PX)
        area_px = box.area_px * size[0] * size[1] if ref.frame.relative else box.area_px
        xmin, ymin, xmax, ymax = inside[n].tolist()
        kept.append(replace(box, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax, area_px=area_px))
    return Upright(tuple(kept), clipped, tuple(faults))


def _trouble(corners: np.ndarray, inside: np.ndarray) -> str:
    """What is wrong with a box, given as annotated and as cut at the image's edges; empty for nothing."""
    xmin, ymin, xmax, ymax = corners
    if not np.isfinite(corners).all():
        return "is not finite in"
    if xmax < xmin or ymax < ymin:
        return "is inverted (a maximum is less than its minimum) in"
    if xmax == xmin or ymax == ymin:
        return "is empty (it has no area) in"
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return "lies wholly outside"
    return ""


def _misfit(frame: BoxFrame, upright: _Size, stored: _Size) -> str:
    """That boxes in pixels were drawn on an image of another size, in words; empty when they were not."""
    if frame.relative or _annotated(frame) in (None, upright, stored):
        return ""
    as_stored = f" ({_by(stored)} as stored)" if stored != upright else ""
    return (
        f"it was annotated on an image of {frame.width_px} x {frame.height_px} pixels and the file has "
        f"{_by(upright)}{as_stored}: give the image that was annotated"
    )


def _pixels_of(frame: BoxFrame, upright: _Size, stored: _Size) -> str:
    """``upright`` or ``stored``."""
    if frame.pixels_of in ("upright", "stored"):
        return frame.pixels_of
    if frame.pixels_of != "auto":
        raise UsageError(f"boxes on {frame.pixels_of!r}: use one of auto, upright, stored")
    return "upright" if upright != stored and _annotated(frame) == upright else "stored"


def _annotated(frame: BoxFrame) -> _Size | None:
    return (frame.width_px, frame.height_px) if frame.width_px > 0 and frame.height_px > 0 else None


def _by(size: _Size) -> str:
    return f"{size[0]} x {size[1]}"


def _fault(ref: ImageRef, index: int, detail: str) -> Fault:
    return Fault(f"{ref.uri}: box {index + 1}", Reason.BAD_BOX.value, detail)
