"""``python -m on_replicas N JOB ...``: a job on a processor that is taken for N devices."""

from __future__ import annotations

import runpy
import sys


def main(argv: list[str]) -> None:
    """Runs a job, ``argv[1:]``, where TensorFlow sees ``argv[0]`` processors, and exits as it does."""
    import tensorflow as tf

    (processor,) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * int(argv[0])
    tf.config.set_logical_device_configuration(processor, parts)
    sys.argv[1:] = argv[1:]
    runpy.run_module("beam_vision.pipelines.cli", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
