"""A lake of real images that installs from PyPI alone: scanned digits, crops of photographs, broken files.

The digits are scikit-learn's 1,797 scans. The photographs lie inside the wheels of scikit-image and
scikit-learn; each becomes a class of crops at many positions and scales, in JPEG of several qualities (some
stored turned, with the EXIF orientation that says so), PNG and WebP. Crops of one photograph overlap, so an
accuracy on them shows that the line works, not how well a model would do on photographs it never saw.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from beam_vision import deps
from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
MARK = "lake.json"
DIGIT_SIDE_PX = 32
CROP_SIDE_PX = (72, 200)
PHOTOS = {
    "astronaut": "skimage/data/astronaut.png",
    "brick": "skimage/data/brick.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "coins": "skimage/data/coins.png",
    "flower": "sklearn/datasets/images/flower.jpg",
    "galaxies": "skimage/data/hubble_deep_field.jpg",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "retina": "skimage/data/retina.jpg",
    "rocket": "skimage/data/rocket.jpg",
    "temple": "sklearn/datasets/images/china.jpg",
    "tissue": "skimage/data/ihc.png",
}
"""Class name -> file inside an installed wheel."""


def make_lake(folder: str, *, digits: int = 1797, crops_per_photo: int = 120, seed: int = 7) -> bool:
    """Writes the lake to ``folder``, unless it is already there with the same settings.

    It is written aside and then renamed: a half-written lake is never used. The same settings give the
    same bytes.

    Args:
      folder: where the class folders go.
      digits: how many of the scanned digits.
      crops_per_photo: how many crops of each photograph.
      seed: of the crops.

    Returns:
      Whether it was written (False: it was there).

    Raises:
      UsageError: ``folder`` holds something else; or scikit-learn or scikit-image is missing.
    """
    settings = {"version": VERSION, "digits": digits, "crops_per_photo": crops_per_photo, "seed": seed}
    digest = settings_digest(settings)
    if _mark_of(folder) == digest:
        return False
    if os.path.isdir(folder) and os.listdir(folder) and _mark_of(folder) is None:
        raise UsageError(f"{folder} exists and is not a lake of ours; name another --output or remove it")
    aside = Path(f"{folder.rstrip('/')}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        for name, data in _files(digits, crops_per_photo, random.Random(seed)):
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (aside / MARK).write_text(json.dumps({"digest": digest, **settings}, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def _mark_of(folder: str) -> str | None:
    try:
        return json.loads((Path(folder) / MARK).read_text()).get("digest")
    except (OSError, ValueError):
        return None


def _files(digits: int, crops_per_photo: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    yield from digit_files(digits)
    for name in PHOTOS:
        yield from crop_files(name, crops_per_photo, rng)
    yield from broken_files()
    yield from odd_files()


def digit_files(number: int) -> Iterator[tuple[str, bytes]]:
    """``(digit_N/NNNN.png, bytes)`` for the first ``number`` scans, enlarged smoothly from 8x8."""
    import numpy as np
    from PIL import Image

    scans = deps.need("sklearn.datasets").load_digits()
    for i, (scan, digit) in enumerate(zip(scans.images[:number], scans.target[:number], strict=True)):
        small = Image.fromarray(np.clip(scan * (255 / 16), 0, 255).astype(np.uint8))
        large = small.resize((DIGIT_SIDE_PX, DIGIT_SIDE_PX), Image.Resampling.BICUBIC)
        yield f"digit_{digit}/{i:04d}.png", _encoded(large, "PNG")


def crop_files(name: str, number: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """``(NAME/NNNN.ext, bytes)`` for ``number`` crops of one photograph."""
    photo = open_photo(name)
    for i in range(number):
        width_px, height_px = (min(rng.randint(*CROP_SIDE_PX), side) for side in photo.size)
        left, top = rng.randint(0, photo.width - width_px), rng.randint(0, photo.height - height_px)
        crop = photo.crop((left, top, left + width_px, top + height_px))
        kind = rng.random()
        if kind < 0.08:
            yield f"{name}/{i:04d}.png", _encoded(crop, "PNG")
        elif kind < 0.16:
            yield f"{name}/{i:04d}.webp", _encoded(crop, "WEBP", quality=rng.randint(60, 95))
        else:
            orientation = rng.randint(2, 8) if kind < 0.28 else 1
            yield f"{name}/{i:04d}.jpg", turned_jpeg(crop, orientation, quality=rng.randint(60, 95))


def open_photo(name: str) -> Image:
    """One of :data:`PHOTOS` in RGB, from the installed wheel (nothing is downloaded)."""
    from PIL import Image

    package, _, rest = PHOTOS[name].partition("/")
    origin = deps.need(package).__file__
    path = Path(origin or "").parent / rest
    if not path.exists():
        raise UsageError(f"{path} is missing from the installed {package}: pip install 'beam-vision[demo]'")
    with Image.open(path) as image:
        return image.convert("RGB")


def turned_jpeg(image: Image, orientation: int, *, quality: int = 90) -> bytes:
    """A JPEG whose stored pixels are turned and whose EXIF orientation (1..8) turns them back."""
    from PIL import Image

    turn = Image.Transpose
    undo = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image.transpose(undo[orientation]) if orientation in undo else image
    return _encoded(stored, "JPEG", quality=quality, exif=exif.tobytes())


def broken_files() -> Iterator[tuple[str, bytes]]:
    """Files that must end in the dead letter, each for another reason."""
    jpeg = _encoded(open_photo("cat").crop((0, 0, 160, 160)), "JPEG", quality=90)
    png = _encoded(open_photo("coffee").crop((0, 0, 96, 96)), "PNG")
    middle = len(png) // 2
    yield "cat/cut-in-half.jpg", jpeg[: len(jpeg) // 2]
    yield "coffee/damaged.png", png[:middle] + bytes(64) + png[middle + 64 :]
    yield "rocket/empty.jpg", b""
    yield "digit_3/text.jpg", b"This is a text file whose name ends in .jpg.\n"
    yield "digit_8/sixty-thousand-a-side.png", _png_header_only(60_000, 60_000)


def odd_files() -> Iterator[tuple[str, bytes]]:
    """Files that look wrong and are fine: they must come through."""
    cat = open_photo("cat").crop((120, 60, 260, 200))
    yield "cat/a-png-named.jpg", _encoded(cat, "PNG")
    yield "cat/the cat, [1] <b>\u201cChelsea\u201d & co.jpg", _encoded(cat, "JPEG", quality=80)
    yield "coins/alpha.png", _encoded(open_photo("coins").crop((0, 0, 90, 90)).convert("RGBA"), "PNG")


def _encoded(image: Image, format_: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **settings)  # type: ignore[arg-type]
    return file.getvalue()


def _png_header_only(width_px: int, height_px: int) -> bytes:
    """A PNG that claims a size whose pixels would fill gigabytes; it holds almost none of them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    rows = chunk(b"IDAT", zlib.compress(bytes(1024)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")
