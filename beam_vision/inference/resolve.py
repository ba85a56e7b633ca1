"""From what was said of a model and what was found in it, to a whole :class:`ModelSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beam_vision.errors import UsageError
from beam_vision.inference.choose_detector import choose_detector, is_detector
from beam_vision.inference.outputs import choose_outputs
from beam_vision.inference.signature import Signature, Tensor
from beam_vision.inference.spec import ModelSpec

DTYPES = ("float32", "float16", "float64", "uint8", "int32", "int64")
_SIZE_REMEDY = "give it with --image_size N or HxW"


def resolve(found: Signature, said: Mapping[str, Any]) -> ModelSpec:
    """The spec of a model.

    Args:
      found: what the model itself tells.
      said: fields of :class:`ModelSpec` from ``model_spec.json`` and flags; they win over what was found,
        and must fit it.

    Raises:
      UsageError: they contradict the model, or something needed is neither said nor found.
    """
    notes = list(found.remarks)
    image = choose_input(found, said.get("input_name", ""))
    facts: dict[str, Any] = {"signature": found.name, "input_name": image.name, "dtype": image.dtype}
    if image.dtype == "string":
        facts["input_kind"] = _string_kind(found, image, said)
        facts["fixed_batch"] = image.shape[0] if image.shape else None
    else:
        facts |= _pixels(image, said)
        facts["value_range"] = said.get("value_range") or _value_range(found, image, notes)
    if said.get("task") == "detect" or (
        not said.get("task") and (said.get("detector") or is_detector(found))
    ):
        facts |= choose_detector(found, said, notes, (facts.get("height_px"), facts.get("width_px")))
        return ModelSpec(**{**said, **facts, "notes": tuple(notes)})
    facts |= choose_outputs(found, said, notes, layout=facts.get("layout", "NHWC"))
    spec = ModelSpec(**{**said, **facts, "notes": tuple(notes)})
    allowed = (1, 2) if spec.classes == 1 else (spec.classes,)
    if spec.labels and spec.classes and len(spec.labels) not in allowed:
        raise UsageError(
            f"{len(spec.labels)} labels were given but the output {spec.scores_output!r} has "
            f"{spec.classes} scores; check --class_names"
        )
    return spec


def choose_input(found: Signature, wanted: str) -> Tensor:
    """The input that takes the images: the one asked for, or the only one that can.

    Raises:
      UsageError: there is none, or several; or the model needs further inputs.
    """
    listed = "; ".join(map(str, found.inputs)) or "none"
    fitting = [item for item in found.inputs if _could_be_images(item)]
    if wanted:
        chosen = [item for item in found.inputs if item.name == wanted]
        if not chosen:
            raise UsageError(f"the model has no input {wanted!r}; inputs: {listed}")
    else:
        chosen = fitting
    if len(chosen) != 1:
        raise UsageError(
            f"which input takes the images can't be told; choose it with --input_name. Inputs: {listed}"
            if chosen
            else f"no input of the model takes images (a batch of arrays or of strings). Inputs: {listed}"
        )
    others = [str(item) for item in found.inputs if item != chosen[0]]
    if others:
        raise UsageError(f"the model needs further inputs, which are not supported: {'; '.join(others)}")
    if not _could_be_images(chosen[0]):
        raise UsageError(f"the input {chosen[0]} takes no batch of images")
    return chosen[0]


def _could_be_images(item: Tensor) -> bool:
    if item.dtype == "string":
        return item.shape is None or len(item.shape) == 1
    return item.dtype in DTYPES and (item.shape is None or len(item.shape) == 4)


def _string_kind(found: Signature, image: Tensor, said: Mapping[str, Any]) -> str:
    kind = said.get("input_kind") or found.string_kind
    if kind not in ("image_bytes", "tf_example"):
        raise UsageError(
            f"the input {image} takes strings, and neither decoding of images nor parsing of tf.Examples was "
            "found behind it; say which it is with --input_kind image_bytes or tf_example"
        )
    if kind == "tf_example" and found.method and not found.method.endswith("/predict"):
        raise UsageError(
            f"signature {found.name!r} is of method {found.method}; tf.Examples are run through one of "
            f"method predict: choose it with --signature, of {', '.join(found.signatures)}"
        )
    return kind


def _pixels(image: Tensor, said: Mapping[str, Any]) -> dict[str, Any]:
    """Layout, channels, size and batch size of a pixel input."""
    batch, *rest = image.shape or (None, None, None, None)
    layout = said.get("layout") or _layout(rest)
    height, width, channels = (rest[1], rest[2], rest[0]) if layout == "NCHW" else rest
    return {
        "input_kind": "pixels",
        "layout": layout,
        "channels": _fixed("channels", channels, said) or 3,
        "height_px": _size("height_px", height, said, image),
        "width_px": _size("width_px", width, said, image),
        "fixed_batch": batch,
    }


def _layout(rest: list[int | None]) -> str:
    return "NCHW" if rest[0] in (1, 3) and rest[2] not in (1, 3) else "NHWC"


def _fixed(name: str, found: int | None, said: Mapping[str, Any]) -> int | None:
    asked = said.get(name)
    if found is not None and asked is not None and asked != found:
        raise UsageError(f"{name} {asked} was asked for, but the model's input has {found}")
    return found if found is not None else asked


def _size(name: str, found: int | None, said: Mapping[str, Any], image: Tensor) -> int:
    value = _fixed(name, found, said)
    if value is None:
        raise UsageError(
            f"the model takes images of any size ({image}), so the size must be said: {_SIZE_REMEDY}"
        )
    return value


def _value_range(found: Signature, image: Tensor, notes: list[str]) -> str:
    if found.value_range:
        return found.value_range
    if image.dtype == "uint8":
        return "0..255"
    notes.append("value range 0..1 is an assumption: nothing in the model tells it; check --value_range")
    return "0..1"
