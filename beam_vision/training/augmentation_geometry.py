"""Where pixels and boxes of a batch go: one matrix an image, so that any number of turns, zooms, crops and
shifts costs one resampling and blurs once.

Matrices are float32 ``[N, 3, 3]`` and lead *backwards*, from a place in the output to the place in the input
that it shows; places are in pixels from the image's centre, x to the right, y down. Of two steps the
first's matrix stands left: ``first @ second``.
"""

from __future__ import annotations

import math
from typing import Any

from beam_vision import deps

MIN_VISIBLE = 0.25
"""A box of which a lesser share is left in the image is no longer asked for."""
MIN_SIDE_PX = 1.0
GRAY = 114.0
"""What ``constant`` fills with, as a letterbox's bars."""


def matrices(
    number: Any, *, angle: Any = 0.0, shear: Any = (0.0, 0.0), scale: Any = (1.0, 1.0), move: Any = (0.0, 0.0)
) -> Any:
    """Backward matrices: first scaled, then sheared, turned and moved.

    Args:
      number: N, an int tensor.
      angle: in radians, clockwise on the screen; ``[N]`` or one for all, as are those that follow.
      shear: x by y, and y by x.
      scale: of x and y: how much of the input a pixel of the output spans.
      move: in pixels, x and y: where the output's centre lies in the input.
    """
    tf = deps.need("tensorflow")
    given = [angle, *shear, *scale, *move]
    angle, shear_x, shear_y, scale_x, scale_y, x, y = (
        tf.broadcast_to(tf.cast(value, tf.float32), [number]) for value in given
    )
    cos, sin, zero, one = tf.cos(angle), tf.sin(angle), tf.zeros_like(x), tf.ones_like(x)
    rows = [
        [(cos - sin * shear_y) * scale_x, (cos * shear_x - sin) * scale_y, x],
        [(sin + cos * shear_y) * scale_x, (sin * shear_x + cos) * scale_y, y],
        [zero, zero, one],
    ]
    return tf.stack([tf.stack(row, axis=1) for row in rows], axis=1)


def random_matrices(kind: str, values: Any, number: Any, size: Any, seed: Any) -> Any:
    """Backward matrices of a step, each image's its own.

    Args:
      kind: one of :data:`~beam_vision.training.augmentation_steps.GEOMETRIC`.
      values: its parameters; ``flip``'s probability is of each of its directions.
      number: N.
      size: float ``[2]``: height and width in pixels.
      seed: int ``[2]``.
    """
    tf = deps.need("tensorflow")
    seeds = tf.random.experimental.stateless_split(seed, 5)
    height, width = tf.unstack(size)

    def uniform(place: int, low: float, high: float) -> Any:
        return tf.random.stateless_uniform([number], seeds[place], low, high)

    if kind == "flip":
        ways = {"horizontal": (1, 0), "vertical": (0, 1), "both": (1, 1)}[values["direction"]]
        shares = [way * values["probability"] for way in ways]
        turned = [tf.where(uniform(i, 0, 1) < share, -1.0, 1.0) for i, share in enumerate(shares)]
        return matrices(number, scale=turned)
    if kind == "crop":
        made = _crop(number, values, width, height, uniform)
    else:
        factor = values["factor"]
        if kind == "rotation":
            made = matrices(number, angle=uniform(0, -factor, factor) * 2 * math.pi)
        elif kind == "zoom":
            made = matrices(number, scale=[1 / uniform(0, 1 - factor, 1 + factor)] * 2)
        else:
            made = matrices(
                number, move=(uniform(0, -factor, factor) * width, uniform(1, -factor, factor) * height)
            )
    chosen = uniform(4, 0, 1) < values["probability"]
    return tf.where(chosen[:, None, None], made, tf.eye(3)[None])


def _crop(number: Any, values: Any, width: Any, height: Any, uniform: Any) -> Any:
    """A part of ``area`` to 1 of the image, its aspect changed by up to ``1 + ratio`` times, anywhere in it
    (the random resized crop of Szegedy et al., "Going deeper with convolutions", 2015)."""
    tf = deps.need("tensorflow")
    most = math.log1p(values["ratio"])
    area, aspect = uniform(0, values["area"], 1), tf.exp(uniform(1, -most, most) / 2)
    across = tf.minimum(tf.sqrt(area) * aspect, 1.0)
    down = tf.minimum(tf.sqrt(area) / aspect, 1.0)
    x = uniform(2, -0.5, 0.5) * (1 - across) * width
    y = uniform(3, -0.5, 0.5) * (1 - down) * height
    return matrices(number, scale=(across, down), move=(x, y))


def warp_images(images: Any, backward: Any, *, fill: str) -> Any:
    """Images seen through their matrices, interpolated bilinearly.

    Args:
      images: float32 ``[N, H, W, 3]``.
      backward: ``[N, 3, 3]``.
      fill: one of :data:`~beam_vision.training.augmentation_steps.FILLS`.
    """
    tf = deps.need("tensorflow")
    shape = tf.shape(images)
    centre = (tf.cast(shape[1:3], tf.float32) - 1) / 2
    there = matrices(1, move=(centre[1], centre[0]))
    by_index = there @ backward @ matrices(1, move=(-centre[1], -centre[0]))
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.reshape(by_index, [shape[0], 9])[:, :8],
        output_shape=shape[1:3],
        interpolation="BILINEAR",
        fill_mode=fill.upper(),
        fill_value=GRAY,
    )
    return tf.ensure_shape(moved, images.shape)


def mirror_images(images: Any, backward: Any) -> Any:
    """As :func:`warp_images` for matrices that only mirror, many times faster.

    Args:
      images: ``[N, H, W, 3]``.
      backward: ``[N, 3, 3]``, diagonal, of 1 and -1.
    """
    tf = deps.need("tensorflow")
    for axis, side in ((2, 0), (1, 1)):
        turned = backward[:, side, side] < 0
        images = tf.where(turned[:, None, None, None], tf.reverse(images, [axis]), images)
    return images


def warp_boxes(boxes: Any, classes: Any, backward: Any, size: Any) -> tuple[Any, Any]:
    """Boxes where their pixels went: upright around the four corners, cut off at the image's edges.

    What is too small or mostly outside by then (:data:`MIN_SIDE_PX`, :data:`MIN_VISIBLE`) is left out.

    Args:
      boxes: float32 ``[N, M, 4]`` xyxy in pixels.
      classes: int ``[N, M]``, -1 where there is no box.
      backward: ``[N, 3, 3]``.
      size: float ``[2]``: height and width in pixels.

    Returns:
      The same; an image's boxes come first, in their order, then boxes of zeros with the class -1.
    """
    tf = deps.need("tensorflow")
    limit = tf.stack([size[1], size[0]])
    corners = tf.stack([tf.gather(boxes, pair, axis=2) for pair in ([0, 1], [2, 1], [0, 3], [2, 3])], axis=2)
    places = tf.concat([corners - limit / 2, tf.ones_like(corners[..., :1])], axis=3)
    moved = tf.einsum("nij,nmcj->nmci", tf.linalg.inv(backward), places)[..., :2] + limit / 2
    whole = tf.concat([tf.reduce_min(moved, axis=2), tf.reduce_max(moved, axis=2)], axis=2)
    left = tf.clip_by_value(whole, 0.0, tf.concat([limit, limit], axis=0))
    sides = left[..., 2:] - left[..., :2]
    share = area(left) / tf.maximum(area(whole), 1e-6)
    seen = (tf.reduce_min(sides, axis=2) >= MIN_SIDE_PX) & (share >= MIN_VISIBLE)
    return keep_boxes(left, classes, seen)


def area(boxes: Any) -> Any:
    """The area of boxes xyxy ``[..., 4]``, 0 where they are turned inside out."""
    tf = deps.need("tensorflow")
    return tf.reduce_prod(tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def keep_boxes(boxes: Any, classes: Any, seen: Any) -> tuple[Any, Any]:
    """Those boxes that are ``seen`` (bool ``[N, M]``), moved to the front; zeros and -1 behind them."""
    tf = deps.need("tensorflow")
    seen &= classes >= 0
    order = tf.argsort(tf.cast(~seen, tf.int32), axis=1, stable=True)
    kept = tf.where(seen[..., None], boxes, 0.0)
    named = tf.where(seen, classes, tf.constant(-1, classes.dtype))
    return tf.gather(kept, order, batch_dims=1), tf.gather(named, order, batch_dims=1)
