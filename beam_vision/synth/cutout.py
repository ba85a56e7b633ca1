"""Cut-outs and backgrounds: opened by the one decoder, sized, turned, made lighter or darker."""

from __future__ import annotations

import numpy as np
from PIL import Image

from beam_vision.errors import Reason, VisionError
from beam_vision.images.codec import DecodeSettings, decode
from beam_vision.synth.settings import SceneSettings

SEEN = 0.5
"""An object is seen at a pixel when it makes at least this share of the pixel's colour."""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def open_cutout(data: bytes, settings: SceneSettings) -> Image.Image:
    """A file as RGBA, as :func:`open_rgba` opens it, without the margins that are wholly transparent."""
    return cropped(open_rgba(data, settings))


def open_rgba(data: bytes, settings: SceneSettings) -> Image.Image:
    """A file as RGBA, no larger than scenes have use for.

    The one decoder puts transparency on a background. On black it gives the colours times alpha, on white
    the same plus ``255 - alpha``; so the two tell alpha, for every format, bit depth and EXIF orientation. A
    file without alpha is opaque everywhere.

    Raises:
      VisionError: the decoder's, or ``EMPTY``: no pixel is opaque enough to be seen.
    """
    side_px = max(64, round(2 * settings.longest_px))
    on_black, on_white = (
        decode(data, DecodeSettings(max_side_px=side_px, min_side_px=1, background_rgb=colour)).pixels
        for colour in (_BLACK, _WHITE)
    )
    alpha = 255 - np.clip(np.median(on_white.astype(np.int16) - on_black, axis=2), 0, 255).astype(np.uint8)
    if not (alpha >= 255 * SEEN).any():
        raise VisionError(Reason.EMPTY, "every pixel of the cut-out is (nearly) transparent")
    height, width = alpha.shape
    image = Image.frombytes("RGBa", (width, height), np.dstack([on_black, alpha]).tobytes())
    return image.convert("RGBA")


def open_background(data: bytes, settings: SceneSettings) -> Image.Image:
    """A file as RGB, no larger than scenes have use for.

    Raises:
      VisionError: the decoder's.
    """
    side_px = max(256, 3 * max(settings.width_px, settings.height_px))
    return Image.fromarray(decode(data, DecodeSettings(max_side_px=side_px)).pixels)


def is_opaque(image: Image.Image) -> bool:
    """Whether no pixel of an RGBA image is transparent to any degree."""
    return image.getchannel("A").getextrema() == (255, 255)


def cropped(image: Image.Image) -> Image.Image:
    """An RGBA image without the margins that are wholly transparent."""
    found = image.getchannel("A").getbbox()
    return image.crop(found) if found else image


def transformed(
    cutout: Image.Image, *, longer_px: float, rotation_deg: float, flip: bool, lighter: float
) -> np.ndarray:
    """A cut-out as it is pasted.

    Args:
      cutout: RGBA, without margins.
      longer_px: the length of its longer side, before it is turned.
      rotation_deg: counter-clockwise.
      flip: mirror it, left to right.
      lighter: the factor of its colours.

    Returns:
      float32 ``[H, W, 4]``: red, green, blue in 0..255, not multiplied by alpha, and alpha in 0..1. Its
      margins that are wholly transparent are cut off.
    """
    factor = longer_px / max(cutout.size)
    width, height = (max(1, round(side * factor)) for side in cutout.size)
    # Pillow itself multiplies by alpha before it mixes pixels of an RGBA image, and divides after. Bicubic
    # would overshoot there and change the colours at the rim.
    image = cutout.resize((width, height), Image.Resampling.BILINEAR)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rotation_deg:
        image = image.rotate(rotation_deg, Image.Resampling.BILINEAR, expand=True)
    pixels = np.asarray(cropped(image)).astype(np.float32)
    pixels[..., :3] = np.clip(pixels[..., :3] * lighter, 0, 255)
    pixels[..., 3] /= 255
    return pixels


def background_pixels(
    photo: Image.Image, rng: np.random.Generator, settings: SceneSettings, *, least_share: float = 0.4
) -> np.ndarray:
    """A random part of a photograph, of the scene's shape, at the scene's size.

    Args:
      photo: RGB.
      rng: draws the part, whether it is mirrored, and its brightness.
      settings: the scene's size, and by how much the brightness varies.
      least_share: the part is at least this share of the largest that fits.

    Returns:
      float32 ``[height_px, width_px, 3]`` in 0..255.
    """
    size = (settings.width_px, settings.height_px)
    largest = min(photo.width / size[0], photo.height / size[1])
    part = [largest * rng.uniform(least_share, 1.0) * side for side in size]
    left, top = (rng.uniform(0, max(side - cut, 0)) for side, cut in zip(photo.size, part, strict=True))
    box = (left, top, min(left + part[0], photo.width), min(top + part[1], photo.height))
    image = photo.resize(size, Image.Resampling.BILINEAR, box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    lighter = 1 + settings.brightness * rng.uniform(-1, 1)
    return np.clip(np.asarray(image).astype(np.float32) * np.float32(lighter), 0, 255)
