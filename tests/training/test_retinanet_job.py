"""The proof of the detector: it overfits 40 scenes of digits, and `predict` runs what comes of it."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json

import pytest

from beam_vision.pipelines import cli
from beam_vision.pipelines.train_export import export_model
from beam_vision.records.manifest import read_manifest
from beam_vision.training.config import from_dict
from beam_vision.training.job import train_job

SCENES = 40


@pytest.mark.slow
def test_it_overfits_40_scenes_and_predict_runs_it(tmp_path):
    scenes, dataset, model = (str(tmp_path / name) for name in ("scenes", "dataset", "model"))
    asked = ["--size", "64x64", "--objects", "1-3", "--scale", "0.3-0.6", "--min_visible", "0.8"]
    assert cli.main(["synth-detection", "--output", scenes, "--count", str(SCENES), *asked]) == 0
    truth = f"{scenes}/annotations.json"
    made = ["create-tfrecords", "--images", truth, "--output", dataset, "--splits", "train=1"]
    assert cli.main(made) == 0
    config = from_dict(
        {
            "task": "detect",
            "data": {"dataset": dataset, "image_size": 64, "batch_size": 8, "test": "train"},
            "augmentation": [],
            "optimizer": {"name": "adam", "learning_rate": 1e-3, "weight_decay": 0, "clipnorm": 10},
            "detector": {"head_layers": 1},
            "run": {"epochs": 24, "patience": 0},
            "export": {"output": model, "check_images": 8, "golden_images": 4},
        }
    )
    manifest = read_manifest(dataset)
    trained = train_job(config, manifest)
    assert trained.model.anchor_generator.anchor_size < 4  # the digits are smaller than the paper's anchors
    assert trained.metrics["train_AP50"] > 0.8
    export_model(trained, manifest)

    table, found = str(tmp_path / "table"), tmp_path / "evaluation"
    assert (
        cli.main(["predict", "--task", "detect", "--images", truth, "--model", model, "--output", table]) == 0
    )
    judged = ["evaluate", "--task", "detect", "--predictions", table, "--truth", truth]
    assert cli.main([*judged, "--output", str(found)]) == 0
    metrics = json.loads((found / "metrics.json").read_text())
    assert metrics["metrics"]["AP50"] == pytest.approx(trained.metrics["train_AP50"], abs=0.05)
