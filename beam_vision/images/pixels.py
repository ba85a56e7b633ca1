"""Any of Pillow's modes to 8-bit grey or RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

_RANGES = (1.0, 255.0, 65535.0)


def to_grey_or_rgb(image: Image.Image, background_rgb: tuple[int, int, int]) -> Image.Image:
    """``image`` as mode ``L`` (only when it is grey and opaque) or ``RGB``.

    - Transparency, by alpha, palette or colour key, is composited onto ``background_rgb``.
    - 16-bit grey is scaled by 255 / 65535 and rounded (``convert`` would cut it off at 255).
    - 32-bit integers and floats carry no range. They are taken to be in the smallest of 0..1 (floats
      only), 0..255 and 0..65535 that holds all finite values; otherwise their minimum..maximum is
      stretched to 0..255 (a constant becomes 0). NaN becomes 0, infinity is cut off.
    - CMYK is taken as inverted when the JPEG has Adobe's marker, as in libvips and TensorFlow, and is
      converted without its profile. ICC profiles are not applied.
    """
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_16_bit(image, background_rgb)
    if mode in ("I", "F"):
        return Image.fromarray(_from_unbounded(np.asarray(image)))
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _composite(image, background_rgb)
    if mode in ("L", "RGB"):
        return image
    if mode == "1":
        return image.convert("L")
    if mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        return ImageChops.invert(image).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, background_rgb: tuple[int, int, int]) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    grey = ((values + 128) // 257).astype(np.uint8)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return Image.fromarray(grey)
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    rgb[values == key] = background_rgb
    return Image.fromarray(rgb)


def _from_unbounded(values: np.ndarray) -> np.ndarray:
    is_float = values.dtype.kind == "f"
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    top = next((top for top in _RANGES if low >= 0 and high <= top and (is_float or top > 1)), None)
    if top is not None:
        low, high = 0.0, top
    if low == high:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)


def _composite(image: Image.Image, background_rgb: tuple[int, int, int]) -> Image.Image:
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    result = Image.new("RGB", image.size, background_rgb)
    result.paste(image, mask=image.getchannel("A"))
    return result
