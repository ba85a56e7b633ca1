"""What of an image is stored: its file as it is, or its pixels encoded anew."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError
from beam_vision.images import codec

ENCODINGS = ("passthrough", "jpeg", "png")
GRID_PX = 128
"""The mean and standard deviation are taken on a grid of at most this many pixels a side of each image."""

_LOSSY = ("JPEG", "WEBP")
_PLAIN_MODES = ("L", "RGB")
_PNG_BIT_DEPTH = 24
_VALUES = np.arange(256)
_SQUARES = _VALUES**2


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How images are stored.

    Attributes:
      encode: ``jpeg`` or ``png``: all pixels are encoded anew. ``passthrough``: a file that any reader
        decodes alike (JPEG or PNG; 8-bit gray or RGB; no transparency; upright; no larger than
        ``max_side_px``) is stored as it is, once it has been decoded; of any other the upright RGB pixels are
        encoded anew, as JPEG where the file was JPEG or WebP, else as PNG.
      jpeg_quality: 1..100, for what is encoded as JPEG.
      max_side_px: larger images are shrunk so that the longer side is this; None keeps every size.
      max_pixels: images with more are refused by their header.

    Raises:
      UsageError: a value out of its range.
    """

    encode: str = "passthrough"
    jpeg_quality: int = 95
    max_side_px: int | None = None
    max_pixels: int = codec.DecodeSettings.max_pixels

    def __post_init__(self) -> None:
        if self.encode not in ENCODINGS:
            raise UsageError(f"--encode {self.encode!r} is none of {', '.join(ENCODINGS)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise UsageError(f"--jpeg_quality {self.jpeg_quality} is not in 1..100")
        if self.max_side_px is not None and self.max_side_px < 16:
            raise UsageError(f"--max_side {self.max_side_px} is less than 16 pixels")
        if self.max_pixels < 1:
            raise UsageError(f"--max_pixels {self.max_pixels} is less than 1")

    @cached_property
    def decode(self) -> codec.DecodeSettings:
        """How an image that is encoded anew is decoded."""
        return codec.DecodeSettings(max_side_px=self.max_side_px, max_pixels=self.max_pixels)

    @cached_property
    def check(self) -> codec.DecodeSettings:
        """How a file that is stored as it is gets decoded, to prove it whole.

        All of the file is entropy-decoded, which is where damage shows; the pixels of a large JPEG are then
        computed at a reduced scale, since they are needed for nothing but the mean.
        """
        return check_settings(self.max_pixels)

    @cached_property
    def digest(self) -> str:
        """Digest of these settings and of the decoding under them."""
        return settings_digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "decode": self.decode.to_json()}


def check_settings(max_pixels: int) -> codec.DecodeSettings:
    """The cheapest decoding that reads all of a file and finds what is wrong with it."""
    return codec.DecodeSettings(max_side_px=GRID_PX, interpolation="nearest", max_pixels=max_pixels)


@dataclass(frozen=True)
class PixelSums:
    """Sums over pixels, for mean and standard deviation; exact integers, so that they add up in any order.

    Attributes:
      count: pixels.
      sums: for R, G, B the sum of values 0..255.
      squares: for R, G, B the sum of their squares.
    """

    count: int = 0
    sums: tuple[int, ...] = (0, 0, 0)
    squares: tuple[int, ...] = (0, 0, 0)

    def __add__(self, other: PixelSums) -> PixelSums:
        return PixelSums(
            self.count + other.count,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    @property
    def mean(self) -> list[float]:
        """Mean of R, G, B in 0..255; zeros when there is no pixel."""
        return [total / max(self.count, 1) for total in self.sums]

    @property
    def std(self) -> list[float]:
        """Standard deviation (of the population) of R, G, B in 0..255."""
        n = max(self.count, 1)
        return [
            math.sqrt(n * square - total * total) / n
            for total, square in zip(self.sums, self.squares, strict=True)
        ]


@dataclass(frozen=True)
class Stored:
    """An image ready to be written: see :class:`~beam_vision.records.example.Record` for the first fields.

    Attributes:
      upright_px: width and height of the original upright image, which may have been shrunk since.
      orientation: the EXIF orientation of the original, 1..8.
      pixels: sums over its pixels.
    """

    data: bytes
    format: str
    width_px: int
    height_px: int
    upright_px: tuple[int, int]
    orientation: int
    pixels: PixelSums


def store(data: bytes, settings: EncodeSettings) -> Stored:
    """Decodes an image and gives what of it is stored.

    Args:
      data: the file.
      settings: how it is stored.

    Raises:
      VisionError: it can't be decoded.
    """
    if settings.encode == "passthrough":
        header = codec.read_header(data)
        if passes(header, data, settings.max_side_px):
            image = codec.decode(data, settings.check)
            size = image.width_px, image.height_px
            return Stored(data, image.format.lower(), *size, size, 1, pixel_sums(image.pixels))
    image = codec.decode(data, settings.decode)
    format = settings.encode
    if format == "passthrough":
        format = "jpeg" if image.format in _LOSSY else "png"
    if format == "jpeg":
        data = codec.encode_jpeg(image.pixels, quality=settings.jpeg_quality)
    else:
        data = codec.encode_png(image.pixels)
    height, width = image.pixels.shape[:2]
    size = image.width_px, image.height_px
    return Stored(data, format, width, height, size, image.orientation, pixel_sums(image.pixels))


def passes(header: codec.Header, data: bytes, max_side_px: int | None = None) -> bool:
    """Whether a file is stored as it is: any reader, TensorFlow's too, gives the pixels that ours gives."""
    if header.orientation != 1 or header.mode not in _PLAIN_MODES:
        return False
    if max_side_px is not None and max(header.width_px, header.height_px) > max_side_px:
        return False
    if header.format == "PNG":
        return data[_PNG_BIT_DEPTH] == 8 and b"tRNS" not in data[: data.find(b"IDAT")]
    return header.format == "JPEG"


def pixel_sums(pixels: np.ndarray) -> PixelSums:
    """Sums over every k-th pixel of every k-th row, with the smallest k that leaves at most
    :data:`GRID_PX` a side: each image weighs about the same, however large it is.

    Args:
      pixels: uint8 ``[height, width, 3]``.
    """
    step = -(-max(pixels.shape[:2]) // GRID_PX)
    grid = pixels[::step, ::step].reshape(-1, 3)
    counts = [np.bincount(channel, minlength=256) for channel in grid.T]
    return PixelSums(
        len(grid),
        tuple(int(count @ _VALUES) for count in counts),
        tuple(int(count @ _SQUARES) for count in counts),
    )
