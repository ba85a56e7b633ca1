"""Imports one library after the other and says what came of it, a line of JSON each.

``python -m beam_vision.doctor.probe NAME ...`` runs apart from the doctor: a library that kills its process,
as one built for another processor does, ends this one; the doctor sees at which name, and goes on behind it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from beam_vision import deps

Facts = dict[str, Any]


def version_of(module: str) -> Facts:
    """Imports a module: its ``version``.

    Raises:
      UsageError: it isn't installed.
    """
    found = deps.need(module)
    return {"version": str(getattr(found, "__version__", "") or getattr(found, "version", ""))}


def tensorflow() -> Facts:
    """Its version, what it was built for, the GPUs that it sees, and a product that it really computes."""
    tf = deps.need("tensorflow")
    built = tf.sysconfig.get_build_info()
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    product = tf.linalg.matmul(tf.ones([8, 8]), tf.ones([8, 8]))
    return {
        "version": tf.__version__,
        "cuda_version": built.get("cuda_version", ""),
        "cudnn_version": built.get("cudnn_version", ""),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus],
        "computed": float(tf.reduce_sum(product).numpy()),
        "on": product.device.rpartition("device:")[2],
    }


def crc32c() -> Facts:
    """Which code computes the checksums of TFRecords: ``c`` or ``python``."""
    found = deps.need("google_crc32c")
    return {"implementation": found.implementation, "checksum": found.value(b"123456789")}


def scann() -> Facts:
    """Whether ScaNN could be imported beside TensorFlow, and where there is none, why not."""
    found = deps.scann()
    if found is not None:
        return {"found": True}
    missing = importlib.util.find_spec("scann") is None
    return {"found": False, "installed": not missing}


PROBES: Mapping[str, Callable[[], Facts]] = {
    "apache_beam": lambda: version_of("apache_beam"),
    "crc32c": crc32c,
    "tensorflow": tensorflow,
    "keras": lambda: version_of("keras"),
    "tfx_bsl": lambda: version_of("tfx_bsl.public.beam") | {"version": version_of("tfx_bsl")["version"]},
    "scann": scann,
    "onnxruntime": lambda: version_of("onnxruntime"),
}


def main(names: list[str]) -> int:
    """Runs the probes that are named, in order; an error of one ends the process."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        for name in names:
            facts = PROBES[name]()
            answers.write(json.dumps({"name": name, **facts}) + "\n")
            answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
