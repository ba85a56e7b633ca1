"""The classifier on any backbone: probe, transfer and fine-tuning, one label or several."""

import numpy as np
import pytest

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.architectures import BACKBONE
from beam_vision.training.classifier import build_classifier
from beam_vision.training.config import LossConfig, ModelConfig, OptimizerConfig
from beam_vision.training.losses import build_loss
from beam_vision.training.model import EMBEDDING, SCORES, build_model
from beam_vision.training.optimizers import build_optimizer, rate_multipliers

SIDE = 32
CLASSES = 3


def images_and_truth(number=32, seed=0, several=False):
    """Noise on black; a class is a channel that is brighter. With several labels, each is by chance."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((number, CLASSES)) < 0.5) if several else np.eye(CLASSES)[np.arange(number) % CLASSES]
    images = rng.integers(0, 100, (number, SIDE, SIDE, 3)) + 120 * truth[:, None, None, :]
    return images.astype(np.uint8), truth.astype(np.float32)


def classifier(seed=1, multi_label=False, **given):
    return build_classifier(ModelConfig(**given), SIDE, CLASSES, multi_label=multi_label, seed=seed)


def outputs(model, images, training=False):
    return {name: np.asarray(value) for name, value in model(images, training=training).items()}


def scorer(model, *, multi_label=False, optimizer="adam", rate=0.01, backbone_rate=1.0, eager=False):
    """What ``fit`` takes: the model's probabilities, compiled."""
    keras = deps.need("keras")
    scored = keras.Model(model.inputs, model.output[SCORES])
    scored.compile(
        build_optimizer(
            OptimizerConfig(name=optimizer, momentum=0.0, weight_decay=0.0),
            rate,
            multipliers=rate_multipliers(scored, backbone_rate),
        ),
        loss=build_loss(LossConfig(), task="classify", classes=CLASSES, multi_label=multi_label),
        jit_compile=False,  # XLA would take longer to compile than the steps take
        run_eagerly=eager,
    )
    return scored


def fit(model, steps, several=False, **given):
    """The losses of ``steps`` steps on the same batch."""
    images, truth = images_and_truth(several=several)
    scored = scorer(model, multi_label=several, **given)
    return scored.fit(images, truth, batch_size=32, epochs=steps, verbose=0).history["loss"]


def test_compact_is_the_classifier_that_it_was():
    ours, was = classifier(), build_model(SIDE, SIDE, CLASSES, seed=1)
    for one, other in zip(ours.get_weights(), was.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    images, _ = images_and_truth(3)
    for name, value in outputs(was, images).items():
        np.testing.assert_allclose(outputs(ours, images)[name], value, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "dim"),
    [({}, 64), ({"embedding_dim": 0}, 192), ({"architecture": "vit_micro_patch8", "pooling": "max"}, 64)],
)
def test_outputs(given, dim):
    images, _ = images_and_truth(5)
    found = outputs(classifier(**given), images)
    assert found[SCORES].shape == (5, CLASSES)
    assert found[EMBEDDING].shape == (5, dim)
    np.testing.assert_allclose(found[SCORES].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[EMBEDDING], axis=1), 1, atol=1e-5)


def test_linear_probe_trains_a_linear_layer_only():
    model = classifier(freeze="backbone", embedding_dim=0)
    assert [variable.path for variable in model.trainable_variables] == ["scores/kernel", "scores/bias"]
    backbone = model.get_layer(BACKBONE)
    before = backbone.get_weights()
    found = fit(model, 20, rate=0.05)
    assert found[-1] < 0.5 * found[0]
    for one, other in zip(backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)  # the averages of batch normalisation too


def test_part_of_the_backbone_stays():
    model = classifier(freeze=8)
    backbone = model.get_layer(BACKBONE)
    frozen = backbone.layers[-1].layers[:8]
    before = [layer.get_weights() for layer in frozen]
    rest = backbone.layers[-1].layers[-3].get_weights()
    found = fit(model, 6)
    assert found[-1] < found[0]
    for layer, values in zip(frozen, before, strict=True):
        for one, other in zip(layer.get_weights(), values, strict=True):
            np.testing.assert_array_equal(one, other)
    assert any(
        np.abs(a - b).max() > 0
        for a, b in zip(backbone.layers[-1].layers[-3].get_weights(), rest, strict=True)
    )


def test_fine_tuning_takes_the_backbone_in_smaller_steps():
    moved = {}
    for rate in (1.0, 0.1):
        model = classifier(dropout=0.0)
        backbone = list(model.get_layer(BACKBONE).trainable_variables)
        head = [v for v in model.trainable_variables if not any(v is other for other in backbone)]
        before = [[np.asarray(v) for v in part] for part in (backbone, head)]
        fit(model, 1, rate=1e-3, backbone_rate=rate, eager=True)
        moved[rate] = [
            np.concatenate([np.abs(np.asarray(v) - b).ravel() for v, b in zip(part, was, strict=True)]).mean()
            for part, was in zip((backbone, head), before, strict=True)
        ]
    assert moved[0.1][0] == pytest.approx(0.1 * moved[1.0][0], rel=0.02)
    assert moved[0.1][1] == pytest.approx(moved[1.0][1], rel=1e-3)
    assert moved[0.1][1] > 0


def test_several_labels():
    model = classifier(multi_label=True, freeze="backbone")
    found = fit(model, 80, several=True, rate=0.05)
    assert found[-1] < 0.6 * found[0]
    images, truth = images_and_truth(several=True)
    scores = outputs(model, images)[SCORES]
    assert ((scores > 0.5) == (truth > 0.5)).mean() > 0.8
    assert np.abs(scores.sum(axis=1) - 1).max() > 0.5  # each has a probability of its own


def test_heads_compute_in_32_bits():
    keras = deps.need("keras")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = classifier()
        images, _ = images_and_truth(2)
        found = outputs(model, images)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {value.dtype.name for value in found.values()} == {"float32"}
    np.testing.assert_allclose(found[SCORES].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[EMBEDDING], axis=1), 1, atol=1e-5)


def test_saved_model_gives_the_same(tmp_path):
    keras = deps.need("keras")
    model = classifier()
    images, _ = images_and_truth(3)
    path = str(tmp_path / "model.keras")
    model.save(path)
    again = keras.saving.load_model(path)
    for name, value in outputs(model, images).items():
        np.testing.assert_allclose(outputs(again, images)[name], value, atol=1e-6)
    taken = classifier(seed=9, weights=path).get_layer(BACKBONE)
    for one, other in zip(taken.get_weights(), model.get_layer(BACKBONE).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("classes", "multi_label", "message"), [(1, False, "two classes"), (0, True, "one class")]
)
def test_too_few_classes(classes, multi_label, message):
    with pytest.raises(UsageError, match=message):
        build_classifier(ModelConfig(), SIDE, classes, multi_label=multi_label)
