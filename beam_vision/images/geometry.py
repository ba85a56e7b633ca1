"""Where a resize puts each point: pure numbers, and the value ranges that models expect.

Coordinates are continuous: a pixel ``(column, row)`` covers the square from ``(column, row)`` to
``(column + 1, row + 1)``, so an image spans ``(0, 0)`` to ``(width_px, height_px)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beam_vision.errors import UsageError

Affine = tuple[float, float, float, float]
"""``(ax, ay, tx, ty)``: the point ``(x, y)`` goes to ``(ax * x + tx, ay * y + ty)``."""

IDENTITY: Affine = (1.0, 1.0, 0.0, 0.0)

RESIZE_MODES = ("stretch", "letterbox", "center_crop")

VALUE_RANGES = ("0..255", "0..1", "-1..1", "imagenet")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ResizePlan:
    """How an upright image becomes an output image.

    Attributes:
      width_px: width of the output.
      height_px: height of the output.
      source: xyxy, the part of the original upright image that is shown; centred in it.
      target: xyxy in whole pixels, where that part lies in the output; the rest is padding.
    """

    width_px: int
    height_px: int
    source: tuple[float, float, float, float]
    target: tuple[int, int, int, int]

    @property
    def affine(self) -> Affine:
        """Maps points of the original upright image to points of the output."""
        left, top, right, bottom = self.source
        ax = (self.target[2] - self.target[0]) / (right - left)
        ay = (self.target[3] - self.target[1]) / (bottom - top)
        return ax, ay, self.target[0] - ax * left, self.target[1] - ay * top

    @property
    def padded(self) -> bool:
        """Whether some of the output is padding."""
        return self.target != (0, 0, self.width_px, self.height_px)


def plan_resize(
    width_px: int,
    height_px: int,
    *,
    out_width_px: int | None = None,
    out_height_px: int | None = None,
    mode: str = "stretch",
    max_side_px: int | None = None,
) -> ResizePlan:
    """Plans the resize of an upright image of ``width_px`` x ``height_px``.

    With neither an output size nor ``max_side_px`` the image keeps its size.

    Args:
      width_px: width of the original, at least 1.
      height_px: height of the original, at least 1.
      out_width_px: width of the output; with ``out_height_px`` or not at all.
      out_height_px: height of the output.
      mode: ``stretch``: each side by its own factor. ``letterbox``: all of the image is shown, as large
        as fits; the shorter way is rounded to the nearest pixel (half up, at least 1) and centred, an
        odd pixel of padding goes right or below; the affine holds the factors after that rounding.
        ``center_crop``: the output is filled by the largest centred part of the image that has the
        output's shape; the part is cut at fractions of a pixel, so both factors are equal.
      max_side_px: without an output size: shrink so that the longer side is at most this.

    Raises:
      UsageError: an unknown mode.
    """
    whole = (0.0, 0.0, float(width_px), float(height_px))
    if out_width_px is None or out_height_px is None:
        out_width_px, out_height_px = _shrunk(width_px, height_px, max_side_px)
        mode = "stretch"
    target = (0, 0, out_width_px, out_height_px)
    if mode == "stretch":
        return ResizePlan(out_width_px, out_height_px, whole, target)
    if mode == "letterbox":
        return ResizePlan(
            out_width_px, out_height_px, whole, _letterbox(width_px, height_px, out_width_px, out_height_px)
        )
    if mode == "center_crop":
        source = _center_crop(width_px, height_px, out_width_px, out_height_px)
        return ResizePlan(out_width_px, out_height_px, source, target)
    raise UsageError(f"resize {mode!r} is not known: use one of {', '.join(RESIZE_MODES)}")


def _round_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _shrunk(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    longer = max(width, height)
    if max_side is None or longer <= max_side:
        return width, height
    return max(1, _round_half_up(width * max_side, longer)), max(1, _round_half_up(height * max_side, longer))


def _letterbox(width: int, height: int, out_width: int, out_height: int) -> tuple[int, int, int, int]:
    if width * out_height >= height * out_width:
        inner_width, inner_height = out_width, max(1, _round_half_up(height * out_width, width))
    else:
        inner_width, inner_height = max(1, _round_half_up(width * out_height, height)), out_height
    left, top = (out_width - inner_width) // 2, (out_height - inner_height) // 2
    return left, top, left + inner_width, top + inner_height


def _center_crop(
    width: int, height: int, out_width: int, out_height: int
) -> tuple[float, float, float, float]:
    if width * out_height >= height * out_width:
        margin = (width - height * out_width / out_height) / 2
        return margin, 0.0, width - margin, float(height)
    margin = (height - width * out_height / out_width) / 2
    return 0.0, margin, float(width), height - margin


def invert_affine(affine: Affine) -> Affine:
    """The affine that takes points back."""
    ax, ay, tx, ty = affine
    return 1 / ax, 1 / ay, -tx / ax, -ty / ay


def apply_affine(affine: Affine, points: np.ndarray) -> np.ndarray:
    """Maps points.

    Args:
      affine: ``(ax, ay, tx, ty)``.
      points: float ``[..., 2]``, (x, y); or ``[..., 4]``, xyxy boxes.

    Returns:
      A new array of the same shape, float64 for float64 input, else float32.
    """
    points = np.asarray(points)
    dtype = np.float64 if points.dtype == np.float64 else np.float32
    repeat = points.shape[-1] // 2
    ax, ay, tx, ty = affine
    mapped = points * np.array([ax, ay] * repeat) + np.array([tx, ty] * repeat)
    return mapped.astype(dtype)


def normalize(batch: np.ndarray, value_range: str) -> np.ndarray:
    """Brings pixels to the value range that a model expects.

    Args:
      batch: uint8 ``[..., 3]`` RGB in 0..255, e.g. ``[N, H, W, 3]``; not changed.
      value_range: ``0..255`` (only the type changes), ``0..1`` (``x / 255``), ``-1..1``
        (``x / 127.5 - 1``) or ``imagenet`` (``(x / 255 - mean) / std`` for each channel, with the mean
        and standard deviation that torchvision's and Keras' "torch" models were trained with).

    Returns:
      float32 of the same shape.

    Raises:
      UsageError: an unknown value range.
    """
    if value_range == "0..255":
        return batch.astype(np.float32)
    if value_range == "0..1":
        return np.divide(batch, np.float32(255), dtype=np.float32)
    if value_range == "-1..1":
        out = np.divide(batch, np.float32(127.5), dtype=np.float32)
        out -= np.float32(1)
        return out
    if value_range == "imagenet":
        std = np.array(IMAGENET_STD)
        out = np.multiply(batch, (1 / (255 * std)).astype(np.float32), dtype=np.float32)
        out -= (np.array(IMAGENET_MEAN) / std).astype(np.float32)
        return out
    raise UsageError(f"value range {value_range!r} is not known: use one of {', '.join(VALUE_RANGES)}")
