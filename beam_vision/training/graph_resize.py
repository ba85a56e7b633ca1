"""Pillow's bilinear resize in TensorFlow operations, to the bit.

So a graph that decodes by itself sees what :func:`beam_vision.images.codec.decode` sees. The arithmetic is
that of Pillow's ``Resample.c`` and ``Reduce.c``: box averages by whole factors while at least twice the
output remains (``reducing_gap=2``), then a triangle filter across, rounded to bytes, then down.
"""

from __future__ import annotations

from typing import Any

from beam_vision import deps

_GAP = 2.0
_TAPS = 9
"""After the averages an output pixel spans under 4 input pixels: at most 2 * 4 + 1 of them have a weight."""

_FRACTION_BITS = 22
"""Pillow's ``PRECISION_BITS``: weights are whole numbers of 2^-22."""


def resize(pixels: Any, box: Any, height: Any, width: Any) -> Any:
    """A part of an image, resized.

    Args:
      pixels: uint8 ``[H, W, 3]``.
      box: float64 ``[4]``, xyxy in pixels: the part that is shown.
      height, width: int32 scalars, of the result.

    Returns:
      uint8 ``[height, width, 3]``: to the bit what ``Image.resize((width, height), BILINEAR, box, 2.0)``
      gives, but for images over 100 times as high as they are wide.
    """
    tf = deps.need("tensorflow")
    size = tf.stack([width, height])
    scale = (box[2:] - box[:2]) / tf.cast(size, tf.float64)
    factor = tf.maximum(tf.cast(scale / _GAP, tf.int32), 1)
    safe = _safe_box(tf, pixels, box, scale)
    safe = tf.where(tf.reduce_any(factor > 1), safe, tf.concat([[0, 0], tf.shape(pixels)[1::-1]], 0))
    pixels = _reduce(tf, pixels[safe[1] : safe[3], safe[0] : safe[2]], factor)
    moved = (box - tf.cast(tf.tile(safe[:2], [2]), tf.float64)) / tf.cast(tf.tile(factor, [2]), tf.float64)
    moved = tf.cast(moved, tf.float32)
    across = _filter(tf, tf.cast(pixels, tf.int32), moved[0], moved[2], width, axis=1)
    return tf.cast(_filter(tf, across, moved[1], moved[3], height, axis=0), tf.uint8)


def _safe_box(tf: Any, pixels: Any, box: Any, scale: Any) -> Any:
    """The part that pixels of the result may depend on, int32 ``[4]``: Pillow's ``_get_safe_box``."""
    whole = tf.cast(tf.shape(pixels)[1::-1], tf.float64)
    low = tf.maximum(tf.floor(box[:2] - 0.5 * scale), 0)
    high = tf.minimum(tf.math.ceil(box[2:] + 0.5 * scale), whole)
    return tf.cast(tf.concat([low, high], 0), tf.int32)


def _reduce(tf: Any, pixels: Any, factor: Any) -> Any:
    """Means of blocks of ``factor`` (across, down) pixels; those at the right and below may be smaller."""
    height, width = tf.shape(pixels)[0], tf.shape(pixels)[1]
    rows, columns = -(-height // factor[1]), -(-width // factor[0])
    missing = [[0, rows * factor[1] - height], [0, columns * factor[0] - width], [0, 0]]
    blocks = tf.reshape(
        tf.pad(tf.cast(pixels, tf.int32), missing), tf.stack([rows, factor[1], columns, factor[0], 3])
    )
    sums = tf.reduce_sum(blocks, axis=[1, 3])
    down = tf.minimum(factor[1], height - tf.range(rows) * factor[1])
    along = tf.minimum(factor[0], width - tf.range(columns) * factor[0])
    count = (down[:, None] * along[None, :])[..., None]
    by = tf.cast(tf.constant(2.0**24) / tf.cast(count, tf.float32), tf.int64)
    return tf.bitwise.right_shift(tf.cast(sums + count // 2, tf.int64) * by, tf.constant(24, tf.int64))


def _filter(tf: Any, pixels: Any, low: Any, high: Any, length: Any, *, axis: int) -> Any:
    """int32 pixels, of one axis the part ``low``..``high`` resized to ``length``; rounded to 0..255."""
    there = tf.shape(pixels)[axis]
    scale = tf.cast(high - low, tf.float64) / tf.cast(length, tf.float64)
    support = tf.maximum(scale, 1.0)
    middles = tf.cast(tf.range(length), tf.float64) + 0.5
    centre = tf.cast(low, tf.float64) + middles * scale
    first = tf.maximum(tf.cast(centre - support + 0.5, tf.int32), 0)
    last = tf.minimum(tf.cast(centre + support + 0.5, tf.int32), there)
    places = first[:, None] + tf.range(_TAPS)
    away = tf.abs((tf.cast(places, tf.float64) - centre[:, None] + 0.5) * (1 / support))
    weights = tf.where(places < last[:, None], tf.nn.relu(1 - away), 0)
    first_to_last = tf.unstack(weights, axis=1)  # Pillow adds them up in this order
    total = sum(first_to_last[1:], first_to_last[0])
    one = 2**_FRACTION_BITS
    whole = tf.cast(0.5 + weights / total[:, None] * one, tf.int32)
    whole = whole[..., None] if axis else whole[..., None, None]
    taken = tf.gather(pixels, tf.minimum(places, there - 1), axis=axis)
    result = tf.reduce_sum(taken * whole, axis=axis + 1) + one // 2
    return tf.clip_by_value(tf.bitwise.right_shift(result, _FRACTION_BITS), 0, 255)
