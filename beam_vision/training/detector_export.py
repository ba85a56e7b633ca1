"""A trained detector as a bundle whose outputs are those of the TensorFlow Object Detection API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.inference.spec import ModelSpec
from beam_vision.training.detector import HEAT, SIDES, STRIDE_PX
from beam_vision.training.export import write_trained
from beam_vision.training.model import VALUE_RANGE

if TYPE_CHECKING:
    import keras

BOXES, SCORES, CLASSES, COUNT = (
    *("detection_boxes", "detection_scores", "detection_classes"),
    "num_detections",
)
MOST = 50
LEAST_SCORE = 0.01


def find_peaks(heat_logits: Any, sides: Any, *, most: int = MOST) -> dict[str, Any]:
    """The detections: cells that say more of a class than their eight neighbours do.

    Args:
      heat_logits: float32 ``[N, rows, columns, classes]``.
      sides: float32 ``[N, rows, columns, 4]``, as the model gives them.
      most: detections an image.

    Returns:
      As in the TensorFlow Object Detection API: ``detection_boxes`` float32 ``[N, most, 4]``, relative ymin,
      xmin, ymax, xmax, cut off at the image's edges; ``detection_scores`` float32 ``[N, most]``, highest
      first; ``detection_classes`` float32 ``[N, most]``, from 1; ``num_detections`` float32 ``[N]``: so many
      have a score of :data:`LEAST_SCORE` or more, and only they count.
    """
    tf = deps.need("tensorflow")
    number, rows, columns, classes = tf.unstack(tf.shape(heat_logits))
    scores = tf.sigmoid(heat_logits)
    peaks = tf.where(tf.nn.max_pool2d(scores, 3, 1, "SAME") == scores, scores, 0.0)
    flat = tf.reshape(peaks, [number, -1])
    best, at = tf.math.top_k(flat, tf.minimum(most, tf.shape(flat)[1]))
    cell, class_id = at // classes, at % classes
    x = (tf.cast(cell % columns, tf.float32) + 0.5) * STRIDE_PX
    y = (tf.cast(cell // columns, tf.float32) + 0.5) * STRIDE_PX
    left, up, right, down = tf.unstack(
        tf.gather(tf.reshape(sides, [number, -1, 4]), cell, batch_dims=1), axis=-1
    )
    size = tf.cast(tf.stack([rows, columns, rows, columns]) * STRIDE_PX, tf.float32)
    boxes = tf.stack([y - up, x - left, y + down, x + right], axis=-1) / size
    return {
        BOXES: tf.clip_by_value(boxes, 0.0, 1.0),
        SCORES: best,
        CLASSES: tf.cast(class_id + 1, tf.float32),
        COUNT: tf.reduce_sum(tf.cast(best >= LEAST_SCORE, tf.float32), axis=1),
    }


def export_detector(
    model: keras.Model,
    target: str,
    *,
    labels: Sequence[str],
    training: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> ModelSpec:
    """Writes the bundle, whole or not at all.

    Args:
      model: as :func:`beam_vision.training.detector.build_detector` makes it, trained.
      target: a local folder.
      labels: the class names, in the order of the model's classes.
      training: how it was trained, for people; written to ``training.json`` beside the model.
      metrics: what it is released with.
      overwrite: whether a bundle that is there may be replaced.

    Returns:
      The spec, as the bundle holds it.
    """

    def serve(image: Any, *, training: bool) -> dict[str, Any]:
        found = model(image, training=training)
        return find_peaks(found[HEAT], found[SIDES])

    return write_detector(
        model, serve, target, labels=labels, training=training, metrics=metrics, overwrite=overwrite
    )


def write_detector(
    model: keras.Model,
    serve: Callable[..., Mapping[str, Any]],
    target: str,
    *,
    labels: Sequence[str],
    training: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    resize: str = "stretch",
    overwrite: bool = False,
    keras_too: bool = False,
) -> ModelSpec:
    """Writes the bundle of a detector that gives what :func:`find_peaks` does; see :func:`export_detector`.

    Args:
      serve: from uint8 pixels ``[N, H, W, 3]``, and ``training=False``, to those outputs.
      resize: how images are brought to the model's size.
      keras_too: whether the Keras model is saved beside it.
    """
    said = {
        "task": "detect",
        "detector": "tf_od",
        "value_range": VALUE_RANGE,
        "boxes_output": BOXES,
        "scores_output": SCORES,
        "classes_output": CLASSES,
        "count_output": COUNT,
        "box_format": "rel_yxyx",
        "class_offset": 1,
        "labels": tuple(labels),
        "resize": resize,
        "metrics": dict(metrics or {}),
    }
    return write_trained(
        model, serve, target, said=said, training=training, overwrite=overwrite, keras_too=keras_too
    )
