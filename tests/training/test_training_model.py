"""The model, its training on a tiny data set, and the exported bundle beside the Keras model."""

import numpy as np
import pytest

from beam_vision import deps, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.inference.bundle import read_bundle
from beam_vision.training.evaluate import evaluate
from beam_vision.training.export import TRAINING_FILE, export
from beam_vision.training.fit import FitSettings, fit, learning_rate_at
from beam_vision.training.model import EMBEDDING, SCORES, build_model

SIDE = 32
CLASSES = 3


def images_and_ids(number, seed=0):
    """Noise on a flat colour; the class is the colour channel that is brightest."""
    rng = np.random.default_rng(seed)
    ids = np.arange(number) % CLASSES
    images = rng.integers(0, 120, (number, SIDE, SIDE, 3))
    images[np.arange(number), :, :, ids] += 100
    return images.astype(np.uint8), ids


def dataset(number, seed=0, batch=16):
    tf = deps.need("tensorflow")
    return tf.data.Dataset.from_tensor_slices(images_and_ids(number, seed)).batch(batch)


def trained(tell):
    model = build_model(SIDE, SIDE, CLASSES, embedding_dim=16, seed=1)
    return model, fit(model, dataset(96), dataset(24, seed=5), FitSettings(epochs=6), steps=6, tell=tell)


@pytest.fixture(scope="module")
def model_and_epochs():
    told = []
    model, epochs = trained(told.append)
    assert told == epochs
    return model, epochs


def test_outputs_are_probabilities_and_unit_vectors(model_and_epochs):
    model, _ = model_and_epochs
    images, _ = images_and_ids(5)
    found = {name: np.asarray(value) for name, value in model(images, training=False).items()}
    assert found[SCORES].shape == (5, CLASSES)
    assert found[EMBEDDING].shape == (5, 16)
    np.testing.assert_allclose(found[SCORES].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[EMBEDDING], axis=1), 1, atol=1e-5)


def test_it_learns(model_and_epochs):
    model, epochs = model_and_epochs
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1].loss < epochs[0].loss / 2
    result = evaluate(model, dataset(60, seed=9), CLASSES)
    assert result.images == 60
    assert result.accuracy >= 0.9
    assert np.trace(np.array(result.confusion)) == round(result.accuracy * 60)


def test_evaluation_counts_by_hand():
    class Fixed:
        def __call__(self, images, training):
            assert training is False
            return {SCORES: np.array([[0.7, 0.3], [0.5, 0.5], [0.25, 0.75]])[: len(images)]}

    result = evaluate(Fixed(), [(np.zeros((3, 2, 2, 3)), np.array([0, 1, 1]))], 2)
    assert result.confusion == [[1, 0], [1, 1]]
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.loss == pytest.approx(-np.log([0.7, 0.5, 0.75]).mean())


def test_evaluation_of_nothing():
    assert evaluate(None, [], 2).images == 0


def test_same_seed_gives_the_same_weights(model_and_epochs):
    again, _ = trained(lambda epoch: None)
    for one, other in zip(model_and_epochs[0].get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_bundle_gives_what_the_keras_model_gives(model_and_epochs, tmp_path):
    model, _ = model_and_epochs
    labels = ["red", "green", "blue"]
    target = str(tmp_path / "bundle")
    spec = export(model, target, labels=labels, metrics={"test_accuracy": 0.5}, training={"a": 1})
    assert spec == read_bundle(target)
    assert spec.labels == tuple(labels)
    assert (spec.height_px, spec.width_px, spec.dtype, spec.value_range) == (SIDE, SIDE, "uint8", "0..255")
    assert (spec.classes, spec.embedding_dim) == (3, 16)
    assert spec.metrics == {"test_accuracy": 0.5}
    assert storage.read_json(f"{target}/{TRAINING_FILE}") == {"a": 1}
    serve = deps.need("tensorflow").saved_model.load(target).signatures[spec.signature]
    images, _ = images_and_ids(7, seed=3)
    here = model(images, training=False)
    there = serve(**{spec.input_name: deps.need("tensorflow").constant(images)})
    for name in (SCORES, EMBEDDING):
        np.testing.assert_allclose(np.asarray(there[name]), np.asarray(here[name]), atol=1e-3)


def test_bundle_is_replaced_only_when_asked(model_and_epochs, tmp_path):
    model, _ = model_and_epochs
    given = {"labels": "abc", "metrics": {}, "training": {}}
    export(model, str(tmp_path / "b"), **given)
    with pytest.raises(UsageError, match="is there already"):
        export(model, str(tmp_path / "b"), **given)
    export(model, str(tmp_path / "b"), **given, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_time_ends_the_run():
    model = build_model(SIDE, SIDE, CLASSES, embedding_dim=8)
    epochs = fit(model, dataset(64), None, FitSettings(epochs=500, max_seconds=0.5), steps=4)
    assert len(epochs) < 500
    assert epochs[-1].validation_loss is None


def test_loss_that_is_no_number_is_an_error():
    model = build_model(SIDE, SIDE, CLASSES, embedding_dim=8)
    with pytest.raises(JobError, match="finite"):
        fit(model, dataset(32), None, FitSettings(epochs=1, learning_rate=float("inf")), steps=2)


def test_learning_rate_course():
    assert learning_rate_at(0.1, 2.0) == pytest.approx(2.0)
    assert learning_rate_at(0.55, 2.0) == pytest.approx(1.0)
    assert learning_rate_at(1.0, 2.0) == pytest.approx(0.0)
    assert learning_rate_at(7.0, 2.0) == learning_rate_at(1.0, 2.0)
    rising = [learning_rate_at(i / 100, 1.0) for i in range(11)]
    assert rising == sorted(rising)
    assert rising[0] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((32, 32, 1), "at least two classes"), ((8, 32, 2), "at least 16"), ((32, 15, 2), "at least 16")],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        build_model(*arguments)


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"max_seconds": -1.0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UsageError):
        FitSettings(**settings)
