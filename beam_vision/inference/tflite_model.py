"""TensorFlow Lite models: what they take and give, and one call to run them by.

Quantized inputs and outputs are the runner's affair: ``real = scale * (stored - zero_point)``
(https://ai.google.dev/edge/litert/models/quantization_spec), so that the rest sees real numbers.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.inference.signature import Signature, Tensor

_RANGES = {"0..255": (0, 255), "0..1": (0, 1), "-1..1": (-1, 1)}
_PREFERRED = ("pixels", "serving_default")


class TfliteModel:
    """A model in memory. For any number of threads, one of which runs it at a time.

    Args:
      path: the file.
      threads: that one batch is computed by; 0: as many as there are cores.

    Raises:
      UsageError: it is no TensorFlow Lite model, or has operations that are not in the interpreter.
    """

    def __init__(self, path: str, *, threads: int = 0) -> None:
        self._lock = threading.Lock()
        interpreter = _interpreter_class()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it asks for another package at each construction
                self._interpreter = interpreter(model_path=path, num_threads=threads or _cores())
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            raise UsageError(f"TensorFlow Lite can't load {path}: {error}") from error
        signatures = self._interpreter.get_signature_list()
        self.signatures = tuple(signatures)
        chosen = next((name for name in _PREFERRED if name in signatures), next(iter(signatures), None))
        self._runner = None if chosen is None else self._interpreter.get_signature_runner(chosen)
        self.inputs: Mapping[str, Mapping[str, Any]] = self._details("input")
        self.outputs: Mapping[str, Mapping[str, Any]] = self._details("output")

    def _details(self, kind: str) -> dict[str, Any]:
        """Of the inputs or outputs, by their names in the signature; without one, by those of the tensors."""
        if self._runner is not None:
            found: dict[str, Any] = getattr(self._runner, f"get_{kind}_details")()
            return dict(sorted(found.items()))
        listed = getattr(self._interpreter, f"get_{kind}_details")()
        return {item["name"]: item for item in listed}

    def __call__(self, name: str, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Runs it.

        Args:
          name: of the input.
          batch: ``[N, ...]``: real numbers where the input is quantized to int8, else as it holds them.

        Returns:
          Each output ``[N, ...]``, real numbers, by name.
        """
        stored = _quantized(batch, self.inputs[name])
        with self._lock:
            run = self._run_tensors if self._runner is None else self._run_signature
            found = run(name, stored)
        return {name: _real(value, self.outputs[name]) for name, value in found.items()}

    def _run_signature(self, name: str, batch: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = self._runner(**{name: batch})  # type: ignore[misc]
        return found

    def _run_tensors(self, name: str, batch: np.ndarray) -> dict[str, np.ndarray]:
        interpreter, index = self._interpreter, self.inputs[name]["index"]
        if tuple(interpreter.get_input_details()[0]["shape"]) != batch.shape:
            interpreter.resize_tensor_input(index, batch.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(index, batch)
        interpreter.invoke()
        return {name: interpreter.get_tensor(item["index"]) for name, item in self.outputs.items()}


def find(path: str) -> Signature:
    """What the model in ``path`` takes and gives.

    An int8 input is told as float32 in the range that its scale and zero point stand for; a uint8 input as
    the bytes of pixels, whatever its scale.

    Raises:
      UsageError: as :class:`TfliteModel`.
    """
    model = TfliteModel(path, threads=1)
    inputs = tuple(_tensor(name, item) for name, item in model.inputs.items())
    ranges = {_range_of(item) for item in model.inputs.values()} - {""}
    return Signature(
        inputs=inputs,
        outputs=tuple(_tensor(name, item, real=True) for name, item in model.outputs.items()),
        value_range=ranges.pop() if len(ranges) == 1 else "",
    )


def load_call(path: str) -> tuple[Callable[[str, np.ndarray], dict[str, np.ndarray]], Any]:
    """The model's call, and the exceptions that it raises.

    Raises:
      UsageError: as :class:`TfliteModel`.
    """
    return TfliteModel(path), (RuntimeError, ValueError)


def _interpreter_class() -> Any:
    """LiteRT's where it is installed, else that of TensorFlow, which is the same code of an earlier day."""
    if deps.have("ai_edge_litert"):
        return deps.need("ai_edge_litert.interpreter").Interpreter
    return deps.need("tensorflow").lite.Interpreter


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tensor(name: str, item: Mapping[str, Any], *, real: bool = False) -> Tensor:
    shape = tuple(int(n) if n >= 0 else None for n in item.get("shape_signature", item["shape"]))
    dtype = np.dtype(item["dtype"])
    stands_for_real = item["quantization"][0] and (real or dtype != np.uint8)
    return Tensor(name, "float32" if stands_for_real else dtype.name, shape)


def _range_of(item: Mapping[str, Any]) -> str:
    """The range of values that an int8 input's scale and zero point stand for; ``""``: none that is known."""
    scale, zero = item["quantization"]
    if not scale or np.dtype(item["dtype"]) == np.uint8:
        return ""
    limits = np.iinfo(item["dtype"])
    low, high = scale * (limits.min - zero), scale * (limits.max - zero)
    for name, (least, most) in _RANGES.items():
        if np.allclose((low, high), (least, most), atol=0.02 * (most - least)):
            return name
    return ""


def _quantized(batch: np.ndarray, item: Mapping[str, Any]) -> np.ndarray:
    scale, zero = item["quantization"]
    dtype = np.dtype(item["dtype"])
    if not scale or batch.dtype == dtype:
        return batch.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(batch / scale) + zero, limits.min, limits.max).astype(dtype)


def _real(value: np.ndarray, item: Mapping[str, Any]) -> np.ndarray:
    scale, zero = item["quantization"]
    return np.float32(scale) * (value.astype(np.float32) - zero) if scale else value
