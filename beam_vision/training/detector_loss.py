"""What a detector is asked for in each cell, and how far from it it is."""

from __future__ import annotations

from typing import Any, NamedTuple

from beam_vision import deps
from beam_vision.training.detector import STRIDE_PX

SPREAD = 0.09
"""The standard deviation of an object's bell, as a share of its box's width and height, each way."""

MIN_SPREAD_CELLS = 0.6
NEAR = 0.2
"""Cells where an object's bell is at least so high learn its sides."""

SIDES_WEIGHT = 2.0


class Targets(NamedTuple):
    """What is asked for.

    Attributes:
      heat: float32 ``[N, rows, columns, classes]``: 1 in the cell of an object's centre, less around it.
      sides: float32 ``[N, rows, columns, 4]``: the distances in pixels to the sides of the nearest object.
      weight: float32 ``[N, rows, columns]``: how much the sides count there; 0 away from centres.
    """

    heat: Any
    sides: Any
    weight: Any


def targets(boxes: Any, classes: Any, *, rows: int, columns: int, number: int) -> Targets:
    """What is asked for of a batch.

    Args:
      boxes: float32 ``[N, M, 4]`` xyxy in pixels of the input.
      classes: int ``[N, M]``, 0-based; -1 where there is no box.
      rows, columns: cells of the output.
      number: how many classes there are.
    """
    tf = deps.need("tensorflow")
    there = tf.cast(classes >= 0, tf.float32)
    low, high = boxes[..., :2], boxes[..., 2:]
    centre = (low + high) / 2 / STRIDE_PX
    spread = tf.maximum((high - low) / STRIDE_PX * SPREAD, MIN_SPREAD_CELLS)
    # the bell is around the middle of the cell that holds the centre, so that one cell is at 1
    cell = tf.floor(tf.clip_by_value(centre, 0.0, [columns - 1.0, rows - 1.0]))
    across = _bell(tf, tf.range(columns, dtype=tf.float32), cell[..., :1], spread[..., :1])
    down = _bell(tf, tf.range(rows, dtype=tf.float32), cell[..., 1:], spread[..., 1:])
    bells = down[..., :, None] * across[..., None, :] * there[..., None, None]  # [N, M, rows, columns]
    of_class = tf.one_hot(classes, number)  # all 0 for -1
    heat = tf.reduce_max(bells[..., None] * of_class[:, :, None, None, :], axis=1)
    nearest = tf.argmax(bells, axis=1)  # [N, rows, columns]
    box = tf.gather(boxes, nearest, batch_dims=1)
    middle = _middles(tf, rows, columns)
    sides = tf.concat([middle - box[..., :2], box[..., 2:] - middle], axis=-1)
    height = tf.reduce_max(bells, axis=1)
    inside = tf.reduce_min(sides, axis=-1) > 0
    weight = tf.where((height >= NEAR) & inside, height, 0.0)
    return Targets(heat, sides, weight)


def _bell(tf: Any, at: Any, centre: Any, spread: Any) -> Any:
    return tf.exp(-((at - centre) ** 2) / (2 * spread**2))


def _middles(tf: Any, rows: int, columns: int) -> Any:
    """float32 ``[rows, columns, 2]``: (x, y) of the middle of each cell, in pixels of the input."""
    x, y = tf.meshgrid(tf.range(columns, dtype=tf.float32), tf.range(rows, dtype=tf.float32))
    return (tf.stack([x, y], axis=-1) + 0.5) * STRIDE_PX


def loss(heat_logits: Any, sides: Any, asked: Targets) -> Any:
    """How far a model's outputs are from what is asked for, a scalar.

    The focal loss of "Objects as Points" (alpha 2, beta 4) by the number of objects, and the generalised IoU
    loss (Rezatofighi et al., 2019) of the sides, weighted.
    """
    tf = deps.need("tensorflow")
    is_centre = tf.cast(asked.heat >= 0.999, tf.float32)
    said = tf.sigmoid(heat_logits)
    right = -tf.math.log_sigmoid(heat_logits) * (1 - said) ** 2 * is_centre
    wrong = -tf.math.log_sigmoid(-heat_logits) * said**2 * (1 - asked.heat) ** 4 * (1 - is_centre)
    objects = tf.maximum(tf.reduce_sum(is_centre), 1.0)
    focal = (tf.reduce_sum(right) + tf.reduce_sum(wrong)) / objects
    apart = (1 - generalised_iou(sides, asked.sides)) * asked.weight
    return focal + SIDES_WEIGHT * tf.reduce_sum(apart) / tf.maximum(tf.reduce_sum(asked.weight), 1.0)


def generalised_iou(a: Any, b: Any) -> Any:
    """The generalised IoU, -1..1, of boxes around one point, given as distances ``[..., 4]`` to the left,
    upper, right and lower side; those of ``a`` are more than 0."""
    tf = deps.need("tensorflow")

    def area(sides: Any) -> Any:
        return (sides[..., 0] + sides[..., 2]) * (sides[..., 1] + sides[..., 3])

    common, hull = area(tf.minimum(a, b)), area(tf.maximum(a, b))
    union = area(a) + area(b) - common
    return common / tf.maximum(union, 1e-6) - (hull - union) / tf.maximum(hull, 1e-6)
