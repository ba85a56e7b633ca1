"""Settings, resizing, decoding at reduced scale, threads."""

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beam_vision.errors import UsageError
from beam_vision.images.codec import INTERPOLATIONS, DecodeSettings, decode
from beam_vision.images.geometry import RESIZE_MODES
from beam_vision.testing.images import encode, photo, turned

OTHER_VALUES = {
    "height_px": 31,
    "width_px": 33,
    "resize": "letterbox",
    "interpolation": "lanczos",
    "background_rgb": (1, 2, 3),
    "pad_rgb": (4, 5, 6),
    "max_pixels": 12345,
    "min_side_px": 1,
    "max_side_px": 100,
    "reduced_decode": False,
}


def weights(source_low, source_high, source_side, out_side):
    """The rows of an antialiased linear interpolation, ``[out_side, source_side]``, from its definition."""
    step = (source_high - source_low) / out_side
    support = max(step, 1.0)
    centres = source_low + (np.arange(out_side)[:, None] + 0.5) * step
    triangle = np.maximum(0, 1 - np.abs(np.arange(source_side)[None, :] + 0.5 - centres) / support)
    return triangle / triangle.sum(axis=1, keepdims=True)


def resized_by_definition(pixels, plan_source, out_width, out_height):
    left, top, right, bottom = plan_source
    across = weights(left, right, pixels.shape[1], out_width)
    down = weights(top, bottom, pixels.shape[0], out_height)
    return np.einsum("yh,xw,hwc->yxc", down, across, pixels.astype(np.float64))


@pytest.mark.parametrize(("out_width", "out_height"), [(13, 29), (90, 20), (61, 47), (7, 7)])
def test_resize_is_the_antialiased_linear_one_of_the_part_that_the_affine_says(out_width, out_height):
    pixels = photo(2, 61, 47)
    data = encode(pixels, "png")
    for mode in RESIZE_MODES:
        settings = DecodeSettings(
            width_px=out_width, height_px=out_height, resize=mode, reduced_decode=False, pad_rgb=(9, 8, 7)
        )
        decoded = decode(data, settings)
        assert decoded.pixels.shape == (out_height, out_width, 3)
        assert decoded.pixels.dtype == np.uint8
        ax, ay, tx, ty = decoded.affine
        if mode == "letterbox":
            target = [round(v) for v in (tx, ty, tx + 61 * ax, ty + 47 * ay)]
            source = (0, 0, 61, 47)
        else:
            target = [0, 0, out_width, out_height]
            source = (-tx / ax, -ty / ay, (out_width - tx) / ax, (out_height - ty) / ay)
        left, top, right, bottom = target
        inner = decoded.pixels[top:bottom, left:right]
        expected = resized_by_definition(pixels, source, right - left, bottom - top)
        assert np.abs(inner - expected).max() < 2, mode
        bars = np.ones((out_height, out_width), bool)
        bars[top:bottom, left:right] = False
        assert (decoded.pixels[bars] == (9, 8, 7)).all()


def test_the_affine_says_where_a_mark_went():
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[180:210, 240:280] = 255
    for mode in RESIZE_MODES:
        for orientation in (1, 6):
            data = turned(pixels, orientation, "jpeg", quality=95)
            decoded = decode(data, DecodeSettings(width_px=64, height_px=80, resize=mode, pad_rgb=(0, 0, 0)))
            weight = decoded.pixels[:, :, 0].astype(float)
            x = (weight.sum(axis=0) * (np.arange(64) + 0.5)).sum() / weight.sum()
            y = (weight.sum(axis=1) * (np.arange(80) + 0.5)).sum() / weight.sum()
            ax, ay, tx, ty = decoded.affine
            assert (x, y) == pytest.approx((ax * 260 + tx, ay * 195 + ty), abs=0.15), (mode, orientation)


def test_max_side_shrinks_only():
    data = encode(photo(2, 60, 40), "png")
    assert decode(data, DecodeSettings(max_side_px=30)).pixels.shape == (20, 30, 3)
    assert decode(data, DecodeSettings(max_side_px=60)).pixels.shape == (40, 60, 3)
    upright = decode(turned(photo(2, 60, 40), 6, "png"), DecodeSettings(max_side_px=30))
    assert upright.pixels.shape == (20, 30, 3)
    assert (upright.width_px, upright.height_px) == (60, 40)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_interpolations_are_pillows(interpolation):
    pixels = photo(4, 50, 50)
    settings = DecodeSettings(
        width_px=20, height_px=20, interpolation=interpolation, reduced_decode=False, min_side_px=1
    )
    expected = Image.fromarray(pixels).resize((20, 20), INTERPOLATIONS[interpolation])
    np.testing.assert_array_equal(decode(encode(pixels, "png"), settings).pixels, np.asarray(expected))


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("orientation", [1, 8])
@pytest.mark.parametrize(("width", "height"), [(1601, 1203), (999, 1500)])
def test_reduced_decode_is_close_to_the_full_one(mode, orientation, width, height):
    data = turned(photo(21, width, height), orientation, "jpeg", quality=90)
    full = DecodeSettings(width_px=96, height_px=80, resize=mode, reduced_decode=False)
    reduced = replace(full, reduced_decode=True)
    difference = decode(data, reduced).pixels.astype(float) - decode(data, full).pixels
    assert 0 < np.abs(difference).mean() < 1.5
    assert decode(data, reduced).affine == decode(data, full).affine


def test_reduced_decode_keeps_the_place_of_the_last_partial_block():
    ramp = np.linspace(0, 255, 135).astype(np.uint8)  # 16.875 blocks of 8 pixels
    data = encode(np.repeat(np.tile(ramp, (135, 1))[:, :, None], 3, axis=2), "jpeg", quality=95)
    full = DecodeSettings(width_px=8, height_px=8, reduced_decode=False)
    difference = (
        decode(data, replace(full, reduced_decode=True)).pixels.astype(int) - decode(data, full).pixels
    )
    assert np.abs(difference).max() <= 3


def test_reduced_decode_of_real_photographs():
    data_dir = Path(pytest.importorskip("skimage").__file__).parent / "data"
    for name in ("rocket.jpg", "retina.jpg", "hubble_deep_field.jpg", "coffee.png"):
        data = (data_dir / name).read_bytes()
        full = DecodeSettings(width_px=80, height_px=80, reduced_decode=False)
        difference = decode(data, replace(full, reduced_decode=True)).pixels.astype(float)
        difference -= decode(data, full).pixels
        assert np.abs(difference).mean() < 1.5, name


def test_reduced_decode_leaves_images_alone_that_are_not_twice_as_large():
    data = encode(photo(3, 190, 150), "jpeg")
    settings = DecodeSettings(width_px=100, height_px=100)
    expected = Image.open(io.BytesIO(data)).resize((100, 100), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode(data, settings).pixels, np.asarray(expected))


def test_long_thin_images_keep_at_least_one_pixel():
    data = encode(photo(3, 400, 2), "png")
    decoded = decode(data, DecodeSettings(width_px=16, height_px=16, resize="letterbox"))
    assert decoded.affine == (16 / 400, 1 / 2, 0, 7)
    assert decode(data, DecodeSettings(max_side_px=10)).pixels.shape == (1, 10, 3)
    assert decode(data, DecodeSettings(width_px=9, height_px=9, resize="center_crop")).pixels.shape == (
        9,
        9,
        3,
    )


def test_threads_decode_the_same_pixels_and_may_not_write_to_them():
    files = [encode(photo(seed, 300, 200), name) for seed, name in enumerate(["jpeg", "png", "webp", "gif"])]
    settings = DecodeSettings(width_px=40, height_px=40)
    alone = [decode(data, settings).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, settings).pixels, files * 10))
    for index, pixels in enumerate(together):
        np.testing.assert_array_equal(pixels, alone[index % len(files)])
        assert pixels.flags.c_contiguous
        assert not pixels.flags.writeable


def test_settings_survive_json_and_every_one_changes_the_digest():
    base = DecodeSettings(height_px=30, width_px=33)
    seen = {base.digest, DecodeSettings().digest}
    assert len(seen) == 2
    for name, value in OTHER_VALUES.items():
        other = DecodeSettings(max_side_px=100) if name == "max_side_px" else replace(base, **{name: value})
        if other == base:
            continue
        assert other.digest not in seen, name
        seen.add(other.digest)
        stored = json.loads(json.dumps(other.to_json()))
        assert DecodeSettings.from_json(stored) == other
        assert DecodeSettings.from_json(stored).digest == other.digest
    assert set(OTHER_VALUES) == set(base.to_json()), "a new setting needs its line here"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"height_px": 3}, "go together"),
        ({"height_px": 3, "width_px": 3, "max_side_px": 3}, "max_side_px"),
        ({"height_px": 0, "width_px": 3}, "height_px is 0"),
        ({"max_side_px": "64"}, "max_side_px is '64'"),
        ({"resize": "fit"}, "letterbox"),
        ({"interpolation": "cubic"}, "bicubic"),
        ({"pad_rgb": (0, 0)}, "pad_rgb"),
        ({"background_rgb": (0, 0, 256)}, "background_rgb"),
        ({"height": 3}, "height"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        DecodeSettings.from_json(settings)


def test_the_room_needs_neither_beam_nor_tensorflow():
    code = (
        "import sys, beam_vision.images.codec, beam_vision.images.boxes, beam_vision.images.hashing\n"
        "sys.exit(any(name in sys.modules for name in ('apache_beam', 'tensorflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
