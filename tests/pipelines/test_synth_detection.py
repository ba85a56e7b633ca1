"""The job from folders of cut-outs and backgrounds to images and COCO annotations, with its accounts."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from beam_vision.pipelines import synth_detection
from beam_vision.pipelines.cli import main
from beam_vision.synth import layout

SMALL = ["--size", "64x48", "--count", "70", "--objects", "1-3", "--scale", "0.2-0.4"]


@pytest.fixture
def material(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("bar", "disc"):
        (tmp_path / "cutouts" / kind).mkdir(parents=True)
        for i in range(4):
            image = Image.new("RGBA", (40, 30))
            draw = ImageDraw.Draw(image)
            colour = tuple(int(value) for value in rng.integers(100, 256, 3))
            (draw.ellipse if kind == "disc" else draw.rectangle)((5, 5, 34, 24), fill=colour)
            image.save(tmp_path / "cutouts" / kind / f"{i}.png")
    (tmp_path / "backgrounds").mkdir()
    for i in range(3):
        pixels = rng.integers(0, 90, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "backgrounds" / f"{i}.jpg")
    return ["--cutouts", str(tmp_path / "cutouts"), "--backgrounds", str(tmp_path / "backgrounds")]


def run(tmp_path, material, *more, name="out"):
    argv = ["synth-detection", "--output", str(tmp_path / name), "--summary", str(tmp_path / "sum.json")]
    return main([*argv, *SMALL, *material, *more])


def files_of(folder):
    """What a user has of it: images and annotations."""
    found = [*folder.glob("images/*"), folder / "annotations.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_whole_run(tmp_path, material):
    assert run(tmp_path, material, "--splits", "train=0.7,test=0.3") == 0
    coco = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [entry["id"] for entry in coco["images"]] == list(range(1, 71))
    assert [entry["id"] for entry in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    assert [(entry["id"], entry["name"]) for entry in coco["categories"]] == [(1, "bar"), (2, "disc")]
    assert {entry["split"] for entry in coco["images"]} == {"train", "test"}
    for entry in coco["images"]:
        with Image.open(tmp_path / "out" / entry["file_name"]) as image:
            assert image.size == (entry["width"], entry["height"]) == (64, 48)
    for entry in coco["annotations"]:
        x, y, width, height = entry["bbox"]
        assert min(x, y) >= 0
        assert x + width <= 64
        assert y + height <= 48
        assert 0 < entry["area"] <= width * height
        assert entry["iscrowd"] == 0
        assert entry["visible"] >= 0.25
    assert coco["info"]["seed"] == 0
    assert coco["info"]["settings_digest"] == layout.read_accounts(str(tmp_path / "out"))["settings_digest"]
    summary = json.loads((tmp_path / "sum.json").read_text())
    assert (summary["inputs"], summary["outputs"], summary["failed"]) == (70, 70, 0)


def test_pycocotools_reads_it(tmp_path, material):
    coco_module = pytest.importorskip("pycocotools.coco")
    assert run(tmp_path, material) == 0
    coco = coco_module.COCO(str(tmp_path / "out" / "annotations.json"))
    assert len(coco.getImgIds()) == 70
    assert coco.loadCats(coco.getCatIds())[0]["name"] == "bar"


def test_the_same_bytes_however_it_is_run(tmp_path, material, monkeypatch):
    assert run(tmp_path, material, name="one") == 0
    monkeypatch.setattr(layout, "CHUNK", 9)
    runner = ["--direct_running_mode", "multi_threading", "--direct_num_workers", "3"]
    assert run(tmp_path, material, *runner, name="other") == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")
    assert run(tmp_path, material, "--seed", "1", name="third") == 0
    assert files_of(tmp_path / "one") != files_of(tmp_path / "third")


def test_fewer_scenes_are_the_first_ones(tmp_path, material):
    assert run(tmp_path, material) == 0
    many = files_of(tmp_path / "out")
    assert run(tmp_path, material, "--count", "20") == 0
    few = files_of(tmp_path / "out")
    assert len(few) == 21
    assert all(many[name] == data for name, data in few.items() if name != "annotations.json")


def test_bad_files_are_failures(tmp_path, material):
    (tmp_path / "cutouts" / "bar" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (tmp_path / "cutouts" / "disc" / "empty.png").write_bytes(b"")
    Image.new("RGBA", (9, 9)).save(tmp_path / "cutouts" / "disc" / "nothing.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 255)).save(tmp_path / "cutouts" / "of-no-class.png")
    (tmp_path / "backgrounds" / "text.jpg").write_text("text")
    Image.new("RGB", (20, 30), (200, 0, 0)).save(tmp_path / "cutouts" / "bar" / "whole.jpg")
    assert run(tmp_path, material) == 0
    summary = json.loads((tmp_path / "sum.json").read_text())
    assert (summary["inputs"], summary["outputs"], summary["failed"]) == (75, 70, 5)
    assert summary["failed_by_reason"] == {
        "empty": 2, "not_an_image": 1, "truncated": 1, "unknown_label": 1
    }  # fmt: skip
    assert any("1 cut-outs have no alpha" in note for note in summary["notes"])
    lines = [
        json.loads(line)
        for path in (tmp_path / "out" / "failures").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {line["uri"].rpartition("/")[2] for line in lines} == {
        "cut.png", "empty.png", "nothing.png", "of-no-class.png", "text.jpg"
    }  # fmt: skip
    assert run(tmp_path, material, "--max_failure_rate", "0.01") == 1


def test_without_any_good_background_every_scene_fails(tmp_path, material):
    for path in (tmp_path / "backgrounds").iterdir():
        path.write_bytes(b"")
    assert run(tmp_path, material) == 1
    summary = json.loads((tmp_path / "sum.json").read_text())
    assert (summary["inputs"], summary["outputs"], summary["failed"]) == (73, 0, 73)
    assert summary["failed_by_reason"] == {"empty": 3, "not_found": 70}
    assert not (tmp_path / "out" / "annotations.json").exists()


def test_resume_makes_only_what_is_missing(tmp_path, material):
    assert run(tmp_path, material) == 0
    whole = files_of(tmp_path / "out")
    chunk = sorted((tmp_path / "out" / "chunks").iterdir())[-1]
    chunk.unlink()
    (tmp_path / "out" / "annotations.json").unlink()
    (tmp_path / "out" / "images" / "00000070.jpg").unlink()
    assert run(tmp_path, material, "--resume") == 0
    summary = json.loads((tmp_path / "sum.json").read_text())
    assert (summary["inputs"], summary["outputs"], summary["already_done"]) == (70, 6, 64)
    assert files_of(tmp_path / "out") == whole
    assert run(tmp_path, material, "--resume", "--seed", "2") == 0
    assert json.loads((tmp_path / "sum.json").read_text())["already_done"] == 0


def test_a_folder_of_something_else_is_refused(tmp_path, material):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run(tmp_path, material) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--size", "64by48"],
        ["--objects", "3-1"],
        ["--scale", "0.2-3"],
        ["--count", "0"],
        ["--cutouts", "/nowhere"],
        ["--splits", "a=2"],
    ],
)
def test_wrong_arguments(tmp_path, material, wrong):
    assert run(tmp_path, material, *wrong) == 2
    assert not (tmp_path / "out").exists()


def test_preflight_writes_nothing(tmp_path, material, capsys):
    assert run(tmp_path, material, "--preflight_only") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["count"] == 70
    assert plan["settings"]["objects"] == [1, 3]
    assert not (tmp_path / "out").exists()


def test_the_output_within_the_cutouts_is_refused(tmp_path, material):
    assert run(tmp_path, material, "--output", str(tmp_path / "cutouts" / "out")) == 2


def test_digits_on_photographs_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr("beam_vision.pipelines.synth_material.DIGITS", 20)
    assert run(tmp_path, [], "--count", "3") == 0
    coco = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert {entry["name"] for entry in coco["categories"]} == {f"digit_{i}" for i in range(10)}
    options = synth_detection.Options(output=str(tmp_path / "out"))
    cutouts = synth_detection.material_folders(options)["cutout"]
    assert len(list((tmp_path / "out" / "material" / "cutouts").rglob("*.png"))) == 20, cutouts
