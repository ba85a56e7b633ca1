"""A few generated images that a model is tried on; the same in every process."""

from __future__ import annotations

import numpy as np

from beam_vision.digest import content_digest
from beam_vision.images.codec import encode_jpeg
from beam_vision.inference.detect import View
from beam_vision.inference.prepare import InputWriter
from beam_vision.inference.spec import ModelSpec
from beam_vision.tfrecord_io import Example
from beam_vision.types import DecodedImage

_SIDE_PX = 64
_IMAGES = 4


def probe_images(height_px: int, width_px: int) -> list[np.ndarray]:
    """uint8 ``[height_px, width_px, 3]``: noise, flat gray, a gradient and a bright disc on black."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    noise = np.random.default_rng(7).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    gray = np.full((height_px, width_px, 3), 128, np.uint8)
    ramp = np.stack([255 * x // max(width_px - 1, 1), 255 * y // max(height_px - 1, 1), 0 * x + 64], axis=-1)
    inside = (x - width_px / 2) ** 2 + (y - height_px / 2) ** 2 < (min(height_px, width_px) / 3) ** 2
    disc = np.where(inside[..., None], np.array([250, 200, 40]), 0)
    return [noise, gray, ramp.astype(np.uint8), disc.astype(np.uint8)]


def _size(spec: ModelSpec) -> tuple[int, int]:
    """(height, width) of the generated images for a model."""
    if spec.input_kind != "pixels":
        return _SIDE_PX, _SIDE_PX
    return spec.height_px or _SIDE_PX, spec.width_px or _SIDE_PX


def probe_views(spec: ModelSpec) -> list[View]:
    """How a model sees the images of :func:`probe_batch`."""
    height, width = _size(spec)
    return [View(width, height, width, height)] * _IMAGES


def probe_batch(spec: ModelSpec) -> np.ndarray:
    """The generated images as an input batch for a model."""
    writer = InputWriter(spec)
    images = probe_images(*_size(spec))
    batch = writer.empty(len(images))
    for i, pixels in enumerate(images):
        if spec.input_kind == "tf_example":
            batch[i] = _example(pixels, f"probe-{i}")
            continue
        data = encode_jpeg(pixels) if spec.input_kind == "image_bytes" else b""
        writer.write(batch, i, DecodedImage(pixels, pixels.shape[1], pixels.shape[0]), data)
    return batch


def _example(pixels: np.ndarray, key: str) -> bytes:
    """A serialized Example with the features that the records of our own datasets always have."""
    data = encode_jpeg(pixels)
    example = Example()
    feature = example.features.feature
    texts = {"encoded": data, "format": b"jpeg", "key": key.encode(), "source_id": key.encode()}
    texts |= {"content_sha256": content_digest(data).encode(), "attributes": b"{}"}
    for name, value in texts.items():
        feature[f"image/{name}"].bytes_list.value.append(value)
    for name, side in (("height", pixels.shape[0]), ("width", pixels.shape[1])):
        feature[f"image/{name}"].int64_list.value.append(side)
    return example.SerializeToString(deterministic=True)
