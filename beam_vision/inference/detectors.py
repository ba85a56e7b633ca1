"""How detectors say what they found: one small function for each kind of output.

A detector of another kind takes one such function more::

    def read(outputs, spec):
        boxes = outputs["bboxes"]          # [n, k, 4], in the spec's box_format (xyxy input pixels)
        return [(boxes[i], outputs["conf"][i], outputs["ids"][i]) for i in range(len(boxes))]

given as ``--detector my_package.my_module:read`` (every worker imports it), or registered by name with
:func:`register_detector`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.inference.anchors import retinanet_anchors
from beam_vision.inference.classify import probabilities
from beam_vision.inference.spec import ModelSpec

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What was found in one image, in any order: boxes ``[k, 4]`` in the spec's ``box_format``, scores ``[k]`` in
0..1 and class ids ``[k]`` (``spec.class_offset`` stands for the first label)."""

Read = Callable[[Mapping[str, np.ndarray], ModelSpec], Sequence[Found | VisionError]]
"""From a batch's outputs by name, each ``[n, ...]``, to what was found in each of its ``n`` images.
A :class:`~beam_vision.errors.VisionError` in the place of an image fails that image alone. A function that
raises is called again image by image, so that only those it raises for fail."""


@dataclass(frozen=True)
class Detector:
    """One kind of output.

    Attributes:
      read: reads it.
      suppressed: whether the model gives each object once, so that it needs no suppression.
      box_format: of the boxes; ``""``: only the spec can tell.
      class_offset: the class id of the first label, where nothing else is said.
    """

    read: Read
    suppressed: bool
    box_format: str = "xyxy"
    class_offset: int = 0


def register_detector(
    name: str, read: Read, *, suppressed: bool = False, box_format: str = "xyxy", class_offset: int = 0
) -> None:
    """Adds a kind of detector, in this process; on workers a module must do so when it is imported.

    Raises:
      UsageError: the name is taken by another function.
    """
    made = Detector(read, suppressed, box_format, class_offset)
    if _REGISTRY.setdefault(name, made) != made:
        raise UsageError(f"a detector {name!r} is registered already; choose another name")


def find_detector(name: str) -> Detector:
    """The detector of that name, or the function ``package.module:function``.

    Raises:
      UsageError: there is none.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise UsageError(
            f"--detector {name!r} is not known: use one of {', '.join(sorted(_REGISTRY))}, or a function of "
            "your own as package.module:function"
        )
    try:
        read = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--detector {name}: {error}; every worker must be able to import it") from error
    if not callable(read):
        raise UsageError(f"--detector {name}: it is no function")
    return Detector(read, suppressed=False)


def _decoded(outputs: Mapping[str, np.ndarray], spec: ModelSpec) -> list[Found | VisionError]:
    """Boxes ``[n, m, 4]``, scores and classes ``[n, m]``; the first ``count`` of them count.

    Rows of class -1 (KerasHub's padding) are left out.
    """
    boxes = _of_shape(outputs, spec.boxes_output, (None, 4))
    scores = _of_shape(outputs, spec.scores_output, (boxes.shape[1],))
    classes = _of_shape(outputs, spec.classes_output, (boxes.shape[1],))
    counts = outputs[spec.count_output].reshape(len(boxes), -1)[:, :1] if spec.count_output else None
    found: list[Found | VisionError] = []
    for i in range(len(boxes)):
        kept = classes[i] != -1
        if counts is not None:
            count = float(counts[i, 0])
            if not 0 <= count <= boxes.shape[1]:
                detail = f"output {spec.count_output!r} says {count:g} detections of {boxes.shape[1]}"
                found.append(VisionError(Reason.BAD_MODEL_OUTPUT, detail))
                continue
            kept &= np.arange(boxes.shape[1]) < round(count)
        found.append((boxes[i][kept], scores[i][kept], classes[i][kept]))
    return found


def _queries(outputs: Mapping[str, np.ndarray], spec: ModelSpec) -> list[Found | VisionError]:
    """Boxes ``[n, q, 4]`` and logits ``[n, q, classes]`` of a transformer's queries (DETR, D-FINE).

    With activation ``softmax`` the last class is "no object", as in DETR.
    """
    boxes = _of_shape(outputs, spec.boxes_output, (None, 4))
    scores = _activated(outputs, spec, boxes.shape[1])
    return _best(boxes, scores[..., :-1] if spec.activation == "softmax" else scores)


def _retinanet(outputs: Mapping[str, np.ndarray], spec: ModelSpec) -> list[Found | VisionError]:
    """KerasHub's RetinaNet as it is exported: offsets from its default anchors, and logits."""
    anchors = retinanet_anchors(spec.height_px or 0, spec.width_px or 0)
    deltas = _of_shape(outputs, spec.boxes_output, (len(anchors), 4))
    boxes = np.empty(deltas.shape, np.float32)
    sides = anchors[:, 2:] - anchors[:, :2]
    boxes[..., :2] = deltas[..., :2] * sides + (anchors[:, :2] + anchors[:, 2:]) / 2
    boxes[..., 2:] = np.exp(np.minimum(deltas[..., 2:], _LARGEST_EXPONENT)) * sides
    return _best(boxes, _activated(outputs, spec, len(anchors)))


_LARGEST_EXPONENT = 20.0
"""A box is at most so many powers of e larger than its anchor: far beyond any image, yet finite."""


def _yolo_v5(outputs: Mapping[str, np.ndarray], spec: ModelSpec) -> list[Found | VisionError]:
    """``[n, boxes, 5 + classes]``: cxcywh, how surely it is an object, and classes."""
    rows = _of_shape(outputs, spec.boxes_output, (None, None))
    return _best(rows[..., :4], rows[..., 4:5] * rows[..., 5:])


def _yolo_v8(outputs: Mapping[str, np.ndarray], spec: ModelSpec) -> list[Found | VisionError]:
    """``[n, 4 + classes, boxes]``: cxcywh and classes, one box a column."""
    rows = _of_shape(outputs, spec.boxes_output, (None, None)).transpose(0, 2, 1)
    return _best(rows[..., :4], rows[..., 4:])


def _yolo_nms(outputs: Mapping[str, np.ndarray], spec: ModelSpec) -> list[Found | VisionError]:
    """``[n, boxes, 6]``: xyxy, score, class: exported with suppression, or made to need none (YOLOv10)."""
    rows = _of_shape(outputs, spec.boxes_output, (None, 6))
    return [(row[:, :4], row[:, 4], row[:, 5]) for row in rows]


def _best(boxes: np.ndarray, scores: np.ndarray) -> list[Found | VisionError]:
    """Each box with its best class alone; NaN scores stay NaN."""
    if not scores.shape[2]:
        raise VisionError(Reason.BAD_MODEL_OUTPUT, "the model gives boxes without classes")
    return list(zip(boxes, scores.max(axis=2), scores.argmax(axis=2), strict=True))


def _activated(outputs: Mapping[str, np.ndarray], spec: ModelSpec, boxes: int) -> np.ndarray:
    logits = _of_shape(outputs, spec.scores_output, (boxes, None))
    flat = logits.reshape(-1, logits.shape[-1])
    return probabilities(flat, spec.activation).reshape(logits.shape)


def _of_shape(outputs: Mapping[str, np.ndarray], name: str, wanted: tuple[int | None, ...]) -> np.ndarray:
    """An output that is ``[n, *wanted]``, as floats.

    Raises:
      VisionError: ``bad_model_output``: it isn't.
    """
    value: Any = outputs[name]
    shape = value.shape[1:]
    if len(shape) != len(wanted) or any(w not in (None, n) for w, n in zip(wanted, shape, strict=True)):
        shown = ", ".join("?" if n is None else str(n) for n in ("n", *wanted))
        detail = f"output {name!r} has shape {list(value.shape)}, not [{shown}]"
        raise VisionError(Reason.BAD_MODEL_OUTPUT, detail)
    return value if value.dtype == np.float32 else value.astype(np.float64)


_REGISTRY = {
    "tf_od": Detector(_decoded, suppressed=True, box_format="rel_yxyx", class_offset=1),
    "keras_hub": Detector(_decoded, suppressed=True, box_format=""),
    "detr": Detector(_queries, suppressed=True, box_format="rel_cxcywh"),
    "retinanet": Detector(_retinanet, suppressed=False, box_format="cxcywh"),
    "yolo_v5": Detector(_yolo_v5, suppressed=False, box_format="cxcywh"),
    "yolo_v8": Detector(_yolo_v8, suppressed=False, box_format="cxcywh"),
    "yolo_nms": Detector(_yolo_nms, suppressed=True),
}
