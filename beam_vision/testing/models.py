"""Tiny real models whose answers can be worked out by hand, written to disk as real model files.

All of them see an 8x8 image as its colours: with ``x`` the pixels in 0..1,

- scores are ``mean over height and width of x, times COLOURS, plus BIAS`` (four classes),
- the embedding is the mean colour of each quadrant, row by row: twelve numbers.

:func:`scores` and :func:`embedding` say the same in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE_PX = 8
LABELS = ("red", "green", "blue", "dark")
COLOURS = np.array([[4.0, -2, -2, -1], [-2, 4, -2, -1], [-2, -2, 4, -1]], np.float32)
BIAS = np.array([0, 0, 0, 1], np.float32)
EMBEDDING_DIM = 12
CULPRIT_RGB = (255, 0, 255)
"""An image all of this colour is the one that :func:`save_troubled` stumbles over."""


def scores(x: np.ndarray) -> np.ndarray:
    """float32 ``[n, 4]`` of pixels ``[n, h, w, 3]`` in 0..1."""
    return x.astype(np.float32).mean(axis=(1, 2)) @ COLOURS + BIAS


def embedding(x: np.ndarray) -> np.ndarray:
    """float32 ``[n, 12]`` of pixels ``[n, h, w, 3]`` in 0..1, height and width even."""
    n, height, width, channels = x.shape
    cut = x.astype(np.float32).reshape(n, 2, height // 2, 2, width // 2, channels)
    return cut.mean(axis=(2, 4)).reshape(n, -1)


def _outputs(x: Any) -> dict[str, Any]:
    """:func:`scores` and :func:`embedding` in TensorFlow."""
    import tensorflow as tf

    pooled = tf.nn.avg_pool2d(x, SIDE_PX // 2, SIDE_PX // 2, "VALID")
    return {
        "scores": tf.reduce_mean(x, axis=[1, 2]) @ tf.constant(COLOURS) + tf.constant(BIAS),
        "embedding": tf.reshape(pooled, [-1, EMBEDDING_DIM]),
    }


def _save(folder: str, call: Callable, spec: Any) -> str:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(call, input_signature=[spec])
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
    return folder


def save_saved_model(
    folder: str, *, batch: int | None = None, side_px: int | None = SIDE_PX, dtype: str = "float32"
) -> str:
    """A SavedModel over pixels in 0..1 (0..255 for whole numbers) with outputs ``scores`` and ``embedding``.

    Args:
      folder: made new.
      batch: its fixed batch size; None: any.
      side_px: of its input; None: any.
      dtype: of its input.

    Returns:
      ``folder``.
    """
    import tensorflow as tf

    def call(images: Any) -> dict[str, Any]:
        x = tf.cast(images, tf.float32)
        x = x / 255 if tf.as_dtype(dtype).is_integer else x
        return _outputs(tf.ensure_shape(x, [batch, SIDE_PX, SIDE_PX, 3]))

    return _save(folder, call, tf.TensorSpec([batch, side_px, side_px, 3], dtype, name="images"))


def _decode(data: Any) -> Any:
    """Encoded images ``[n]`` to pixels ``[n, 8, 8, 3]`` in 0..1, shrunk by area, all inside the graph."""
    import tensorflow as tf

    def decode_one(item: Any) -> Any:
        pixels = tf.io.decode_image(item, channels=3, expand_animations=False)
        return tf.image.resize(pixels, [SIDE_PX, SIDE_PX], "area") / 255

    return tf.map_fn(decode_one, data, fn_output_signature=tf.TensorSpec([SIDE_PX, SIDE_PX, 3], tf.float32))


def save_image_bytes_model(folder: str) -> str:
    """A SavedModel over encoded images, which it decodes itself."""
    import tensorflow as tf

    return _save(
        folder, lambda data: _outputs(_decode(data)), tf.TensorSpec([None], tf.string, name="image_bytes")
    )


def save_example_model(folder: str) -> str:
    """A SavedModel over serialized ``tf.Example``s with ``image/encoded``."""
    import tensorflow as tf

    def call(examples: Any) -> dict[str, Any]:
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return _outputs(_decode(tf.io.parse_example(examples, features)["image/encoded"]))

    return _save(folder, call, tf.TensorSpec([None], tf.string, name="examples"))


def save_troubled(folder: str, trouble: str) -> str:
    """A SavedModel that stumbles.

    Args:
      folder: made new.
      trouble: ``raises``: an error for a batch that holds an image of :data:`CULPRIT_RGB`; ``nan``: NaN in
        that image's row; ``zero``: its embedding is all zeros; ``short``: it always gives one row fewer;
        ``memory``: a batch of more than 4 asks for more memory than there is; ``abort``: it kills its
        process.
    """
    import tensorflow as tf

    def call(images: Any) -> dict[str, Any]:
        distance = tf.abs(tf.reduce_mean(images, axis=[1, 2]) - tf.constant(CULPRIT_RGB, tf.float32) / 255)
        culprit = tf.reduce_all(distance < 0.02, axis=1)
        outputs = _outputs(images)
        if trouble == "raises":
            with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_any(culprit), False)]):
                return {name: tf.identity(value) for name, value in outputs.items()}
        if trouble in ("nan", "zero"):
            bad = np.nan if trouble == "nan" else 0.0
            return {name: tf.where(culprit[:, None], bad, value) for name, value in outputs.items()}
        if trouble == "short":
            return {name: value[1:] for name, value in outputs.items()}
        if trouble == "memory":
            asked = tf.where(tf.shape(images)[0] > 4, tf.constant(1 << 50, tf.int64), 1)
            nothing = tf.reduce_sum(tf.random.uniform([asked])) * 0
            return {name: value + nothing for name, value in outputs.items()}
        with tf.control_dependencies([tf.raw_ops.Abort(error_msg="as asked")]):
            return {name: tf.identity(value) for name, value in outputs.items()}

    return _save(folder, call, tf.TensorSpec([None, SIDE_PX, SIDE_PX, 3], tf.float32, name="images"))


def save_callable(folder: str) -> str:
    """A SavedModel without signatures that can only be called, as many on TF Hub; pixels in 0..1, any size.

    It has a ``training`` argument, and gives the scores alone, as a bare tensor.
    """
    import tensorflow as tf

    class Module(tf.Module):
        @tf.function
        def __call__(self, images: Any, training: bool = False) -> Any:
            outputs = _outputs(images * 2 - 1 + 1 - images)["scores"]
            return outputs + 100 if training else outputs

    module = Module()
    spec = tf.TensorSpec([None, SIDE_PX, SIDE_PX, 3], tf.float32)
    for training in (True, False):
        module.__call__.get_concrete_function(spec, training=training)
    tf.saved_model.save(module, folder)
    return folder


def save_v1(folder: str, vocabulary: str) -> str:
    """A TensorFlow 1 SavedModel with a variable, a table and the table's file as an asset.

    Args:
      folder: made new.
      vocabulary: a text file of four labels, which becomes the asset.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, [None, SIDE_PX, SIDE_PX, 3], "images")
        weights = v1.get_variable("weights", initializer=COLOURS, use_resource=False)
        logits = tf.reduce_mean(images, axis=[1, 2]) @ weights + BIAS
        names = tf.constant(vocabulary)
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, names)
        kind = tf.lookup.TextFileInitializer(
            names,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
        )
        table = tf.lookup.StaticHashTable(kind, "")
        best = table.lookup(tf.argmax(logits, axis=1))
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        predict = v1.saved_model.predict_signature_def({"images": images}, {"logits": logits, "label": best})
        builder = v1.saved_model.Builder(folder)
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"predict": predict},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()
    return folder


def keras_model(*, preprocessing: bool = True) -> Any:
    """A functional Keras model with the single output ``scores`` and the embedding in layer ``quadrants``.

    Args:
      preprocessing: whether it brings 0..255 to 0..1 itself.
    """
    import keras

    images = keras.Input((SIDE_PX, SIDE_PX, 3), name="images")
    x = keras.layers.Rescaling(1 / 255)(images) if preprocessing else images
    x = keras.layers.AveragePooling2D(SIDE_PX // 2)(x)
    x = keras.layers.Flatten(name="quadrants")(x)
    dense = keras.layers.Dense(len(LABELS), name="scores")
    model = keras.Model(images, dense(x))
    dense.set_weights([np.tile(COLOURS, (4, 1)) / 4, BIAS])
    return model


def save_keras(path: str, *, preprocessing: bool = True) -> str:
    """:func:`keras_model` as a ``.keras`` file."""
    keras_model(preprocessing=preprocessing).save(path)
    return path


def save_onnx(path: str, *, layout: str = "NCHW", batch: int | None = None) -> str:
    """An ONNX model over float pixels in 0..1 with outputs ``logits`` and ``features``.

    Args:
      path: the file.
      layout: ``NCHW`` or ``NHWC``. The embedding is the mean colour, as a map of one place.
      batch: its fixed batch size; None: any.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = [3, SIDE_PX, SIDE_PX] if layout == "NCHW" else [SIDE_PX, SIDE_PX, 3]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    one_place = [3, 1, 1] if layout == "NCHW" else [1, 1, 3]
    first: Any = batch if batch is not None else "batch"
    constants = {
        "axes": np.array(axes),
        "flat": np.array([-1, 3]),
        "colours": COLOURS,
        "bias": BIAS,
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["features"], keepdims=1),
            helper.make_node("Reshape", ["features", "flat"], ["means"]),
            helper.make_node("MatMul", ["means", "colours"], ["products"]),
            helper.make_node("Add", ["products", "bias"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [first, *shape])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [first, len(LABELS)]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [first, *one_place]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    Path(path).write_bytes(model.SerializeToString())
    return path
