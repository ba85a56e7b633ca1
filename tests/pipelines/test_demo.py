"""The demo, from a user's class folders to the HTML report, with the command lines that a user would type."""

import json
import re
import shlex
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from beam_vision.pipelines import demo, synth_material
from beam_vision.pipelines.cli import main
from beam_vision.reports.data import StageRun
from beam_vision.table import read_manifest

CLASSES = ("red", "green <b>", "blue & co")


def class_folders(folder, each=20):
    """Noise on a flat colour, in class folders with awkward names; and two files that are broken."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.{('png', 'jpg')[i % 2]}")
    (folder / CLASSES[0] / "empty.jpg").write_bytes(b"")
    (folder / CLASSES[1] / "text.png").write_text("not an image")
    return folder


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.text, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def run_once(warm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    images = class_folders(folder / "photos")
    argv = ["demo", "--images", str(images), "--output", str(folder / "out")]
    less = ["--train_seconds", "2", "--image_size", "32", "--scenes", "80", "--detector_seconds", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synth_material, "DIGITS", 400)
        patch.setattr(sys, "executable", warm.executable)  # for the child that tries a model
        assert main([*argv, *less]) == 0
    return folder / "out"


@pytest.mark.slow
def test_every_image_is_accounted_for(run_once):
    for job in ("create-tfrecords", "predict"):
        summary = json.loads((run_once / "summaries" / f"{job}.json").read_text())
        assert (summary["inputs"], summary["outputs"], summary["failed"]) == (62, 60, 2)
        assert summary["failed_by_reason"] == {"empty": 1, "not_an_image": 1}
    manifest = read_manifest(str(run_once / "table"))
    assert manifest.rows == 60
    assert manifest.embedding_dim == 64
    assert json.loads((run_once / "index" / "manifest.json").read_text())["rows"] == 60


@pytest.mark.slow
def test_every_scene_is_accounted_for(run_once):
    made = {
        job: json.loads((run_once / "detection" / "summaries" / f"{job}.json").read_text())
        for job in ("synth-detection", "create-tfrecords", "predict", "evaluate")
    }
    assert all((one["inputs"], one["failed"]) == (one["outputs"], 0) for one in made.values())
    assert made["synth-detection"]["inputs"] == made["create-tfrecords"]["inputs"] == 80
    assert 0 < made["predict"]["inputs"] == made["evaluate"]["inputs"] < 40
    metrics = json.loads((run_once / "detection" / "evaluation" / "metrics.json").read_text())
    assert metrics["accounts"]["images_missing"] == metrics["accounts"]["rows_without_truth"] == 0
    assert {row["label"] for row in metrics["classes"]} == {f"digit_{i}" for i in range(10)}
    assert not metrics["accounts"]["faults"]


@pytest.mark.slow
def test_report_shows_every_part(run_once):
    html = (run_once / "report.html").read_text()
    page = Page(html)
    text = "".join(page.text)
    for part in (
        "62 in",
        "60 out",
        "2 failed",
        "every image accounted for",
        "Search",
        "Least certain",
        "Detection",
        "AP50",
    ):
        assert part in text
    for name in (*CLASSES, "empty.jpg", "text.png", "not an image", "beam-vision predict", "recall@10"):
        assert name in text
    assert page.tags.count("img") > 30
    assert "no preview" not in text
    assert CLASSES[1] not in html
    assert not re.search(r"https?:", html)
    assert len(html) < 2_000_000


@pytest.mark.slow
def test_report_names_the_digests_of_the_table(run_once):
    text = "".join(Page((run_once / "report.html").read_text()).text)
    manifest = read_manifest(str(run_once / "table"))
    spec = json.loads((run_once / "model" / "model_spec.json").read_text())
    assert manifest.model_digest == spec["model_digest"]
    assert spec["labels"] == sorted(CLASSES)
    for digest in (manifest.model_digest, manifest.preprocessing_digest, manifest.run_id):
        assert digest in text


@pytest.mark.slow
def test_commands_of_the_report_are_those_of_the_plan(run_once):
    text = "".join(Page((run_once / "report.html").read_text()).text)
    images = run_once.parent / "photos"
    options = demo.Options(
        output=str(run_once), images=str(images), train_seconds=2, image_size=32, scenes=80
    )
    assert len(demo.all_commands(options)) == 8
    for command in demo.all_commands(options):
        assert shlex.join(["beam-vision", *command]) in text


@pytest.mark.slow
def test_training_keeps_a_bundle_that_is_there(run_once):
    assert main(["train", "--dataset", str(run_once / "tfrecords"), "--output", str(run_once / "model")]) == 2


def test_preflight_says_what_would_run(tmp_path, capsys):
    argv = ["demo", "--images", str(tmp_path), "--output", str(tmp_path / "out"), "--preflight_only"]
    assert main(argv) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [command.split()[1] for command in plan["commands"]] == [
        *("create-tfrecords", "train", "predict", "build-index"),
        *("synth-detection", "create-tfrecords", "predict", "evaluate"),
    ]
    assert main([*argv, "--no-detection"]) == 0
    assert len(json.loads(capsys.readouterr().out)["commands"]) == 4
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_a_usage_error(tmp_path):
    assert main(["demo", "--images", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert main(["demo", "--output", "gs://bucket/out"]) == 2


def test_summary_table():
    stages = [
        StageRun(
            name="predict", command="", inputs=1200, outputs=1000, failed=50, already_done=150, wall_sec=2
        ),
        StageRun(name="train", command="", wall_sec=61.25),
    ]
    lines = demo.summary_table(stages).splitlines()
    assert lines[0].split() == ["stage", "in", "out", "failed", "seconds"]
    assert lines[1].split() == ["predict", "1,200", "1,150", "50", "2.0"]
    assert lines[2].split() == ["train", "61.2"]
    assert lines[3].split() == ["in", "all", "63.2"]
