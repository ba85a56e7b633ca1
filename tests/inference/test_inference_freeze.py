"""Weights as constants: the same outputs, and only where nothing is lost by it."""

import os
from dataclasses import replace

import numpy as np
import pytest

from beam_vision.inference import check, freeze
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.loader import load
from beam_vision.inference.probe import probe_batch
from beam_vision.testing import models


def save_classifier(path):
    """A small Keras classifier with batch normalisation, as a file or a SavedModel."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(name="embedding"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.layers[1].set_weights([np.random.default_rng(i).uniform(0.5, 2, 4) for i in range(4)])
    model.save(path) if path.endswith(".keras") else model.export(path, verbose=False)
    return path


@pytest.fixture
def freezings(monkeypatch):
    """What :func:`freeze.freeze` gave each time that a model was loaded."""
    found = []

    def watched(function):
        found.append(freeze.freeze(function))
        return found[-1]

    monkeypatch.setattr("beam_vision.inference.loader.freeze", watched)
    return found


@pytest.mark.parametrize("name", ["m.keras", "saved_model"])
def test_the_same_outputs(name, tmp_path, freezings):
    path = save_classifier(str(tmp_path / name))
    spec = read_bundle(path, {"value_range": "0..1"})
    batch = np.concatenate([probe_batch(spec)] * 3)
    saved = load(path, spec).run(batch)
    assert freezings == []
    frozen = load(path, replace(spec, freeze=True)).run(batch)
    assert freezings[0] is not None
    assert freeze.alike(frozen, saved)
    assert len(saved) > 0


@pytest.mark.parametrize("name", ["image_bytes", "example", "callable"])
def test_models_of_other_kinds_give_the_same(name, tmp_path):
    path = getattr(models, f"save_{name}_model" if name != "callable" else "save_callable")(
        str(tmp_path / "m")
    )
    size = {"height_px": 8, "width_px": 8} if name == "callable" else {}
    spec = read_bundle(path, {"value_range": "0..1", **size} if size else {})
    batch = probe_batch(spec)
    assert freeze.alike(load(path, replace(spec, freeze=True)).run(batch), load(path, spec).run(batch))


def test_an_assertion_is_never_frozen_away(tmp_path, freezings):
    path = models.save_troubled(str(tmp_path / "m"), "raises")
    load(path, replace(read_bundle(path, {}), freeze=True))
    assert freezings == [None]


def test_large_models_stay_as_they_are(tmp_path, freezings, monkeypatch):
    monkeypatch.setattr(freeze, "MAX_WEIGHTS_BYTES", 100)
    path = save_classifier(str(tmp_path / "m"))
    load(path, replace(read_bundle(path, {"value_range": "0..1"}), freeze=True))
    assert freezings == [None]


def test_a_crash_of_the_frozen_model_costs_only_its_speed(tmp_path, monkeypatch, capfd):
    """The child dies after its first report, as by a fault of TensorFlow's kernels for constants."""
    path = models.save_saved_model(str(tmp_path / "m"))
    (tmp_path / "sitecustomize.py").write_text(
        "import beam_vision.inference.freeze as f, os\nf.freeze = lambda function: os.abort()\n"
    )
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    spec, report = check.checked(path, read_bundle(path, {}))
    assert (report.ok, report.embedding_dim, spec.freeze) == (True, 12, False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1.0, 2.00001], True), ([1.0, 2.01], False), ([1.0], False), ([1.0, np.nan], False)],
)
def test_alike(value, expected):
    assert freeze.alike({"a": np.array(value)}, {"a": np.array([1.0, 2.0])}) == expected
    assert not freeze.alike({"b": np.array(value)}, {"a": np.array([1.0, 2.0])})
