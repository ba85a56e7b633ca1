"""A classifier on any backbone: pooled features, an embedding of unit length, probabilities.

The head is that of the compact classifier: scores are cosines between the embedding and a direction of each
class, times a fixed scale (Wang et al., "NormFace", 2017), so that images of one class lie close together by
cosine.

How a pretrained backbone is used is a matter of three settings of ``model``:

- linear probe: ``freeze: backbone, embedding_dim: 0``: only a linear layer on its features is trained;
- transfer: ``freeze: backbone``, or the first N layers: a new head on features that stay;
- fine-tuning: ``freeze: none, backbone_rate: 0.1``: all is trained, the backbone in smaller steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.architectures import COMPACT, build_backbone
from beam_vision.training.model import COSINE_SCALE, EMBEDDING, INPUT, SCORES

if TYPE_CHECKING:
    import keras

    from beam_vision.training.config import ModelConfig

FLOAT = "float32"
"""What the head computes in, also where the backbone does in 16 bits."""


def build_classifier(
    model: ModelConfig, image_size_px: int, classes: int, *, multi_label: bool = False, seed: int = 0
) -> keras.Model:
    """The network.

    Args:
      model: its configuration. With ``embedding_dim`` 0 the embedding is the pooled features themselves, at
        unit length, and the scores are linear in the features.
      image_size_px: side of its input, uint8 ``[N, S, S, 3]`` RGB in 0..255.
      classes: how many.
      multi_label: whether an image may have several labels: then each class has a probability of its own.
      seed: of the first weights and of dropout.

    Returns:
      A model with the outputs ``probabilities`` float32 ``[N, classes]`` (rows sum to 1, or with
      ``multi_label`` each in 0..1) and ``embedding`` float32 ``[N, D]``, rows of length 1. Its layer
      ``backbone`` is the backbone.

    Raises:
      UsageError: too few classes, or as :func:`~beam_vision.training.architectures.build_backbone`.
    """
    if classes < (1 if multi_label else 2):
        least = "one class" if multi_label else "two classes"
        raise UsageError(f"a classifier needs at least {least}, not {classes}")
    keras = deps.need("keras")
    backbone = build_backbone(model, image_size_px, seed=seed)
    image = keras.Input((image_size_px, image_size_px, 3), dtype="uint8", name=INPUT)
    features = pool(backbone(image), model)
    kept = keras.layers.Dropout(model.dropout, seed=seed)(features) if model.dropout else features
    embedding, scores = _head(features, kept, model.embedding_dim, classes, multi_label)
    squash = "sigmoid" if multi_label else "softmax"
    probabilities = keras.layers.Activation(squash, name=SCORES, dtype=FLOAT)(scores)
    given = {SCORES: probabilities, EMBEDDING: embedding}
    return keras.Model(image, given, name=f"{model.architecture}_classifier")


def _head(features: Any, kept: Any, dim: int, classes: int, bias: bool) -> tuple[Any, Any]:
    """The embedding, and the scores of the classes, before they become probabilities.

    Args:
      features, kept: the pooled features, as they are and after dropout.
      dim: of the embedding; 0: it is the features.
      classes: how many.
      bias: whether cosines have a bias a class: rare labels of several are mostly absent.
    """
    keras = deps.need("keras")
    layers = keras.layers
    if not dim:
        embedding = layers.UnitNormalization(name=EMBEDDING, dtype=FLOAT)(features)
        return embedding, layers.Dense(classes, name="scores", dtype=FLOAT)(kept)
    projected = layers.Dense(dim, name="projection")(kept)
    embedding = layers.UnitNormalization(name=EMBEDDING, dtype=FLOAT)(projected)
    unit = keras.constraints.UnitNorm(axis=0)
    directions = layers.Dense(classes, use_bias=bias, kernel_constraint=unit, name="cosines", dtype=FLOAT)
    return embedding, layers.Rescaling(COSINE_SCALE, dtype=FLOAT)(directions(embedding))


def pool(features: Any, model: ModelConfig) -> Any:
    """One vector an image from a backbone's last features.

    Args:
      features: float ``[N, rows, columns, F]``, or tokens ``[N, tokens, F]``, the class token among them.
      model: ``pooling``: ``avg`` or ``max`` over the places. ``compact`` always takes both, one after the
        other.

    Returns:
      Float ``[N, F]`` (``compact``: ``[N, 2 F]``).
    """
    layers = deps.need("keras").layers
    if model.architecture == COMPACT:
        return layers.Concatenate()(
            [layers.GlobalAveragePooling2D()(features), layers.GlobalMaxPooling2D()(features)]
        )
    places = "1D" if len(features.shape) == 3 else "2D"
    kind = {"avg": "GlobalAveragePooling", "max": "GlobalMaxPooling"}[model.pooling]
    return getattr(layers, kind + places)()(features)
