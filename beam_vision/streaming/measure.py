"""What can be told of a frame at a glance: how bright and sharp it is, and its perceptual hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from beam_vision.errors import VisionError
from beam_vision.images.codec import decode_grey
from beam_vision.images.hashing import dhash

THUMBNAIL_PX = (128, 72)
"""Width and height of what is measured, whatever the frame's size."""


@dataclass(frozen=True)
class Measured:
    """A look at a frame.

    Attributes:
      brightness: mean grey value, 0..255.
      sharpness: variance of the Laplacian of the thumbnail; see :func:`sharpness`.
      hash: its :func:`~beam_vision.images.hashing.dhash`, 64 bits.
    """

    brightness: float
    sharpness: float
    hash: int


def measure(data: bytes) -> Measured | None:
    """Looks at an image at about a tenth of its size; None when it can't be decoded."""
    try:
        grey = decode_grey(data, *THUMBNAIL_PX)
    except VisionError:
        return None  # the frame goes on to inference, which makes the failure of it
    return Measured(round(float(grey.mean()), 3), round(sharpness(grey), 3), dhash(grey))


def sharpness(grey: np.ndarray) -> float:
    """The variance of the Laplacian (J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield
    microscopy", 2000): much where there are edges, little in a picture out of focus or without anything.

    Args:
      grey: uint8 ``[H, W]``, each side at least 3.
    """
    pixels = grey.astype(np.int16)
    inner = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * inner
    return float(laplacian.var(dtype=np.float32))


def bytes_digest(data: bytes) -> bytes:
    """8 bytes that tell one file from the next."""
    return hashlib.sha256(data).digest()[:8]
