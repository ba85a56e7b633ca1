"""What a model takes and gives, read from the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from beam_vision import deps
from beam_vision.errors import UsageError

CALL = "__call__"
"""Stands for a SavedModel's own call where it has no signatures (as on TF Hub)."""

_PREFERRED = ("serving_default", "serve")


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, NumPy dtype (``string`` for strings), and shape with None where open.

    ``shape`` is None when not even the rank is known.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        shown = "?" if self.shape is None else ", ".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.name}: {self.dtype} [{shown}]"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One way to call a model.

    Attributes:
      name: the SavedModel signature; ``""`` for other formats.
      inputs, outputs: in the model's own order.
      signatures: names of all that it has.
      method: the SavedModel signature's method, e.g. ``tensorflow/serving/predict``.
      string_kind: for a model of strings, what they hold: ``image_bytes``, ``tf_example`` or ``""``.
      value_range: the range that pixels are expected in, where the graph tells; else ``""``.
      layers: for ``.keras``, names of the layers that could serve as an embedding, last first.
      final_activation: for ``.keras``, the last layer's activation (``softmax``...), where there is one.
      remarks: facts worth telling a person.
    """

    name: str = ""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    signatures: tuple[str, ...] = ()
    method: str = ""
    string_kind: str = ""
    value_range: str = ""
    layers: tuple[str, ...] = ()
    final_activation: str = ""
    remarks: tuple[str, ...] = ()


def choose_signature(names: Sequence[str], wanted: str) -> str:
    """The signature asked for, else serving_default, serve or the only one.

    Raises:
      UsageError: it isn't there, or several are and none was asked for.
    """
    if wanted:
        if wanted not in names:
            raise UsageError(f"the model has no signature {wanted!r}; it has {_listed(names)}")
        return wanted
    for name in _PREFERRED:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise UsageError(f"the model has signatures {_listed(names)}; choose one with --signature")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def find_in_saved_model(folder: str, wanted: str = "") -> Signature:
    """Reads ``saved_model.pb`` in a local folder; loads no weights unless it has no signatures.

    Raises:
      UsageError: no signature fits, or the file is no SavedModel.
    """
    deps.need("tensorflow")
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        with open(f"{folder}/saved_model.pb", "rb") as file:
            model.ParseFromString(file.read())
    except DecodeError as error:
        raise UsageError(f"{folder}/saved_model.pb is no SavedModel: {error}") from error
    graphs = [graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags]
    if not graphs:
        raise UsageError(f"{folder} has no graph tagged 'serve'; export the model for serving")
    graph = graphs[0]
    names = sorted(name for name, item in graph.signature_def.items() if item.inputs)
    if wanted == CALL or not names:
        return _find_in_call(folder, names)
    name = choose_signature(names, wanted)
    signature = graph.signature_def[name]
    inputs = tuple(_of_info(key, info) for key, info in sorted(signature.inputs.items()))
    tensors = {key: info.name for key, info in signature.inputs.items()}
    return Signature(
        name=name,
        inputs=inputs,
        outputs=tuple(_of_info(key, info) for key, info in sorted(signature.outputs.items())),
        signatures=tuple(names),
        method=signature.method_name,
        **_read_graph(graph.graph_def, inputs, tensors),
    )


def _of_info(name: str, info: Any) -> Tensor:
    """A ``TensorInfo`` of a SavedModel as a :class:`Tensor`."""
    import tensorflow as tf

    shape = tf.TensorShape(info.tensor_shape)
    return Tensor(name, tf.dtypes.as_dtype(info.dtype).name, _shape_of(shape))


def _of_spec(name: str, spec: Any) -> Tensor:
    """A ``TensorSpec`` or symbolic tensor as a :class:`Tensor`."""
    import tensorflow as tf

    return Tensor(name, tf.dtypes.as_dtype(spec.dtype).name, _shape_of(tf.TensorShape(spec.shape)))


def _shape_of(shape: Any) -> tuple[int | None, ...] | None:
    return None if shape.rank is None else tuple(shape.as_list())


def _read_graph(
    graph_def: Any, inputs: Sequence[Tensor], tensors: dict[str, str], constants: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What the graph tells of its image input: the kind of its strings, or its value range."""
    from beam_vision.inference.graph import EXAMPLE_OPS, IMAGE_OPS, Graph

    graph = Graph(graph_def, constants)
    found: dict[str, Any] = {}
    for tensor in inputs:
        if tensor.dtype == "string":
            ops = graph.ops_fed_by(tensors[tensor.name])
            if ops & EXAMPLE_OPS:
                found["string_kind"] = "tf_example"
            elif ops & IMAGE_OPS and "DecodeBase64" not in ops:
                found["string_kind"] = "image_bytes"
        elif tensor.shape is None or len(tensor.shape) == 4:
            found["value_range"] = graph.value_range(tensors[tensor.name]) or ""
    return found


def call_of(loaded: Any) -> Any:
    """The concrete function behind ``loaded(images)`` that takes one tensor, for inference.

    Args:
      loaded: what ``tf.saved_model.load`` gave.

    Raises:
      UsageError: it can't be called so.
    """
    functions = getattr(getattr(loaded, CALL, None), "concrete_functions", None) or []
    fitting = [item for item in functions if len(_tensor_specs(item)) == 1]
    if not fitting:
        raise UsageError("the model has no signature and can't be called with one batch; export it with one")
    return min(fitting, key=lambda item: _trains(item))


def _tensor_specs(function: Any) -> list[Any]:
    import tensorflow as tf

    flat = tf.nest.flatten(function.structured_input_signature)
    return [item for item in flat if isinstance(item, tf.TensorSpec)]


def _trains(function: Any) -> bool:
    import tensorflow as tf

    return any(item is True for item in tf.nest.flatten(function.structured_input_signature))


def named_outputs(outputs: Any) -> dict[str, Any]:
    """A call's outputs by name: a dictionary as it is, others as ``output_0``, ``output_1``..."""
    import tensorflow as tf

    if isinstance(outputs, dict):
        return dict(outputs)
    return {f"output_{i}": item for i, item in enumerate(tf.nest.flatten(outputs))}


def _find_in_call(folder: str, names: Sequence[str]) -> Signature:
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    function = call_of(loaded)
    (spec,) = _tensor_specs(function)
    inputs = (_of_spec(spec.name or "inputs", spec),)
    outputs = tuple(_of_spec(name, item) for name, item in named_outputs(function.structured_outputs).items())
    placeholder = {inputs[0].name: function.inputs[0].name}
    told = _read_graph(function.graph.as_graph_def(), inputs, placeholder, captured_constants(function))
    return Signature(name=CALL, inputs=inputs, outputs=outputs, signatures=(*names, CALL), **told)


def captured_constants(function: Any) -> dict[str, Any]:
    """Values of the constants that a concrete function captured, by their placeholder's name."""
    found = {}
    for outside, inside in function.graph.captures:
        if outside.dtype.name not in ("resource", "variant") and hasattr(outside, "numpy"):
            found[inside.op.name] = outside.numpy()
    return found
