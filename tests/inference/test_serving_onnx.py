"""What a stream says of versions whose model is one file, and of a pointer that can't be read."""

import logging
import time

import pytest

from beam_vision import storage
from beam_vision.inference.bundle import read_bundle, set_latest, write_bundle
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.serving import version_of
from beam_vision.inference.serving_load import ServingSettings
from beam_vision.inference.serving_watch import start_serving
from beam_vision.testing import models


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/m/v1", "v1"),
        ("/m/v1/", "v1"),
        ("/m/v1/model.onnx", "v1"),
        ("gs://b/m/v1/model.keras", "v1"),
        ("/m/mine.onnx", "mine.onnx"),
        ("model.onnx", "model.onnx"),
    ],
)
def test_the_name_of_a_version(path, version):
    assert version_of(path) == version


def test_a_pointer_that_cannot_be_read_is_told_once(tmp_path, caplog):
    said = {"labels": models.LABELS, "scores_output": "logits", "embedding_output": "features"}
    write_bundle(str(tmp_path / "v1"), lambda d: models.save_onnx(f"{d}/model.onnx"), said)
    set_latest(str(tmp_path), "v1")
    path = storage.join(str(tmp_path), "v1", "model.onnx")
    how = ServingSettings(root=str(tmp_path), poll_sec=0.01, try_apart=False)
    serving = start_serving(path, read_bundle(path, {}), EngineSettings(task="classify"), how)
    (tmp_path / "LATEST").unlink()
    end = time.monotonic() + 10
    while "can't be looked at" not in caplog.text and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)  # some twenty looks
    served, (event,) = serving.take()
    assert (served.version, event.version) == ("v1", "v1")
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
