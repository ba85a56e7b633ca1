"""An embedder on any backbone, and how good one is: whether an image's nearest neighbour is of its class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import deps
from beam_vision.training.model import EMBEDDING, INPUT

if TYPE_CHECKING:
    import keras

    from beam_vision.training.config import ModelConfig

FLOAT = "float32"
"""What the last layer computes in, also where the backbone does in 16 bits."""
MAX_QUERIES = 10_000
MAX_PIXELS = 2**26
"""Pixels are compared as they are where a split has no more values than this (256 MiB of float32)."""
_BLOCK = 512


def build_embedder(model: ModelConfig, image_size_px: int, *, seed: int = 0) -> keras.Model:
    """The network: a backbone, its features pooled and projected, brought to length one.

    Args:
      model: its configuration; with ``embedding_dim`` 0 the embedding is the pooled features at unit length.
      image_size_px: side of its input, uint8 ``[N, S, S, 3]`` RGB in 0..255.
      seed: of the first weights and of dropout.

    Returns:
      A model with the output ``embedding`` float32 ``[N, D]``, rows of length 1. Its layer ``backbone`` is
      the backbone.

    Raises:
      UsageError: as :func:`~beam_vision.training.architectures.build_backbone`.
    """
    from beam_vision.training.architectures import build_backbone
    from beam_vision.training.classifier import pool

    keras = deps.need("keras")
    layers = keras.layers
    backbone = build_backbone(model, image_size_px, seed=seed)
    image = keras.Input((image_size_px, image_size_px, 3), dtype="uint8", name=INPUT)
    features = pool(backbone(image), model)
    if model.embedding_dim:
        kept = layers.Dropout(model.dropout, seed=seed)(features) if model.dropout else features
        features = layers.Dense(model.embedding_dim, name="projection")(kept)
    embedding = layers.UnitNormalization(name=EMBEDDING, dtype=FLOAT)(features)
    return keras.Model(image, {EMBEDDING: embedding}, name=f"{model.architecture}_embedder")


def recall_at_1(vectors: np.ndarray, ids: np.ndarray) -> float:
    """The share of images whose nearest other image, by Euclidean distance, is of their class.

    Images without another of their class can't be right, and don't count. Of more than :data:`MAX_QUERIES`
    images so many, evenly spread, are looked for among all.

    Args:
      vectors: float ``[n, D]``. Of unit length: nearest by cosine.
      ids: int ``[n]``: the classes.

    Returns:
      0..1; 0 where no image has another of its class.
    """
    vectors = np.asarray(vectors, np.float32)
    known, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(counts[place] > 1) if len(known) else np.empty(0, np.int64)
    if not len(queries):
        return 0.0
    if len(queries) > MAX_QUERIES:
        queries = queries[np.linspace(0, len(queries) - 1, MAX_QUERIES).astype(np.int64)]
    squares = np.einsum("ij,ij->i", vectors, vectors)
    right = 0
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        distances = squares[None] - 2 * vectors[block] @ vectors.T
        distances[np.arange(len(block)), block] = np.inf
        right += int((ids[distances.argmin(axis=1)] == ids[block]).sum())
    return right / len(queries)


def evaluate_embedder(model: keras.Model, data: Iterable[tuple[Any, Any]]) -> dict[str, float | int]:
    """Figures of a split.

    Args:
      model: as :func:`build_embedder` makes it.
      data: batches of (images uint8 ``[N, H, W, 3]``, class ids ``[N]``).

    Returns:
      ``images``, ``recall_at_1``, and, where they fit in memory, ``pixels_recall_at_1``: what comparing the
      pixels as they are comes to, by Euclidean distance or by cosine, whichever is better.
    """
    embeddings, pixels, ids = [], [], []
    kept = 0
    for images, labels in data:
        embeddings.append(np.asarray(model(images, training=False)[EMBEDDING]))
        ids.append(np.asarray(labels))
        kept += int(np.prod(images.shape))
        if kept <= MAX_PIXELS:
            pixels.append(np.asarray(images).reshape(len(images), -1))
    if not ids:
        return {"images": 0, "recall_at_1": 0.0}
    truth = np.concatenate(ids)
    found: dict[str, float | int] = {
        "images": len(truth),
        "recall_at_1": recall_at_1(np.concatenate(embeddings), truth),
    }
    if kept <= MAX_PIXELS:
        found["pixels_recall_at_1"] = pixels_recall_at_1(np.concatenate(pixels), truth)
    return found


def pixels_recall_at_1(pixels: np.ndarray, ids: np.ndarray) -> float:
    """:func:`recall_at_1` of pixels uint8 ``[n, values]`` as they are, by the better of two distances."""
    plain = pixels.astype(np.float32) / 255
    lengths = np.maximum(np.linalg.norm(plain, axis=1, keepdims=True), 1e-6)
    return max(recall_at_1(plain, ids), recall_at_1(plain / lengths, ids))
