"""A model in memory: one call from an input batch to named NumPy outputs, whatever it was saved as."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from beam_vision import deps
from beam_vision.errors import DigestMismatch, Reason, UsageError, VisionError
from beam_vision.inference import devices
from beam_vision.inference.bundle import fetch, find_files, model_digest
from beam_vision.inference.freeze import freeze
from beam_vision.inference.signature import CALL, call_of, named_outputs
from beam_vision.inference.spec import ModelSpec

_MEMORY_WORDS = ("out of memory", "oom when", "failed to allocate", "bad allocation")

Call = Callable[[np.ndarray], dict[str, np.ndarray]]
Errors = tuple[type[Exception], ...]


class Functions(NamedTuple):
    """A TensorFlow model's function, and what it lives by.

    Attributes:
      as_saved: takes a tensor.
      concrete: the same as a concrete function, which can be frozen.
      model: keeps the variables alive, which a signature alone doesn't.
    """

    as_saved: Callable[[Any], Any]
    concrete: Any
    model: Any


class LoadedModel:
    """A model ready to run. Weak references to it are possible, which Beam's model sharing needs.

    Attributes:
      spec: how it is run.
      activation: what turns its scores into probabilities, once decided; ``auto`` before.
      multi_label: whether its scores are independent of each other, once decided.
      most_images: the largest batch that fits in memory, once a larger one has not; else None.
      load_sec: how long loading took.
      device: what it runs on: ``CPU``, or ``GPU`` and its name.
    """

    def __init__(
        self,
        spec: ModelSpec,
        call: Call,
        errors: Errors,
        load_sec: float,
        functions: Functions | None = None,
        *,
        device: str = devices.CPU,
    ) -> None:
        self.spec = spec
        self.activation = spec.activation
        self.multi_label = False
        self.most_images: int | None = None
        self.load_sec = load_sec
        self.device = device
        self._call = call
        self._errors = errors
        self._functions = functions

    def frozen(self) -> LoadedModel:
        """The same model with its weights as constants, where that can be; it isn't loaded again."""
        if self._functions is None:
            return self
        spec = replace(self.spec, freeze=True)
        call = _tensorflow_call(spec, self._functions)
        return LoadedModel(spec, call, self._errors, self.load_sec, device=self.device)

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Runs the model on ``batch`` (as :class:`~beam_vision.inference.prepare.InputWriter` makes it).

        A model of a fixed batch size is fed slices of that size, the last one filled up with copies.

        Returns:
          The scores and embedding outputs by name, each ``[len(batch), ...]``.

        Raises:
          VisionError: ``model_error``, ``out_of_memory``, or ``bad_model_output`` when an output's leading
            dimension isn't that of the batch.
        """
        size = self.spec.fixed_batch
        if size is None:
            return self._run_once(batch)
        parts = []
        for start in range(0, len(batch), size):
            piece = batch[start : start + size]
            missing = size - len(piece)
            filled = np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)]) if missing else piece
            outputs = self._run_once(filled)
            parts.append({name: value[: len(piece)] for name, value in outputs.items()})
        return joined(parts, self.spec)

    def _run_once(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        try:
            outputs = self._call(batch)
        except self._errors as error:
            raise _as_vision_error(error) from error
        for name, value in outputs.items():
            if value.ndim == 0 or len(value) != len(batch):
                raise VisionError(
                    Reason.BAD_MODEL_OUTPUT,
                    f"output {name!r} has shape {list(value.shape)} for a batch of {len(batch)}",
                )
        return outputs


def joined(parts: Sequence[dict[str, np.ndarray]], spec: ModelSpec) -> dict[str, np.ndarray]:
    """The outputs of successive parts of a batch as those of the whole.

    Raises:
      VisionError: ``bad_model_output``: the outputs of two parts have different shapes.
    """
    if spec.detector:
        parts = filled_up(parts)
    whole = {}
    for name in parts[0]:
        shapes = sorted({part[name].shape[1:] for part in parts})
        if len(shapes) > 1:
            shown = " and ".join(str(list(shape)) for shape in shapes)
            detail = f"output {name!r} has shapes {shown} for two images"
            raise VisionError(Reason.BAD_MODEL_OUTPUT, detail)
        whole[name] = np.concatenate([part[name] for part in parts])
    return whole


def filled_up(parts: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """A detector's outputs, which may hold another number of boxes for each part, brought to one shape.

    They are filled up with zeros, which stand for a box without area: never a find.
    """
    filled = [dict(part) for part in parts]
    for name in parts[0] if parts else ():
        shapes = {part[name].shape[1:] for part in parts}
        if len(shapes) == 1 or len({len(shape) for shape in shapes}) > 1:
            continue
        largest = np.max(list(shapes), axis=0)
        for part in filled:
            missing = [(0, int(side) - n) for side, n in zip(largest, part[name].shape[1:], strict=True)]
            part[name] = np.pad(part[name], [(0, 0), *missing])
    return filled


def _as_vision_error(error: Exception) -> VisionError:
    text = f"{type(error).__name__}: {error}"
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    if out_of_memory or any(words in text.lower() for words in _MEMORY_WORDS):
        return VisionError(Reason.OUT_OF_MEMORY, text)
    return VisionError(Reason.MODEL_ERROR, text)


def load(path: str, spec: ModelSpec, *, require_gpu: bool = False) -> LoadedModel:
    """Loads the model at ``path``.

    Args:
      path: as in :func:`~beam_vision.inference.bundle.read_bundle`.
      spec: what that gave for it.
      require_gpu: whether it must not run on the CPU.

    Raises:
      UsageError: it can't be loaded, or there is no GPU where one is required.
      DigestMismatch: its files are not those that ``spec`` was made from.
    """
    start = time.monotonic()
    files = fetch(find_files(path))
    if spec.model_digest and spec.model_digest != (found := model_digest(files.path, spec)):
        raise DigestMismatch(
            f"model {path}:",
            expected=spec.model_digest,
            found=found,
            remedy="it changed since the job began; start it again",
        )
    kept = None
    if spec.model_format in ("onnx", "tflite"):
        read_file = _load_onnx if spec.model_format == "onnx" else _load_tflite
        call, errors, device = read_file(files.path, spec)
    else:
        device = devices.of_tensorflow(_tensorflow())
        read = _load_keras if spec.model_format == "keras" else _load_saved_model
        functions, errors = read(files.path, spec)
        call = _tensorflow_call(spec, functions)
        kept = None if spec.freeze else functions  # constants and variables together take twice the memory
    if require_gpu:
        devices.require_gpu(device, spec.model_format)
    load_sec = time.monotonic() - start
    model = LoadedModel(spec, call, (*errors, MemoryError), load_sec, kept, device=device)
    devices.log_load(model, path=path, device=device, load_sec=load_sec, digest=spec.model_digest)
    return model


def wanted_outputs(spec: ModelSpec) -> list[str]:
    """Names of the outputs that are of use."""
    names = [spec.scores_output, spec.embedding_output, spec.boxes_output, spec.classes_output]
    return [name for name in dict.fromkeys([*names, spec.count_output, *spec.raw_outputs]) if name]


def _tensorflow() -> Any:
    """TensorFlow, told not to take all of a GPU's memory at once."""
    tf: Any = deps.need("tensorflow")
    devices.grow_memory(tf)
    return tf


def _tensorflow_errors(tf: Any) -> Errors:
    return (tf.errors.OpError, ValueError, TypeError, RuntimeError)


def _load_saved_model(path: str, spec: ModelSpec) -> tuple[Functions, Errors]:
    tf = _tensorflow()
    try:
        loaded = tf.saved_model.load(path)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise UsageError(f"TensorFlow can't load {path}: {error}") from error
    if spec.signature == CALL:
        function = call_of(loaded)
    elif spec.signature in loaded.signatures:
        function = loaded.signatures[spec.signature]
    else:
        raise UsageError(
            f"the model has no signature {spec.signature!r}; it has {', '.join(loaded.signatures)}"
        )
    as_saved = function if spec.signature == CALL else lambda tensor: function(**{spec.input_name: tensor})
    return Functions(as_saved, function, loaded), _tensorflow_errors(tf)


def _load_keras(path: str, spec: ModelSpec) -> tuple[Functions, Errors]:
    from beam_vision.inference import keras_model

    tf = _tensorflow()
    model = keras_model.with_layer(keras_model.open_model(path), spec.embedding_output)
    function = keras_model.trace(model)
    return Functions(function, function.get_concrete_function(), model), _tensorflow_errors(tf)


def _tensorflow_call(spec: ModelSpec, functions: Functions) -> Call:
    """From an array to arrays, by constant weights where ``spec`` says so."""
    import tensorflow as tf

    frozen = freeze(functions.concrete) if spec.freeze else None
    function = frozen or functions.as_saved
    kept = None if frozen else functions.model

    def call(batch: np.ndarray, keep: Any = kept) -> dict[str, np.ndarray]:
        tensor = tf.constant(batch, tf.string) if batch.dtype == object else tf.constant(batch)
        outputs = named_outputs(function(tensor))
        return {name: outputs[name].numpy() for name in wanted_outputs(spec)}

    return call


def _load_onnx(path: str, spec: ModelSpec) -> tuple[Call, Errors, str]:
    from beam_vision.inference import onnx_model

    session = onnx_model.open_session(path)
    names = wanted_outputs(spec)

    def call(batch: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {spec.input_name: batch}), strict=True))

    return call, onnx_model.run_errors(), devices.of_onnx(session)


def _load_tflite(path: str, spec: ModelSpec) -> tuple[Call, Errors, str]:
    from beam_vision.inference import tflite_model

    model, errors = tflite_model.load_call(path)
    names = wanted_outputs(spec)

    def call(batch: np.ndarray) -> dict[str, np.ndarray]:
        found = model(spec.input_name, batch)
        return {name: found[name] for name in names}

    return call, errors, devices.CPU
