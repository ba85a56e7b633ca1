"""Tiny real detectors whose answers can be worked out by hand, in each form that detectors come in.

All of them find the bounding box of what is red, of what is green and of what is blue in an image, with the
scores :data:`SCORES`. With ``x`` the pixels in 0..1, one is of colour ``c`` where ``2 x[c] - sum(x) > 1/2``
(so white, gray, black and :data:`CULPRIT_RGB` are of none). :func:`boxes_of` says the same in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from beam_vision.testing.models import CULPRIT_RGB

SIDE_PX = 64
LABELS = ("red", "green", "blue")
SCORES = (0.9, 0.8, 0.7)
COLOURS_RGB = ((255, 0, 0), (0, 255, 0), (0, 0, 255))

_PADDED_TO = 5
_COPIES = 4
_LOW_LOGIT = -20.0


def boxes_of(pixels: np.ndarray) -> dict[str, tuple[int, int, int, int]]:
    """The xyxy box of each colour in uint8 pixels ``[h, w, 3]``, for those that are there."""
    x = pixels.astype(np.float32) / 255
    mask = 2 * x - x.sum(axis=2, keepdims=True) > 0.5
    found = {}
    for c, label in enumerate(LABELS):
        rows, columns = np.flatnonzero(mask[..., c].any(axis=1)), np.flatnonzero(mask[..., c].any(axis=0))
        if rows.size:
            found[label] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return {label: tuple(map(int, box)) for label, box in found.items()}  # type: ignore[misc]


def scene(height_px: int, width_px: int, **boxes: tuple[int, int, int, int]) -> np.ndarray:
    """uint8 ``[height_px, width_px, 3]``: black with a filled box (xyxy) in each colour named."""
    pixels = np.zeros((height_px, width_px, 3), np.uint8)
    for label, (xmin, ymin, xmax, ymax) in boxes.items():
        pixels[ymin:ymax, xmin:xmax] = COLOURS_RGB[LABELS.index(label)]
    return pixels


def _find(x: Any) -> tuple[Any, Any]:
    """Boxes ``[n, 3, 4]`` xyxy in pixels and scores ``[n, 3]``, 0 for a colour that isn't there.

    Args:
      x: ``[n, h, w, 3]`` in 0..1.
    """
    from keras import ops

    mask = ops.cast(2 * x - ops.sum(x, axis=3, keepdims=True) > 0.5, "float32")
    height, width = ops.shape(x)[1:3]
    edges = []
    for axis, size in ((1, width), (2, height)):
        line = ops.max(mask, axis=axis)  # [n, size, 3]
        place = ops.cast(ops.arange(size), "float32")[None, :, None]
        far = ops.cast(size, "float32")
        edges.append((far - ops.max(line * (far - place), axis=1), ops.max(line * (place + 1), axis=1)))
    (xmin, xmax), (ymin, ymax) = edges
    present = ops.cast(xmax > xmin, "float32")
    return ops.stack([xmin, ymin, xmax, ymax], axis=2), present * np.array(SCORES, np.float32)


def _padded(x: Any) -> tuple[Any, Any, Any, Any]:
    """Boxes ``[n, 5, 4]``, scores and classes (from 0) ``[n, 5]``, counts ``[n]``; finds first."""
    from keras import ops

    boxes, scores = _find(x)
    order = ops.argsort(-scores, axis=1)
    kept = ops.cast(ops.take_along_axis(scores, order, axis=1) > 0, "float32")
    more = _PADDED_TO - len(LABELS)
    boxes = ops.take_along_axis(boxes, order[..., None], axis=1) * kept[..., None]
    scores = ops.take_along_axis(scores, order, axis=1)
    classes = ops.cast(order, "float32") * kept
    flat = [[0, 0], [0, more]]
    padded = ops.pad(boxes, [*flat, [0, 0]]), ops.pad(scores, flat), ops.pad(classes, flat)
    return (*padded, ops.sum(kept, axis=1))


def _shares(boxes: Any, x: Any) -> Any:
    """Boxes in pixels as shares of the width and height of ``x``."""
    from keras import ops

    height, width = ops.shape(x)[1:3]
    return boxes / ops.cast(ops.stack([width, height, width, height]), "float32")


def _center(boxes: Any) -> Any:
    from keras import ops

    return ops.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def tf_od_outputs(x: Any) -> dict[str, Any]:
    """As the TensorFlow Object Detection API gives them: relative yxyx, classes from 1, all as floats."""
    boxes, scores, classes, count = _padded(x)
    shares = _shares(boxes, x)
    yxyx = [shares[..., i] for i in (1, 0, 3, 2)]
    from keras import ops

    return {
        "detection_boxes": ops.stack(yxyx, axis=-1),
        "detection_scores": scores,
        "detection_classes": classes + 1,
        "num_detections": count,
    }


def keras_hub_outputs(x: Any) -> dict[str, Any]:
    """As KerasHub's ``decode_predictions`` gives them: xyxy pixels, classes from 0, padded with -1."""
    from keras import ops

    boxes, scores, classes, count = _padded(x)
    nothing = ops.cast(scores == 0, "float32")
    return {
        "boxes": boxes * (1 - nothing[..., None]) - nothing[..., None],
        "confidence": scores - nothing,
        "classes": ops.cast(classes * (1 - nothing) - nothing, "int32"),
        "num_detections": ops.cast(count, "int32"),
    }


def detr_outputs(x: Any) -> dict[str, Any]:
    """As D-FINE gives them: relative cxcywh and logits of a sigmoid."""
    from keras import ops

    boxes, scores = _find(x)
    logit = ops.log(scores / (1 - scores) + np.exp(_LOW_LOGIT))
    eye = np.eye(len(LABELS), dtype=np.float32)
    return {
        "pred_boxes": _center(_shares(boxes, x)),
        "logits": logit[..., None] * eye + _LOW_LOGIT * (1 - eye),
    }


Outputs = Callable[[Any], dict[str, Any]]


def save_saved_model(
    folder: str,
    outputs: Outputs = tf_od_outputs,
    *,
    batch: int | None = None,
    size_px: tuple[int | None, int | None] = (SIDE_PX, SIDE_PX),
    dtype: str = "float32",
    trouble: str = "",
) -> str:
    """A SavedModel over pixels in 0..1 (0..255 for whole numbers).

    Args:
      folder: made new.
      outputs: in which form it gives what it finds.
      batch: its fixed batch size; None: any.
      size_px: (height, width) of its input; None: any.
      dtype: of its input.
      trouble: for a batch that holds an image all of :data:`~beam_vision.testing.models.CULPRIT_RGB`:
        ``raises``: an error; ``nan``: a box of that image is NaN; ``class``: its class is 9, with a score.

    Returns:
      ``folder``.
    """
    import tensorflow as tf

    def call(images: Any) -> dict[str, Any]:
        x = tf.cast(images, tf.float32)
        x = x / 255 if tf.as_dtype(dtype).is_integer else x
        return _stumbling(x, outputs(x), trouble) if trouble else outputs(x)

    return _save(folder, call, tf.TensorSpec([batch, *size_px, 3], dtype, name="images"))


def save_image_bytes_model(folder: str, outputs: Outputs = tf_od_outputs) -> str:
    """A SavedModel over encoded images, which it decodes and brings to 64 x 64 itself."""
    import tensorflow as tf

    def decode(item: Any) -> Any:
        pixels = tf.io.decode_image(item, channels=3, expand_animations=False)
        return tf.image.resize(pixels, [SIDE_PX, SIDE_PX], "area") / 255

    def call(data: Any) -> dict[str, Any]:
        shape = tf.TensorSpec([SIDE_PX, SIDE_PX, 3], tf.float32)
        return outputs(tf.map_fn(decode, data, fn_output_signature=shape))

    return _save(folder, call, tf.TensorSpec([None], tf.string, name="image_bytes"))


def _save(folder: str, call: Callable, spec: Any) -> str:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(call, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
    return folder


def _stumbling(x: Any, outputs: dict[str, Any], trouble: str) -> dict[str, Any]:
    """Outputs of the TensorFlow Object Detection API's form, spoilt for the culprit."""
    import tensorflow as tf

    distance = tf.abs(tf.reduce_mean(x, axis=[1, 2]) - tf.constant(CULPRIT_RGB, tf.float32) / 255)
    culprit = tf.reduce_all(distance < 0.02, axis=1)
    if trouble == "raises":
        with tf.control_dependencies([tf.debugging.assert_equal(tf.reduce_any(culprit), False)]):
            return {name: tf.identity(value) for name, value in outputs.items()}
    found = {
        "detection_boxes": np.nan if trouble == "nan" else [0.0, 0.0, 1.0, 1.0],
        "detection_scores": 0.9,
        "detection_classes": 1.0 if trouble == "nan" else 9.0,
        "num_detections": 1.0,
    }
    spoilt = {}
    for name, value in outputs.items():
        row = tf.reshape(culprit, [-1] + [1] * (len(value.shape) - 1))
        spoilt[name] = tf.where(row, tf.constant(found[name], tf.float32), value)
    return spoilt


def save_keras(path: str, outputs: Outputs = keras_hub_outputs, *, side_px: int = SIDE_PX) -> str:
    """A ``.keras`` file over pixels in 0..255."""
    import keras

    images = keras.Input((side_px, side_px, 3), name="images")
    x = keras.layers.Rescaling(1 / 255)(images)
    keras.Model(images, outputs(x)).save(path)
    return path


def save_onnx(path: str, kind: str, *, side_px: int = SIDE_PX, batch: int | None = None) -> str:
    """A YOLO-like ONNX model over NCHW pixels in 0..1 with the one output ``output0``.

    Without suppression (``yolo_v5``, ``yolo_v8``) each box comes four times, each copy a pixel further right
    and with 0.9 times the score of the one before; for ``yolo_v5`` that is how surely it is an object.

    Args:
      path: the file.
      kind: ``yolo_v5`` ``[n, 12, 8]``, ``yolo_v8`` ``[n, 7, 12]`` or ``yolo_nms`` ``[n, 3, 6]``.
      side_px: of its input.
      batch: its fixed batch size; None: any.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = _onnx_boxes(helper, side_px)
    last = _onnx_rows(helper, nodes, constants, kind)
    first: Any = batch if batch is not None else "batch"
    shape = {"yolo_v5": [12, 8], "yolo_v8": [7, 12], "yolo_nms": [3, 6]}[kind]
    nodes.append(helper.make_node("Identity", [last], ["output0"]))
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [first, 3, side_px, side_px])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [first, *shape])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    Path(path).write_bytes(model.SerializeToString())
    return path


def _onnx_boxes(helper: Any, side_px: int) -> tuple[list[Any], dict[str, Any]]:
    """Nodes that make ``low`` and ``high`` (corners, ``[n, 3, 2]``) and ``score`` ``[n, 3, 1]``."""
    place = np.arange(side_px, dtype=np.float32)
    constants: dict[str, Any] = {
        "two": np.float32(2),
        "half": np.float32(0.5),
        "side": np.float32(side_px),
        "from_end": side_px - place,
        "from_start": place + 1,
        "scores": np.array(SCORES, np.float32)[:, None],
        **{f"axis{i}": np.array([i]) for i in (1, 2, 3)},
    }
    nodes = [
        helper.make_node("ReduceSum", ["images", "axis1"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["images", "two"], ["twice"]),
        helper.make_node("Sub", ["twice", "sum"], ["strength"]),
        helper.make_node("Greater", ["strength", "half"], ["is_of_colour"]),
        helper.make_node("Cast", ["is_of_colour"], ["mask"], to=1),
    ]
    for name, other in (("x", "axis2"), ("y", "axis3")):
        nodes += [
            helper.make_node("ReduceMax", ["mask", other], [f"line_{name}"], keepdims=0),
            helper.make_node("Mul", [f"line_{name}", "from_end"], [f"before_{name}"]),
            helper.make_node("ReduceMax", [f"before_{name}", "axis2"], [f"reach_{name}"], keepdims=1),
            helper.make_node("Sub", ["side", f"reach_{name}"], [f"low_{name}"]),
            helper.make_node("Mul", [f"line_{name}", "from_start"], [f"until_{name}"]),
            helper.make_node("ReduceMax", [f"until_{name}", "axis2"], [f"high_{name}"], keepdims=1),
        ]
    nodes += [
        helper.make_node("ReduceMax", ["line_x", "axis2"], ["present"], keepdims=1),
        helper.make_node("Mul", ["present", "scores"], ["score"]),
        helper.make_node("Concat", ["low_x", "low_y"], ["low"], axis=2),
        helper.make_node("Concat", ["high_x", "high_y"], ["high"], axis=2),
    ]
    return nodes, constants


def _onnx_rows(helper: Any, nodes: list[Any], constants: dict[str, Any], kind: str) -> str:
    """Adds the nodes that make a YOLO's output of corners and scores; the name of it."""
    classes = len(LABELS)
    if kind == "yolo_nms":
        constants["class"] = np.arange(classes, dtype=np.float32)[:, None]
        constants["zero"] = np.float32(0)
        nodes += [
            helper.make_node("Mul", ["score", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "class"], ["ids"]),
            helper.make_node("Concat", ["low", "high", "score", "ids"], ["rows"], axis=2),
        ]
        return "rows"
    constants["eye"] = np.eye(classes, dtype=np.float32)
    of_class = "present" if kind == "yolo_v5" else "score"
    columns = ["center", "sides", *(["score"] if kind == "yolo_v5" else []), "of_class"]
    nodes += [
        helper.make_node("Add", ["low", "high"], ["sum_of_corners"]),
        helper.make_node("Mul", ["sum_of_corners", "half"], ["center"]),
        helper.make_node("Sub", ["high", "low"], ["sides"]),
        helper.make_node("Mul", [of_class, "eye"], ["of_class"]),
        helper.make_node("Concat", columns, ["row0"], axis=2),
    ]
    scored = slice(4, 5) if kind == "yolo_v5" else slice(4, None)
    factor = np.ones(4 + classes + (kind == "yolo_v5"), np.float32)
    factor[scored] = 0.9
    shift = np.zeros(len(factor), np.float32)
    shift[0] = 1
    constants |= {"factor": factor, "shift": shift}
    for i in range(1, _COPIES):
        nodes += [
            helper.make_node("Mul", [f"row{i - 1}", "factor"], [f"weaker{i}"]),
            helper.make_node("Add", [f"weaker{i}", "shift"], [f"row{i}"]),
        ]
    nodes.append(helper.make_node("Concat", [f"row{i}" for i in range(_COPIES)], ["rows"], axis=1))
    if kind == "yolo_v5":
        return "rows"
    nodes.append(helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]))
    return "columns"
