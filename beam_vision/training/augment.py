"""Light augmentation of whole batches, in TensorFlow operations: small shifts, brightness, contrast.

Nothing is mirrored or turned: that would make other classes of digits and of letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_vision import deps

if TYPE_CHECKING:
    import tensorflow as tf

SHIFT = 1 / 16
BRIGHTNESS = 24.0
CONTRAST = 0.15


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Each image shifted by up to a sixteenth of its side, and changed a little in brightness and contrast.

    Args:
      images: uint8 ``[N, height, width, 3]`` in 0..255.
      seed: int ``[2]``; the same seed gives the same images.

    Returns:
      uint8, the same shape and range. What a shift uncovers is filled by reflection.
    """
    tf = deps.need("tensorflow")
    seeds = tf.random.experimental.stateless_split(seed, 3)
    number = tf.shape(images)[0]
    images = tf.cast(_shift(tf, images, seeds[0]), tf.float32)
    each = [number, 1, 1, 1]
    lighter = tf.random.stateless_uniform(each, seeds[1], -BRIGHTNESS, BRIGHTNESS)
    harder = tf.random.stateless_uniform(each, seeds[2], 1 - CONTRAST, 1 + CONTRAST)
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    images = (images - mean) * harder + mean + lighter
    return tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)


def _shift(tf, images, seed):  # type: ignore[no-untyped-def]
    """Each image by its own whole number of pixels, up and down, left and right."""
    shape = tf.shape(images)
    height, width = images.shape[1], images.shape[2]
    most = max(1, round(min(height, width) * SHIFT))
    padded = tf.pad(images, [[0, 0], [most, most], [most, most], [0, 0]], mode="REFLECT")
    start = tf.random.stateless_uniform([2, shape[0], 1], seed, 0, 2 * most + 1, tf.int32)
    rows, columns = start[0] + tf.range(height), start[1] + tf.range(width)
    shifted = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(shifted, columns, axis=2, batch_dims=1)
