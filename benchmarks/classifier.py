"""The classifier of the streaming benchmark: the MobileNetV2 of the others, with a head of 1,000 classes."""

from __future__ import annotations

from benchmarks import stock

CLASSES = 1000


def export(folder: str) -> None:
    """Writes its SavedModel; the input is float32 ``[n, 224, 224, 3]`` in 0..1."""
    import tensorflow as tf

    body = stock.make_model()
    scores = tf.keras.layers.Dense(CLASSES, activation="softmax", name="scores")(body.output)
    tf.keras.Model(body.input, scores).export(folder)
