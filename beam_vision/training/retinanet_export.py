"""A trained RetinaNet as a bundle: boxes are decoded and suppressed in the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import deps
from beam_vision.inference.spec import ModelSpec
from beam_vision.training.detector_export import BOXES, CLASSES, COUNT, SCORES, write_detector
from beam_vision.training.retinanet import BOXES as OFFSETS
from beam_vision.training.retinanet import LOGITS, anchors_of, plain_network
from beam_vision.training.retinanet_config import DetectorConfig

if TYPE_CHECKING:
    import keras

LARGEST_EXPONENT = 8.0
"""A box is at most so many powers of e larger than its anchor: larger than any image, yet finite."""


def decode_boxes(offsets: Any, anchors: np.ndarray, side_px: int) -> Any:
    """Offsets from anchors -> boxes as shares of the image (Ren et al., "Faster R-CNN", 2015, equation 2).

    Args:
      offsets: float32 ``[N, anchors, 4]``: of the centre's x and y, in sides of the anchor; of width and
        height, their logarithms.
      anchors: float32 ``[anchors, 4]``, xyxy in pixels.
      side_px: of the square image.

    Returns:
      float32 ``[N, anchors, 4]``: ymin, xmin, ymax, xmax, 0..1, cut off at the image's edges.
    """
    tf = deps.need("tensorflow")
    sides = tf.constant(anchors[:, 2:] - anchors[:, :2])
    middle = tf.constant((anchors[:, :2] + anchors[:, 2:]) / 2)
    centre = offsets[..., :2] * sides + middle
    half = tf.exp(tf.minimum(offsets[..., 2:], LARGEST_EXPONENT)) * sides / 2
    boxes = tf.concat([(centre - half)[..., ::-1], (centre + half)[..., ::-1]], axis=-1)
    return tf.clip_by_value(boxes / side_px, 0.0, 1.0)


def find_boxes(
    outputs: Mapping[str, Any], anchors: np.ndarray, side_px: int, config: DetectorConfig
) -> dict[str, Any]:
    """The detections in what a RetinaNet gives: decoded, and suppressed class by class.

    Args:
      outputs: the network's.
      anchors: float32 ``[anchors, 4]``, xyxy in pixels.
      side_px: of the square image.
      config: ``nms_iou``, ``least_score`` and ``most_detections``.

    Returns:
      As in the TensorFlow Object Detection API: ``detection_boxes`` float32 ``[N, most, 4]``, relative ymin,
      xmin, ymax, xmax within the image; ``detection_scores`` float32 ``[N, most]``, highest first;
      ``detection_classes`` float32 ``[N, most]``, from 1; ``num_detections`` float32 ``[N]``: only so many
      of them count, the others are zeros.
    """
    tf = deps.need("tensorflow")
    offsets, logits = (tf.cast(outputs[name], tf.float32) for name in (OFFSETS, LOGITS))
    boxes, scores, classes, count = tf.image.combined_non_max_suppression(
        decode_boxes(offsets, anchors, side_px)[:, :, None],
        tf.sigmoid(logits),
        max_output_size_per_class=config.most_detections,
        max_total_size=config.most_detections,
        iou_threshold=config.nms_iou,
        score_threshold=config.least_score,
    )
    return {BOXES: boxes, SCORES: scores, CLASSES: classes + 1, COUNT: tf.cast(count, tf.float32)}


def serving(model: keras.Model, config: DetectorConfig) -> Callable[..., dict[str, Any]]:
    """The function that is exported: from uint8 pixels ``[N, side, side, 3]`` to :func:`find_boxes`.

    Args:
      model: as :func:`beam_vision.training.retinanet.build_retinanet` makes it, trained.
      config: as it was built with.
    """
    return _serving(plain_network(model), anchors_of(model.anchor_generator, model.input_shape[1]), config)


def _serving(
    network: keras.Model, anchors: np.ndarray, config: DetectorConfig
) -> Callable[..., dict[str, Any]]:
    def serve(image: Any, *, training: bool = False) -> dict[str, Any]:
        return find_boxes(network(image, training=training), anchors, network.input_shape[1], config)

    return serve


def export_retinanet(
    model: keras.Model,
    target: str,
    *,
    labels: Sequence[str],
    config: DetectorConfig,
    training: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    resize: str = "stretch",
    overwrite: bool = False,
    keras_too: bool = False,
) -> ModelSpec:
    """Writes the bundle, whole or not at all; ``predict --task detect`` takes it as it is.

    Args:
      model: trained.
      target: a local folder.
      labels: the class names, in the order of the model's classes.
      config: as it was built with.
      training: how it was trained, for people; written to ``training.json`` beside the model, with what its
        anchors are.
      metrics: what it is released with.
      resize: how images were brought to its size in training.
      overwrite: whether a bundle that is there may be replaced.
      keras_too: whether the network is saved beside it, to be trained on; its outputs are offsets and logits.

    Returns:
      The spec, as the bundle holds it.
    """
    network, generator = plain_network(model), model.anchor_generator
    anchors = anchors_of(generator, model.input_shape[1])
    made = {"anchor_size": generator.anchor_size, "max_level": generator.max_level, "anchors": len(anchors)}
    return write_detector(
        network,
        _serving(network, anchors, config),
        target,
        labels=labels,
        training={**training, "detector": made},
        metrics=metrics,
        overwrite=overwrite,
        resize=resize,
        keras_too=keras_too,
    )
