"""The detector of the benchmarks: MobileNetV2 under one convolutional head, with random weights.

320 px, a box for each of 10 x 10 cells, 20 classes; decoding and suppression in the graph; outputs as the
TensorFlow Object Detection API names them.
"""

from __future__ import annotations

from typing import Any

SIDE_PX = 320
CLASSES = 20
MOST = 20


def export(folder: str) -> None:
    """Writes it as a SavedModel over float32 ``[N, 320, 320, 3]`` in 0..1."""
    import tensorflow as tf

    body = tf.keras.applications.MobileNetV2(
        input_shape=(SIDE_PX, SIDE_PX, 3), include_top=False, weights=None
    )
    head = tf.keras.layers.Conv2D(4 + CLASSES, 1)(body.output)
    model = tf.keras.Model(body.input, head)

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE_PX, SIDE_PX, 3], tf.float32, name="images")])
    def detect(images: Any) -> dict[str, Any]:
        cells = model(images, training=False)
        side = tf.cast(tf.shape(cells)[1], tf.float32)
        centre = (tf.range(side) + 0.5) / side
        y, x = tf.meshgrid(centre, centre, indexing="ij")
        size = tf.sigmoid(cells[..., 2:4]) / 2
        middle = tf.stack([y, x], axis=-1) + tf.tanh(cells[..., :2]) / side
        boxes = tf.concat([middle - size / 2, middle + size / 2], axis=-1)
        n = tf.shape(images)[0]
        found = tf.image.combined_non_max_suppression(
            tf.reshape(boxes, [n, -1, 1, 4]),
            tf.reshape(tf.sigmoid(cells[..., 4:]), [n, -1, CLASSES]),
            max_output_size_per_class=MOST,
            max_total_size=MOST,
        )
        return {
            "detection_boxes": found.nmsed_boxes,
            "detection_scores": found.nmsed_scores,
            "detection_classes": found.nmsed_classes + 1,
            "num_detections": tf.cast(found.valid_detections, tf.float32),
        }

    module = tf.Module()
    module.model, module.detect = model, detect
    tf.saved_model.save(module, folder, signatures={"serving_default": detect})
