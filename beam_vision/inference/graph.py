"""Reads a TensorFlow graph as data: what is done to an input tensor first. Runs nothing.

A graph is a ``GraphDef`` with a function library; a tensor is followed from where it comes in, through
calls, into functions and out of them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

EXAMPLE_OPS = frozenset(
    {"ParseExample", "ParseExampleV2", "ParseSingleExample", "ParseSequenceExample", "ParseSequenceExampleV2"}
)
IMAGE_OPS = frozenset(
    {"DecodeJpeg", "DecodePng", "DecodeImage", "DecodeBmp", "DecodeGif", "DecodeAndCropJpeg"}
)
_THROUGH = frozenset(
    {"Identity", "Cast", "Reshape", "ExpandDims", "Squeeze", "Transpose", "StopGradient", "EnsureShape"}
    | {"PlaceholderWithDefault", "Pad", "PadV2", "StridedSlice", "IdentityN"}
    | {"ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea", "ScaleAndTranslate"}
)
_MOST_STEPS = 10_000


@dataclass(eq=False)
class _Scope:
    """The main graph, or one call of a function.

    Attributes:
      nodes, arguments, returns: what it holds, takes and gives.
      parent, call: for a function, the scope and node that call it.
      by_name: its nodes.
      users: for each tensor, the nodes that take it, and as which input.
      outputs: for each node, how many of its outputs are used.
    """

    nodes: list[Any]
    arguments: list[str]
    returns: list[str]
    parent: _Scope | None = None
    call: Any = None

    def __post_init__(self) -> None:
        self.by_name = {node.name: node for node in self.nodes}
        self.users: dict[tuple[str, int], list[tuple[Any, int]]] = {}
        self.outputs: dict[str, int] = {}
        for node in self.nodes:
            for position, text in enumerate(node.input):
                if not text.startswith("^"):
                    self.users.setdefault(_tensor(text), []).append((node, position))
        for name, index in [*self.users, *map(_tensor, self.returns)]:
            self.outputs[name] = max(self.outputs.get(name, 0), index + 1)


def _tensor(text: str) -> tuple[str, int]:
    """``a`` -> (a, 0), ``a:1`` -> (a, 1), and a function body's ``a:output:1`` -> (a, 1)."""
    name, *rest = text.split(":")
    return name, int(rest[-1]) if rest and rest[-1].isdigit() else 0


class Graph:
    """A ``GraphDef`` (with its function library) to follow tensors through.

    Args:
      graph_def: the graph.
      constants: values of captured tensors, by the name of their placeholder.
    """

    def __init__(self, graph_def: Any, constants: Mapping[str, Any] | None = None) -> None:
        self._functions = {item.signature.name: item for item in graph_def.library.function}
        self._main = _Scope(list(graph_def.node), [], [])
        self._constants = dict(constants or {})

    def ops_fed_by(self, tensor: str) -> set[str]:
        """Names of all ops that anything made from ``tensor`` reaches, loops and branches included."""
        found: set[str] = set()
        for _, node, _ in self._walk(tensor, lambda node: True):
            found.add(node.op)
        return found

    def value_range(self, tensor: str) -> str | None:
        """The range of pixel values that ``tensor`` is expected in, told by the first arithmetic on it.

        ``x / 255``, ``x * (1 / 127.5) - 1`` and ``x - 123.7`` expect 0..255; ``x * 2 - 1``, ``x * 255`` and
        ``x - 0.485`` expect 0..1. None when the first thing done says nothing (a convolution, a variable).
        """
        votes = set()
        for scope, node, position in self._walk(tensor, lambda node: node.op in _THROUGH):
            if node.op in _ARITHMETIC and len(node.input) >= 2:
                value = self._constant(scope, node.input[1 - position])
                votes.add(_range_told_by(node.op, position, value))
        return votes.pop() if len(votes) == 1 else None

    def _walk(self, tensor: str, passes: Any) -> Iterator[tuple[_Scope, Any, int]]:
        """Every (scope, node, input position) that uses ``tensor``, or what came of it by ops that pass."""
        todo = [(self._main, *_tensor(tensor))]
        seen: set[tuple[int, str, int]] = set()
        calls: dict[tuple[int, str, str], _Scope] = {}
        while todo and len(seen) < _MOST_STEPS:
            scope, name, index = todo.pop()
            if (id(scope), name, index) in seen:
                continue
            seen.add((id(scope), name, index))
            if scope.parent is not None:
                todo += [
                    (scope.parent, scope.call.name, place)
                    for place, text in enumerate(scope.returns)
                    if _tensor(text) == (name, index)
                ]
            for node, position in scope.users.get((name, index), ()):
                bodies = self._bodies(node)
                if not bodies:
                    yield scope, node, position
                    if passes(node):
                        todo += [
                            (scope, node.name, place) for place in range(scope.outputs.get(node.name, 0))
                        ]
                for body in bodies:
                    name_of_call = (id(scope), node.name, body)
                    if name_of_call not in calls:
                        calls[name_of_call] = self._enter(scope, node, body)
                    inner = calls[name_of_call]
                    shift = len(node.input) - len(inner.arguments)  # If and Case take their branch first
                    place = position - max(shift, 0)
                    if 0 <= place < len(inner.arguments):
                        todo.append((inner, inner.arguments[place], 0))

    def _bodies(self, node: Any) -> list[str]:
        """Names of the functions that a node calls."""
        if node.op in self._functions:
            return [node.op]
        names = [value.func.name for value in node.attr.values() if value.HasField("func")]
        names += [item.name for value in node.attr.values() for item in value.list.func]
        return [name for name in names if name in self._functions]

    def _enter(self, scope: _Scope, node: Any, body: str) -> _Scope:
        function = self._functions[body]
        returns = [function.ret[item.name] for item in function.signature.output_arg]
        arguments = [item.name for item in function.signature.input_arg]
        return _Scope(list(function.node_def), arguments, returns, scope, node)

    def _constant(self, scope: _Scope, text: str) -> Any:
        """The value of a tensor as an array, when it is a constant; else None."""
        from tensorflow.python.framework import tensor_util

        name, _ = _tensor(text)
        while True:
            node = scope.by_name.get(name)
            if node is None and name in scope.arguments and scope.parent is not None:
                given = [item for item in scope.call.input if not item.startswith("^")]
                position = scope.arguments.index(name) + len(given) - len(scope.arguments)
                name, scope = _tensor(given[position])[0], scope.parent
            elif node is None:
                return None
            elif node.op == "Const":
                return tensor_util.MakeNdarray(node.attr["value"].tensor)
            elif node.name in self._constants:
                return self._constants[node.name]
            elif node.op in _THROUGH:
                name, _ = _tensor(node.input[0])
            else:
                return None


_ARITHMETIC = frozenset({"Mul", "RealDiv", "Div", "Sub", "Add", "AddV2", "BiasAdd"})


def _range_told_by(op: str, position: int, value: Any) -> str | None:
    """What ``op`` with the constant ``value`` says of the range of its other operand (at ``position``)."""
    import numpy as np

    if value is None or (position != 0 and op in ("RealDiv", "Div", "Sub")):
        return None
    size = float(np.max(np.abs(value))) if np.size(value) else 0.0
    if op in ("RealDiv", "Div") and size > 0:
        op, size = "Mul", 1 / size
    if op == "Mul":
        if 0 < size <= 1 / 32:
            return "0..255"
        return "0..1" if 1.5 <= size <= 10 or size >= 100 else None
    if size > 2:
        return "0..255"
    return "0..1" if 0.2 <= size <= 0.8 else None
