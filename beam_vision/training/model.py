"""A compact convolutional classifier whose last layer before the scores is an embedding of unit length.

Scores are the cosines between the embedding and one direction a class, times a fixed scale, through a
softmax (the normalised softmax of Wang et al., "NormFace", 2017). So images of one class lie close together
by cosine, which is what the search measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_vision import deps
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    import keras

EMBEDDING_DIM = 64
COSINE_SCALE = 16.0
VALUE_RANGE = "0..255"
"""The range of the pixel values that the model takes: bytes as decoded; it scales them itself."""
INPUT = "image"
SCORES = "probabilities"
EMBEDDING = "embedding"
MIN_SIDE_PX = 16


def build_model(
    height_px: int, width_px: int, classes: int, *, embedding_dim: int = EMBEDDING_DIM, seed: int = 0
) -> keras.Model:
    """The network, untrained; about 110,000 weights.

    Args:
      height_px, width_px: of its input, uint8 ``[N, height_px, width_px, 3]`` RGB in 0..255; 16 at least.
      classes: how many.
      embedding_dim: the length of the embedding.
      seed: of the first weights.

    Returns:
      A model with the outputs ``probabilities`` float32 ``[N, classes]`` (rows sum to 1) and ``embedding``
      float32 ``[N, embedding_dim]`` (rows of length 1).

    Raises:
      UsageError: fewer than two classes, or too small an input.
    """
    if classes < 2:
        raise UsageError(f"a classifier needs at least two classes; there are {classes}")
    if min(height_px, width_px) < MIN_SIDE_PX:
        raise UsageError(f"--image_size must be at least {MIN_SIDE_PX}, not {min(height_px, width_px)}")
    keras = deps.need("keras")
    layers = keras.layers
    keras.utils.set_random_seed(seed)
    image = keras.Input((height_px, width_px, 3), dtype="uint8", name=INPUT)
    x = compact_features(layers, layers.Rescaling(1 / 127.5, offset=-1.0)(image))
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    x = layers.Dropout(0.1, seed=seed)(x)
    x = layers.Dense(embedding_dim)(x)
    embedding = layers.UnitNormalization(name=EMBEDDING)(x)
    unit = keras.constraints.UnitNorm(axis=0)
    cosines = layers.Dense(classes, use_bias=False, kernel_constraint=unit, name="cosines")(embedding)
    scores = layers.Rescaling(COSINE_SCALE)(cosines)
    probabilities = layers.Softmax(name=SCORES)(scores)
    return keras.Model(image, {SCORES: probabilities, EMBEDDING: embedding}, name="compact_classifier")


def compact_features(layers, x):  # type: ignore[no-untyped-def]
    """The network's convolutions: from float ``[N, H, W, 3]`` in -1..1 to a map ``[N, H/16, W/16, 96]``."""
    x = convolve(layers, x, 24, stride=2)
    for filters in (32, 64, 96):
        x = convolve(layers, x, filters, stride=2)
        x = _residual(layers, x, filters)
    return x


def convolve(layers, x, filters, *, stride=1):  # type: ignore[no-untyped-def]
    """3x3 convolution, batch normalisation, ReLU."""
    x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def _residual(layers, x, filters):  # type: ignore[no-untyped-def]
    """``x`` plus a depthwise separable convolution of it."""
    y = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization(momentum=0.9)(y)
    return layers.ReLU()(layers.Add()([x, y]))
