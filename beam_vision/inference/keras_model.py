"""``.keras`` models: what they take and give, and one traced function to run them by."""

from __future__ import annotations

from typing import Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.failures import shorten
from beam_vision.inference.signature import Signature, Tensor, captured_constants

_CONVENTIONS = {
    "-1..1": (
        *("mobilenet_", "mobilenetv2_", "xception", "inception_v3", "inception_resnet_v2", "nasnet"),
        *("resnet50v2", "resnet101v2", "resnet152v2"),
    ),
    "imagenet": ("densenet",),
}
"""The range that models of ``keras.applications`` were trained in, by the start of their name, for those
that hold no preprocessing layer of their own (https://keras.io/api/applications/)."""


def open_model(path: str) -> Any:
    """Loads a ``.keras`` (or ``.h5``) file, for inference only.

    Raises:
      UsageError: it can't be loaded here (custom classes, another backend), with the remedy.
    """
    deps.need("tensorflow")
    keras: Any = deps.need("keras")
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"Keras runs on {keras.backend.backend()!r} here; set KERAS_BACKEND=tensorflow")
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(
            f"Keras can't load {path}: {shorten(str(error), 300)}; give a model with code of its own as a "
            "SavedModel: model.export(DIR)"
        ) from error
    if not getattr(model, "inputs", None):
        raise UsageError(f"{path} has no fixed inputs; give it as a SavedModel: model.export(DIR)")
    return model


def find(path: str, embedding_layer: str = "", *, look_for_range: bool = True) -> Signature:
    """What the model in ``path`` takes and gives, with a layer as a further output where one is named.

    Args:
      path: the file.
      embedding_layer: an output or a layer; ``""`` for none.
      look_for_range: whether to find its value range too, which takes seconds for large models.

    Raises:
      UsageError: as :func:`open_model`; or there is no such layer.
    """
    return describe(with_layer(open_model(path), embedding_layer), look_for_range=look_for_range)


def describe(model: Any, *, look_for_range: bool = True) -> Signature:
    """The :class:`Signature` of a loaded Keras model."""
    inputs = tuple(_tensor_of(item.name, item) for item in model.inputs)
    outputs = tuple(_tensor_of(name, item) for name, item in outputs_of(model).items())
    value_range, remarks = "", []
    if look_for_range and len(inputs) == 1:
        value_range = _range_in_graph(model)
        if not value_range and (value_range := _by_convention(model)):
            remarks.append(
                f"value range {value_range}: the convention of keras.applications for {model.name}"
            )
    return Signature(
        inputs=inputs,
        outputs=outputs,
        value_range=value_range,
        layers=_vector_layers(model),
        final_activation=_final_activation(model),
        remarks=tuple(remarks),
    )


def _range_in_graph(model: Any) -> str:
    from beam_vision.inference.graph import Graph

    function = trace(model).get_concrete_function()
    graph = Graph(function.graph.as_graph_def(), captured_constants(function))
    return graph.value_range(function.inputs[0].name) or ""


def _tensor_of(name: str, tensor: Any) -> Tensor:
    return Tensor(name, str(tensor.dtype), tuple(tensor.shape))


def outputs_of(model: Any) -> dict[str, Any]:
    """The model's symbolic outputs by name: its dictionary's keys, else its output layers' names."""
    import keras

    if isinstance(model, keras.Sequential):
        return {model.layers[-1].name: model.outputs[0]}
    structure = model.output
    if isinstance(structure, dict):
        return dict(structure)
    names = list(model.output_names)
    if len(set(names)) < len(names):
        names = [f"output_{i}" for i in range(len(names))]
    return dict(zip(names, model.outputs, strict=True))


def with_layer(model: Any, layer: str) -> Any:
    """The model with the output of ``layer`` as a further output, named so; itself when it has that output.

    Raises:
      UsageError: no such layer.
    """
    import keras

    outputs = outputs_of(model)
    if not layer or layer in outputs:
        return model
    try:
        found = model.get_layer(layer)
    except ValueError as error:
        near = ", ".join(_vector_layers(model)[:5])
        raise UsageError(
            f"the model has no output or layer {layer!r}; outputs: {', '.join(outputs)}; layers that give "
            f"vectors: {near or 'none'}"
        ) from error
    return keras.Model(model.inputs, {**outputs, layer: found.output}, name=model.name)


def trace(model: Any) -> Any:
    """One ``tf.function`` over the model with an open batch size, so that no batch size traces anew."""
    import tensorflow as tf

    names = list(outputs_of(model))
    signature = [tf.TensorSpec(item.shape, item.dtype, _plain(item.name)) for item in model.inputs]

    def call(*inputs: Any) -> dict[str, Any]:
        given = model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
        flat = [given[name] for name in names] if isinstance(given, dict) else tf.nest.flatten(given)
        return dict(zip(names, flat, strict=True))

    return tf.function(call, input_signature=signature, autograph=False)


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "input"


def _vector_layers(model: Any) -> tuple[str, ...]:
    """Names of layers with one output of shape [N, d] before the last layer, the last of them first."""
    found = []
    for layer in model.layers[:-1]:
        shape = getattr(getattr(layer, "output", None), "shape", None)
        if shape is not None and len(shape) == 2 and (shape[1] or 0) > 1:
            found.append(layer.name)
    return tuple(reversed(found))


def _final_activation(model: Any) -> str:
    activation = getattr(model.layers[-1], "activation", None) if len(model.outputs) == 1 else None
    return getattr(activation, "__name__", "")


def _by_convention(model: Any) -> str:
    nested = [layer.name for layer in model.layers[:3] if hasattr(layer, "layers")]
    for value_range, starts in _CONVENTIONS.items():
        if any(name.lower().startswith(starts) for name in (model.name, *nested)):
            return value_range
    return ""
