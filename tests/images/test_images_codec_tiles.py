"""Tiles of a file: each is what the decoder gives for that part alone, and maps back to the whole."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.images.boxes import to_original
from beam_vision.images.codec import DecodeSettings, decode, decode_tiles
from beam_vision.images.geometry import RESIZE_MODES
from beam_vision.images.tiles import plan_tiles
from beam_vision.testing.images import ORIENTATIONS, encode, photo, turned

WIDTH, HEIGHT = 150, 90


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("format_name", ["png", "tiff"])
@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_a_tile_is_what_decode_gives_for_that_part(orientation, format_name, mode):
    upright = photo(3, WIDTH, HEIGHT)
    settings = DecodeSettings(width_px=20, height_px=24, resize=mode)
    data = turned(upright, orientation, format_name)
    tiles, found, size = decode_tiles(data, settings, 64, 0.2)
    assert (found, size) == (orientation, (WIDTH, HEIGHT))
    assert [tile for tile, _ in tiles] == list(plan_tiles(WIDTH, HEIGHT, 64, 0.2))
    assert len(tiles) == 6
    for tile, image in tiles:
        left, top, right, bottom = tile.box
        part = np.ascontiguousarray(upright[top:bottom, left:right])
        alone = decode(turned(part, orientation, format_name), settings)
        np.testing.assert_array_equal(image.pixels, alone.pixels)
        assert (image.width_px, image.height_px) == (WIDTH, HEIGHT)
        assert (image.format, image.orientation) == (format_name.upper(), orientation)
        box = np.array([[3.0, 4, 15, 17]])
        expected = to_original(box, alone.affine) + np.array([left, top, left, top])
        np.testing.assert_allclose(to_original(box, image.affine), expected)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_mark_that_is_found_in_a_tile_lies_in_the_image_where_it_was(mode, orientation):
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mark = [70, 30, 90, 44]
    upright[mark[1] : mark[3], mark[0] : mark[2]] = 255
    settings = DecodeSettings(
        width_px=256, height_px=192, resize=mode, interpolation="nearest", pad_rgb=(0, 0, 0)
    )
    tiles, _, _ = decode_tiles(turned(upright, orientation, "png"), settings, 64, 0.5)
    seen = 0
    for tile, image in tiles:
        left, top, right, bottom = tile.box
        rows, columns = np.nonzero(image.pixels[..., 0])
        if not len(rows):
            continue
        box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float64)
        if mode != "center_crop":
            visible = [max(mark[0], left), max(mark[1], top), min(mark[2], right), min(mark[3], bottom)]
            np.testing.assert_allclose(to_original(box, image.affine), [visible], atol=0.5)
            seen += 1
        elif box[0, 0] > 0 and box[0, 1] > 0 and box[0, 2] < 256 and box[0, 3] < 192:
            np.testing.assert_allclose(to_original(box, image.affine), [mark], atol=0.5)
            seen += 1
    assert seen >= 1


@pytest.mark.parametrize(("tile_px", "orientation"), [(640, 6), (1300, 1), (640, 1)])
def test_an_image_that_fits_a_tile_is_decoded_as_without_tiles(tile_px, orientation):
    side = (1200, 800) if tile_px == 1300 else (600, 333)
    data = turned(photo(5, *side), orientation, "jpeg", quality=90)
    settings = DecodeSettings(width_px=64, height_px=64, resize="letterbox")
    ((tile, image),), _, size = decode_tiles(data, settings, tile_px, 0.2)
    alone = decode(data, settings)
    np.testing.assert_array_equal(image.pixels, alone.pixels)
    assert replace(image, pixels=None) == replace(alone, pixels=None)
    assert tile.box == (0, 0, *size)


def test_native_tiles_are_the_pixels_themselves_in_every_mode_of_the_file():
    grey = photo(9, 100, 80)[:, :, 0]
    for data in (encode(photo(8, 100, 80), "jpeg"), encode(grey, "png"), encode(photo(8, 100, 80), "gif")):
        whole = decode(data).pixels
        again = np.zeros_like(whole)
        for tile, image in decode_tiles(data, DecodeSettings(), 30, 0.1)[0]:
            left, top, right, bottom = tile.box
            assert image.pixels.shape == (bottom - top, right - left, 3)
            assert image.affine == (1, 1, -left, -top)
            again[top:bottom, left:right] = image.pixels
        np.testing.assert_array_equal(again, whole)


def test_transparency_shows_the_background_in_tiles_too():
    rgba = np.zeros((40, 60, 4), np.uint8)
    tiles, _, _ = decode_tiles(encode(rgba, "png"), DecodeSettings(background_rgb=(1, 2, 3)), 30, 0)
    assert all((image.pixels == (1, 2, 3)).all() for _, image in tiles)


def test_tiles_can_be_had_in_any_order_and_from_threads():
    data = encode(photo(1, 200, 160), "jpeg")
    tiles, _, _ = decode_tiles(data, DecodeSettings(width_px=16, height_px=16), 50, 0.2)
    expected = [image.pixels for _, image in tiles]
    assert len(expected) == len(tiles) == len(plan_tiles(200, 160, 50, 0.2))
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: tiles[n][1].pixels, [*range(len(tiles))] * 3))
    for n, pixels in enumerate(together):
        np.testing.assert_array_equal(pixels, expected[n % len(tiles)])
        assert not pixels.flags.writeable
    assert tiles[-1][0] == tiles[len(tiles) - 1][0]
    assert [tile.index for tile, _ in tiles[1:4]] == [1, 2, 3]
    with pytest.raises(IndexError):
        tiles[len(tiles)]


def test_limits_hold_for_the_whole_image_and_damage_is_found_at_once():
    data = encode(photo(1, 200, 160), "jpeg")
    for bad, settings, reason in (
        (data, DecodeSettings(max_pixels=31_999), Reason.TOO_LARGE),
        (data, DecodeSettings(min_side_px=161), Reason.TOO_SMALL),
        (data[: len(data) // 2], DecodeSettings(), Reason.TRUNCATED),
        (b"text", DecodeSettings(), Reason.NOT_AN_IMAGE),
    ):
        with pytest.raises(VisionError) as caught:
            decode_tiles(bad, settings, 50, 0.2)
        assert caught.value.reason is reason
    decode_tiles(data, DecodeSettings(min_side_px=100), 50, 0.2)
    with pytest.raises(UsageError, match="overlap"):
        decode_tiles(data, DecodeSettings(), 50, 1)
