"""The demo's lake: real images, the same bytes each time, every oddity as stated."""

import random

import numpy as np
import pytest

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.images.codec import decode
from beam_vision.pipelines import demo_lake
from beam_vision.pipelines.demo_lake import PHOTOS, make_lake

SMALL = {"digits": 30, "crops_per_photo": 4}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "lake"
    assert make_lake(str(folder), **SMALL)
    return folder


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_settings_give_the_same_bytes(lake, tmp_path):
    assert make_lake(str(tmp_path / "again"), **SMALL)
    assert files_of(tmp_path / "again") == files_of(lake)


def test_it_is_written_once(lake):
    before = {path: path.stat().st_mtime_ns for path in lake.rglob("*")}
    assert not make_lake(str(lake), **SMALL)
    assert {path: path.stat().st_mtime_ns for path in lake.rglob("*")} == before


def test_other_settings_replace_it(tmp_path):
    folder = tmp_path / "lake"
    make_lake(str(folder), digits=3, crops_per_photo=1)
    assert make_lake(str(folder), digits=2, crops_per_photo=1)
    assert len(list(folder.glob("digit_*/0*.png"))) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["lake"]


def test_classes_and_counts(lake):
    folders = {path.name: len(list(path.iterdir())) for path in lake.iterdir() if path.is_dir()}
    assert set(folders) == {f"digit_{i}" for i in range(10)} | set(PHOTOS)
    extra = sum(1 for _ in demo_lake.broken_files()) + sum(1 for _ in demo_lake.odd_files())
    assert sum(folders.values()) == 30 + 4 * len(PHOTOS) + extra


def test_what_is_broken_fails_and_all_else_decodes(lake):
    broken = {
        "cat/cut-in-half.jpg": Reason.TRUNCATED,
        "coffee/damaged.png": Reason.CORRUPT,
        "digit_3/text.jpg": Reason.NOT_AN_IMAGE,
        "digit_8/sixty-thousand-a-side.png": Reason.TOO_LARGE,
        "rocket/empty.jpg": Reason.EMPTY,
    }
    found = {}
    for name, data in files_of(lake).items():
        if name == demo_lake.MARK:
            continue
        try:
            decode(data)
        except VisionError as error:
            found[name] = error.reason
    assert found == broken


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_crops_come_out_upright(orientation):
    crop = demo_lake.open_photo("coffee").crop((100, 50, 260, 170))
    decoded = decode(demo_lake.turned_jpeg(crop, orientation, quality=95))
    assert (decoded.width_px, decoded.height_px) == crop.size
    assert np.abs(decoded.pixels.astype(int) - np.asarray(crop).astype(int)).mean() < 4


def test_crops_have_many_formats_sizes_and_orientations():
    files = dict(demo_lake.crop_files("cat", 120, random.Random(0)))
    assert {name.rpartition(".")[2] for name in files} == {"jpg", "png", "webp"}
    sizes = {(image.width_px, image.height_px) for image in map(decode, files.values())}
    assert len(sizes) > 60
    assert all(72 <= side <= 200 for size in sizes for side in size)


def test_an_interrupted_lake_leaves_nothing(tmp_path, monkeypatch):
    def interrupted():
        yield "cat/x.jpg", b"1"
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_lake, "broken_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_lake(str(tmp_path / "lake"), digits=1, crops_per_photo=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not a lake of ours"):
        make_lake(str(tmp_path), **SMALL)
    assert files_of(tmp_path) == {"mine.txt": b"mine"}
