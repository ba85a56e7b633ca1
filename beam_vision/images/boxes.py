"""Boxes as float32 ``[N, 4]`` arrays in xyxy order: xmin, ymin, xmax, ymax, in pixels.

Coordinates are continuous, as in :mod:`beam_vision.images.geometry`. No function changes its arguments.
"""

from __future__ import annotations

import numpy as np

from beam_vision.images.geometry import Affine, apply_affine, invert_affine


def area(boxes: np.ndarray) -> np.ndarray:
    """Areas ``[N]`` in square pixels; a box whose corners are the wrong way round has none."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of ``a`` ``[N, 4]`` with each of ``b`` ``[M, 4]``.

    Returns:
      float32 ``[N, M]`` in 0..1; 0 where both boxes are without area.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = area(np.concatenate([low, high], axis=2))
    union = area(a)[:, None] + area(b)[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0).astype(np.float32)


def clip(boxes: np.ndarray, width_px: float, height_px: float) -> np.ndarray:
    """``boxes`` cut off at the edges of an image."""
    return np.clip(boxes, 0, np.array([width_px, height_px] * 2, np.float32)).astype(np.float32)


def scale(boxes: np.ndarray, x_factor: float, y_factor: float) -> np.ndarray:
    """``boxes`` with x and y multiplied, e.g. by 1 / width and 1 / height to normalise them."""
    return apply_affine((x_factor, y_factor, 0.0, 0.0), np.asarray(boxes, np.float32))


def to_output(boxes: np.ndarray, affine: Affine) -> np.ndarray:
    """Boxes of the original upright image as boxes of the resized output."""
    return apply_affine(affine, np.asarray(boxes, np.float32))


def to_original(boxes: np.ndarray, affine: Affine) -> np.ndarray:
    """Boxes of the resized output as boxes of the original upright image: undoes :func:`to_output`."""
    return apply_affine(invert_affine(affine), np.asarray(boxes, np.float32))


def exif_transform(boxes: np.ndarray, orientation: int, width_px: float, height_px: float) -> np.ndarray:
    """Boxes drawn on the stored pixels as boxes of the upright image.

    Args:
      boxes: xyxy on the pixels as stored.
      orientation: the EXIF orientation, 1..8.
      width_px: width as stored, before the orientation.
      height_px: height as stored.
    """
    xmin, ymin, xmax, ymax = np.moveaxis(np.asarray(boxes, np.float32), -1, 0)
    if orientation in (2, 3, 7, 8):
        xmin, xmax = width_px - xmax, width_px - xmin
    if orientation in (3, 4, 6, 7):
        ymin, ymax = height_px - ymax, height_px - ymin
    corners = (ymin, xmin, ymax, xmax) if orientation >= 5 else (xmin, ymin, xmax, ymax)
    return np.stack(corners, axis=-1).astype(np.float32)
