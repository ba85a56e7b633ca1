"""What of an image is stored: which files as they are, which anew, and that pixels survive."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.images import codec
from beam_vision.records.encode import GRID_PX, EncodeSettings, PixelSums, pixel_sums, store
from beam_vision.testing.images import (
    ORIENTATIONS,
    encode,
    encode_image,
    hostile_files,
    photo,
    png_chunk,
    png_with_chunk,
    turned,
)

PIXELS = photo(3, 60, 40)
GREY = PIXELS[:, :, 0]
PLAIN = {
    "jpeg": encode(PIXELS, "jpeg"),
    "jpeg_progressive": encode(PIXELS, "jpeg", progressive=True),
    "jpeg_grey": encode(GREY, "jpeg"),
    "png": encode(PIXELS, "png"),
    "png_grey": encode(GREY, "png"),
}
ANEW_AS_PNG = {
    "png_alpha": encode(np.dstack([PIXELS, GREY]), "png"),
    "png_transparent_colour": png_with_chunk(encode(PIXELS, "png"), b"tRNS", bytes(6)),
    "png_palette": encode_image(Image.fromarray(PIXELS).quantize(16), "png"),
    "png_16_bit": encode(GREY.astype(np.uint16) * 257, "png"),
    "png_turned": turned(PIXELS, 6, "png"),
    "gif": encode(PIXELS, "gif"),
    "bmp": encode(PIXELS, "bmp"),
    "tiff": encode(PIXELS, "tiff"),
}
ANEW_AS_JPEG = {
    "jpeg_turned": turned(PIXELS, 6),
    "jpeg_cmyk": encode_image(Image.fromarray(PIXELS).convert("CMYK"), "jpeg"),
    "webp": encode(PIXELS, "webp"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_stored_as_they_are(name):
    stored = store(PLAIN[name], EncodeSettings())
    assert stored.data is PLAIN[name]
    assert (stored.format, stored.width_px, stored.height_px) == (name.split("_")[0], 60, 40)


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_stored_as_it_is_any_reader_reads_alike(name):
    import tensorflow as tf

    data = store(PLAIN[name], EncodeSettings()).data
    if name.startswith("png"):
        theirs = tf.io.decode_png(data, channels=3)
    else:  # by default TensorFlow decodes JPEG in a faster, less exact way: up to 4 of 255 off
        theirs = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(codec.decode(data).pixels, theirs)


@pytest.mark.parametrize("name", {**ANEW_AS_PNG, **ANEW_AS_JPEG})
def test_all_others_are_stored_upright_and_plain(name):
    data = {**ANEW_AS_PNG, **ANEW_AS_JPEG}[name]
    stored = store(data, EncodeSettings())
    before = codec.decode(data)
    assert stored.format == ("png" if name in ANEW_AS_PNG else "jpeg")
    assert (stored.width_px, stored.height_px) == (before.width_px, before.height_px)
    header = codec.read_header(stored.data)
    assert (header.format.lower(), header.mode, header.orientation) == (stored.format, "RGB", 1)
    after = codec.decode(stored.data).pixels
    if name in ANEW_AS_PNG:
        np.testing.assert_array_equal(after, before.pixels)
    else:
        np.testing.assert_array_equal(
            after, codec.decode(codec.encode_jpeg(before.pixels, quality=95)).pixels
        )


def test_16_bit_rgb_is_not_passed_through():
    samples = np.repeat(PIXELS.astype(">u2") * 257, 1, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    import struct
    import zlib

    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, chunk)
        for kind, chunk in (
            (b"IHDR", struct.pack(">IIBBBBB", 60, 40, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
    )
    stored = store(data, EncodeSettings())
    assert stored.data is not data
    np.testing.assert_array_equal(codec.decode(stored.data).pixels, PIXELS)


@pytest.mark.parametrize("format_name", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_exif_orientation_ends_upright(orientation, format_name):
    data = turned(PIXELS, orientation, format_name)
    stored = store(data, EncodeSettings(encode="png"))
    assert (stored.width_px, stored.height_px) == (60, 40)
    upright = np.asarray(Image.open(io.BytesIO(stored.data)))  # a reader that knows of no EXIF
    np.testing.assert_array_equal(upright, codec.decode(data).pixels)


@pytest.mark.parametrize("name", PLAIN)
def test_jpeg_and_png_encode_everything_anew(name):
    pixels = codec.decode(PLAIN[name]).pixels
    assert store(PLAIN[name], EncodeSettings(encode="png")).data == codec.encode_png(pixels)
    for quality in (60, 95):
        stored = store(PLAIN[name], EncodeSettings(encode="jpeg", jpeg_quality=quality))
        assert stored.data == codec.encode_jpeg(pixels, quality=quality)
        assert stored.format == "jpeg"


@pytest.mark.parametrize("encoding", ["passthrough", "jpeg", "png"])
def test_max_side_shrinks_what_is_larger(encoding):
    stored = store(PLAIN["jpeg"], EncodeSettings(encode=encoding, max_side_px=30))
    assert (stored.width_px, stored.height_px) == (30, 20)
    assert stored.format == ("png" if encoding == "png" else "jpeg")
    assert codec.decode(stored.data).pixels.shape == (20, 30, 3)


def test_max_side_leaves_what_fits():
    assert store(PLAIN["jpeg"], EncodeSettings(max_side_px=60)).data is PLAIN["jpeg"]


@pytest.mark.parametrize(
    "settings", [EncodeSettings(), EncodeSettings(encode="png"), EncodeSettings(max_side_px=16)]
)
def test_what_can_not_be_decoded_has_its_reason(settings):
    for name, (data, reason) in hostile_files().items():
        with pytest.raises(VisionError) as caught:
            store(data, settings)
        assert caught.value.reason is reason, name


def test_max_pixels():
    with pytest.raises(VisionError) as caught:
        store(PLAIN["png"], EncodeSettings(max_pixels=60 * 40 - 1))
    assert caught.value.reason is Reason.TOO_LARGE
    store(PLAIN["png"], EncodeSettings(max_pixels=60 * 40))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("max_side", [None, 20])
def test_the_size_and_orientation_of_the_original_are_told(orientation, max_side):
    """Boxes are resolved by them."""
    stored = store(turned(PIXELS, orientation), EncodeSettings(max_side_px=max_side))
    assert (stored.upright_px, stored.orientation) == ((60, 40), orientation)
    assert (stored.width_px, stored.height_px) == ((20, 13) if max_side else (60, 40))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5))
def test_pixel_sums_are_those_of_a_grid(width, height, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    step = math.ceil(max(width, height) / GRID_PX)
    grid = pixels[::step, ::step].astype(float).reshape(-1, 3)
    sums = pixel_sums(pixels)
    assert sums.count == len(grid) <= GRID_PX**2
    np.testing.assert_allclose(sums.mean, grid.mean(axis=0))
    np.testing.assert_allclose(sums.std, grid.std(axis=0), atol=1e-9)


def test_pixel_sums_add_up():
    halves = [pixel_sums(PIXELS[:20]), pixel_sums(PIXELS[20:])]
    assert sum(halves, PixelSums()) == pixel_sums(PIXELS)
    assert PixelSums().mean == PixelSums().std == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "values",
    [{"encode": "webp"}, {"jpeg_quality": 0}, {"jpeg_quality": 101}, {"max_side_px": 15}, {"max_pixels": 0}],
)
def test_settings_out_of_range(values):
    with pytest.raises(UsageError):
        EncodeSettings(**values)


def test_each_setting_changes_the_digest():
    settings = [{}, {"encode": "png"}, {"jpeg_quality": 90}, {"max_side_px": 99}, {"max_pixels": 99}]
    assert len({EncodeSettings(**values).digest for values in settings}) == len(settings)
