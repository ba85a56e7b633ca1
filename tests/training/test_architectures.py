"""Backbones by name: the table against the libraries it names, pixels, freezing, weights from files."""

import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training import architectures
from beam_vision.training.architectures import ARCHITECTURES, BACKBONE, build_backbone, scale_pixels
from beam_vision.training.config import ModelConfig

SIDE = 32
IN_ISSUE = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_b0"),
    *("resnet50", "densenet121", "xception", "vgg16", "vgg19", "vit_base_patch16", "compact"),
)


def images(number=2, side=SIDE):
    return np.random.default_rng(0).integers(0, 256, (number, side, side, 3)).astype(np.uint8)


def backbone(architecture, side=SIDE, seed=0, **given):
    return build_backbone(ModelConfig(architecture=architecture, **given), side, seed=seed)


def net_of(model):
    """The bare network in a backbone: its last layer."""
    return model.layers[-1]


def outputs(model):
    return np.asarray(model(images(), training=False))


def assert_alike(found, expected):
    """To a ten-thousandth of the largest: features of an untrained network may be tiny."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def of(source):
    return [name for name, architecture in ARCHITECTURES.items() if architecture.source == source]


def test_the_issues_architectures_are_there():
    assert set(IN_ISSUE) <= set(architectures.names())
    assert len(architectures.names()) > 40


@pytest.mark.parametrize("name", of("applications"))
def test_pixels_are_scaled_as_the_networks_own_module_does(name):
    keras = deps.need("keras")
    architecture = ARCHITECTURES[name]
    maker = getattr(keras.applications, architecture.maker)
    assert {"include_top", "weights", "input_shape", *architecture.settings} <= set(
        inspect.signature(maker).parameters
    )
    expected = importlib.import_module(maker.__module__).preprocess_input(images().astype(np.float32))
    found = scale_pixels(keras.ops.convert_to_tensor(images()), architecture.preprocessing)
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-3)


@pytest.mark.parametrize("name", of("hub"))
def test_hub_architectures_name_what_is_there(name):
    architecture = ARCHITECTURES[name]
    maker = getattr(deps.need("keras_hub").models, architecture.maker)
    if architecture.settings:
        inspect.signature(maker).bind(**architecture.settings, image_shape=(SIDE, SIDE, 3))


FROZEN_LAYERS = 20


@pytest.fixture(scope="module")
def built():
    """One of each source, built once."""
    return {
        "compact": backbone("compact", seed=7),
        "mobilenet_v2_035": backbone("mobilenet_v2_035", freeze=FROZEN_LAYERS),
        "vit_micro_patch8": backbone("vit_micro_patch8"),
    }


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("compact", (2, 2, 2, 96)),
        ("mobilenet_v2_035", (2, 1, 1, 1280)),
        ("vit_micro_patch8", (2, 17, 96)),
    ],
)
def test_features_of_bytes(built, name, shape):
    model = built[name]
    found = outputs(model)
    assert model.name == BACKBONE
    assert model.input.dtype == "uint8"
    assert found.shape == shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 1e-3 * np.abs(found).max()


def test_the_seed_decides_the_first_weights():
    first, again, other = (outputs(backbone("compact", seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1 * np.abs(first).max()


def test_frozen_network_gives_the_same_in_training():
    keras = deps.need("keras")
    layers = keras.layers
    given = keras.Input((8,))
    net = keras.Model(given, layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(8)(given))))
    outer = keras.Model(given, net(given))
    data = np.random.default_rng(1).normal(3, 2, (16, 8))
    assert np.abs(np.asarray(outer(data, training=True)) - np.asarray(outer(data))).max() > 0.5
    architectures.freeze(outer, net, "backbone")
    np.testing.assert_array_equal(np.asarray(outer(data, training=True)), np.asarray(outer(data)))
    assert outer.trainable_variables == []


def test_first_layers_are_frozen(built):
    layers = net_of(built["mobilenet_v2_035"]).layers
    trained = [True] * (len(layers) - FROZEN_LAYERS)
    assert [layer.trainable for layer in layers] == [False] * FROZEN_LAYERS + trained
    with pytest.raises(UsageError, match=r"model.freeze is 9999; the backbone has \d+ layers"):
        backbone("compact", freeze=9999)


def test_averages_of_a_network_from_nothing_follow_soon(built):
    layers = net_of(built["mobilenet_v2_035"]).layers
    kind = deps.need("keras").layers.BatchNormalization
    assert {layer.momentum for layer in layers if isinstance(layer, kind)} == {0.9}  # as published: 0.999


def test_weights_from_files(built, tmp_path):
    trained = built["compact"]
    alone, whole = str(tmp_path / "net.weights.h5"), str(tmp_path / "model.keras")
    net_of(trained).save_weights(alone)
    keras = deps.need("keras")
    given = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    keras.Model(given, keras.layers.GlobalMaxPooling2D()(trained(given))).save(whole)
    for path in (alone, whole):
        assert_alike(outputs(backbone("compact", weights=path)), outputs(trained))
    torn = tmp_path / "torn.keras"
    torn.write_bytes(Path(whole).read_bytes()[:1000])
    for architecture, path in (("vit_micro_patch8", alone), ("vit_micro_patch8", whole), ("compact", torn)):
        with pytest.raises(UsageError, match="does not fit"):
            backbone(architecture, weights=str(path))


def test_preset_from_a_folder(built, tmp_path):
    hub = deps.need("keras_hub")
    trained = built["vit_micro_patch8"]
    folder = str(tmp_path / "preset")
    net_of(trained).save_to_preset(folder)
    found = backbone("vit_micro_patch8", weights=f"preset:{folder}", seed=7)
    assert_alike(outputs(found), outputs(trained))
    with pytest.raises(UsageError, match=r"takes images of 32x32 px; set data.image_size to 32"):
        backbone("vit_micro_patch8", side=64, weights=f"preset:{folder}")

    hub.layers.ImageConverter(scale=1 / 51, offset=-2.5).save_to_preset(folder)
    named = backbone("keras_hub", weights=f"preset:{folder}")
    assert_alike(outputs(named), np.asarray(net_of(trained)(images() / 51 - 2.5, training=False)))


@pytest.mark.parametrize(
    ("architecture", "side", "weights", "message"),
    [
        ("mobilnet_v2", 32, "random", "did you mean 'mobilenet_v2'"),
        ("xception", 64, "random", "image_size is 64; xception takes at least 71"),
        ("vit_base_patch16", 40, "random", "at least 16 and a multiple of 16"),
        ("keras_hub", 32, "random", "give model.weights preset:NAME"),
        ("compact", 32, "preset:imagenet", "compact has no presets"),
        ("mobilenet_v2", 32, "preset:jft", "one preset, imagenet"),
        ("compact", 32, "gone.weights.h5", "there is no such file"),
        ("compact", 32, "imagenet", "'imagenet' is not known: it is random, a local"),
        ("vit_micro_patch8", 32, "preset:./gone", r"preset:\./gone: .*local file"),
    ],
)
def test_what_can_not_be_built_says_why(architecture, side, weights, message):
    with pytest.raises(UsageError, match=message):
        backbone(architecture, side, weights=weights)
