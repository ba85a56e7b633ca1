"""The synthetic images: seeded, photograph-like, in all formats."""

import numpy as np
import pytest

from beam_vision.images.codec import decode, read_header
from beam_vision.testing.images import LAKE_FORMATS, encode, make_lake, photo


def test_photo_is_seeded_and_sized():
    one = photo(1, 70, 40)
    assert one.shape == (40, 70, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, photo(1, 70, 40))
    assert (one != photo(2, 70, 40)).any()
    assert photo(1, 1, 1).shape == (1, 1, 3)


def test_photo_is_as_large_as_a_photograph():
    width, height = 548, 365
    bytes_per_px = len(encode(photo(1, width, height), "jpeg", quality=90)) / (width * height)
    assert 0.15 < bytes_per_px < 0.6


def test_photo_takes_a_tint():
    tint = (230, 24, 16)
    means = photo(1, 64, 64, tint_rgb=tint).mean(axis=(0, 1))
    assert means.argmax() == 0


def test_lake_has_class_folders_of_mixed_formats(tmp_path):
    files = make_lake(tmp_path / "lake", ["a", "b"], per_class=6, seed=3, size=(32, 24))
    assert [file.label for file in files] == ["a"] * 6 + ["b"] * 6
    assert {read_header(file.path.read_bytes()).format.lower() for file in files} == set(LAKE_FORMATS)
    assert len({file.path.read_bytes() for file in files}) == 12, "no two files are the same"
    assert all(file.path.parent == tmp_path / "lake" / file.label for file in files)
    again = make_lake(tmp_path / "again", ["a", "b"], per_class=6, seed=3, size=(32, 24))
    assert [f.path.read_bytes() for f in files] == [f.path.read_bytes() for f in again]


def test_lake_classes_differ_in_colour(tmp_path):
    files = make_lake(tmp_path, per_class=3, formats=("png",))
    means = {}
    for file in files:
        mean = decode(file.path.read_bytes()).pixels.mean(axis=(0, 1))
        means.setdefault(file.label, []).append(mean)
    centres = {label: np.mean(values, axis=0) for label, values in means.items()}
    for label, values in means.items():
        for value in values:
            nearest = min(centres, key=lambda name: np.linalg.norm(centres[name] - value))
            assert nearest == label
    with pytest.raises(KeyError):
        make_lake(tmp_path, formats=("docx",))
