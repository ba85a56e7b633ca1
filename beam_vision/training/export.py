"""A trained model as a bundle: a SavedModel, ``model_spec.json`` and ``training.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from beam_vision import deps, storage
from beam_vision.inference.bundle import write_bundle
from beam_vision.inference.spec import ModelSpec
from beam_vision.training.model import EMBEDDING, INPUT, SCORES, VALUE_RANGE

if TYPE_CHECKING:
    import keras

TRAINING_FILE = "training.json"
SIGNATURE = "serving_default"


def export(
    model: keras.Model,
    target: str,
    *,
    labels: Sequence[str],
    metrics: Mapping[str, float],
    training: Mapping[str, Any],
    overwrite: bool = False,
) -> ModelSpec:
    """Writes the bundle, whole or not at all.

    Args:
      model: as :func:`beam_vision.training.model.build_model` makes it, trained.
      target: a local folder.
      labels: the class names, in the order of the scores.
      metrics: what it is released with.
      training: how it was trained, for people; written to ``training.json`` beside the model.
      overwrite: whether a bundle that is there may be replaced.

    Returns:
      The spec, as the bundle holds it.
    """

    said = {
        "task": "classify",
        "value_range": VALUE_RANGE,
        "scores_output": SCORES,
        "embedding_output": EMBEDDING,
        "activation": "none",
        "labels": tuple(labels),
        "metrics": dict(metrics),
    }
    return write_trained(model, model, target, said=said, training=training, overwrite=overwrite)


def write_trained(
    model: keras.Model,
    serve: Callable[..., Mapping[str, Any]],
    target: str,
    *,
    said: Mapping[str, Any],
    training: Mapping[str, Any],
    overwrite: bool,
) -> ModelSpec:
    """Writes a bundle whose SavedModel has one signature, of uint8 pixels.

    Args:
      model: trained; its input is uint8 ``[N, H, W, 3]``.
      serve: from a batch, and ``training=False``, to the signature's outputs; uses the model's variables.
      target: a local folder.
      said: the spec's fields that are of this kind of model.
      training: how it was trained, for people; written to ``training.json`` beside the model.
      overwrite: whether a bundle that is there may be replaced.

    Returns:
      The spec, as the bundle holds it.
    """

    def save(folder: str) -> None:
        _save_model(model, serve, folder)
        storage.write_json(storage.join(folder, TRAINING_FILE), dict(training))

    of_signature = {
        "signature": SIGNATURE,
        "input_kind": "pixels",
        "height_px": model.input_shape[1],
        "width_px": model.input_shape[2],
    }
    return write_bundle(target, save, {**of_signature, **said}, overwrite=overwrite)


def _save_model(model: keras.Model, serve: Callable[..., Mapping[str, Any]], folder: str) -> None:
    tf = deps.need("tensorflow")
    pixels = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name=INPUT)

    @tf.function(input_signature=[pixels])
    def signature(image: Any) -> Any:
        return serve(image, training=False)

    module = tf.Module()
    module.model = model
    module.serve = signature
    tf.saved_model.save(module, folder, signatures={SIGNATURE: signature})
