"""Colours of a batch changed, each image by its own amount.

Images are float32 ``[N, H, W, 3]`` RGB in 0..255, before and after; amounts are float32 ``[N, 1, 1, 1]``.
What each does is what Pillow's ``ImageEnhance`` and ``ImageOps`` do; a factor of 1 changes nothing.
"""

from __future__ import annotations

from typing import Any

from beam_vision import deps

LUMA = (0.299, 0.587, 0.114)
"""The share of red, green and blue in how light a colour is (ITU-R BT.601)."""
_SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))


def brightened(images: Any, added: Any) -> Any:
    """Lighter by ``added`` (in 0..255)."""
    return _clipped(images + added)


def contrasted(images: Any, factor: Any) -> Any:
    """Away from the image's mean, or towards it."""
    tf = deps.need("tensorflow")
    return _blended(images, tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True), factor)


def saturated(images: Any, factor: Any) -> Any:
    """More colourful, or grayer."""
    tf = deps.need("tensorflow")
    return _blended(images, tf.reduce_sum(images * tf.constant(LUMA), axis=3, keepdims=True), factor)


def scaled(images: Any, factor: Any) -> Any:
    """Lighter or darker, black staying black."""
    return _clipped(images * factor)


def sharpened(images: Any, factor: Any) -> Any:
    """Sharper, or more blurred (by 3x3 pixels)."""
    tf = deps.need("tensorflow")
    kernel = tf.constant(_SMOOTH, tf.float32)[:, :, None, None] / 13
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC")
    smooth = tf.nn.depthwise_conv2d(padded, tf.tile(kernel, [1, 1, 3, 1]), [1, 1, 1, 1], "VALID")
    return _blended(images, smooth, factor)


def solarized(images: Any, threshold: Any) -> Any:
    """Every value above ``threshold`` (in 0..255) turned into its negative."""
    tf = deps.need("tensorflow")
    return tf.where(images > threshold, 255 - images, images)


def posterized(images: Any, bits: Any) -> Any:
    """Values of ``bits`` bits only (1..8)."""
    tf = deps.need("tensorflow")
    step = 2 ** (8 - tf.round(bits))
    return tf.floor(images / step) * step


def stretched(images: Any) -> Any:
    """Each channel stretched to 0..255; a channel of one value stays as it is."""
    tf = deps.need("tensorflow")
    low = tf.reduce_min(images, axis=[1, 2], keepdims=True)
    high = tf.reduce_max(images, axis=[1, 2], keepdims=True)
    return tf.where(high > low, (images - low) * 255 / tf.maximum(high - low, 1e-3), images)


def equalized(images: Any) -> Any:
    """Each channel's values spread, so that each part of 0..255 has as many pixels, as far as can be."""
    tf = deps.need("tensorflow")
    shape = tf.shape(images)
    pixels = shape[1] * shape[2]
    values = tf.cast(tf.round(images), tf.int32)
    rows = tf.reshape(tf.transpose(values, [0, 3, 1, 2]), [-1, pixels])
    counts = tf.math.bincount(rows, minlength=256, maxlength=256, axis=-1)
    below = tf.cumsum(counts, axis=1, exclusive=True)
    most = tf.gather(below, tf.reduce_max(rows, axis=1), batch_dims=1)[:, None]
    spread = tf.cast(below, tf.float32) * 255 / tf.cast(tf.maximum(most, 1), tf.float32)
    spread = tf.where(most > 0, spread, tf.range(256, dtype=tf.float32)[None])
    found = tf.gather(spread, rows, batch_dims=1)
    return tf.transpose(tf.reshape(found, [shape[0], 3, shape[1], shape[2]]), [0, 2, 3, 1])


def _blended(images: Any, plain: Any, factor: Any) -> Any:
    return _clipped(plain + (images - plain) * factor)


def _clipped(images: Any) -> Any:
    return deps.need("tensorflow").clip_by_value(images, 0.0, 255.0)
