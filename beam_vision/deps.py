"""Late import of heavy or optional libraries, with the line that installs them.

This is the one place that imports ScaNN.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType

from beam_vision.errors import UsageError

_INSTALL = {
    "tensorflow": "pip install 'tensorflow>=2.21,<2.22'",
    "onnxruntime": "pip install 'beam-vision[onnx]'",
    "duckdb": "pip install duckdb",
    "scann": "pip install 'scann>=1.4.2,<1.5' (Linux only)",
    "sklearn": "pip install 'beam-vision[demo]'",
    "skimage": "pip install 'beam-vision[demo]'",
    "tfx_bsl": "pip install 'tfx-bsl>=1.21,<1.22'",
    "keras_hub": "pip install 'beam-vision[train]'",
    "keras_tuner": "pip install 'beam-vision[train]'",
    "google": "pip install 'beam-vision[train]'",
}
_LOCK = threading.Lock()
_LOADS_TENSORFLOW = ("tensorflow", "keras", "tfx_bsl")
_BANNER = re.compile(rb"I0000 |To enable the following instructions|WARNING: All log messages before absl")
_STDERR_LOCK = threading.Lock()


def need(module: str) -> ModuleType:
    """Imports ``module`` (dotted names too).

    Raises:
      UsageError: it isn't installed; the message has the line that installs it.
    """
    top = module.partition(".")[0]
    noisy = top in _LOADS_TENSORFLOW and "tensorflow" not in sys.modules
    try:
        with _without_banner() if noisy else contextlib.nullcontext():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        install = _INSTALL.get(top, f"pip install {top}")
        raise UsageError(f"{top} is needed for this and is not installed: {install}") from error


# TensorFlow's AutoGraph leaves a function with this mark as it is: `need` is called in functions it converts.
need.autograph_info__ = {}  # type: ignore[attr-defined]


@contextlib.contextmanager
def _without_banner() -> Iterator[None]:
    """Leaves out what TensorFlow's C++ code says on stderr while it is loaded, which no setting silences.

    Whatever else was written meanwhile, by any thread, is passed on when the block ends.
    """
    with _STDERR_LOCK, contextlib.ExitStack() as stack:
        try:
            kept = os.dup(2)
        except OSError:  # there is no stderr
            yield
            return
        stack.callback(os.close, kept)
        held = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not _BANNER.match(line)))


def have(module: str) -> bool:
    """Whether ``module`` can be found, without importing it."""
    if module == "scann":
        return scann() is not None
    return importlib.util.find_spec(module) is not None


def scann() -> ModuleType | None:
    """The ScaNN module, or None where there is no wheel for this platform.

    ScaNN 1.4.2 tries to load its optional TensorFlow op, which was built for TensorFlow 2.20 and
    fails beside 2.21 with an undefined symbol that ScaNN doesn't forgive. So TensorFlow is hidden
    while ScaNN is imported, and put back.
    """
    with _LOCK:
        if "scann" in sys.modules:
            return sys.modules["scann"]
        hidden = {n: m for n, m in sys.modules.items() if n == "tensorflow" or n.startswith("tensorflow.")}
        for name in hidden:
            del sys.modules[name]
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
        try:
            return importlib.import_module("scann")
        except ImportError:
            return None
        finally:
            del sys.modules["tensorflow"]
            sys.modules.update(hidden)
