"""What simulated scenes are made of when nothing else is given: scanned digits, and photographs.

The digits are scikit-learn's 1,797 scans, their gray level as alpha, each in a colour of its own. The
photographs lie inside the wheels of scikit-image and scikit-learn. Nothing is downloaded.
"""

from __future__ import annotations

import colorsys
import functools
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beam_vision import storage
from beam_vision.pipelines.demo_lake import PHOTOS, digit_files, open_photo

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
DIGITS = 1797
SIDE_PX = 64
STEEPNESS, CORE, RIM = 4, 150, 80
MARK = ".material.json"
CUTOUTS, BACKGROUNDS = "cutouts", "backgrounds"


def write_material(folder: str, *, digits: int | None = None) -> tuple[str, str]:
    """Writes the cut-outs and backgrounds as files, unless they are there; gives the two folders.

    Args:
      folder: local or remote.
      digits: how many of the scans; None: all.

    Raises:
      UsageError: scikit-learn or scikit-image is missing.
    """
    digits = DIGITS if digits is None else digits
    folders = storage.join(folder, CUTOUTS), storage.join(folder, BACKGROUNDS)
    mark = json.dumps({"version": VERSION, "digits": digits}).encode()
    path = storage.join(folder, MARK)
    if storage.exists(path) and storage.read_bytes(path) == mark:
        return folders
    for below in folders:
        storage.delete_folder(below)
    for name, data in coloured_digits(digits):
        _put(storage.join(folders[0], name), data)
    for name in PHOTOS:
        _put(storage.join(folders[1], f"{name}.jpg"), _saved(open_photo(name), "JPEG"))
    storage.write_bytes(path, mark)
    return folders


def coloured_digits(number: int = DIGITS) -> Iterator[tuple[str, bytes]]:
    """``(digit_N/NNNN.png, bytes)``: RGBA, a light colour with a dark rim, the scan's gray level as alpha.

    A scan has 8x8 pixels, so enlarged it is a blur: alpha, and the lightness within, are made to rise faster.
    """
    from PIL import Image

    for i, (name, data) in enumerate(digit_files(number)):
        rng = np.random.default_rng(i)
        hue, saturation = rng.random(), rng.uniform(0.1, 0.9)
        light, dark = (
            tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
            for value in (1.0, 0.15)
        )
        with Image.open(io.BytesIO(data)) as scan:
            gray = scan.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        image = Image.new("RGB", gray.size, dark)
        image.paste(light, (0, 0, *gray.size), gray.point(_steep(CORE)))
        image.putalpha(gray.point(_steep(RIM)))
        yield name, _saved(image, "PNG")


@functools.cache
def _steep(half: int) -> list[int]:
    """What each gray level 0..255 becomes: 128 at ``half``, and rising fast there."""
    return [min(max(STEEPNESS * (gray - half) + 128, 0), 255) for gray in range(256)]


def _put(path: str, data: bytes) -> None:
    """Writes a file that counts only once the mark is there: locally it need not be synced by itself."""
    if storage.is_remote(path):
        storage.write_bytes(path, data)
        return
    file = Path(storage.local(path))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def _saved(image: Image, format_: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **({"quality": 95} if format_ == "JPEG" else {}))
    return file.getvalue()
