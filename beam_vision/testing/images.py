"""Seeded images that behave like photographs, in every format, and files that must fail."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from beam_vision.errors import Reason

ORIENTATIONS = tuple(range(1, 9))
"""All EXIF orientations."""

LAKE_FORMATS = ("jpeg", "png", "webp", "gif", "bmp", "tiff")

_GRAIN_PX = 512


class LakeFile(NamedTuple):
    """One file of a lake that :func:`make_lake` wrote."""

    path: Path
    label: str


def photo(
    seed: int, width_px: int, height_px: int, *, tint_rgb: tuple[int, int, int] | None = None
) -> np.ndarray:
    """A picture with soft colour fields, shapes and grain; as JPEG it is about as large as a photograph.

    Args:
      seed: the same seed and size give the same pixels.
      width_px: at least 1.
      height_px: at least 1.
      tint_rgb: draws the picture towards this colour, so that a model can tell classes apart.

    Returns:
      uint8 ``[height_px, width_px, 3]`` RGB.
    """
    rng = np.random.default_rng([seed, width_px, height_px])
    fields = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    if tint_rgb is not None:
        fields = ((fields.astype(np.uint16) + 2 * np.array(tint_rgb)) // 3).astype(np.uint8)
    canvas = Image.fromarray(fields).resize((width_px, height_px), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(12):
        centre = rng.uniform(0, 1, 2) * (width_px, height_px)
        radius = rng.uniform(0.02, 0.15) * min(width_px, height_px)
        box = (*(centre - radius), *(centre + radius))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    return _with_grain(np.asarray(canvas), rng)


def _with_grain(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds fine and coarse noise (a tile of it, repeated): what makes a photograph hard to compress."""
    height, width = pixels.shape[:2]
    side = min(_GRAIN_PX, -(-max(height, width) // 4) * 4)
    fine = rng.normal(0, 5, (side, side)).astype(np.float32)
    coarse = np.kron(rng.normal(0, 8, (side // 4, side // 4)), np.ones((4, 4))).astype(np.float32)
    tile = np.rint(fine + coarse).astype(np.int16)
    grain = np.tile(tile, (-(-height // side), -(-width // side)))[:height, :width, None]
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, format_name: str, **options: Any) -> bytes:
    """``pixels`` as a file of ``jpeg``, ``png``, ``webp``, ``gif``, ``bmp`` or ``tiff``.

    Args:
      pixels: uint8 ``[H, W]``, ``[H, W, 3]`` or ``[H, W, 4]``, or uint16 ``[H, W]``.
      format_name: the format, in any case.
      **options: as Pillow's ``save`` takes them, e.g. ``quality=90``, ``progressive=True``.
    """
    return encode_image(Image.fromarray(pixels), format_name, **options)


def encode_image(image: Image.Image, format_name: str, **options: Any) -> bytes:
    """A Pillow image as a file; for modes that an array can't say, such as ``P``, ``CMYK`` or ``LAB``."""
    file = io.BytesIO()
    image.save(file, format_name.upper(), **options)
    return file.getvalue()


def stored_for(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as a camera stores them so that ``orientation`` (1..8) turns them into ``upright``."""
    if orientation == 1:
        return upright
    turns = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(turns[orientation](upright))


def turned(upright: np.ndarray, orientation: int, format_name: str = "jpeg", **options: Any) -> bytes:
    """A file whose pixels are stored turned and whose EXIF orientation turns them back to ``upright``."""
    if format_name.lower() == "tiff":
        return encode(stored_for(upright, orientation), "tiff", tiffinfo={0x0112: orientation}, **options)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(stored_for(upright, orientation), format_name, exif=exif, **options)


def lossless_variants(pixels: np.ndarray) -> dict[str, bytes]:
    """Files of several formats that all decode to exactly ``pixels`` (uint8 ``[H, W, 3]``)."""
    files = {
        "png": encode(pixels, "png"),
        "png_alpha": encode(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]), "png"),
        "webp_lossless": encode(pixels, "webp", lossless=True),
        "bmp": encode(pixels, "bmp"),
        "tiff": encode(pixels, "tiff"),
        "tiff_lzw": encode(pixels, "tiff", compression="tiff_lzw"),
        "tiff_deflate": encode(pixels, "tiff", compression="tiff_adobe_deflate"),
    }
    for orientation in ORIENTATIONS:
        files[f"png_exif_{orientation}"] = turned(pixels, orientation, "png")
    return files


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """``png`` with a chunk put in behind its header."""
    return png[:33] + png_chunk(kind, data) + png[33:]


def png_bomb(width_px: int = 12_000, height_px: int = 12_000) -> bytes:
    """A small PNG that opens to ``width_px`` x ``height_px`` pixels of one bit (18 KB for the default)."""
    header = struct.pack(">IIBBBBB", width_px, height_px, 1, 0, 0, 0, 0)
    row = bytes(1 + -(-width_px // 8))
    pixels = zlib.compress(row * height_px, 9)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, data) for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def hostile_files() -> dict[str, tuple[bytes, Reason]]:
    """Files that must fail, by a telling name, each with the reason it must fail with (default settings)."""
    pixels = photo(1, 96, 64)
    files = {name: encode(pixels, name) for name in LAKE_FORMATS}
    png, jpeg, webp = files["png"], files["jpeg"], files["webp"]
    middle, table = png.index(b"IDAT") + 200, jpeg.index(b"\xff\xc4")
    return {
        **{f"cut.{name}": (data[: len(data) // 2], Reason.TRUNCATED) for name, data in files.items()},
        "progressive_cut.jpg": (
            encode(pixels, "jpeg", progressive=True)[: len(jpeg) // 2],
            Reason.TRUNCATED,
        ),
        "zero_filled.jpg": (jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2), Reason.TRUNCATED),
        "signature_only.png": (png[:6], Reason.TRUNCATED),
        "empty.jpg": (b"", Reason.EMPTY),
        "text.jpg": (b"this is not an image\n", Reason.NOT_AN_IMAGE),
        "error_page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", Reason.NOT_AN_IMAGE),
        "document.png": (b"%PDF-1.7\n" + bytes(64), Reason.NOT_AN_IMAGE),
        "zeros.png": (bytes(4096), Reason.NOT_AN_IMAGE),
        "noise.jpg": (np.random.default_rng(0).bytes(4096), Reason.NOT_AN_IMAGE),
        "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', Reason.UNSUPPORTED_FORMAT),
        "phone.jpg": (b"\x00\x00\x00\x18ftypheic" + bytes(64), Reason.UNSUPPORTED_FORMAT),
        "layers.tiff": (b"8BPS\x00\x01" + bytes(64), Reason.UNSUPPORTED_FORMAT),
        "j2k.jpg": (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(64), Reason.UNSUPPORTED_FORMAT),
        "flipped_bit.png": (
            png[:middle] + bytes([png[middle] ^ 1]) + png[middle + 1 :],
            Reason.CORRUPT,
        ),
        "impossible_table.jpg": (jpeg[: table + 5] + b"\xff" * 16 + jpeg[table + 21 :], Reason.CORRUPT),
        "garbage_middle.webp": (webp[:30] + bytes(byte ^ 0x55 for byte in webp[30:]), Reason.CORRUPT),
        "bomb.png": (png_bomb(), Reason.TOO_LARGE),
        "one_pixel.png": (encode(pixels[:1, :1], "png"), Reason.TOO_SMALL),
        "one_row.gif": (encode(pixels[:1], "gif"), Reason.TOO_SMALL),
    }


def make_lake(
    folder: str | Path,
    classes: Sequence[str] = ("blue", "green", "red"),
    per_class: int = 4,
    seed: int = 0,
    size: tuple[int, int] = (64, 48),
    *,
    formats: Sequence[str] = LAKE_FORMATS,
) -> list[LakeFile]:
    """Writes a folder of class folders with images of mixed formats.

    Each class has its own colour, which a small model learns in seconds. Sizes differ a little from
    file to file, and no two files have the same bytes.

    Args:
      folder: made where it is absent.
      classes: names of the class folders.
      per_class: files in each.
      seed: the same arguments give the same bytes.
      size: (width, height) in pixels of the largest image, each at least 8.
      formats: used in turn, e.g. ``("jpeg",)``.

    Returns:
      The files in the order of their paths within each class, each with its label.
    """
    written = []
    for number, label in enumerate(classes):
        tint = np.random.default_rng([seed, number]).permutation([16 + 40 * (number % 3), 230, 24])
        tint_rgb = (int(tint[0]), int(tint[1]), int(tint[2]))
        (Path(folder) / label).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            name = formats[index % len(formats)]
            width, height = size[0] - index % 4, size[1] - index % 3
            pixels = photo(seed * 1_000_003 + number * 10_007 + index, width, height, tint_rgb=tint_rgb)
            path = Path(folder) / label / f"{index:04d}.{'jpg' if name == 'jpeg' else name}"
            path.write_bytes(encode(pixels, name))
            written.append(LakeFile(path, label))
    return written
