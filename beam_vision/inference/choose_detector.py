"""Which kind of detector a model is, by the names and shapes of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_vision.errors import UsageError
from beam_vision.inference.anchors import retinanet_anchors
from beam_vision.inference.detectors import find_detector
from beam_vision.inference.signature import Signature, Tensor

FAMILIES = {"yolo": ("yolo_v5", "yolo_v8", "yolo_nms"), "keras_hub": ("keras_hub", "detr", "retinanet")}
"""Names that stand for several kinds, told apart by the outputs."""

_ROLES = ("boxes_output", "scores_output", "classes_output", "count_output")


@dataclass(frozen=True)
class _Names:
    """The names that one kind of detector gives its outputs; the count may be missing."""

    boxes: tuple[str, ...]
    scores: tuple[str, ...]
    classes: tuple[str, ...] = ()
    count: tuple[str, ...] = ()

    def find(self, outputs: Mapping[str, Tensor], said: Mapping[str, Any]) -> dict[str, str] | None:
        """Which output has which role; None when one is missing."""
        wanted = (self.boxes, self.scores, self.classes, self.count)
        found = {
            role: said.get(role) or next((name for name in names if name in outputs), "")
            for role, names in zip(_ROLES, wanted, strict=True)
        }
        needed = [role for role, names in zip(_ROLES[:3], wanted, strict=False) if names]
        return found if all(found[role] for role in needed) else None


_NAMED = {
    "tf_od": _Names(("detection_boxes",), ("detection_scores",), ("detection_classes",), ("num_detections",)),
    "keras_hub": _Names(("boxes",), ("confidence", "scores"), ("labels", "classes"), ("num_detections",)),
    "detr": _Names(("pred_boxes",), ("logits",)),
    "retinanet": _Names(("bbox_regression",), ("cls_logits",)),
}
_ACTIVATIONS = {"detr": "sigmoid", "retinanet": "sigmoid"}
_BACKGROUND = ("background", "__background__", "???")
_WITH_BACKGROUND = ("raw_detection_scores", "detection_multiclass_scores")


def is_detector(found: Signature) -> bool:
    """Whether the names of the outputs (for YOLO's single ``output0`` its shape too) say that it is one."""
    outputs = {item.name: item for item in found.outputs}
    if any(names.find(outputs, {}) for names in _NAMED.values()):
        return True
    single = found.outputs if len(outputs) == 1 else ()
    return any(
        item.name.startswith("output") and any(yolo_fits(kind, item, 0) for kind in FAMILIES["yolo"])
        for item in single
    )


def choose_detector(
    found: Signature, said: Mapping[str, Any], notes: list[str], size_px: tuple[int | None, int | None]
) -> dict[str, Any]:
    """The fields of a spec that say how a detector's outputs are read.

    What is said wins; then names; then, for a single output, its shape and the number of labels.

    The first label's class id, where it isn't said, is 1 for the TensorFlow Object Detection API, whose
    label maps count from 1, and 0 for all others. But it is 0 there too when the first label stands for the
    background, or when there are as many labels as scores of a box, background included.

    Args:
      found: what the model itself tells.
      said: fields of a spec.
      notes: what was assumed is added here.
      size_px: (height, width) of its input, where it takes pixels.

    Raises:
      UsageError: an output that was asked for isn't there, or the kind can't be told, with the remedy.
    """
    outputs = {item.name: item for item in found.outputs}
    for role in _ROLES:
        if said.get(role) and said[role] not in outputs:
            raise UsageError(f"the model has no output {said[role]!r} (--{role}); outputs: {_listed(found)}")
    kind, roles = _kind(found, outputs, said)
    detector = find_detector(kind)
    box_format = said.get("box_format") or detector.box_format
    if not box_format:
        raise UsageError(
            f"whether the boxes in {outputs[roles['boxes_output']]} are xyxy, yxyx, ... is not in the model; "
            "say it with --box_format"
        )
    if kind == "retinanet":
        _check_anchors(outputs[roles["boxes_output"]], size_px)
    classes, offset = _classes(kind, outputs, roles, said, detector.class_offset)
    facts = {
        "task": "detect",
        "detector": kind,
        "box_format": box_format,
        "class_offset": offset,
        "classes": classes,
        "activation": _activation(kind, said),
        "embedding_output": "",
        "multi_label": None,
        "resize": said.get("resize") or ("letterbox" if kind in FAMILIES["yolo"] else "stretch"),
        **dict.fromkeys(_ROLES, ""),
        **roles,
        "raw_outputs": () if roles else tuple(outputs),
    }
    if None not in size_px:
        how = "as asked for" if said.get("resize") else "the default for such models; see --resize"
        notes.append(
            f"the detector sees images brought to {size_px[0]} x {size_px[1]} px (height x width) by "
            f"{facts['resize']}, {how}"
        )
    return facts


def _kind(
    found: Signature, outputs: Mapping[str, Tensor], said: Mapping[str, Any]
) -> tuple[str, dict[str, str]]:
    """The kind of detector, and which output has which role (none for a function of one's own)."""
    asked = said.get("detector", "")
    kinds = FAMILIES.get(asked, (asked,) if asked else (*_NAMED, *FAMILIES["yolo"]))
    for kind in kinds:
        if kind in _NAMED and (roles := _NAMED[kind].find(outputs, said)):
            return kind, roles
    fitting = [kind for kind in kinds if kind in FAMILIES["yolo"]]
    if fitting:
        return _yolo(fitting, found, outputs, said)
    if asked and asked not in _NAMED and asked not in FAMILIES:
        return asked, {}
    raise UsageError(
        f"the outputs of --detector {asked} are not all there; name them with --boxes_output, "
        f"--scores_output and --classes_output: {_listed(found)}"
    )


def _yolo(
    kinds: list[str], found: Signature, outputs: Mapping[str, Tensor], said: Mapping[str, Any]
) -> tuple[str, dict[str, str]]:
    """The kind whose layout fits the one output [n, a, b]."""
    name = said.get("boxes_output")
    tensors = [outputs[name]] if name else [item for item in found.outputs if _rank(item) == 3]
    if len(tensors) != 1:
        raise UsageError(
            "what kind of detector this is can't be told from its outputs; say it with --detector (tf_od, "
            "keras_hub, yolo, or a function of your own as package.module:function), and with "
            f"--boxes_output which of them holds boxes: {_listed(found)}"
        )
    (tensor,) = tensors
    labels = len(said.get("labels") or ())
    fitting = [kind for kind in kinds if yolo_fits(kind, tensor, labels)]
    if len(fitting) == 1:
        return fitting[0], {"boxes_output": tensor.name}
    named = f" with {labels} labels" if labels else ""
    if not fitting:
        raise UsageError(
            f"the output {tensor}{named} is none of YOLO's: [n, boxes, 5 + classes], [n, 4 + classes, boxes] "
            "or [n, boxes, 6]; check --class_names, or read it by a function of your own: --detector "
            "package.module:function"
        )
    raise UsageError(
        f"the output {tensor}{named} may be that of {' or '.join(fitting)}; say which with --detector"
        + ("" if labels else ", or give --class_names")
    )


def yolo_fits(kind: str, tensor: Tensor, labels: int) -> bool:
    """Whether an output's shape may be that of a kind of YOLO.

    Boxes are taken to be more than the numbers that each has.

    Args:
      kind: ``yolo_v5``, ``yolo_v8`` or ``yolo_nms``.
      tensor: of rank 3.
      labels: how many there are; 0: not known.
    """
    if tensor.shape is None or len(tensor.shape) != 3:
        return False
    _, middle, last = tensor.shape
    if kind == "yolo_nms":
        return last == 6
    numbers, boxes, least = (last, middle, 5) if kind == "yolo_v5" else (middle, last, 4)
    if numbers is None:
        return False
    fits = numbers == least + labels if labels else numbers > least
    return fits and (boxes is None or boxes > numbers)


def _classes(
    kind: str,
    outputs: Mapping[str, Tensor],
    roles: Mapping[str, str],
    said: Mapping[str, Any],
    default_offset: int,
) -> tuple[int | None, int]:
    """How many classes there are, where that can be told, and the first one's id.

    Raises:
      UsageError: the labels are not as many.
    """
    labels, offset = tuple(said.get("labels") or ()), said.get("class_offset")
    if kind == "tf_od":
        scores = next((_last(outputs[name]) for name in _WITH_BACKGROUND if name in outputs), None)
        allowed: tuple[int, ...] = () if scores is None else (scores - 1, scores)
        from_background = bool(labels) and (labels[0].lower() in _BACKGROUND or len(labels) == scores)
        offset = (0 if from_background else default_offset) if offset is None else offset
        classes = None if scores is None else scores - offset
    else:
        offset = default_offset if offset is None else offset
        classes = _numbers(kind, outputs, roles, said)
        allowed = () if classes is None else (classes,)
    if labels and allowed and len(labels) not in allowed:
        raise UsageError(f"{len(labels)} labels for a detector of {allowed[0]} classes; check --class_names")
    return (len(labels) or classes), offset


def _numbers(
    kind: str, outputs: Mapping[str, Tensor], roles: Mapping[str, str], said: Mapping[str, Any]
) -> int | None:
    """How many classes the shape of an output tells."""
    if kind in ("detr", "retinanet"):
        numbers, others = _last(outputs[roles["scores_output"]]), int(_activation(kind, said) == "softmax")
    elif kind in ("yolo_v5", "yolo_v8"):
        shape = outputs[roles["boxes_output"]].shape or (None, None, None)
        numbers, others = (shape[2], 5) if kind == "yolo_v5" else (shape[1], 4)
    else:
        return None
    return None if numbers is None else numbers - others


def _check_anchors(boxes: Tensor, size_px: tuple[int | None, int | None]) -> None:
    """Refuses a RetinaNet whose anchors are not KerasHub's default ones, as far as their number tells."""
    height, width = size_px
    if height is None or width is None:
        raise UsageError("a RetinaNet with raw outputs must take pixels; its anchors depend on their number")
    expected = len(retinanet_anchors(height, width))
    if boxes.shape and boxes.shape[1] not in (None, expected):
        raise UsageError(
            f"the output {boxes} has {boxes.shape[1]} boxes, but KerasHub's default anchors are {expected} "
            f"for images of {height} x {width} px; export the model with decode_predictions in its signature"
        )


def _activation(kind: str, said: Mapping[str, Any]) -> str:
    asked = said.get("activation", "auto")
    return _ACTIVATIONS.get(kind, "none") if asked in ("", "auto") else asked


def _last(item: Tensor) -> int | None:
    return item.shape[-1] if item.shape else None


def _rank(item: Tensor) -> int | None:
    return None if item.shape is None else len(item.shape)


def _listed(found: Signature) -> str:
    return "; ".join(map(str, found.outputs))
