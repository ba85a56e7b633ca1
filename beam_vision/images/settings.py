"""How bytes become pixels: the settings of the decoder, with their digest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from PIL import Image

from beam_vision import digest
from beam_vision.errors import UsageError
from beam_vision.images.geometry import RESIZE_MODES

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
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
