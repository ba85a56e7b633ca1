"""Checks of a file's outer structure that Pillow doesn't make, or makes too late.

Pillow skips the checksums of PNG pixels, opens up text chunks that nobody asked for, allocates a WebP
canvas before its size can be looked at, and takes a TIFF's strip table on trust.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from beam_vision.errors import Reason, VisionError

_PNG_SIGNATURE_BYTES = 8
_PNG_USED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_PNG_16_BIT_RGB = b"\x10\x02"

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_SEGMENTS = frozenset({*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_MOST_STRAY_BYTES = 4096

ORIENTATION_TAG = 0x0112
_SUBFILE_TYPE = 254
_DNG_VERSION = 50706
_TIFF_PIXEL_TAGS = frozenset(
    {256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 320, 322, 323, 324, 325, 338, 339, 347}
)
_TIFF_KIND_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def exif_orientation(exif: bytes) -> int:
    """The orientation 1..8 in the first directory of an EXIF block; 1 when absent or broken."""
    start = 6 if exif.startswith(b"Exif\x00\x00") else 0
    order = {b"II": "<", b"MM": ">"}.get(bytes(exif[start : start + 2]))
    if order is None:
        return 1
    try:
        directory = start + struct.unpack_from(order + "I", exif, start + 4)[0]
        entries = struct.unpack_from(order + "H", exif, directory)[0]
        for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == ORIENTATION_TAG:
                value = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)[0]
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def clean_png(data: bytes, *, check_sums: bool) -> tuple[bytes, int]:
    """The chunks of a PNG that its pixels depend on, and its EXIF orientation.

    Text, profiles, animation frames and anything after the end are left out, so that none of them can
    fill the memory or spoil a good picture. So is the transparent colour of a 16-bit RGB picture:
    Pillow keeps 8 of the 16 bits, which would match other colours too.

    Args:
      data: a file with the PNG signature.
      check_sums: check the CRC of every chunk that is kept (at some GB/s).

    Raises:
      VisionError: ``TRUNCATED``, ``CORRUPT``, or ``UNSUPPORTED_FORMAT`` for Apple's CgBI variant.
    """
    if data[12:16] == b"CgBI":
        raise VisionError(Reason.UNSUPPORTED_FORMAT, "the file is a PNG of Apple's CgBI variant")
    view = memoryview(data)
    kept = [view[:_PNG_SIGNATURE_BYTES]]
    orientation, pixels_seen = 1, False
    for kind, start, end in _png_chunks(data):
        if kind == b"eXIf":
            orientation = exif_orientation(data[start + 8 : end - 4])
        if kind not in _PNG_USED or (kind == b"tRNS" and data[24:26] == _PNG_16_BIT_RGB):
            continue
        if check_sums and zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            name = kind.decode("latin-1")
            raise VisionError(
                Reason.CORRUPT, f"the checksum of the PNG chunk {name} at byte {start} is wrong"
            )
        pixels_seen |= kind == b"IDAT"
        kept.append(view[start:end])
    if not pixels_seen:
        raise VisionError(Reason.CORRUPT, "the PNG holds no pixels (no IDAT chunk)")
    return b"".join(kept), orientation


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk up to IEND; a chunk's data lie in ``start + 8 : end - 4``."""
    start = _PNG_SIGNATURE_BYTES
    while True:
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        if len(kind) == 4 and not kind.isalpha():
            raise VisionError(Reason.CORRUPT, f"no PNG chunk at byte {start}")
        if len(kind) < 4 or end > len(data):
            raise VisionError(Reason.TRUNCATED, f"the PNG ends at byte {len(data)}, inside or before a chunk")
        if (kind == b"IHDR") != (start == _PNG_SIGNATURE_BYTES):
            raise VisionError(Reason.CORRUPT, "the PNG doesn't start with its one IHDR chunk")
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end


def webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a WebP file, in pixels, from its first chunk.

    Raises:
      VisionError: ``TRUNCATED`` when the file is shorter than it says, ``CORRUPT``.
    """
    said = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < said or len(data) < 30:
        raise VisionError(
            Reason.TRUNCATED, f"the WebP file has {len(data)} bytes and says that it has {said}"
        )
    kind, head = data[12:16], data[20:30]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L" and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    raise VisionError(Reason.CORRUPT, "the WebP file doesn't start with a picture")


def gif_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a GIF's canvas, in pixels."""
    return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")


def check_jpeg(data: bytes, *, whole: bool = True) -> None:
    """Walks the markers of a JPEG up to its end marker (about 1 ms a MB), or only to its first scan.

    libjpeg only warns of damage among the pixels and fills up with grey. There a 0xFF byte is followed
    by zero, a restart number or one of a few markers that start a segment (ITU-T T.81, B.1.1). So a
    file whose end was filled with zeros, or whose middle was overwritten, gives itself away.

    Raises:
      VisionError: ``TRUNCATED`` without an end marker, ``CORRUPT``.
    """
    position, among_pixels = 2, False
    while found := _JPEG_MARKER.search(data, position):
        marker = data[found.end() - 1]
        if marker == _JPEG_END:
            return
        # Between header segments Pillow looks for the next one byte by byte.
        astray = not among_pixels and found.start() - position > _JPEG_MOST_STRAY_BYTES
        if astray or marker not in _JPEG_SEGMENTS:
            raise VisionError(
                Reason.CORRUPT, f"the JPEG marker 0x{marker:02X} at byte {found.start()} can't stand there"
            )
        among_pixels |= marker == _JPEG_SCAN
        if among_pixels and not whole:
            return
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    raise VisionError(Reason.TRUNCATED, "the JPEG has no end marker")


def check_tiff_extents(data: bytes) -> None:
    """Checks that the first directory of a TIFF, and what it says of the pixels, lie inside the file.

    Raises:
      VisionError: ``TRUNCATED``.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    pointer, entry_bytes = ("Q", 20) if big else ("I", 12)
    try:
        directory = struct.unpack_from(order + pointer, data, 8 if big else 4)[0]
        entries = struct.unpack_from(order + ("Q" if big else "H"), data, directory)[0]
        first = directory + (8 if big else 2)
        end = first + entries * entry_bytes
        struct.unpack_from(order + pointer, data, end)  # where the next directory is
        for entry in range(first, end, entry_bytes):
            tag, kind, count = struct.unpack_from(order + "HH" + pointer, data, entry)
            offset = struct.unpack_from(order + pointer, data, entry + 4 + struct.calcsize(pointer))[0]
            size = count * _TIFF_KIND_BYTES.get(kind, 1)
            inline = size <= struct.calcsize(pointer)
            if tag in _TIFF_PIXEL_TAGS and not inline and offset + size > len(data):
                raise VisionError(
                    Reason.TRUNCATED, f"tag {tag} of the TIFF ends at byte {offset + size} of {len(data)}"
                )
    except (struct.error, OverflowError) as error:
        raise VisionError(
            Reason.TRUNCATED, f"the TIFF's directory lies outside of its {len(data)} bytes"
        ) from error


def check_tiff_page(tags: Any, data_bytes: int, max_pixels: int) -> None:
    """Checks what a TIFF's first page says of its pixels.

    Args:
      tags: Pillow's ``tag_v2`` of the page.
      data_bytes: the length of the file.
      max_pixels: also the most that one tile may hold.

    Raises:
      VisionError: ``TRUNCATED``, ``TOO_LARGE``, ``UNSUPPORTED_FORMAT`` for camera raw.
    """
    if _DNG_VERSION in tags or tags.get(_SUBFILE_TYPE, 0) & 1:
        raise VisionError(
            Reason.UNSUPPORTED_FORMAT, "the file is camera raw (DNG or alike): its first page is a thumbnail"
        )
    tile_width, tile_height = tags.get(322, 0), tags.get(323, 0)
    if tile_width * tile_height > max_pixels:
        raise VisionError(
            Reason.TOO_LARGE,
            f"a tile of the TIFF has {tile_width} x {tile_height} pixels, more than max_pixels={max_pixels}",
        )
    for offsets, counts in ((273, 279), (324, 325)):
        ends = (a + b for a, b in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False))
        end = max(ends, default=0)
        if end > data_bytes:
            raise VisionError(
                Reason.TRUNCATED, f"the TIFF's pixels end at byte {end} and the file at byte {data_bytes}"
            )
