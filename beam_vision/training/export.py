"""A trained model as a bundle: a SavedModel, ``model_spec.json`` and ``training.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def save(folder: str) -> None:
        save_model(model, folder)
        storage.write_json(storage.join(folder, TRAINING_FILE), dict(training))

    said = {
        "task": "classify",
        "signature": SIGNATURE,
        "input_kind": "pixels",
        "height_px": model.input_shape[1],
        "width_px": model.input_shape[2],
        "value_range": VALUE_RANGE,
        "scores_output": SCORES,
        "embedding_output": EMBEDDING,
        "activation": "none",
        "labels": tuple(labels),
        "metrics": dict(metrics),
    }
    return write_bundle(target, save, said, overwrite=overwrite)


def save_model(model: keras.Model, folder: str) -> None:
    """A SavedModel whose one signature takes uint8 pixels and gives scores and embedding."""
    tf = deps.need("tensorflow")
    pixels = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name=INPUT)

    @tf.function(input_signature=[pixels])
    def serve(image: Any) -> Any:
        return model(image, training=False)

    module = tf.Module()
    module.model = model
    module.serve = serve
    tf.saved_model.save(module, folder, signatures={SIGNATURE: serve})
