"""Decoding of image files inside a TensorFlow graph, as our own decoder does it.

JPEG (baseline or progressive, RGB or grey), PNG (8 bits, with or without transparency), BMP (24 bits) and
the first frame of GIF give, to the bit, the pixels that :func:`beam_vision.images.codec.decode` gives, but
for these:

- an EXIF orientation is not heeded: TensorFlow reads none, so send images upright;
- PNG of 16 bits loses its lower byte, which our decoder rounds; CMYK JPEG has other colours;
- other formats (WebP, TIFF, AVIF...) are refused, and so is a damaged file: with it, all of its batch.
"""

from __future__ import annotations

from typing import Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.images.codec import DecodeSettings
from beam_vision.training.graph_resize import resize

_RATIOS = (1, 2, 4, 8)
_PARALLEL = 16


def decode_images(data: Any, settings: DecodeSettings) -> Any:
    """Files to pixels, in a graph.

    Args:
      data: string ``[N]``: whole files.
      settings: of the decoder; with a size, ``bilinear``, and reduced decoding as by default.

    Returns:
      uint8 ``[N, height_px, width_px, 3]`` RGB.

    Raises:
      UsageError: settings that have no counterpart here.
      tf.errors.InvalidArgumentError: when it runs, for a file that can't be decoded or announces more than
        ``max_pixels``.
    """
    tf = deps.need("tensorflow")
    if settings.height_px is None or settings.width_px is None:
        raise UsageError("decoding inside a graph needs a size: set height_px and width_px")
    if settings.interpolation != "bilinear" or not settings.reduced_decode:
        raise UsageError(
            f"decoding inside a graph knows bilinear with reduced decoding only, not {settings.interpolation}"
        )
    shape = (settings.height_px, settings.width_px, 3)
    pixels = tf.map_fn(
        lambda item: _decode(tf, item, settings),
        data,
        fn_output_signature=tf.TensorSpec(shape, tf.uint8),
        parallel_iterations=_PARALLEL,
    )
    return tf.ensure_shape(pixels, (None, *shape))


def _decode(tf: Any, data: Any, settings: DecodeSettings) -> Any:
    """One file."""
    jpeg = tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"
    pixels, scale, size = tf.cond(
        jpeg,
        lambda: _decode_jpeg(tf, data, settings),
        lambda: _decode_other(tf, data, settings),
    )
    source, target = _plan(tf, size, settings)
    shown = resize(pixels, source / tf.cast(scale, tf.float64), target[3] - target[1], target[2] - target[0])
    around = [
        [target[1], settings.height_px - target[3]],
        [target[0], settings.width_px - target[2]],
    ]
    bars = [tf.pad(shown[..., c], around, constant_values=settings.pad_rgb[c]) for c in range(3)]
    return tf.ensure_shape(tf.stack(bars, axis=-1), (settings.height_px, settings.width_px, 3))


def _decode_jpeg(tf: Any, data: Any, settings: DecodeSettings) -> tuple[Any, Any, Any]:
    """Pixels at 1, 1/2, 1/4 or 1/8 of the size, that divisor, and (width, height) of the whole."""
    size = tf.image.extract_jpeg_shape(data)[1::-1]
    with tf.control_dependencies([_small_enough(tf, size, settings)]):
        source, target = _plan(tf, size, settings)
    shown = tf.cast(target[2:] - target[:2], tf.float64)
    factor = tf.reduce_min((source[2:] - source[:2]) / shown) / 2
    branch = tf.reduce_sum(tf.cast(factor >= tf.constant(_RATIOS[1:], tf.float64), tf.int32))
    branches = [
        lambda ratio=ratio: tf.io.decode_jpeg(data, 3, ratio=ratio, dct_method="INTEGER_ACCURATE")
        for ratio in _RATIOS
    ]
    return tf.switch_case(branch, branches), tf.gather(_RATIOS, branch), size


def _decode_other(tf: Any, data: Any, settings: DecodeSettings) -> tuple[Any, Any, Any]:
    """The same of other formats, whole."""
    pixels = tf.cond(
        tf.strings.substr(data, 0, 4) == b"\x89PNG",
        lambda: _decode_png(tf, data, settings),
        lambda: tf.io.decode_image(data, 3, expand_animations=False),
    )
    pixels = tf.ensure_shape(pixels, (None, None, 3))
    return pixels, tf.constant(1), tf.shape(pixels)[1::-1]


def _decode_png(tf: Any, data: Any, settings: DecodeSettings) -> Any:
    """Over the background where it is transparent: Pillow's blend of ``Paste.c``."""
    sides = tf.reshape(tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.uint8), [2, 4])
    size = tf.reduce_sum(tf.cast(sides, tf.int32) * tf.constant([1 << 24, 1 << 16, 1 << 8, 1]), axis=1)
    with tf.control_dependencies([_small_enough(tf, size, settings)]):
        rgba = tf.cast(tf.io.decode_png(data, 4), tf.int32)
    alpha = rgba[..., 3:]
    mixed = rgba[..., :3] * alpha + tf.constant(settings.background_rgb) * (255 - alpha) + 128
    return tf.cast(tf.bitwise.right_shift(tf.bitwise.right_shift(mixed, 8) + mixed, 8), tf.uint8)


def _small_enough(tf: Any, size: Any, settings: DecodeSettings) -> Any:
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    return tf.debugging.assert_less_equal(
        pixels, tf.constant(settings.max_pixels, tf.int64), message="the image has too many pixels"
    )


def _plan(tf: Any, size: Any, settings: DecodeSettings) -> tuple[Any, Any]:
    """What is shown of an image, float64 xyxy, and where, int32 xyxy: ``geometry.plan_resize`` in a graph.

    Args:
      size: int32 ``[2]``: (width, height).
    """
    width, height = size[0], size[1]
    out_width, out_height = settings.width_px, settings.height_px
    whole = tf.cast(tf.stack([0, 0, width, height]), tf.float64)
    filled = tf.constant([0, 0, out_width, out_height])
    wide = tf.cast(width, tf.int64) * out_height >= tf.cast(height, tf.int64) * out_width
    if settings.resize == "letterbox":
        lower = tf.maximum(1, (2 * height * out_width + width) // (2 * width))
        narrower = tf.maximum(1, (2 * width * out_height + height) // (2 * height))
        inner = tf.where(wide, tf.stack([out_width, lower]), tf.stack([narrower, out_height]))
        start = (filled[2:] - inner) // 2
        return whole, tf.concat([start, start + inner], 0)
    if settings.resize == "center_crop":
        right, below = whole[2], whole[3]
        aside = (right - below * out_width / out_height) / 2
        above = (below - right * out_height / out_width) / 2
        nothing = tf.zeros((), tf.float64)
        cut_aside = tf.stack([aside, nothing, right - aside, below])
        return tf.where(wide, cut_aside, tf.stack([nothing, above, right, below - above])), filled
    return whole, filled
