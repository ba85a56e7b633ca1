"""ONNX models through onnxruntime (``pip install 'beam-vision[onnx]'``)."""

from __future__ import annotations

from typing import Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.inference.signature import Signature, Tensor

_DTYPES = {"float": "float32", "double": "float64"}


def open_session(path: str, *, threads: int = 0) -> Any:
    """An onnxruntime session, on the GPU where the installed package has one.

    Raises:
      UsageError: onnxruntime is not installed, or can't read the file.
    """
    ort: Any = deps.need("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Idle threads that spin would take the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [p for p in ort.get_available_providers() if p.startswith(("CUDA", "CPU"))]
    try:
        return ort.InferenceSession(path, options, providers=providers)
    except run_errors() as error:
        raise UsageError(f"onnxruntime can't load {path}: {error}") from error


def run_errors() -> tuple[type[Exception], ...]:
    """The exceptions of onnxruntime's own: they have no common base of theirs."""
    ort: Any = deps.need("onnxruntime")
    state = vars(ort.capi.onnxruntime_pybind11_state).values()
    own = (item for item in state if isinstance(item, type) and issubclass(item, Exception))
    return (*own, ValueError, RuntimeError)


def find(path: str) -> Signature:
    """What the model in ``path`` takes and gives.

    Raises:
      UsageError: as :func:`open_session`.
    """
    session = open_session(path)
    return Signature(
        inputs=tuple(map(_tensor_of, session.get_inputs())),
        outputs=tuple(map(_tensor_of, session.get_outputs())),
    )


def _tensor_of(argument: Any) -> Tensor:
    """``tensor(float)`` and a shape of numbers, names and None, as a :class:`Tensor`."""
    kind = argument.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in argument.shape)
    return Tensor(argument.name, _DTYPES.get(kind, kind), shape)
