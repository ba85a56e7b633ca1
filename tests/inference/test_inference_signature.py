"""What a model takes and gives is found, not assumed."""

import numpy as np
import pytest

from beam_vision.errors import UsageError
from beam_vision.inference import keras_model, signature
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.outputs import choose_outputs
from beam_vision.inference.resolve import choose_input, resolve
from beam_vision.inference.signature import Signature, Tensor
from beam_vision.testing import models


def save(folder, call, spec, name="serving_default", more=()):
    import tensorflow as tf

    module = tf.Module()
    module.call = tf.function(call, input_signature=[spec])
    module.more = [tf.function(call, input_signature=[spec]) for _ in more]
    signatures = {name: module.call, **dict(zip(more, module.more, strict=True))}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return str(folder)


def pixels(dtype="float32", shape=(None, 8, 8, 3)):
    import tensorflow as tf

    return tf.TensorSpec(shape, dtype, name="x")


def mean(x):
    import tensorflow as tf

    return {"scores": tf.reduce_mean(x, axis=[1, 2])}


@pytest.mark.parametrize(
    ("names", "wanted", "chosen"),
    [
        (["a", "serving_default", "serve"], "", "serving_default"),
        (["a", "serve"], "", "serve"),
        (["a"], "", "a"),
        (["a", "serving_default"], "a", "a"),
    ],
)
def test_signatures_are_chosen_in_order(names, wanted, chosen):
    assert signature.choose_signature(names, wanted) == chosen


def test_a_signature_that_is_not_there_or_not_clear_is_told(tmp_path):
    path = save(tmp_path / "m", mean, pixels(), "one", ["two"])
    with pytest.raises(UsageError, match="has signatures one, two; choose one with --signature"):
        read_bundle(path)
    with pytest.raises(UsageError, match="no signature 'three'; it has one, two"):
        read_bundle(path, {"signature": "three"})
    assert read_bundle(path, {"signature": "two"}).signature == "two"


def test_a_file_that_is_no_saved_model(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff not a proto")
    with pytest.raises(UsageError, match="is no SavedModel"):
        read_bundle(str(tmp_path))


ARITHMETIC = {
    "divided by 255": (lambda tf, x: x / 255, "0..255"),
    "times 1/127.5 less 1": (lambda tf, x: x * (1 / 127.5) - 1, "0..255"),
    "less a mean colour": (lambda tf, x: x - [123.7, 116.8, 103.9], "0..255"),
    "resized, cast, divided": (lambda tf, x: tf.cast(tf.image.resize(x, [4, 4]), "float32") / 255, "0..255"),
    "inside a function": (lambda tf, x: tf.function(lambda y: y / 255)(x), "0..255"),
    "by an argument": (lambda tf, x: tf.function(lambda y, c: y / c)(x, tf.constant(255.0)), "0..255"),
    "in two functions": (
        lambda tf, x: tf.function(lambda y: y / 255)(tf.function(lambda y: tf.identity(y))(x)),
        "0..255",
    ),
    "doubled less 1": (lambda tf, x: x * 2 - 1, "0..1"),
    "times 255": (lambda tf, x: x * 255, "0..1"),
    "ImageNet's mean": (lambda tf, x: (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], "0..1"),
    "nothing": (lambda tf, x: x, None),
    "a convolution": (lambda tf, x: tf.nn.conv2d(x, np.ones((1, 1, 3, 3), "f"), 1, "SAME"), None),
    "a division of it": (lambda tf, x: 255 / (x + 1e-3 * tf.reduce_sum(x)), None),
}


@pytest.mark.parametrize("how", ARITHMETIC)
def test_the_value_range_is_told_by_the_first_arithmetic(how, tmp_path):
    import tensorflow as tf

    do, expected = ARITHMETIC[how]
    path = save(tmp_path / "m", lambda x: mean(do(tf, x)), pixels())
    assert signature.find_in_saved_model(path).value_range == (expected or "")
    spec = read_bundle(path)
    assert spec.value_range == (expected or "0..1")
    assert bool(spec.notes) == (expected is None)


def test_a_kept_variable_of_the_model_says_nothing(tmp_path):
    import tensorflow as tf

    class Scaled(tf.Module):
        def __init__(self):
            self.scale = tf.Variable(1 / 255)

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)])
        def __call__(self, x):
            return mean(x * self.scale)

    module = Scaled()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.__call__)
    assert signature.find_in_saved_model(str(tmp_path / "m")).value_range == ""


def keras_pair(tmp_path, build):
    """The same model as a .keras file and exported as a SavedModel."""
    import keras

    keras.utils.set_random_seed(1)
    model = build(keras)
    model.save(str(tmp_path / "m.keras"))
    model.export(str(tmp_path / "m"), verbose=False)
    return str(tmp_path / "m.keras"), str(tmp_path / "m")


def normalization(keras):
    images = keras.Input((8, 8, 3))
    x = keras.layers.Normalization(mean=[123.0, 117.0, 104.0], variance=[1.0, 1.0, 1.0])(images)
    return keras.Model(images, keras.layers.Dense(2, "softmax")(keras.layers.Flatten()(x)))


def rescaling_in_a_sequential(keras):
    layers = [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 127.5, -1), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


@pytest.mark.parametrize("build", [normalization, rescaling_in_a_sequential])
def test_layers_in_front_of_a_keras_model_tell_the_value_range(build, tmp_path):
    for path in keras_pair(tmp_path, build):
        spec = read_bundle(path)
        assert (spec.value_range, spec.classes, spec.notes) == ("0..255", 2, ())


@pytest.mark.parametrize(
    ("name", "value_range"),
    [("MobileNetV2", "-1..1"), ("MobileNetV3Small", "0..255")],
)
def test_keras_applications(name, value_range):
    import keras

    build = getattr(keras.applications, name)
    found = keras_model.describe(
        build(weights=None, input_shape=(32, 32, 3), include_top=False, pooling="avg")
    )
    assert found.value_range == value_range
    assert bool(found.remarks) == (value_range == "-1..1")


@pytest.mark.parametrize(
    ("name", "value_range"), [("densenet121", "imagenet"), ("xception", "-1..1"), ("my_net", "")]
)
@pytest.mark.parametrize("nested", [False, True])
def test_conventions_go_by_the_name(name, value_range, nested):
    import keras

    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images), name=name)
    if nested:
        model = keras.Model(images, keras.layers.Dense(2)(model(images)), name="outer")
    assert keras_model.describe(model).value_range == value_range


def test_a_keras_layer_serves_as_the_embedding(tmp_path):
    path = models.save_keras(str(tmp_path / "m.keras"))
    with pytest.raises(UsageError, match=r"no output or layer 'nothing'.*that give vectors: quadrants"):
        read_bundle(path, {"embedding_output": "nothing"})
    with pytest.raises(UsageError, match="--embedding_output quadrants"):
        read_bundle(path, {"task": "embed"})
    spec = read_bundle(path, {"task": "embed", "embedding_output": "quadrants"})
    assert (spec.scores_output, spec.embedding_output, spec.embedding_dim) == ("scores", "quadrants", 12)


def test_a_keras_file_that_needs_code_is_told(tmp_path):
    import keras

    images = keras.Input((8, 8, 3))
    keras.Model(images, keras.layers.Lambda(lambda x: x + 1)(images)).save(str(tmp_path / "m.keras"))
    with pytest.raises(UsageError, match=r"Keras can't load .*model\.export"):
        read_bundle(str(tmp_path / "m.keras"))


def test_a_file_that_is_no_onnx_model(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(UsageError, match="onnxruntime can't load"):
        read_bundle(str(tmp_path / "m.onnx"))


def test_onnx_without_onnxruntime_says_how_to_install_it(tmp_path, monkeypatch):
    import sys

    models.save_onnx(str(tmp_path / "m.onnx"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'beam-vision\[onnx\]'"):
        read_bundle(str(tmp_path / "m.onnx"))


def floats(name, *shape):
    return Tensor(name, "float32", (None, *shape))


OUTPUTS = {
    "by name": ([floats("logits", 10), floats("features", 64)], {}, ("logits", "features")),
    "a map": ([floats("output_0", 10), floats("last_hidden", 7, 7, 64)], {}, ("output_0", "last_hidden")),
    "by the labels": (
        [floats("output_0", 64), floats("output_1", 3)],
        {"labels": ("a", "b", "c")},
        ("output_1", "output_0"),
    ),
    "as said": (
        [floats("a", 10), floats("b", 10)],
        {"scores_output": "b", "embedding_output": "a"},
        ("b", "a"),
    ),
    "the other is left": ([floats("a", 10), floats("b", 64)], {"scores_output": "a"}, ("a", "b")),
    "one, for classify": ([floats("output_0", 10)], {"task": "classify"}, ("output_0", "")),
    "one, for embed": ([floats("output_0", 64)], {"task": "embed"}, ("", "output_0")),
    "one, unsaid": ([floats("output_0", 64)], {}, ("output_0", "")),
    "one of pooled features": ([floats("avg_pool", 64)], {}, ("", "avg_pool")),
    "one map": ([floats("output_0", 7, 7, 64)], {}, ("", "output_0")),
    "labels as text beside": ([floats("scores", 4), Tensor("label", "string", (None,))], {}, ("scores", "")),
}


@pytest.mark.parametrize("how", OUTPUTS)
def test_outputs_are_told_apart(how):
    outputs, said, expected = OUTPUTS[how]
    chosen = choose_outputs(Signature(inputs=(), outputs=tuple(outputs)), said, [])
    assert (chosen["scores_output"], chosen["embedding_output"]) == expected


@pytest.mark.parametrize(
    ("outputs", "said", "message"),
    [
        ([floats("a", 10), floats("b", 64)], {}, "--embedding_output: a: float32.*b: float32"),
        ([floats("a", 10), floats("b", 64)], {"task": "classify"}, "--scores_output: a: float32"),
        ([floats("probabilities", 10)], {"task": "embed"}, "no output of embeddings is known"),
        ([floats("features", 7, 7, 64)], {"task": "classify"}, "no output of scores is known"),
        ([floats("a", 10)], {"scores_output": "b"}, r"no output 'b' \(--scores_output\)"),
        ([floats("a", 10), floats("tokens", 50, 64)], {"embedding_output": "tokens"}, "is no embedding"),
    ],
)
def test_outputs_that_can_not_be_told_are_listed(outputs, said, message):
    with pytest.raises(UsageError, match=message):
        choose_outputs(Signature(inputs=(), outputs=tuple(outputs)), said, [])


def takes(*inputs):
    return Signature(inputs=inputs, outputs=(floats("scores", 3),))


@pytest.mark.parametrize(
    ("inputs", "wanted", "message"),
    [
        ([floats("x", 10)], "", "no input of the model takes images"),
        ([floats("a", 8, 8, 3), floats("b", 8, 8, 3)], "", "choose it with --input_name"),
        ([floats("a", 8, 8, 3), floats("b", 8, 8, 3)], "a", "needs further inputs, .*: b: float32"),
        ([floats("a", 8, 8, 3)], "b", "no input 'b'"),
        ([floats("a", 5)], "a", "takes no batch of images"),
    ],
)
def test_inputs_that_do_not_fit_are_told(inputs, wanted, message):
    with pytest.raises(UsageError, match=message):
        choose_input(takes(*inputs), wanted)


@pytest.mark.parametrize(
    ("shape", "said", "expected"),
    [
        ((None, 8, 9, 3), {}, ("NHWC", 8, 9, 3, None)),
        ((4, 3, 8, 9), {}, ("NCHW", 8, 9, 3, 4)),
        ((1, 1, 8, 9), {}, ("NCHW", 8, 9, 1, 1)),
        ((None, 8, 9, 1), {}, ("NHWC", 8, 9, 1, None)),
        ((None, None, None, None), {"height_px": 8, "width_px": 9}, ("NHWC", 8, 9, 3, None)),
        (
            (None, None, None, None),
            {"height_px": 8, "width_px": 9, "layout": "NCHW"},
            ("NCHW", 8, 9, 3, None),
        ),
        (None, {"height_px": 8, "width_px": 9, "channels": 1}, ("NHWC", 8, 9, 1, None)),
    ],
)
def test_layouts_and_sizes(shape, said, expected):
    spec = resolve(takes(Tensor("x", "float32", shape)), said)
    assert (spec.layout, spec.height_px, spec.width_px, spec.channels, spec.fixed_batch) == expected


def test_a_size_that_is_open_must_be_said():
    with pytest.raises(UsageError, match="give it with --image_size"):
        resolve(takes(floats("x", None, None, 3)), {})


def test_an_input_of_five_channels_is_refused():
    with pytest.raises(UsageError, match="5 channels"):
        resolve(takes(floats("x", 8, 8, 5)), {})


def test_strings_that_hold_neither_images_nor_examples_are_told(tmp_path):
    import tensorflow as tf

    path = save(
        tmp_path / "m",
        lambda x: {"scores": tf.strings.to_number(x)[:, None]},
        tf.TensorSpec([None], tf.string, name="x"),
    )
    with pytest.raises(UsageError, match="--input_kind image_bytes or tf_example"):
        read_bundle(path)
    assert read_bundle(path, {"input_kind": "image_bytes"}).input_kind == "image_bytes"


def test_strings_are_told_apart_by_what_is_done_to_them(tmp_path):
    assert read_bundle(models.save_image_bytes_model(str(tmp_path / "a"))).input_kind == "image_bytes"
    assert read_bundle(models.save_example_model(str(tmp_path / "b"))).input_kind == "tf_example"
