"""A trained model as a bundle: a SavedModel of two signatures, ``model_spec.json``, ``training.json``, and
the Keras model in a folder beside it.

The signature :data:`PIXELS` is what our pipelines run. :data:`SERVING`, the one that servers take unasked,
takes whole image files and decodes them in the graph, as our decoder does (see
:mod:`beam_vision.training.graph_decode`). It is asked over REST, of TensorFlow Serving and of Vertex AI, with
``{"instances": [{"image_bytes": {"b64": "..."}}]}``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from beam_vision import deps, storage
from beam_vision.images.codec import DecodeSettings
from beam_vision.inference.bundle import SPEC_FILE, read_bundle, write_bundle
from beam_vision.inference.spec import ModelSpec
from beam_vision.training.graph_decode import decode_images
from beam_vision.training.model import EMBEDDING, INPUT, SCORES, VALUE_RANGE

if TYPE_CHECKING:
    import keras

TRAINING_FILE = "training.json"
PIXELS, SERVING = "pixels", "serving_default"
IMAGE_BYTES = "image_bytes"
LABELS, TOP_SCORES = "labels", "scores"
TOP = 5
KERAS_FOLDER, KERAS_FILE = "keras", "model.keras"


def export(
    model: keras.Model,
    target: str,
    *,
    labels: Sequence[str] = (),
    metrics: Mapping[str, float],
    training: Mapping[str, Any],
    overwrite: bool = False,
    task: str = "classify",
    resize: str = "stretch",
    multi_label: bool | None = None,
    keras_too: bool = False,
) -> ModelSpec:
    """Writes the bundle of a classifier or an embedder, whole or not at all.

    Args:
      model: as :func:`beam_vision.training.model.build_model` makes it, trained: its input is uint8
        ``[N, H, W, 3]``, its outputs are :data:`SCORES` (but for an embedder) and :data:`EMBEDDING`.
      target: a local folder.
      labels: the class names, in the order of the scores.
      metrics: what it is released with.
      training: how it was trained, for people; written to ``training.json`` beside the model.
      overwrite: whether a bundle that is there may be replaced.
      task: ``classify`` or ``embed``.
      resize: how images were brought to its size in training.
      multi_label: whether its scores are independent of each other; None: found by its scores.
      keras_too: whether the Keras model is saved beside it, to be trained on, with a spec of its own.

    Returns:
      The spec, as the bundle holds it.
    """
    said: dict[str, Any] = {
        "task": task,
        "value_range": VALUE_RANGE,
        "embedding_output": EMBEDDING,
        "resize": resize,
        "labels": tuple(labels),
        "metrics": dict(metrics),
    }
    if task == "classify":
        said |= {"scores_output": SCORES, "activation": "none", "multi_label": multi_label}
    return write_trained(
        model, model, target, said=said, training=training, overwrite=overwrite, keras_too=keras_too
    )


def write_trained(
    model: keras.Model,
    serve: Callable[..., Mapping[str, Any]],
    target: str,
    *,
    said: Mapping[str, Any],
    training: Mapping[str, Any],
    overwrite: bool,
    keras_too: bool = False,
) -> ModelSpec:
    """Writes a bundle whose SavedModel has the signatures :data:`PIXELS` and :data:`SERVING`.

    Args:
      model: trained; its input is uint8 ``[N, H, W, 3]``.
      serve: from a batch, and ``training=False``, to the outputs; uses the model's variables.
      target: a local folder.
      said: the spec's fields that are of this kind of model.
      training: how it was trained, for people; written to ``training.json`` beside the model.
      overwrite: whether a bundle that is there may be replaced.
      keras_too: whether the Keras model is saved beside it; where it is a detector without a spec, since its
        outputs are read by ``serve``.

    Returns:
      The spec, as the bundle holds it.
    """

    def save(folder: str) -> None:
        _save_model(model, serve, folder, said)
        storage.write_json(storage.join(folder, TRAINING_FILE), dict(training))
        if keras_too:
            _save_keras(model, folder, said)

    of_signature = {
        "signature": PIXELS,
        "input_kind": "pixels",
        "height_px": model.input_shape[1],
        "width_px": model.input_shape[2],
    }
    return write_bundle(target, save, {**of_signature, **said}, overwrite=overwrite)


def _save_model(
    model: keras.Model, serve: Callable[..., Mapping[str, Any]], folder: str, said: Mapping[str, Any]
) -> None:
    tf = deps.need("tensorflow")
    height, width = model.input_shape[1:3]
    decoding = DecodeSettings(height_px=height, width_px=width, resize=said.get("resize", "stretch"))

    @tf.function(input_signature=[tf.TensorSpec((None, height, width, 3), tf.uint8, name=INPUT)])
    def pixels(image: Any) -> Any:
        return serve(image, training=False)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name=IMAGE_BYTES)], autograph=False)
    def image_bytes(image_bytes: Any) -> Any:
        found = serve(decode_images(image_bytes, decoding), training=False)
        return {**found, **name_best(found, said.get("labels", ()))}

    module = tf.Module()
    module.model = model
    module.pixels, module.image_bytes = pixels, image_bytes
    tf.saved_model.save(module, folder, signatures={PIXELS: pixels, SERVING: image_bytes})


def name_best(outputs: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The classes of the highest scores, for clients that have no list of classes.

    Args:
      outputs: a model's; :data:`SCORES` float32 ``[N, classes]`` among them, or nothing is named.
      labels: the class names.

    Returns:
      ``labels`` string ``[N, k]`` and ``scores`` float32 ``[N, k]``, highest first; k is at most :data:`TOP`.
    """
    if SCORES not in outputs or not labels:
        return {}
    tf = deps.need("tensorflow")
    best, places = tf.math.top_k(outputs[SCORES], min(TOP, len(labels)))
    return {LABELS: tf.gather(tf.constant(list(labels)), places), TOP_SCORES: best}


def _save_keras(model: keras.Model, folder: str, said: Mapping[str, Any]) -> None:
    aside = storage.join(folder, KERAS_FOLDER)
    os.makedirs(aside)
    path = storage.join(aside, KERAS_FILE)
    model.save(path)
    if not said.get("detector"):
        storage.write_json(storage.join(aside, SPEC_FILE), read_bundle(path, said).to_json())
