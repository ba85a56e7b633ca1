"""Opens an image file without decoding its pixels, and gives every way that this fails its reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from beam_vision.errors import Reason, VisionError
from beam_vision.images import containers
from beam_vision.images.sniff import sniff

ABOVE_ANY_SIZE_PX = 1 << 40
"""A ``max_pixels`` that nothing reaches."""


class _JpegFile(JpegImagePlugin.JpegImageFile):
    """Leaves out that Pillow reads all of the EXIF data for a resolution, and warns when it is broken."""

    def _read_dpi_from_exif(self) -> None:
        """Nothing: nobody asks for the resolution."""


_PLUGINS = {
    "JPEG": _JpegFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}

_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    RuntimeError,
    ImportError,
    Warning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_ENDED = (EOFError, IndexError, struct.error)
"""What Pillow's header parsers run into where the bytes end."""

_UNSUPPORTED_WORDS = ("unsupported", "cannot handle", "not available", "unknown pixel mode", "not supported")
_TRUNCATED_WORDS = ("truncated", "unexpected end", "not enough", "no more images", "image not found")


@dataclass(frozen=True)
class Header:
    """What a file says of its image.

    Attributes:
      format: ``JPEG``, ``PNG``, ``WEBP``, ``GIF``, ``BMP`` or ``TIFF``, by content.
      width_px: width as stored, before the EXIF orientation.
      height_px: height as stored.
      mode: Pillow's mode of the stored pixels, e.g. ``RGB``, ``CMYK``, ``I;16``.
      orientation: the EXIF orientation, 1..8; 1 when absent or broken.
    """

    format: str
    width_px: int
    height_px: int
    mode: str
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in pixels after the EXIF orientation."""
        if self.orientation >= 5:
            return self.height_px, self.width_px
        return self.width_px, self.height_px


@contextmanager
def reasons() -> Iterator[None]:
    """Turns every error of Pillow inside the block into a :class:`VisionError` with its reason."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise VisionError(Reason.TOO_LARGE, f"Pillow refuses it: {error}") from error
    except MemoryError as error:
        raise VisionError(Reason.OUT_OF_MEMORY, "not enough memory to decode the image") from error
    except _PILLOW_ERRORS as error:
        said = f"{type(error).__name__}: {error}"
        lower = said.lower()
        if _says(lower, _UNSUPPORTED_WORDS):
            reason = Reason.UNSUPPORTED_FORMAT
        elif (
            isinstance(error, _ENDED) or isinstance(error.__cause__, _ENDED) or _says(lower, _TRUNCATED_WORDS)
        ):
            reason = Reason.TRUNCATED
        else:
            reason = Reason.CORRUPT
        raise VisionError(reason, f"the image can't be decoded: {said}") from error


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def open_image(data: bytes, max_pixels: int, *, whole: bool = True) -> tuple[ImageFile, Header]:
    """Opens ``data`` without decoding pixels. Call it inside :func:`reasons`.

    The plugins are called directly: ``Image.open`` would check against ``Image.MAX_IMAGE_PIXELS``, a
    global of the process, and would try formats that we don't read.

    Args:
      data: the file.
      max_pixels: the most that its header may announce.
      whole: look for damage in all of the file (checksums of a PNG, markers of a JPEG), not its header alone.

    Raises:
      VisionError: ``EMPTY``, ``NOT_AN_IMAGE``, ``UNSUPPORTED_FORMAT``, ``TRUNCATED``, ``CORRUPT``,
        ``TOO_LARGE``; and whatever :func:`reasons` catches.
    """
    found = sniff(data)
    orientation = 1
    if found == "PNG":
        data, orientation = containers.clean_png(data, check_sums=whole)
    elif found == "WEBP":
        _check_pixels(*containers.webp_size(data), max_pixels)
    elif found == "GIF":
        _check_pixels(*containers.gif_size(data), max_pixels)
    elif found == "TIFF":
        containers.check_tiff_extents(data)
    elif found == "JPEG":
        containers.check_jpeg(data, whole=whole)
    image = _PLUGINS[found](io.BytesIO(data))
    if found == "PNG":
        _scale_transparent_grey(image, bit_depth=data[24])
    width, height = image.size
    _check_pixels(width, height, max_pixels)
    if found in ("JPEG", "WEBP"):
        orientation = containers.exif_orientation(image.info.get("exif", b""))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        containers.check_tiff_page(image.tag_v2, len(data), max_pixels)
        tag = image.tag_v2.get(containers.ORIENTATION_TAG, 1)
        orientation = tag if tag in range(1, 9) else 1
        if orientation >= 5:  # Pillow has the size of the upright image here
            width, height = height, width
    return image, Header(found, width, height, image.mode, orientation)


def _scale_transparent_grey(image: ImageFile, bit_depth: int) -> None:
    """Pillow scales the pixels of 2- and 4-bit grey to 0..255, and not the value that is transparent."""
    key = image.info.get("transparency")
    if image.mode == "L" and bit_depth < 8 and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**bit_depth - 1)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise VisionError(Reason.TOO_LARGE, f"{width} x {height} pixels is more than max_pixels={max_pixels}")
