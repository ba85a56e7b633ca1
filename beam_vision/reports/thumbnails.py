"""Small copies of images as data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from beam_vision import storage
from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import Guard
from beam_vision.types import Failure, ImageRef

SIDE_PX = 112
QUALITY = 80
BUDGET_BYTES = 8_000_000
"""Bytes of data URIs on one page, at most; what comes after has no picture."""


@dataclass(frozen=True)
class Picture:
    """A small copy of an image, or why there is none.

    Attributes:
      data_uri: a JPEG as a ``data:`` URI; empty when there is none.
      width_px: width of the original upright image; 0 when it could not be opened.
      height_px: its height.
      problem: why there is no copy; empty when there is one.
    """

    data_uri: str = ""
    width_px: int = 0
    height_px: int = 0
    problem: str = ""


def picture(data: bytes, *, side_px: int = SIDE_PX, quality: int = QUALITY) -> Picture:
    """A copy of an encoded image, upright, its longer side at most ``side_px``.

    Raises:
      VisionError: it can't be decoded.
    """
    from beam_vision.images.codec import DecodeSettings, decode, encode_jpeg

    image = decode(data, DecodeSettings(max_side_px=side_px))
    encoded = base64.b64encode(encode_jpeg(image.pixels, quality=quality)).decode("ascii")
    return Picture(f"data:image/jpeg;base64,{encoded}", image.width_px, image.height_px)


def load_pictures(
    uris: Iterable[str],
    *,
    read: Callable[[str], bytes] = storage.read_bytes,
    side_px: int = SIDE_PX,
    quality: int = QUALITY,
    budget_bytes: int = BUDGET_BYTES,
    threads: int = 8,
) -> dict[str, Picture]:
    """Copies of the images, by URI; one that can't be shown, or for which no budget is left, says so.

    Args:
      uris: of the images; repeated ones count once. The first ones have the first call on the budget.
      read: opens one.
    """
    guard = Guard(lambda uri: picture(read_image(uri, read), side_px=side_px, quality=quality), Stage.READ)
    unique = list(dict.fromkeys(uris))
    made: dict[str, Picture] = {}
    left = budget_bytes
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda uri: guard(ImageRef(uri, uri), uri), unique)
        for uri, found in zip(unique, results, strict=True):
            if isinstance(found, Failure):
                found = Picture(problem=f"{found.reason.replace('_', ' ')}: {found.detail}")
            elif len(found.data_uri) > left:
                found = Picture("", found.width_px, found.height_px, "left out: the page is large enough")
            left -= len(found.data_uri)
            made[uri] = found
    return made


def thumbnails(
    uris: Iterable[str],
    *,
    read: Callable[[str], bytes] = storage.read_bytes,
    budget_bytes: int = BUDGET_BYTES,
) -> dict[str, str]:
    """Data URIs of small copies, by URI; an image that :func:`load_pictures` can't show is missing."""
    found = load_pictures(uris, read=read, budget_bytes=budget_bytes)
    return {uri: shown.data_uri for uri, shown in found.items() if shown.data_uri}


def read_image(uri: str, read: Callable[[str], bytes] = storage.read_bytes) -> bytes:
    """The bytes of an image.

    Raises:
      VisionError: there is no such file.
    """
    try:
        return read(uri)
    except FileNotFoundError:
        raise VisionError(Reason.NOT_FOUND, f"there is no file at {uri}") from None
