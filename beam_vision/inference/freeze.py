"""Makes a model's weights constants of its graph, which lets TensorFlow fold them into each other.

(Batch normalisation into the convolution before it, for one: a quarter of MobileNetV2's time on a CPU.)
What can't be frozen safely runs as it was saved; :mod:`beam_vision.inference.check` decides, by trying both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MAX_WEIGHTS_BYTES = 512 << 20
"""Freezing holds the weights several times over for a moment, and a graph can't exceed 2 GiB."""

_HARMLESS = {
    *("VarHandleOp", "ReadVariableOp", "Placeholder", "NoOp"),
    *("StatefulPartitionedCall", "If", "While", "Case"),
}
"""Stateful by their definition, yet nothing is lost with them: reads of weights, and calls of functions whose
own ops are looked at too."""


def freeze(function: Any) -> Callable[[Any], Any] | None:
    """A function like ``function`` with its weights as constants.

    Args:
      function: a TensorFlow concrete function of one tensor.

    Returns:
      One that gives the same structure of outputs; None when the model is too large, or has an op that acts
      other than by its output (an assertion, a random draw, a table, Python code), which freezing could drop.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    if _weights_bytes(function) > MAX_WEIGHTS_BYTES or _stateful_ops(function.graph.as_graph_def()):
        return None
    import tensorflow as tf

    try:
        frozen = convert_variables_to_constants_v2(function)
    except (ValueError, TypeError, KeyError, NotImplementedError, tf.errors.OpError):
        return None  # a kind of variable or graph that TensorFlow can't convert
    structure = function.structured_outputs

    def call(batch: Any) -> Any:
        return tf.nest.pack_sequence_as(structure, tf.nest.flatten(frozen(batch)))

    return call


def _weights_bytes(function: Any) -> int:
    return sum(item.dtype.size * (item.shape.num_elements() or 0) for item in function.variables)


def _stateful_ops(graph_def: Any) -> set[str]:
    """Names of the ops in a graph and its functions that act other than by their output."""
    from tensorflow.python.framework import op_def_registry

    nodes = [*graph_def.node, *(node for item in graph_def.library.function for node in item.node_def)]
    own = {item.signature.name for item in graph_def.library.function}
    found = set()
    for op in {node.op for node in nodes} - own - _HARMLESS:
        definition = op_def_registry.get(op)
        if definition is None or definition.is_stateful:
            found.add(op)
    return found


def alike(frozen: Mapping[str, np.ndarray], saved: Mapping[str, np.ndarray]) -> bool:
    """Whether outputs differ by no more than rounding: a ten-thousandth of each output's largest value."""
    return frozen.keys() == saved.keys() and all(
        frozen[name].shape == value.shape
        and np.allclose(frozen[name], value, rtol=0, atol=1e-4 * _largest(value), equal_nan=True)
        for name, value in saved.items()
    )


def _largest(value: np.ndarray) -> float:
    finite = np.abs(value[np.isfinite(value)]) if value.dtype.kind == "f" else np.abs(value)
    return float(finite.max()) if finite.size else 0.0
