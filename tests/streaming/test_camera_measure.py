import numpy as np
import pytest
from PIL import Image, ImageFilter

from beam_vision.errors import VisionError
from beam_vision.images.codec import decode_grey
from beam_vision.streaming.health import WatchSettings
from beam_vision.streaming.measure import bytes_digest, measure, sharpness
from beam_vision.testing import images

PHOTO = images.photo(5, 640, 480)
HOSTILE = images.hostile_files()


def blurred(radius_px):
    return np.asarray(Image.fromarray(PHOTO).filter(ImageFilter.GaussianBlur(radius_px)))


def test_brightness_is_the_mean_grey_value():
    assert measure(images.encode(np.full((60, 80, 3), 40, np.uint8), "png")).brightness == 40
    assert measure(images.encode(np.zeros((60, 80, 3), np.uint8), "jpeg")).brightness == 0


def test_sharpness_of_hand_made_pictures():
    assert sharpness(np.full((5, 5), 9, np.uint8)) == 0
    checks = np.indices((5, 5)).sum(axis=0) % 2 * 255  # the Laplacian is 4 * 255 up or down everywhere
    inner = np.array([1020 if (r + c) % 2 == 0 else -1020 for r in range(1, 4) for c in range(1, 4)])
    assert sharpness(checks.astype(np.uint8)) == pytest.approx(inner.var())


def test_sharpness_falls_with_blur_and_crosses_the_default_bound():
    found = [measure(images.encode(blurred(radius), "jpeg")).sharpness for radius in (0, 2, 8, 20)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 10 * WatchSettings().blurred_below
    assert found[-1] < WatchSettings().blurred_below


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_what_cannot_be_decoded_gives_no_measure(name):
    data, reason = HOSTILE[name]
    if "one_" in name:  # too small for a model, not for a look
        assert measure(data) is not None
    else:
        assert measure(data) is None, reason


@pytest.mark.parametrize("format_name", ["jpeg", "png", "webp", "bmp"])
def test_a_grey_look_is_the_picture_in_small(format_name):
    grey = decode_grey(images.encode(PHOTO, format_name), 128, 72)
    exact = np.asarray(Image.fromarray(PHOTO).convert("L").resize((128, 72), Image.Resampling.BOX))
    assert grey.shape == (72, 128)
    assert np.abs(grey.astype(int) - exact).mean() < 4


def test_a_jpeg_of_cmyk_or_grey_can_be_looked_at():
    for mode in ("CMYK", "L"):
        data = images.encode_image(Image.fromarray(PHOTO).convert(mode), "jpeg")
        assert decode_grey(data, 128, 72).std() > 10


def test_a_look_refuses_a_large_header():
    with pytest.raises(VisionError, match="too_large"):
        decode_grey(images.png_bomb(), 128, 72)


def test_the_digest_tells_files_apart():
    assert bytes_digest(b"a") == bytes_digest(b"a") != bytes_digest(b"b")
