"""Every format and pixel type against values worked out by hand or by plain Pillow and NumPy."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from beam_vision.images.codec import DecodeSettings, decode, encode_jpeg, encode_png, read_header
from beam_vision.images.header import Header
from beam_vision.testing.images import (
    ORIENTATIONS,
    encode,
    encode_image,
    lossless_variants,
    photo,
    png_chunk,
    png_with_chunk,
    stored_for,
    turned,
)

PIXELS = photo(11, 37, 23)
TINY = DecodeSettings(min_side_px=1)
RED_BACKGROUND = DecodeSettings(background_rgb=(200, 10, 30), min_side_px=1)


def raw_png(rows, bit_depth, color_type, *, extra=b""):
    """A PNG of packed rows, for the pixel types that Pillow doesn't write."""
    height, width = len(rows), 4
    header = struct.pack(">IIBBBBB", width, height, bit_depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\x00" + row for row in rows))
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("name", lossless_variants(PIXELS))
def test_lossless_files_decode_to_exactly_their_pixels(name):
    decoded = decode(lossless_variants(PIXELS)[name])
    np.testing.assert_array_equal(decoded.pixels, PIXELS)
    assert (decoded.width_px, decoded.height_px) == (37, 23)
    assert decoded.affine == (1, 1, 0, 0)
    assert decoded.format.lower() == name.split("_")[0]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}, {"optimize": True}]
)
def test_jpeg_as_pillow_reads_it(options):
    data = encode(PIXELS, "jpeg", **options)
    np.testing.assert_array_equal(decode(data).pixels, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("format_name", ["jpeg", "png", "tiff", "bmp"])
def test_grey_becomes_three_equal_channels(format_name):
    data = encode(PIXELS[:, :, 0], format_name)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    for settings in (DecodeSettings(), DecodeSettings(height_px=9, width_px=8, resize="letterbox")):
        pixels = decode(data, settings).pixels
        assert pixels.shape[2] == 3
        assert np.ptp(pixels, axis=2).max() == 0
    np.testing.assert_array_equal(decode(data).pixels[:, :, 1], expected)


@pytest.mark.parametrize("format_name", ["png", "bmp", "tiff"])
def test_one_bit_is_black_and_white(format_name):
    bits = np.random.default_rng(0).random((6, 13)) < 0.5
    data = encode_image(Image.fromarray(bits), format_name)
    np.testing.assert_array_equal(decode(data).pixels[:, :, 0], bits * 255)


@pytest.mark.parametrize("format_name", ["png", "gif", "bmp", "tiff"])
def test_palette(format_name):
    image = Image.fromarray(PIXELS).quantize(16)
    np.testing.assert_array_equal(
        decode(encode_image(image, format_name)).pixels, np.asarray(image.convert("RGB"))
    )


def test_palette_transparency_shows_the_background():
    indices = np.array([[0, 1, 2, 1]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    gif = encode_image(image, "gif", transparency=1)
    solid = [[10, 20, 30], [200, 10, 30], [70, 80, 90], [200, 10, 30]]
    assert decode(gif, RED_BACKGROUND).pixels.tolist() == [solid]
    png = encode_image(image, "png", transparency=bytes([255, 0, 51]))
    blended = [70 * 0.2 + 200 * 0.8, 80 * 0.2 + 10 * 0.8, 90 * 0.2 + 30 * 0.8]
    solid[2] = [round(value) for value in blended]
    assert decode(png, RED_BACKGROUND).pixels.tolist() == [solid]


@pytest.mark.parametrize(
    ("format_name", "options"), [("png", {}), ("webp", {"lossless": True, "exact": True}), ("tiff", {})]
)
def test_alpha_is_composited_onto_the_background(format_name, options):
    rgba = np.dstack([PIXELS, (np.arange(PIXELS[..., 0].size) % 256).reshape(PIXELS.shape[:2])])
    data = encode(rgba.astype(np.uint8), format_name, **options)
    alpha = rgba[:, :, 3:] / 255
    for settings in (DecodeSettings(), RED_BACKGROUND):
        expected = PIXELS * alpha + np.array(settings.background_rgb) * (1 - alpha)
        assert np.abs(decode(data, settings).pixels - expected).max() <= 0.51


def test_grey_with_alpha():
    image = Image.merge("LA", [Image.new("L", (3, 2), 100), Image.new("L", (3, 2), 51)])
    assert decode(encode_image(image, "png"), RED_BACKGROUND).pixels[0, 0].tolist() == [180, 28, 44]


def test_16_bit_grey_is_scaled_not_cut_off():
    values = np.array([[0, 1, 128, 129, 255, 257, 32768, 65535]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    for format_name in ("png", "tiff"):
        data = encode(values, format_name)
        np.testing.assert_array_equal(decode(data, TINY).pixels[:, :, 0], expected)
        assert read_header(data).mode.startswith("I;16")
    big_endian = encode_image(Image.frombytes("I;16B", (8, 1), values.astype(">u2").tobytes()), "tiff")
    np.testing.assert_array_equal(decode(big_endian, TINY).pixels[:, :, 2], expected)


def test_16_bit_rgb_keeps_the_high_bytes():
    values = np.array([[[0, 65535, 256], [257, 511, 512]] * 2], ">u2")
    pixels = decode(raw_png([values.tobytes()], 16, 2), TINY).pixels
    assert pixels[0, :2].tolist() == [[0, 255, 1], [1, 1, 2]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, np.nan], [0, 128, 255, 0]),
        ([0.0, 7.4, 254.6, 255.0], [0, 7, 255, 255]),
        ([0.0, 257.0, 32896.0, 65535.0], [0, 1, 128, 255]),
        ([-2.0, -1.0, 0.0, 2.0], [0, 64, 128, 255]),
        ([0.0, 50_000.0, 100_000.0, np.inf], [0, 128, 255, 255]),
        ([-np.inf, np.nan, np.inf, np.inf], [0, 0, 255, 255]),
        ([-7.0, -7.0, -7.0, -7.0], [0, 0, 0, 0]),
    ],
)
def test_float_tiff_takes_the_smallest_known_range_that_holds_it(values, expected):
    data = encode(np.array([values], np.float32), "tiff")
    assert decode(data, TINY).pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 1, 0], [0, 1, 1, 0]),
        ([0, 1, 200, 255], [0, 1, 200, 255]),
        ([0, 257, 32896, 65535], [0, 1, 128, 255]),
        ([-100, 0, 0, 100], [0, 128, 128, 255]),
    ],
)
def test_32_bit_integer_tiff(values, expected):
    data = encode(np.array([values], np.int32), "tiff")
    assert decode(data, TINY).pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("bit_depth", "packed", "key", "transparent"),
    [
        (1, b"\x50", 1, [0, 1, 0, 1]),
        (2, b"\x1b", 2, [0, 0, 1, 0]),
        (4, b"\x0f\x5a", 5, [0, 0, 1, 0]),
        (8, b"\x00\x07\x08\xff", 7, [0, 1, 0, 0]),
        (16, b"\x00\x00\x12\x34\x12\x35\xff\xff", 0x1234, [0, 1, 0, 0]),
    ],
)
def test_grey_png_with_a_transparent_value(bit_depth, packed, key, transparent):
    opaque = decode(raw_png([packed], bit_depth, 0), TINY).pixels
    keyed = raw_png([packed], bit_depth, 0, extra=png_chunk(b"tRNS", struct.pack(">H", key)))
    expected = np.where(np.array([transparent])[:, :, None], RED_BACKGROUND.background_rgb, opaque)
    np.testing.assert_array_equal(decode(keyed, RED_BACKGROUND).pixels, expected)


def test_rgb_png_with_a_transparent_colour():
    row = bytes([1, 2, 3, 4, 5, 6, 1, 2, 3, 1, 2, 4])
    keyed = raw_png([row], 8, 2, extra=png_chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert decode(keyed, RED_BACKGROUND).pixels.tolist() == [
        [[200, 10, 30], [4, 5, 6], [200, 10, 30], [1, 2, 4]]
    ]
    deep = np.array([[[1, 2, 3]] * 4], ">u2").tobytes()
    kept = raw_png([deep], 16, 2, extra=png_chunk(b"tRNS", struct.pack(">HHH", 0, 0, 0)))
    assert decode(kept, RED_BACKGROUND).pixels.tolist() == [[[0, 0, 0]] * 4]


def test_cmyk_jpeg_with_and_without_adobes_marker():
    cyan, magenta, yellow, black = 200, 40, 90, 60
    image = Image.new("CMYK", (16, 16), (cyan, magenta, yellow, black))
    inverted = encode_image(image, "jpeg", quality=100)
    marker = inverted.index(b"\xff\xee")
    plain = inverted[:marker] + inverted[marker + 16 :]
    assert b"Adobe" in inverted
    assert b"Adobe" not in plain
    ink = np.array([cyan, magenta, yellow])
    expected = (255 - ink) * (255 - black) / 255
    assert np.abs(decode(inverted).pixels[8, 8] - expected).max() < 3
    # The same bytes, now taken as plain ink values: the complement of what was written.
    assert np.abs(decode(plain).pixels[8, 8] - ink * black / 255).max() < 3


def test_cmyk_lab_and_ycbcr_tiff():
    cmyk = encode_image(Image.new("CMYK", (4, 4), (200, 40, 90, 0)), "tiff")
    assert decode(cmyk).pixels[0, 0].tolist() == [55, 215, 165]
    white = encode_image(Image.new("LAB", (4, 4), (255, 128, 128)), "tiff")
    assert decode(white).pixels.min() >= 254
    ycbcr = encode_image(Image.new("YCbCr", (16, 16), (128, 128, 128)), "tiff", compression="jpeg")
    assert decode(ycbcr).pixels[0, 0].tolist() == [128, 128, 128]


@pytest.mark.parametrize("format_name", ["gif", "tiff", "webp", "png"])
def test_of_several_frames_the_first_is_taken(format_name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if format_name == "webp" else {}
    data = encode_image(frames[0], format_name, save_all=True, append_images=frames[1:], **options)
    assert np.unique(decode(data).pixels.reshape(-1, 3), axis=0).tolist() == [[250, 0, 0]]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_turns_exactly_as_exif_says(orientation):
    upright = photo(3, 12, 7)
    stored = Image.fromarray(stored_for(upright, orientation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(stored)), upright)  # the helper is right
    files = {
        "png": turned(upright, orientation, "png"),
        "webp": turned(upright, orientation, "webp", lossless=True),
        "tiff": turned(upright, orientation, "tiff"),
        "lzw": turned(upright, orientation, "tiff", compression="tiff_lzw"),
    }
    for name, data in files.items():
        decoded = decode(data)
        np.testing.assert_array_equal(decoded.pixels, upright, err_msg=name)
        assert (decoded.width_px, decoded.height_px) == (12, 7)
        header = read_header(data)
        assert header.orientation == orientation
        assert (header.width_px, header.height_px) == stored.size
        assert header.upright_size == (12, 7)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_of_a_jpeg(orientation):
    data = turned(photo(3, 24, 16), orientation, "jpeg", quality=95)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data).pixels, np.asarray(expected))


def test_a_resized_turned_image_is_the_resized_upright_image():
    upright = photo(8, 90, 61)
    for resize in ("stretch", "letterbox", "center_crop"):
        settings = DecodeSettings(height_px=20, width_px=30, resize=resize)
        expected = decode(encode(upright, "png"), settings)
        for orientation in ORIENTATIONS:
            decoded = decode(turned(upright, orientation, "png"), settings)
            assert decoded.affine == expected.affine
            difference = decoded.pixels.astype(int) - expected.pixels
            assert np.abs(difference).max() <= 2, (resize, orientation)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + bytes(30),
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x09\x00\x00",
        b"Exif\x00\x00garbage that is no directory",
    ],
)
def test_broken_exif_is_upright(exif):
    data = encode(PIXELS, "jpeg", exif=exif)
    assert read_header(data).orientation == 1
    np.testing.assert_array_equal(decode(data).pixels, decode(encode(PIXELS, "jpeg")).pixels)


def test_read_header():
    assert read_header(turned(PIXELS, 6, "jpeg")) == Header("JPEG", 23, 37, "RGB", 6)
    assert read_header(encode(PIXELS, "gif")) == Header("GIF", 37, 23, "P", 1)


def test_what_pixels_do_not_depend_on_cannot_spoil_a_png():
    png = encode(PIXELS, "png")
    bombs = {
        b"zTXt": b"note\x00\x00" + zlib.compress(bytes(2_000_000)),
        b"iTXt": b"note\x00\x01\x00\x00\x00" + zlib.compress(bytes(2_000_000)),
        b"iCCP": b"profile\x00\x00" + zlib.compress(bytes(2_000_000)),
        b"tEXt": b"note\x00" + bytes(70_000_000),
        b"acTL": b"\xff",
    }
    for kind, data in bombs.items():
        np.testing.assert_array_equal(decode(png_with_chunk(png, kind, data)).pixels, PIXELS)
    bad_sum = bytearray(png_with_chunk(png, b"tEXt", b"note\x00words"))
    bad_sum[33 + 8] ^= 1
    np.testing.assert_array_equal(decode(bytes(bad_sum)).pixels, PIXELS)
    np.testing.assert_array_equal(decode(png + b"trailing").pixels, PIXELS)


def test_real_photographs_as_pillow_reads_them():
    data_dir = Path(pytest.importorskip("skimage").__file__).parent / "data"
    names = ["rocket.jpg", "retina.jpg", "chelsea.png", "logo.png", "camera.png", "multipage.tif"]
    for name in names:
        data = (data_dir / name).read_bytes()
        image = Image.open(io.BytesIO(data)).convert("RGBA")
        expected = Image.new("RGBA", image.size, (255, 255, 255, 255))
        expected.alpha_composite(image)
        difference = decode(data).pixels.astype(int) - np.asarray(expected)[:, :, :3]
        assert np.abs(difference).max() <= 1, name


def test_encoders():
    np.testing.assert_array_equal(decode(encode_png(PIXELS)).pixels, PIXELS)
    np.testing.assert_array_equal(decode(encode_png(PIXELS[:, :, 0])).pixels[:, :, 0], PIXELS[:, :, 0])
    flat = np.full((16, 16, 3), (10, 120, 240), np.uint8)
    assert np.abs(decode(encode_jpeg(flat)).pixels.astype(int) - flat).max() <= 3
    assert len(encode_jpeg(PIXELS, quality=50)) < len(encode_jpeg(PIXELS, quality=95))
