"""The pieces of the contenders that follow Beam's and TensorFlow's documentation: what a user would write."""

from __future__ import annotations

import io
from typing import Any

SIDE_PX = 224


def make_model() -> Any:
    """MobileNetV2 without its top, 224 px, pooled to 1280 numbers; random weights."""
    import tensorflow as tf

    return tf.keras.applications.MobileNetV2(
        input_shape=(SIDE_PX, SIDE_PX, 3), include_top=False, weights=None, pooling="avg"
    )


def decode_to_tensor(path: str) -> tuple[str, Any]:
    """A file as (path, float32 tensor [224, 224, 3] in 0..1)."""
    import numpy as np
    import tensorflow as tf
    from PIL import Image

    with open(path, "rb") as file:
        image = Image.open(io.BytesIO(file.read())).convert("RGB").resize((SIDE_PX, SIDE_PX))
    return path, tf.convert_to_tensor(np.asarray(image, dtype=np.float32) / 255.0)


def to_row(result: tuple[str, Any]) -> dict[str, Any]:
    """A row of (path, PredictionResult)."""
    key, prediction = result
    return {"key": key, "embedding": prediction.inference.numpy().tolist()}


def to_example(path: str) -> bytes:
    """A file, decoded once as a check, as a serialized tf.train.Example."""
    from PIL import Image

    with open(path, "rb") as file:
        data = file.read()
    image = Image.open(io.BytesIO(data))
    image.load()
    return example(path, data, image.height, image.width)


def example(path: str, data: bytes, height: int, width: int) -> bytes:
    """A serialized tf.train.Example of one encoded image."""
    import tensorflow as tf

    def of_bytes(value: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def of_int(value: int) -> Any:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))

    features = {
        "image/encoded": of_bytes(data),
        "image/key": of_bytes(path.encode()),
        "image/height": of_int(height),
        "image/width": of_int(width),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
