"""What a model runs on: said in one line of the log for each that is loaded; a GPU may be required."""

from __future__ import annotations

import json
import logging
import os
import threading
import weakref
from typing import Any

from beam_vision.errors import UsageError

_LOG = logging.getLogger(__name__)
CPU = "CPU"
GPU_FORMATS = ("saved_model", "keras", "onnx")
"""Formats of models that can run on a GPU."""

_MODELS: weakref.WeakSet[Any] = weakref.WeakSet()
_LOCK = threading.Lock()


def grow_memory(tf: Any) -> None:
    """Lets TensorFlow take a GPU's memory bit by bit; else it takes all of it at once.

    It must come before anything that touches a GPU; afterwards it changes nothing, which the log says.
    """
    for device in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(device, True)
        except RuntimeError as error:  # somebody in this process has used the GPU before us
            _LOG.warning("memory growth of %s stays as it is: %s", device.name, error)


def of_tensorflow(tf: Any) -> str:
    """``GPU`` and its name where TensorFlow sees one (its models run on the first), else ``CPU``."""
    found = tf.config.list_physical_devices("GPU")
    if not found:
        return CPU
    name = tf.config.experimental.get_device_details(found[0]).get("device_name", "")
    return f"GPU {name}".strip()


def of_onnx(session: Any) -> str:
    """``GPU`` where a session of onnxruntime really got one, else ``CPU``."""
    return "GPU" if "CUDAExecutionProvider" in session.get_providers() else CPU


def require_gpu(device: str, model_format: str) -> None:
    """Refuses a model that would run on the CPU.

    Raises:
      UsageError: it would; says what to look at.
    """
    if device != CPU:
        return
    if model_format not in GPU_FORMATS:
        raise UsageError(f"--require_gpu: a model in the format {model_format} runs on no GPU here")
    package = "onnxruntime-gpu" if model_format == "onnx" else "tensorflow[and-cuda]"
    raise UsageError(
        f"--require_gpu: this process sees no GPU. Has the worker one (--gpu), was its driver installed "
        f"(install-nvidia-driver), does the container hold CUDA and {package}, is CUDA_VISIBLE_DEVICES "
        f"({os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}) right?"
    )


def log_load(model: Any, *, path: str, device: str, load_sec: float, digest: str) -> None:
    """One line of the log, for each model that is loaded, as JSON.

    Args:
      model: counted as a copy of this process for as long as it lives.
      path, digest: which it is.
      device: what it runs on.
      load_sec: how long loading took.
    """
    with _LOCK:
        _MODELS.add(model)
        copies = len(_MODELS)
    facts = {
        "device": device,
        "seconds": round(load_sec, 3),
        "copies": copies,
        "pid": os.getpid(),
        "model_digest": digest,
        "path": path,
    }
    _LOG.info("model loaded: %s", json.dumps(facts))
