"""What a file is by its content. Its name is never asked."""

from __future__ import annotations

from beam_vision.errors import Reason, VisionError

READABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that :func:`beam_vision.images.codec.decode` reads, by the names that Pillow gives them."""

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}

_OTHER_IMAGES = {
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II\xbc\x01": "JPEG XR",
    b"8BPS": "PSD",
    b"gimp xcf": "XCF",
    b"\x00\x00\x01\x00": "ICO",
    b"\x00\x00\x02\x00": "CUR",
    b"icns": "ICNS",
    b"DDS ": "DDS",
    b"qoif": "QOI",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"SIMPLE  =": "FITS",
    b"FUJIFILMCCD-RAW": "Fujifilm raw",
    b"FLIF": "FLIF",
    b"BPG\xfb": "BPG",
    b"\x8aMNG": "MNG",
    b"\x8bJNG": "JNG",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "EPS",
}

_ISO_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "Canon raw",
}

_NOT_IMAGES = {
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip file",
    b"version https://git-lfs": "a Git LFS pointer, fetch the file itself with `git lfs pull`",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"PAR1": "a Parquet file",
    b"\x7fELF": "a program",
}

_DIB_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def sniff(data: bytes) -> str:
    """The format of ``data``, one of :data:`READABLE`.

    Raises:
      VisionError: ``EMPTY``; ``UNSUPPORTED_FORMAT`` for an image of a format that isn't read, with its
        name; ``NOT_AN_IMAGE`` for anything else, with its kind where it is known; ``TRUNCATED`` when
        nothing but the start of a signature is there.
    """
    if not data:
        raise VisionError(Reason.EMPTY, "the file has no bytes")
    head = bytes(data[:4096])
    found = _readable(head)
    if found:
        return found
    other = _other_image(head)
    if other:
        raise VisionError(
            Reason.UNSUPPORTED_FORMAT, f"the file is {other}; formats read are {', '.join(READABLE)}"
        )
    for signature, name in (*_SIGNATURES.items(), (b"RIFF", "WEBP"), (b"BM", "BMP")):
        if len(data) >= 2 and len(data) < 26 and signature.startswith(head[: len(signature)]):
            raise VisionError(Reason.TRUNCATED, f"only the first {len(data)} bytes of a {name} file")
    raise VisionError(Reason.NOT_AN_IMAGE, f"the content is {_kind(head)}, not an image")


def _readable(head: bytes) -> str | None:
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return None if name == "TIFF" and head[8:10] == b"CR" else name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _DIB_HEADER_BYTES:
        return "BMP"
    return None


def _other_image(head: bytes) -> str | None:
    for signature, name in _OTHER_IMAGES.items():
        if head.startswith(signature):
            return name
    if head[4:8] == b"ftyp":
        return _ISO_BRANDS.get(head[8:12])
    if head[8:10] == b"CR" and head[:2] in (b"II", b"MM"):
        return "Canon raw"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n":
        return "Netpbm"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (
        text.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in text
    ):
        return "SVG"
    return None


def _kind(head: bytes) -> str:
    for signature, name in _NOT_IMAGES.items():
        if head.startswith(signature):
            return name
    if head[4:8] == b"ftyp":
        return "an MP4 or QuickTime video"
    if not head.strip(b"\x00"):
        return "zero bytes only"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, perhaps an error page saved under an image's name"
    if text.startswith(b"<?xml"):
        return "XML"
    if text.startswith((b"{", b"[")):
        return "JSON"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "text"
    return f"unknown (it starts with {head[:8].hex(' ')})"
