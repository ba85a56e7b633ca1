"""Cut-outs: alpha of every format by the one decoder, sizes, turns."""

import io

import numpy as np
import pytest
from PIL import Image
from synth_builder import png, shape

from beam_vision.errors import Reason, VisionError
from beam_vision.synth.cutout import (
    background_pixels,
    is_opaque,
    open_background,
    open_cutout,
    open_rgba,
    transformed,
)
from beam_vision.synth.settings import SceneSettings

SETTINGS = SceneSettings()


def graded(mode="RGBA"):
    """Every alpha from 0 to 255, red rising to the right, opaque in its corners (so that nothing is cut)."""
    alpha = np.linspace(0, 255, 64).round().astype(np.uint8)[None].repeat(32, 0)
    alpha[0, 0] = alpha[-1, -1] = 255
    red = np.arange(64, dtype=np.uint8)[None].repeat(32, 0) * 4
    return Image.fromarray(np.dstack([red, np.full_like(red, 120), red[:, ::-1], alpha])).convert(mode)


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF"])
def test_alpha_and_colours_come_through(format_name):
    file = io.BytesIO()
    graded().save(file, format_name, **({"lossless": True, "exact": True} if format_name == "WEBP" else {}))
    found = np.asarray(open_cutout(file.getvalue(), SETTINGS)).astype(int)
    wanted = np.asarray(graded()).astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found[..., 3] - wanted[..., 3]).max() <= 1
    solid = wanted[..., 3] > 200
    assert np.abs(found - wanted)[solid].max() <= 2


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (20, 10))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (5, 2, 15, 8))
    file = io.BytesIO()
    image.save(file, "PNG", transparency=0)
    found = open_cutout(file.getvalue(), SETTINGS)
    assert found.size == (10, 6)
    assert (np.asarray(found) == (0, 0, 255, 255)).all()


def test_margins_are_cut_off_and_no_alpha_is_opaque():
    bar = png(shape("bar", (9, 8, 7), size=(40, 24)))
    assert open_cutout(bar, SETTINGS).size == (40, 24)
    assert not is_opaque(open_rgba(bar, SETTINGS))
    photo = open_cutout(png(Image.new("RGB", (30, 20), (1, 2, 3)), "JPEG"), SETTINGS)
    assert photo.size == (30, 20)
    assert is_opaque(photo)


@pytest.mark.parametrize("alpha", [0, 100])
def test_a_cutout_that_nobody_would_see_is_refused(alpha):
    with pytest.raises(VisionError) as caught:
        open_cutout(png(Image.new("RGBA", (8, 8), (1, 2, 3, alpha))), SETTINGS)
    assert caught.value.reason is Reason.EMPTY


def test_large_files_are_shrunk():
    settings = SceneSettings(width_px=100, height_px=80, scale=(0.1, 0.5))
    assert max(open_cutout(png(Image.new("RGBA", (900, 600), (1, 2, 3, 255))), settings).size) == 80
    assert max(open_background(png(Image.new("RGB", (2000, 1000)), "JPEG"), settings).size) == 300


@pytest.mark.parametrize("longer_px", [7.4, 20, 60])
def test_size_and_turn(longer_px):
    image = shape("bar", (100, 100, 100), size=(40, 20), margin=0)
    still = transformed(image, longer_px=longer_px, rotation_deg=0, flip=False, lighter=1)
    assert still.shape == (round(longer_px / 2), round(longer_px), 4)
    assert (still[..., 3] == 1).all()
    turned = transformed(image, longer_px=longer_px, rotation_deg=90, flip=False, lighter=1)
    assert turned.shape[:2] == still.shape[1::-1]
    slanted = transformed(image, longer_px=longer_px, rotation_deg=30, flip=False, lighter=1)
    assert slanted.shape[0] > still.shape[0]


def test_colours_do_not_bleed_in_from_what_is_transparent():
    image = shape("disc", (250, 240, 230), size=(60, 60))
    found = transformed(image, longer_px=23, rotation_deg=17, flip=False, lighter=1)
    seen = found[..., 3] > 0.3  # where a colour has enough steps
    assert np.abs(found[seen][:, :3] - (250, 240, 230)).max() <= 6


def test_flip_and_brightness():
    left_red = Image.new("RGBA", (20, 10), (0, 0, 100, 255))
    left_red.paste((100, 0, 0, 255), (0, 0, 10, 10))
    found = transformed(left_red, longer_px=20, rotation_deg=0, flip=True, lighter=1.5)
    assert found[5, 2, :3].tolist() == [0, 0, 150]
    assert found[5, 17, :3].tolist() == [150, 0, 0]


@pytest.mark.parametrize("size", [(400, 300), (90, 400), (20, 10)])
def test_a_background_fills_the_scene(size):
    settings = SceneSettings(width_px=80, height_px=60, brightness=0)
    flat = Image.new("RGB", size, (10, 200, 30))
    for seed in range(5):
        found = background_pixels(flat, np.random.default_rng(seed), settings)
        assert found.shape == (60, 80, 3)
        assert (found == (10, 200, 30)).all()
