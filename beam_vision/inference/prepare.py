"""From decoded pixels to the model's input tensor, image by image, into one array made beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np

from beam_vision.errors import UsageError
from beam_vision.images.codec import DecodedImage, encode_png, read_header
from beam_vision.images.geometry import normalize
from beam_vision.inference.spec import ModelSpec

_PASSED_ON = {"JPEG": ("RGB", "L"), "PNG": ("RGB", "L")}
"""Formats and modes that TensorFlow's ``decode_image`` reads as our own decoder does."""


class InputWriter:
    """Makes input batches for a model.

    Args:
      spec: the model's; a pixel model's size must be known.

    Raises:
      UsageError: the value range can't be held by the input's type.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        whole = np.issubdtype(np.dtype(spec.dtype), np.integer) if spec.input_kind == "pixels" else False
        if whole and spec.value_range != "0..255":
            raise UsageError(
                f"the model's input is {spec.dtype}, which can't hold --value_range {spec.value_range}"
            )
        if spec.channels == 1 and spec.value_range == "imagenet":
            raise UsageError("value range 'imagenet' is for three channels; the model's input has one")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image in the input tensor; ``()`` for a model of strings."""
        if self.spec.input_kind != "pixels":
            return ()
        height, width, channels = self.spec.height_px, self.spec.width_px, self.spec.channels
        if height is None or width is None:
            raise UsageError("the size of the model's input is not known; give it with --image_size")
        return (channels, height, width) if self.spec.layout == "NCHW" else (height, width, channels)

    def empty(self, images: int) -> np.ndarray:
        """An input batch ``[images, ...]`` to write into."""
        dtype: Any = self.spec.dtype if self.spec.input_kind == "pixels" else object
        return np.empty((images, *self.image_shape), dtype)

    def write(self, batch: np.ndarray, index: int, image: DecodedImage, data: bytes) -> None:
        """Writes one image, decoded with the spec's settings from ``data``, into ``batch[index]``.

        ``data`` is empty where the image is a part of a file.
        """
        if self.spec.input_kind != "pixels":
            batch[index] = as_readable(data, image) if data else encode_png(image.pixels)
            return
        pixels = image.pixels
        if self.spec.channels == 1:
            pixels = luma(pixels)
        if np.dtype(self.spec.dtype) != np.uint8:
            pixels = normalize(pixels, self.spec.value_range)
        if self.spec.channel_order == "bgr":
            pixels = pixels[..., ::-1]
        batch[index] = pixels.transpose(2, 0, 1) if self.spec.layout == "NCHW" else pixels


def luma(pixels: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, 3]`` RGB to uint8 ``[H, W, 1]``: ITU-R 601 luma, as Pillow's ``convert("L")``."""
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((pixels @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]


def as_readable(data: bytes, image: DecodedImage) -> bytes:
    """The image as bytes that a model which decodes by itself (``tf.io.decode_image``) sees as we do.

    JPEG and PNG files in 8-bit RGB or gray that lie upright are passed on as they are. All others (EXIF
    turns them, alpha, palette, 16 bits, CMYK, WebP, TIFF...) would be turned, blackened or refused by
    TensorFlow: they are passed on as a PNG of the upright RGB pixels.

    Args:
      data: the file.
      image: the same, decoded at its native size.
    """
    header = read_header(data)
    if header.orientation == 1 and header.mode in _PASSED_ON.get(header.format, ()):
        return data
    return encode_png(image.pixels)
