"""Detectors: trained with augmented boxes, checked and judged by what serves, begun from a preset."""

import keras_hub
import numpy as np
import pytest

from beam_vision.errors import JobError, UsageError
from beam_vision.inference.bundle import read_bundle
from beam_vision.pipelines import train_check
from beam_vision.pipelines.train_export import check_export, export_model, publish
from beam_vision.pipelines.train_measure import measure
from beam_vision.pipelines.train_publish import publish_bundle
from beam_vision.testing.datasets import make_squares
from beam_vision.training.config import DetectorConfig, ExportConfig, ModelConfig, from_dict
from beam_vision.training.detect import load_pyramid
from beam_vision.training.job import train_job
from beam_vision.training.retinanet import build_retinanet

SIDE = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("squares"))
    return folder, make_squares(folder, {"train": 32, "test": 12}, side_px=SIDE)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A short run with everything that moves boxes."""
    values = {
        "task": "detect",
        "data": {"dataset": dataset[0], "image_size": SIDE, "batch_size": 16},
        "augmentation": [{"flip": "horizontal"}, {"rotation": 0.02}, {"zoom": 0.1}, {"translation": 0.1}],
        "optimizer": {"name": "adam", "learning_rate": 3e-3, "weight_decay": 0, "clipnorm": 10},
        "detector": {"head_layers": 1, "anchor_size": 2.0},
        "run": {"steps": 40, "steps_per_epoch": 20, "patience": 0, "jit": False},
        "export": {"output": str(tmp_path_factory.mktemp("m") / "models"), "versioned": True},
    }
    more = {"check_images": 6, "golden_images": 0, "keras": False, "gate": "AP50>=0.02"}
    return train_job(from_dict({**values, "export": {**values["export"], **more}}), dataset[1])


@pytest.fixture(scope="module")
def exported(trained, dataset):
    return export_model(trained, dataset[1])


def test_it_learns_from_augmented_boxes(trained):
    first, last = trained.history
    assert last["loss"] < first["loss"] / 2
    assert trained.metrics["test_AP50"] > 0.02


def test_boxes_are_compared_with_the_trainers(exported):
    paths = exported.check.differences
    assert len(paths) == 3
    for each in paths.values():
        assert set(each) == {"detection_boxes", "detection_scores"}
        assert max(each.values()) < 1e-3


def test_boxes_that_serving_moves_are_found(trained, dataset, tmp_path, monkeypatch):
    real = train_check.pipeline_answers

    def moved(images, bundle, spec, trainer):
        answers = real(images, bundle, spec, trainer)
        answers["detection_boxes"] = answers["detection_boxes"] + 0.01
        return answers

    monkeypatch.setattr(train_check, "pipeline_answers", moved)
    with pytest.raises(JobError, match=r"RunInference pipeline gives detection_boxes off by 0\.01"):
        export_model(trained, dataset[1])


def test_what_serves_is_measured_as_the_trainer_measures(exported, trained, dataset):
    found = measure(exported.path, *dataset, "test", task="detect")
    for name, value in found.items():
        assert value == pytest.approx(trained.metrics[f"test_{name}"], abs=0.02)


def test_not_worse_measures_both_detectors_on_the_same_images(exported, trained, dataset, tmp_path):
    """Whatever the one that serves was once released with."""
    config = trained.config.replace(export={"gate": "not_worse"})
    root = trained.config.export.output
    offer = type("Offer", (), {"config": config, "metrics": {}, "evaluation": trained.evaluation})
    verdict = publish(offer, None, root, exported.path.rpartition("/")[2])
    assert verdict.passed
    assert "test_AP50" in verdict.reason
    assert "is not worse than" in verdict.reason


def test_a_bundle_from_elsewhere_is_published_past_the_gate(exported, trained, tmp_path):
    def config(gate):
        return trained.config.replace(export={"output": str(tmp_path / "models"), "gate": gate})

    said = []
    made = publish_bundle(config("AP50>=0.02,not_worse"), exported.path, said.append)
    assert made == str(tmp_path / "models" / "v1")
    assert read_bundle(str(tmp_path / "models")) == exported.spec
    assert any(line.startswith("LATEST is v1, before nothing") for line in said)
    with pytest.raises(JobError, match=r"v2 missed its gate: AP50 .* misses AP50>=1.1"):
        publish_bundle(config("AP50>=1.1"), exported.path)
    assert (tmp_path / "models" / "LATEST").read_text().strip() == "v1"
    assert publish_bundle(config("not_worse"), exported.path).endswith("v3")
    with pytest.raises(UsageError, match="is a bundle for task detect, and the job's task is classify"):
        other = from_dict({"export": {"output": str(tmp_path / "other")}})
        publish_bundle(other, exported.path)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        *("LATEST", "rollout.jsonl", "v1", "v2", "v3")
    ]


def test_half_a_bundle_is_not_published(exported, trained, tmp_path):
    import shutil

    shutil.copytree(exported.path, tmp_path / "half")
    (tmp_path / "half" / "variables" / "variables.data-00000-of-00001").write_bytes(b"cut")
    config = trained.config.replace(export={"output": str(tmp_path / "models"), "gate": ""})
    with pytest.raises(UsageError):
        publish_bundle(config, str(tmp_path / "half"))
    assert not list((tmp_path / "models").glob("*"))


def test_tensorflow_lite_is_refused_before_the_training():
    with pytest.raises(UsageError, match=r"export.tflite int8: not for task detect"):
        check_export(ExportConfig(output="m", tflite=("int8",)), task="detect")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A RetinaNet's folder, as KerasHub saves it, and its network."""
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64] * 4,
        stackwise_num_blocks=[1] * 4,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    )
    net = keras_hub.models.RetinaNetBackbone(
        image_encoder=encoder, min_level=3, max_level=5, use_p5=False, image_shape=(None, None, 3)
    )
    folder = str(tmp_path_factory.mktemp("preset"))
    net.save_to_preset(folder)
    keras_hub.layers.RetinaNetImageConverter(scale=1 / 51, offset=-2.5).save_to_preset(folder)
    return folder, net


def test_a_retinanet_preset_from_a_folder_scales_pixels_its_own_way(preset):
    folder, net = preset
    model = ModelConfig(architecture="keras_hub", weights=f"preset:{folder}", freeze="backbone")
    found = load_pyramid(model, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    wanted = net(pixels / 51 - 2.5, training=False)
    given = found(pixels, training=False)
    assert set(given) == set(wanted) == {"P3", "P4", "P5"}
    for level, value in wanted.items():
        np.testing.assert_allclose(given[level], value, atol=1e-4)
    detector = build_retinanet(found, 2, config=DetectorConfig(anchor_size=2.0, head_layers=1))
    frozen = {id(v) for v in found.get_layer("backbone").variables}
    assert frozen.isdisjoint(id(v) for v in detector.trainable_variables)
    assert any("fpn" in v.path for v in detector.trainable_variables)
    with pytest.raises(UsageError, match=r"data.image_size 72: .*multiple of 32 px.* nearest is 64"):
        load_pyramid(model, 72)


def test_other_presets_are_not_retinanets(preset, tmp_path):
    net = preset[1]
    net.image_encoder.save_to_preset(str(tmp_path))
    model = ModelConfig(architecture="keras_hub", weights=f"preset:{tmp_path}")
    assert load_pyramid(model, 64) is None
    assert load_pyramid(ModelConfig(), 64) is None
