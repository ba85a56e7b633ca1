"""A perceptual hash: near-duplicate pictures have hashes that differ in few bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

_SIDE = 8


def dhash(pixels: np.ndarray) -> int:
    """The difference hash of a picture (N. Krawetz, "Kind of Like That", 2013).

    The picture is shrunk to 9 x 8 grey pixels; each bit says whether a pixel is darker than its right
    neighbour. Light, contrast, size and compression hardly change it.

    Args:
      pixels: uint8 ``[H, W, 3]`` RGB or ``[H, W]`` grey.

    Returns:
      64 bits, the top left pixel in the highest.
    """
    grey = Image.fromarray(pixels).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    values = np.asarray(grey)
    return int.from_bytes(np.packbits(values[:, :-1] < values[:, 1:]).tobytes(), "big")


def hamming(a: int, b: int) -> int:
    """In how many bits two hashes differ, 0..64; up to about 6 is the same picture, stored anew."""
    return (a ^ b).bit_count()
