"""Small copies of images as data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from beam_vision import storage
from beam_vision.errors import Stage
from beam_vision.failures import Guard
from beam_vision.types import ImageRef

SIDE_PX = 112
QUALITY = 80
BUDGET_BYTES = 8_000_000
"""Bytes of data URIs on one page, at most; what comes after has no picture."""


def data_uri(data: bytes, *, side_px: int = SIDE_PX) -> str:
    """A JPEG of an encoded image, its longer side at most ``side_px``, as a ``data:`` URI.

    Raises:
      VisionError: it can't be decoded.
    """
    from beam_vision.images.codec import DecodeSettings, decode, encode_jpeg

    pixels = decode(data, DecodeSettings(max_side_px=side_px)).pixels
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(pixels, quality=QUALITY)).decode("ascii")


def thumbnails(
    uris: Iterable[str],
    *,
    read: Callable[[str], bytes] = storage.read_bytes,
    side_px: int = SIDE_PX,
    budget_bytes: int = BUDGET_BYTES,
    threads: int = 8,
) -> dict[str, str]:
    """Data URIs of the images, by URI; one that can't be shown, or for which no budget is left, is missing.

    Args:
      uris: of the images; repeated ones count once. The first ones have the first call on the budget.
      read: opens one.
    """
    guard = Guard(lambda uri: data_uri(read(uri), side_px=side_px), Stage.READ)
    unique = list(dict.fromkeys(uris))
    made: dict[str, str] = {}
    left = budget_bytes
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda uri: guard(ImageRef(uri, uri), uri), unique)
        for uri, made_uri in zip(unique, results, strict=True):
            if isinstance(made_uri, str) and len(made_uri) <= left:
                made[uri] = made_uri
                left -= len(made_uri)
    return made
