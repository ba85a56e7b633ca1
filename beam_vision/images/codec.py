"""The one decoder: encoded bytes to upright RGB pixels at the asked size.

Thread-safe: no global of Pillow is changed or relied on. Pillow releases the GIL while it decodes,
converts and resizes, so threads decode side by side.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from beam_vision import digest
from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.images.geometry import RESIZE_MODES, ResizePlan, plan_resize
from beam_vision.images.header import ABOVE_ANY_SIZE_PX, Header, open_image, reasons
from beam_vision.images.pixels import to_grey_or_rgb
from beam_vision.types import DecodedImage

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_REDUCING_GAP = 2.0
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """How bytes become pixels. Saved, with its digest, beside whatever was made with it.

    Attributes:
      height_px: height of the output; None together with ``width_px`` keeps the native size.
      width_px: width of the output.
      resize: ``stretch``, ``letterbox`` or ``center_crop``; see
        :func:`~beam_vision.images.geometry.plan_resize`.
      interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``; all but ``nearest`` weigh
        every source pixel when they shrink (antialiased).
      background_rgb: what shows through transparency.
      pad_rgb: the bars of a letterbox.
      max_pixels: the most pixels a header may announce; checked before anything is decoded. (Above 178
        million Pillow refuses a TIFF all the same.)
      min_side_px: the least width and height of the original.
      max_side_px: shrink so that the longer side is at most this; not with ``height_px``.
      reduced_decode: shrink by whole factors first, while at least twice the output remains: inside
        the JPEG decoder, and by box averaging in the resize. Several times as fast on photographs.
    """

    height_px: int | None = None
    width_px: int | None = None
    resize: str = "stretch"
    interpolation: str = "bilinear"
    background_rgb: tuple[int, int, int] = (255, 255, 255)
    pad_rgb: tuple[int, int, int] = (114, 114, 114)
    max_pixels: int = 100_000_000
    min_side_px: int = 2
    max_side_px: int | None = None
    reduced_decode: bool = True

    def __post_init__(self) -> None:
        if (self.height_px is None) != (self.width_px is None):
            raise UsageError("height_px and width_px go together: give both or neither")
        if self.height_px is not None and self.max_side_px is not None:
            raise UsageError(
                "max_side_px has no meaning beside height_px and width_px: give one or the other"
            )
        if self.resize not in RESIZE_MODES:
            raise UsageError(f"resize is {self.resize!r}: use one of {', '.join(RESIZE_MODES)}")
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"interpolation is {self.interpolation!r}: use one of {', '.join(INTERPOLATIONS)}"
            )
        for name in ("height_px", "width_px", "max_pixels", "min_side_px", "max_side_px"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} is {value!r}: it must be a whole number of at least 1")
        for name in ("background_rgb", "pad_rgb"):
            colour = tuple(getattr(self, name))
            if len(colour) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in colour):
                raise UsageError(f"{name} is {colour}: it must be three whole numbers in 0..255")
            object.__setattr__(self, name, colour)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change when any setting changes."""
        return digest.settings_digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The settings as a JSON object."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> DecodeSettings:
        """The settings that :meth:`to_json` gave; absent ones have their defaults.

        Raises:
          UsageError: a setting that isn't known, or a value that isn't allowed.
        """
        unknown = sorted(set(settings) - {f.name for f in fields(cls)})
        if unknown:
            raise UsageError(f"decode settings {', '.join(unknown)} are not known")
        return cls(**settings)


_DEFAULTS = DecodeSettings()


def read_header(data: bytes) -> Header:
    """What the file says of its image; what follows the header is not looked at.

    Raises:
      VisionError: ``EMPTY``, ``NOT_AN_IMAGE``, ``UNSUPPORTED_FORMAT``, ``TRUNCATED`` or ``CORRUPT``.
    """
    with reasons():
        return open_image(data, ABOVE_ANY_SIZE_PX, whole=False)[1]


def decode(data: bytes, settings: DecodeSettings = _DEFAULTS) -> DecodedImage:
    """Decodes ``data``: the first frame or page, upright by its EXIF orientation, as RGB, resized.

    The same bytes and settings give the same pixels. A JPEG carries no checksum: damage that still
    parses gives wrong pixels and no error; what can be known of damage is reported.

    Raises:
      VisionError: ``EMPTY``, ``NOT_AN_IMAGE``, ``UNSUPPORTED_FORMAT``, ``TRUNCATED``, ``CORRUPT``,
        ``TOO_LARGE``, ``TOO_SMALL`` or ``OUT_OF_MEMORY``.
    """
    with reasons():
        image, header = open_image(data, settings.max_pixels)
        width, height = header.upright_size
        if min(width, height) < settings.min_side_px:
            raise VisionError(
                Reason.TOO_SMALL,
                f"{width} x {height} pixels: a side is under min_side_px={settings.min_side_px}",
            )
        plan = plan_resize(
            width,
            height,
            out_width_px=settings.width_px,
            out_height_px=settings.height_px,
            mode=settings.resize,
            max_side_px=settings.max_side_px,
        )
        # Pillow itself turns a TIFF upright while it loads.
        orientation = 1 if header.format == "TIFF" else header.orientation
        pixels = np.asarray(_render(image, plan, orientation, settings))
    return DecodedImage(pixels, width, height, plan.affine, header.format)


def _render(image: ImageFile, plan: ResizePlan, orientation: int, settings: DecodeSettings) -> Image.Image:
    """Decodes, resizes as stored and turns the small result upright."""
    size = plan.target[2] - plan.target[0], plan.target[3] - plan.target[1]
    box = plan.source
    if orientation >= 5:
        # The part shown is centred, so that mirroring leaves it where it is.
        size, box = size[::-1], (box[1], box[0], box[3], box[2])
    if settings.reduced_decode:
        box = _draft(image, box, size)
    image.load()
    result = to_grey_or_rgb(image, settings.background_rgb)
    if result.size != size or box != (0, 0, *size):
        gap = _REDUCING_GAP if settings.reduced_decode else None
        result = result.resize(size, INTERPOLATIONS[settings.interpolation], box, gap)
    if orientation != 1:
        result = result.transpose(_TO_UPRIGHT[orientation])
    if result.mode != "RGB":
        result = result.convert("RGB")
    if plan.padded:
        canvas = Image.new("RGB", (plan.width_px, plan.height_px), settings.pad_rgb)
        canvas.paste(result, plan.target[:2])
        result = canvas
    return result


def _draft(
    image: ImageFile, box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Asks a JPEG for 1/2, 1/4 or 1/8 of its size where twice ``size`` remains; gives the box there."""
    if image.format != "JPEG":
        return box
    factor = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) / 2
    scale = next((s for s in (8, 4, 2) if factor >= s), 1)
    if scale == 1:
        return box
    image.draft(None, (image.width // scale, image.height // scale))
    return tuple(edge / scale for edge in box)  # type: ignore[return-value]


def encode_jpeg(pixels: np.ndarray, *, quality: int = 95) -> bytes:
    """``pixels`` (uint8 ``[H, W, 3]`` RGB or ``[H, W]`` grey) as a baseline JPEG."""
    return _encode(pixels, "JPEG", quality=quality)


def encode_png(pixels: np.ndarray) -> bytes:
    """``pixels`` (uint8 ``[H, W, 3]`` RGB or ``[H, W]`` grey) as a PNG, lossless."""
    return _encode(pixels, "PNG")


def _encode(pixels: np.ndarray, format_name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_name, **options)
    return file.getvalue()
