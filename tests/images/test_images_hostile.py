"""Files that must fail, each with its own reason, and nothing but a VisionError whatever the bytes."""

import contextlib
import io
import struct
import time
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_vision.errors import Reason, VisionError
from beam_vision.images.codec import DecodeSettings, decode, read_header
from beam_vision.images.containers import exif_orientation
from beam_vision.images.header import reasons
from beam_vision.images.sniff import sniff
from beam_vision.testing.images import (
    LAKE_FORMATS,
    encode,
    encode_image,
    hostile_files,
    photo,
    png_bomb,
    turned,
)
from beam_vision.types import DecodedImage

PIXELS = photo(1, 20, 15)
RGB = Image.fromarray(PIXELS)
SMALL_LIMIT = DecodeSettings(height_px=8, width_px=9, resize="letterbox", max_pixels=200_000)

VALID = {
    **{name: encode(PIXELS, name) for name in LAKE_FORMATS},
    "progressive": encode(PIXELS, "jpeg", progressive=True),
    "exif_jpeg": turned(PIXELS, 6, "jpeg"),
    "exif_png": turned(PIXELS, 6, "png"),
    "exif_webp": turned(PIXELS, 6, "webp", lossless=True),
    "cmyk": encode_image(RGB.convert("CMYK"), "jpeg"),
    "palette_png": encode_image(RGB.quantize(8), "png"),
    "png_16": encode(PIXELS[:, :, 0].astype(np.uint16) * 257, "png"),
    "animated_gif": encode_image(RGB, "gif", save_all=True, append_images=[RGB.rotate(90)], disposal=2),
    "animated_webp": encode_image(RGB, "webp", save_all=True, append_images=[RGB.rotate(90)]),
    "alpha_bmp": encode_image(RGB.convert("RGBA"), "bmp"),
    "one_bit_bmp": encode_image(RGB.convert("1"), "bmp"),
    **{
        f"tiff_{name}": encode_image(image, "tiff", compression=name)
        for name, image in {
            "tiff_lzw": RGB,
            "tiff_adobe_deflate": RGB,
            "jpeg": RGB,
            "packbits": RGB,
            "group4": RGB.convert("1"),
        }.items()
    },
    "big_tiff": encode_image(RGB, "tiff", big_tiff=True),
    "float_tiff": encode_image(RGB.convert("F"), "tiff"),
    "turned_tiff": turned(PIXELS, 5, "tiff"),
}


DECODING_REASONS = {
    Reason.EMPTY,
    Reason.NOT_AN_IMAGE,
    Reason.UNSUPPORTED_FORMAT,
    Reason.TRUNCATED,
    Reason.CORRUPT,
    Reason.TOO_LARGE,
    Reason.TOO_SMALL,
}
HOSTILE = hostile_files()


def attempt(data, decode_settings=SMALL_LIMIT):
    """The decoded image, or the reason that there is none. Any other error fails the test."""
    try:
        return decode(data, decode_settings)
    except VisionError as error:
        return error.reason


def reason_of(data, decode_settings=SMALL_LIMIT):
    outcome = attempt(data, decode_settings)
    return outcome if isinstance(outcome, Reason) else None


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_fail_with_their_reason(name):
    data, reason = HOSTILE[name]
    assert reason_of(data, DecodeSettings()) is reason


def test_hostile_files_cover_every_reason_of_decoding():
    assert {reason for _, reason in HOSTILE.values()} == DECODING_REASONS


@pytest.mark.parametrize("name", VALID)
def test_a_file_cut_anywhere_is_truncated_or_whole(name):
    data = VALID[name]
    whole = decode(data, SMALL_LIMIT).pixels
    for cut in {*range(2, min(len(data), 300)), *range(300, len(data), 13), len(data) - 1}:
        outcome = attempt(data[:cut])
        if isinstance(outcome, Reason):
            assert outcome is Reason.TRUNCATED, cut
        else:
            np.testing.assert_array_equal(outcome.pixels, whole)
            assert cut > len(data) * 0.4, "pixels cannot be whole without the second half of them"


@st.composite
def damaged(draw):
    data = bytearray(VALID[draw(st.sampled_from(sorted(VALID)))])
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        at = draw(st.integers(0, min(len(data), draw(st.sampled_from([40, 200, 10**6]))) - 1))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "extreme"]))
        if kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at : at + draw(st.integers(1, 60))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
        else:
            data[at : at + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"]))
    return bytes(data)


@settings(max_examples=600)
@given(damaged(), st.booleans())
def test_damage_gives_pixels_or_a_vision_error(data, native):
    outcome = attempt(data, DecodeSettings(max_pixels=200_000) if native else SMALL_LIMIT)
    if isinstance(outcome, DecodedImage):
        assert outcome.pixels.dtype == np.uint8
        assert outcome.pixels.shape[2] == 3
    else:
        assert outcome in DECODING_REASONS
    with contextlib.suppress(VisionError):
        read_header(data)


@settings(max_examples=300)
@given(st.sampled_from([b"", *(data[:12] for data in VALID.values())]), st.binary(max_size=200))
def test_random_bytes_give_a_vision_error(start, rest):
    assert reason_of(start + rest) is not None or start + rest in VALID.values()


@given(st.binary(max_size=60), st.sampled_from([b"", b"Exif\x00\x00", b"II*\x00", b"Exif\x00\x00MM\x00*"]))
@example(b"\x08\x00\x00\x00\xff\xff", b"II*\x00")
def test_any_exif_has_an_orientation(tail, start):
    assert 1 <= exif_orientation(start + tail) <= 8


def test_pixel_damage_that_libjpeg_only_warns_of_is_found():
    data = encode(photo(2, 200, 200), "jpeg")
    scan = data.index(b"\xff\xda") + 100
    taken_by_pillow = 0
    for seed in range(20):
        file = data[:scan] + np.random.default_rng(seed).bytes(2000) + data[scan + 2000 :]
        with contextlib.suppress(OSError):
            Image.open(io.BytesIO(file)).load()
            taken_by_pillow += 1
        assert reason_of(file, DecodeSettings()) in (Reason.CORRUPT, Reason.TRUNCATED)
    assert taken_by_pillow > 0, "or this test proves nothing"


def test_headers_that_lie_about_the_size_are_refused_before_decoding():
    def patched(data, at, value):
        return data[:at] + value + data[at + len(value) :]

    tiff = VALID["tiff"]
    width_entry = tiff.index(struct.pack("<HH", 256, 4))
    files = {
        "png": png_bomb(),
        "gif": patched(VALID["gif"], 6, b"\xff\xff\xff\xff"),
        "bmp": patched(VALID["bmp"], 18, struct.pack("<ii", 30_000, 30_000)),
        "webp": b"RIFF\x16\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + b"\xff\x3f\x00" * 2,
        "jpeg": patched(VALID["jpeg"], VALID["jpeg"].index(b"\xff\xc0") + 5, b"\xff\xff\xff\xff"),
        "tiff": patched(tiff, width_entry, struct.pack("<HHII", 256, 4, 1, 1 << 30)),
    }
    started = time.monotonic()
    for name, data in files.items():
        assert reason_of(data, DecodeSettings()) is Reason.TOO_LARGE, name
    assert time.monotonic() - started < 5, "nothing of that size was decoded"


def test_max_pixels_and_min_side_are_exact():
    data = encode(PIXELS, "png")
    assert reason_of(data, DecodeSettings(max_pixels=300)) is None
    assert reason_of(data, DecodeSettings(max_pixels=299)) is Reason.TOO_LARGE
    assert reason_of(data, DecodeSettings(min_side_px=15)) is None
    assert reason_of(data, DecodeSettings(min_side_px=16)) is Reason.TOO_SMALL


def test_no_limit_but_ours():
    """Pillow's own limit for the whole process plays no part: 4 pixels above a limit of 1 are fine."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 1
    try:
        for name in ("jpeg", "png", "webp", "bmp"):
            assert reason_of(VALID[name], DecodeSettings()) is None, name
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_a_jpeg_of_zeros_behind_its_header_fails_at_once():
    data = VALID["jpeg"][:200] + bytes(30_000_000)
    started = time.monotonic()
    assert reason_of(data) is Reason.TRUNCATED
    assert reason_of(data + b"\xff\xda\x00\x02\xff\xd9") is Reason.CORRUPT
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"\x00\x00\x00\x1cftypavif" + bytes(50), Reason.UNSUPPORTED_FORMAT, "AVIF"),
        (b"\x00\x00\x00\x1cftypheic" + bytes(50), Reason.UNSUPPORTED_FORMAT, "HEIC"),
        (b"\x00\x00\x00\x1cftypisom" + bytes(50), Reason.NOT_AN_IMAGE, "video"),
        (b'<?xml version="1.0"?>\n<svg/>', Reason.UNSUPPORTED_FORMAT, "SVG"),
        (b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code></Error>', Reason.NOT_AN_IMAGE, "XML"),
        (b"II*\x00\x10\x00\x00\x00CR\x02\x00" + bytes(50), Reason.UNSUPPORTED_FORMAT, "Canon"),
        (bytes(128) + b"DICM", Reason.UNSUPPORTED_FORMAT, "DICOM"),
        (b"P6\n2 2\n255\n" + bytes(12), Reason.UNSUPPORTED_FORMAT, "Netpbm"),
        (b"BMW is a maker of cars, and this is text\n", Reason.NOT_AN_IMAGE, "text"),
        (b'{"error": "denied"}', Reason.NOT_AN_IMAGE, "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", Reason.NOT_AN_IMAGE, "git lfs pull"),
        (b"PK\x03\x04" + bytes(50), Reason.NOT_AN_IMAGE, "ZIP"),
        (b"GIF", Reason.TRUNCATED, "GIF"),
    ],
)
def test_the_detail_names_what_was_found(data, reason, words):
    with pytest.raises(VisionError, match=words) as caught:
        decode(data)
    assert caught.value.reason is reason


def test_unsupported_variants_of_formats_that_are_read():
    thumbnail_first = encode(PIXELS, "tiff", tiffinfo={254: 1})
    apple = VALID["png"][:8] + b"\x00\x00\x00\x04CgBI" + bytes(8) + VALID["png"][8:]
    assert reason_of(thumbnail_first) is Reason.UNSUPPORTED_FORMAT
    assert reason_of(apple) is Reason.UNSUPPORTED_FORMAT


def test_content_decides_and_names_are_never_asked():
    assert [sniff(VALID[name]).lower() for name in LAKE_FORMATS] == list(LAKE_FORMATS)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (Image.DecompressionBombError("x"), Reason.TOO_LARGE),
        (OSError("image file is truncated"), Reason.TRUNCATED),
        (EOFError("end"), Reason.TRUNCATED),
        (struct.error("short"), Reason.TRUNCATED),
        (OSError("decoder jpeg2k not available"), Reason.UNSUPPORTED_FORMAT),
        (OverflowError("large"), Reason.CORRUPT),
        (KeyError("tag"), Reason.CORRUPT),
        (UserWarning("made an error"), Reason.CORRUPT),
        (VisionError(Reason.EMPTY, "kept"), Reason.EMPTY),
    ],
)
def test_every_error_of_pillow_has_a_reason(error, reason):
    with pytest.raises(VisionError) as caught, reasons():
        raise error
    assert caught.value.reason is reason


def test_warnings_as_errors_change_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, data in VALID.items():
            assert reason_of(data) is None, name
