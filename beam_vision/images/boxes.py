"""Boxes as ``[N, 4]`` arrays in xyxy order: xmin, ymin, xmax, ymax, in pixels of the upright image.

Coordinates are continuous, as in :mod:`beam_vision.images.geometry`: the box of the pixel ``(column, row)``
is ``(column, row, column + 1, row + 1)``. Functions give float64 for float64 and float32 for anything else,
take an empty list for ``[0, 4]``, and never change their arguments.

Other formats live at the borders only: ``from_...`` takes them to xyxy, ``to_...`` back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from beam_vision.images.geometry import Affine, apply_affine, invert_affine


def as_boxes(boxes: Any) -> np.ndarray:
    """``boxes`` as an array of float64 (if it is one) or float32; ``[0, 4]`` for an empty list."""
    boxes = np.asarray(boxes)
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    return boxes if boxes.dtype == np.float64 else boxes.astype(np.float32, copy=False)


def area(boxes: np.ndarray) -> np.ndarray:
    """Areas ``[N]`` in square pixels; a box whose corners are the wrong way round has none."""
    low, high = _halves(boxes)
    sides = np.maximum(high - low, 0)
    return sides[..., 0] * sides[..., 1]


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The area that each box of ``a`` ``[N, 4]`` has in common with each of ``b`` ``[M, 4]``.

    Returns:
      float64 ``[N, M]`` in square pixels; 0 for a box with a NaN.
    """
    a, b = (as_boxes(boxes).astype(np.float64, copy=False) for boxes in (a, b))
    common = np.ones((len(a), len(b)))
    for low, high in ((0, 2), (1, 3)):
        side = np.minimum(a[:, None, high], b[None, :, high])
        side -= np.maximum(a[:, None, low], b[None, :, low])
        common *= np.fmax(side, 0, out=side)
    return common


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of ``a`` ``[N, 4]`` with each of ``b`` ``[M, 4]``.

    Returns:
      ``[N, M]`` in 0..1, float64 when one of both is, else float32; 0 where both boxes are without area,
      and for boxes that are not finite.
    """
    dtype = np.result_type(as_boxes(a), as_boxes(b))
    a, b = (as_boxes(boxes).astype(np.float64, copy=False) for boxes in (a, b))
    with np.errstate(invalid="ignore"):
        common = intersection(a, b)
        union = area(a)[:, None] + area(b)[None, :] - common
    result = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result.astype(dtype, copy=False)


def clip(boxes: np.ndarray, width_px: float, height_px: float) -> np.ndarray:
    """``boxes`` cut off at the edges of an image."""
    boxes = as_boxes(boxes)
    return np.clip(boxes, 0, np.array([width_px, height_px] * 2, boxes.dtype))


def scale(boxes: np.ndarray, x_factor: float, y_factor: float) -> np.ndarray:
    """``boxes`` with x and y multiplied."""
    return apply_affine((x_factor, y_factor, 0.0, 0.0), as_boxes(boxes))


def to_output(boxes: np.ndarray, affine: Affine) -> np.ndarray:
    """Boxes of the original upright image as boxes of the resized output."""
    return apply_affine(affine, as_boxes(boxes))


def to_original(boxes: np.ndarray, affine: Affine) -> np.ndarray:
    """Boxes of the resized output as boxes of the original upright image: undoes :func:`to_output`."""
    return apply_affine(invert_affine(affine), as_boxes(boxes))


def from_xywh(boxes: np.ndarray) -> np.ndarray:
    """From xmin, ymin, width, height (COCO's JSON)."""
    corner, size = _halves(boxes)
    return np.concatenate([corner, corner + size], axis=-1)


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    """To xmin, ymin, width, height (COCO's JSON)."""
    low, high = _halves(boxes)
    return np.concatenate([low, high - low], axis=-1)


def from_cxcywh(boxes: np.ndarray) -> np.ndarray:
    """From the centre's x and y, width, height (YOLO's text files, DETR)."""
    centre, size = _halves(boxes)
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def to_cxcywh(boxes: np.ndarray) -> np.ndarray:
    """To the centre's x and y, width, height (YOLO's text files, DETR)."""
    low, high = _halves(boxes)
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def from_yxyx(boxes: np.ndarray) -> np.ndarray:
    """From ymin, xmin, ymax, xmax (TensorFlow's detectors)."""
    return as_boxes(boxes)[..., [1, 0, 3, 2]]


def to_yxyx(boxes: np.ndarray) -> np.ndarray:
    """To ymin, xmin, ymax, xmax (TensorFlow's detectors)."""
    return from_yxyx(boxes)


def from_relative(boxes: np.ndarray, width_px: float, height_px: float) -> np.ndarray:
    """From fractions (0..1) of an image's width and height."""
    return scale(boxes, width_px, height_px)


def to_relative(boxes: np.ndarray, width_px: float, height_px: float) -> np.ndarray:
    """To fractions (0..1) of an image's width and height."""
    boxes = as_boxes(boxes)
    return boxes / np.array([width_px, height_px] * 2, boxes.dtype)


def from_voc(boxes: np.ndarray) -> np.ndarray:
    """From Pascal VOC's XML: numbers of the first and the last pixel, counted from 1.

    The VOC development kit takes a box's width as ``xmax - xmin + 1``: pixel 1 alone is ``(1, 1, 1, 1)``,
    which spans ``(0, 0, 1, 1)``.
    """
    boxes = as_boxes(boxes)
    return boxes - np.array([1, 1, 0, 0], boxes.dtype)


def to_voc(boxes: np.ndarray) -> np.ndarray:
    """To Pascal VOC's numbers of the first and the last pixel; undoes :func:`from_voc`."""
    boxes = as_boxes(boxes)
    return boxes + np.array([1, 1, 0, 0], boxes.dtype)


def exif_transform(boxes: np.ndarray, orientation: int, width_px: float, height_px: float) -> np.ndarray:
    """Boxes drawn on the stored pixels as boxes of the upright image.

    The way back is the same with :func:`inverse_orientation` and the size of the upright image.

    Args:
      boxes: xyxy on the pixels as stored.
      orientation: the EXIF orientation, 1..8.
      width_px: width as stored, before the orientation.
      height_px: height as stored.
    """
    boxes = as_boxes(boxes)
    xmin, ymin, xmax, ymax = np.moveaxis(boxes, -1, 0)
    if orientation in (2, 3, 7, 8):
        xmin, xmax = width_px - xmax, width_px - xmin
    if orientation in (3, 4, 6, 7):
        ymin, ymax = height_px - ymax, height_px - ymin
    corners = (ymin, xmin, ymax, xmax) if orientation >= 5 else (xmin, ymin, xmax, ymax)
    return np.stack(corners, axis=-1).astype(boxes.dtype, copy=False)


def inverse_orientation(orientation: int) -> int:
    """The EXIF orientation that undoes ``orientation``: 6 and 8 undo each other, the others themselves."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def _halves(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    boxes = as_boxes(boxes)
    return boxes[..., :2], boxes[..., 2:]
