"""What a model runs on: said in a line a load, and required where that is asked."""

import gc
import json
import logging

import pytest

from beam_vision.errors import UsageError
from beam_vision.inference import devices
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.handler import ImageModelHandler
from beam_vision.inference.loader import load
from beam_vision.inference.reading import EngineSettings
from beam_vision.testing import models


@pytest.fixture(scope="module", params=["onnx", "saved_model"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    if request.param == "onnx":
        return models.save_onnx(str(folder / "colours.onnx"))
    return models.save_saved_model(str(folder / "colours"))


def facts_in(caplog):
    lines = [one.getMessage() for one in caplog.records if one.name == devices.__name__]
    return [json.loads(line.removeprefix("model loaded: ")) for line in lines]


def test_each_load_is_one_line_of_json(model, caplog):
    spec = read_bundle(model, {"task": "classify"})
    gc.collect()
    with caplog.at_level(logging.INFO, logger=devices.__name__):
        first = load(model, spec)
        second = load(model, spec)
    facts = facts_in(caplog)
    assert [one["device"] for one in facts] == ["CPU", "CPU"]
    assert first.device == second.device == "CPU"
    assert facts[1]["copies"] == facts[0]["copies"] + 1
    assert {one["model_digest"] for one in facts} == {spec.model_digest}
    assert all(one["seconds"] >= 0 and one["path"] == model for one in facts)


def test_a_model_that_is_gone_is_no_copy(model, caplog):
    spec = read_bundle(model, {"task": "classify"})
    with caplog.at_level(logging.INFO, logger=devices.__name__):
        for _ in range(2):
            load(model, spec)
            gc.collect()
    first, second = facts_in(caplog)
    assert second["copies"] == first["copies"]


def test_a_handler_that_requires_a_gpu_fails_before_any_image_is_read(model):
    spec = read_bundle(model, {"task": "classify"})
    handler = ImageModelHandler(model, spec, EngineSettings(task="classify", require_gpu=True))
    with pytest.raises(UsageError, match="--require_gpu: this process sees no GPU"):
        handler.load_model()


def test_a_gpu_is_what_was_required():
    devices.require_gpu("GPU NVIDIA L4", "saved_model")
    with pytest.raises(UsageError, match="onnxruntime-gpu"):
        devices.require_gpu("CPU", "onnx")
    with pytest.raises(UsageError, match="a model in the format tflite runs on no GPU"):
        devices.require_gpu("CPU", "tflite")
