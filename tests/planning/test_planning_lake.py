"""What a sample says of a lake: shares, Wilson's interval, sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.images.codec import decode
from beam_vision.planning.lake import describe, shares, size_name, wilson
from beam_vision.planning.measure import Step, look
from beam_vision.testing import images
from beam_vision.types import ImageRef


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 200, 0.0009, 0.0278)],
)
def test_wilsons_interval_is_the_published_one(hits, of, low, high):
    assert wilson(hits, of) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_share_and_is_a_share(hits, misses):
    low, high = wilson(hits, hits + misses)
    assert 0 <= low <= high <= 1
    if hits + misses:
        assert low <= hits / (hits + misses) <= high
        assert low < high


def test_shares_come_largest_first():
    assert [(s.name, s.images, s.value) for s in shares("babc", 5)] == [
        ("b", 2, 0.4),
        ("a", 1, 0.2),
        ("c", 1, 0.2),
    ]


@pytest.mark.parametrize(
    ("pixels_mp", "name"),
    [
        (0.01, "under 0.1 MP"),
        (0.1, "0.1 to 0.5 MP"),
        (11.9, "4 to 12 MP"),
        (12, "12 MP and more"),
        (900, "12 MP and more"),
    ],
)
def test_sizes_have_names(pixels_mp, name):
    assert size_name(pixels_mp) == name


def test_a_lake_with_turned_and_broken_images(tmp_path):
    pixels = images.photo(1, 400, 300)
    files = {
        "plain.jpg": images.encode(pixels, "jpeg"),
        "turned.jpg": images.turned(pixels, 6),
        "small.png": images.encode(images.photo(2, 40, 30), "png"),
        "cut.jpg": images.encode(pixels, "jpeg")[:2000],
        "text.jpg": b"no image at all",
    }
    refs = []
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        refs.append(ImageRef(key=name, uri=str(tmp_path / name)))
    refs.append(ImageRef(key="gone", uri=str(tmp_path / "gone.jpg")))
    seen = list(look(refs, [Step("decode", lambda data: bool(decode(data)))], repeats=1))
    lake = describe(seen, total=600, exact=True, listing_failed={"bad_manifest_row": 2})
    assert {s.name: s.images for s in lake.formats} == {"JPEG": 3, "PNG": 1, "unreadable": 2}
    assert {s.name: s.images for s in lake.sizes} == {"under 0.1 MP": 1, "0.1 to 0.5 MP": 3}
    assert [(s.images, s.of) for s in lake.orientations] == [(1, 4)]
    assert {s.name: s.images for s in lake.failures} == {"truncated": 1, "not_an_image": 1, "not_found": 1}
    assert lake.failures[0].of == 6
    assert (lake.total, lake.sampled, lake.listing_failed) == (600, 6, {"bad_manifest_row": 2})
    assert lake.mean_bytes == pytest.approx(sum(map(len, files.values())) / 5)
    assert lake.median_mp == pytest.approx(0.12)
