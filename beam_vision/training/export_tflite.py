"""A bundle's SavedModel as TensorFlow Lite models: weights of 16 bits, or weights and activations of 8.

They lie in the bundle's folder ``tflite``, each with a spec of its own, and are run by ``predict --model
BUNDLE/tflite/int8.tflite``. They take uint8 pixels and give float32, as the SavedModel does.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from beam_vision import deps, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.failures import shorten
from beam_vision.inference.bundle import own_spec_file, read_bundle
from beam_vision.inference.spec import ModelSpec
from beam_vision.training.export import PIXELS
from beam_vision.training.model import INPUT

FOLDER = "tflite"
FLOAT16, INT8 = "float16", "int8"
KINDS = (FLOAT16, INT8)
REPRESENTATIVE_IMAGES = 128
_OF_THE_FORMAT = ("model_format", "signature", "input_name", "dtype", "model_digest", "metrics", "freeze")


def convert(saved_model: str, kind: str, representative: Iterable[np.ndarray] = ()) -> bytes:
    """A TensorFlow Lite model of the signature :data:`~beam_vision.training.export.PIXELS`.

    Args:
      saved_model: its folder, local.
      kind: ``float16`` (half the size, nearly the same answers) or ``int8`` (a quarter, for processors that
        count in whole numbers; what has no such operation stays float).
      representative: for ``int8``: images like those it will see, uint8 ``[H, W, 3]``, from which the range
        of every activation is taken; a hundred are enough.

    Returns:
      The file's bytes.

    Raises:
      UsageError: another kind, or no images for ``int8``.
      JobError: the model can't be converted.
    """
    images = list(representative)
    if kind not in KINDS:
        raise UsageError(f"export.tflite has {kind!r}; it must be of {', '.join(KINDS)}")
    if kind == INT8 and not images:
        raise UsageError("int8 needs images of the dataset to take its ranges from, and there are none")
    tf = deps.need("tensorflow")
    failed = deps.need("tensorflow.lite.python.convert_phase").ConverterError
    with tempfile.TemporaryDirectory() as folder:
        _freeze(tf, saved_model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[PIXELS])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == FLOAT16:
            converter.target_spec.supported_types = [tf.float16]
        else:
            converter.representative_dataset = lambda: ([image[None]] for image in images)
            whole = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            converter.target_spec.supported_ops = [whole, tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            made: bytes = converter.convert()
        except (failed, ValueError, RuntimeError, tf.errors.OpError) as error:
            raise JobError(
                f"TensorFlow Lite can't hold this model as {kind}; leave it out of export.tflite: "
                f"{shorten(str(error), 300)}"
            ) from error
    return made


def _freeze(tf: Any, saved_model: str, folder: str) -> None:
    """Saves the signature with its weights as constants: the calibration of int8 can't read variables."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(saved_model)
    signature = loaded.signatures[PIXELS]
    frozen = convert_variables_to_constants_v2(signature)
    image = signature.structured_input_signature[1][INPUT]
    structure = signature.structured_outputs

    @tf.function(input_signature=[tf.TensorSpec(image.shape, image.dtype, name=INPUT)], autograph=False)
    def pixels(image: Any) -> Any:
        return tf.nest.pack_sequence_as(structure, tf.nest.flatten(frozen(image)))

    module = tf.Module()
    module.pixels = pixels
    tf.saved_model.save(module, folder, signatures={PIXELS: pixels})


def add_tflite(bundle: str, kind: str, representative: Iterable[np.ndarray] = ()) -> str:
    """Adds a TensorFlow Lite model to a bundle.

    Args:
      bundle: its folder, local.
      kind, representative: as for :func:`convert`.

    Returns:
      The path of the ``.tflite`` file, which has a spec of its own beside it.

    Raises:
      UsageError, JobError: as :func:`convert`.
    """
    of_bundle = read_bundle(bundle)
    folder = storage.join(bundle, FOLDER)
    os.makedirs(folder, exist_ok=True)
    path = storage.join(folder, f"{kind}.tflite")
    storage.write_bytes(path, convert(bundle, kind, representative))
    said = {
        item.name: getattr(of_bundle, item.name)
        for item in dataclasses.fields(ModelSpec)
        if item.name not in (*_OF_THE_FORMAT, "notes", "classes", "embedding_dim")
    }
    write_own_spec(path, read_bundle(path, said))
    return path


def write_own_spec(path: str, spec: ModelSpec, metrics: Mapping[str, float] | None = None) -> ModelSpec:
    """Writes the spec of one model file of several in a folder.

    Args:
      path: of the file.
      spec: its.
      metrics: what was measured of it; None: as the spec has them.

    Returns:
      The spec with the metrics.
    """
    folder, _, name = path.rpartition("/")
    if metrics is not None:
        spec = dataclasses.replace(spec, metrics=dict(metrics))
    storage.write_json(storage.join(folder, own_spec_file(name)), spec.to_json())
    return spec
