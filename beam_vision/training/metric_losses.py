"""Losses for embeddings: images of one class are drawn together, those of others pushed apart.

They compare the images of one batch with each other, so each image needs others of its class beside it; see
:mod:`beam_vision.training.sampling`. Imports Keras: import it late.
"""

from __future__ import annotations

from typing import Any

from beam_vision import deps

keras = deps.need("keras")
tf = deps.need("tensorflow")
Loss: Any = keras.losses.Loss

TRIPLET = "triplet"
CONTRASTIVE = "supervised_contrastive"
MARGIN = 0.2
TEMPERATURE = 0.1


def build_metric_loss(name: str, *, margin: float = MARGIN, temperature: float = TEMPERATURE) -> Any:
    """The Keras loss of that name, from class ids ``[N]`` and embeddings ``[N, D]`` of unit length.

    Args:
      name: ``triplet`` or ``supervised_contrastive``.
      margin: of the triplet loss, in squared distances.
      temperature: of the other.

    Raises:
      KeyError: no such name.
    """
    made = {
        TRIPLET: lambda: TripletSemiHard(margin),
        CONTRASTIVE: lambda: SupervisedContrastive(temperature),
    }
    return made[name]()


@keras.saving.register_keras_serializable("beam_vision")
class TripletSemiHard(Loss):
    """:func:`triplet_semi_hard` as a Keras loss."""

    def __init__(self, margin: float = MARGIN, name: str = TRIPLET, **given: Any) -> None:
        super().__init__(name=name, **given)
        self.margin = margin

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value an anchor."""
        return triplet_semi_hard(y_true, y_pred, self.margin)

    def get_config(self) -> dict[str, Any]:
        """What makes it again."""
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable("beam_vision")
class SupervisedContrastive(Loss):
    """:func:`supervised_contrastive` as a Keras loss."""

    def __init__(self, temperature: float = TEMPERATURE, name: str = CONTRASTIVE, **given: Any) -> None:
        super().__init__(name=name, **given)
        self.temperature = temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One value an anchor."""
        return supervised_contrastive(y_true, y_pred, self.temperature)

    def get_config(self) -> dict[str, Any]:
        """What makes it again."""
        return {**super().get_config(), "temperature": self.temperature}


def triplet_semi_hard(ids: Any, embeddings: Any, margin: float = MARGIN) -> Any:
    """The triplet loss with semi-hard negatives (Schroff, Kalenichenko and Philbin, "FaceNet", 2015).

    Each pair of an anchor ``a`` and another image ``p`` of its class costs ``max(0, d(a, p) - d(a, n) +
    margin)``, with squared Euclidean distances ``d``. The negative ``n`` is the one nearest to ``a`` of those
    that are farther than ``p``; where none is, the farthest of all: nearer ones let a model collapse early.
    Sorting finds it, in memory of N x N where all triplets would take N x N x N.

    Args:
      ids: ``[N]`` or ``[N, 1]``, the classes.
      embeddings: ``[N, D]`` of unit length.
      margin: of squared distances, which are 0..4.

    Returns:
      float32 ``[N]``: each anchor's mean over its pairs, scaled so that the mean of all N is that of the
      anchors that have a pair; zeros where there is no such anchor, or no negative at all.
    """
    same, other = _pairs(ids)
    embeddings = tf.cast(embeddings, tf.float32)
    distances = tf.maximum(2.0 - 2.0 * tf.matmul(embeddings, embeddings, transpose_b=True), 0.0)
    far = tf.where(other > 0, distances, 8.0)  # beyond all distances: what is no negative sorts last
    order = tf.argsort(tf.stop_gradient(far), axis=1)
    ascending = tf.gather(far, order, batch_dims=1)
    negatives = tf.cast(tf.reduce_sum(other, axis=1, keepdims=True), tf.int32)
    place = tf.searchsorted(tf.stop_gradient(ascending), tf.stop_gradient(distances), side="right")
    place = tf.maximum(tf.minimum(place, negatives - 1), 0)
    cost = tf.maximum(distances - tf.gather(ascending, place, batch_dims=1) + margin, 0.0)
    return _mean_of_pairs(cost, same * tf.cast(negatives > 0, tf.float32))


def supervised_contrastive(ids: Any, embeddings: Any, temperature: float = TEMPERATURE) -> Any:
    """The supervised contrastive loss (Khosla et al., "Supervised contrastive learning", 2020, equation 2).

    Each pair of an anchor and another image of its class costs the negative logarithm of the softmax, over
    all other images of the batch, of the cosine divided by the temperature.

    Args:
      ids: ``[N]`` or ``[N, 1]``, the classes.
      embeddings: ``[N, D]`` of unit length.
      temperature: above 0; the lower, the more the nearest images count.

    Returns:
      float32 ``[N]``, as :func:`triplet_semi_hard`.
    """
    same, _ = _pairs(ids)
    embeddings = tf.cast(embeddings, tf.float32)
    cosines = tf.matmul(embeddings, embeddings, transpose_b=True) / temperature
    cosines = tf.linalg.set_diag(cosines, tf.fill(tf.shape(cosines)[:1], -1e9))
    return _mean_of_pairs(tf.reduce_logsumexp(cosines, axis=1, keepdims=True) - cosines, same)


def batch_recall_at_1(ids: Any, embeddings: Any) -> Any:
    """Whether each image's nearest other image of the batch is of its class: float32 ``[N]`` of 0 and 1."""
    ids = tf.reshape(ids, [-1])
    embeddings = tf.cast(embeddings, tf.float32)
    cosines = tf.matmul(embeddings, embeddings, transpose_b=True)
    nearest = tf.argmax(tf.linalg.set_diag(cosines, tf.fill(tf.shape(ids), -2.0)), axis=1)
    return tf.cast(tf.gather(ids, nearest) == ids, tf.float32)


def _pairs(ids: Any) -> tuple[Any, Any]:
    """float32 ``[N, N]`` twice: 1 where two images are of one class (not one with itself), and of two."""
    ids = tf.reshape(ids, [-1])
    equal = ids[:, None] == ids[None]
    same = tf.linalg.set_diag(tf.cast(equal, tf.float32), tf.zeros(tf.shape(ids)))
    return same, tf.cast(~equal, tf.float32)


def _mean_of_pairs(cost: Any, pairs: Any) -> Any:
    number = tf.reduce_sum(pairs, axis=1)
    each = tf.math.divide_no_nan(tf.reduce_sum(tf.where(pairs > 0, cost, 0.0), axis=1), number)
    anchors = tf.reduce_sum(tf.cast(number > 0, tf.float32))
    return tf.math.divide_no_nan(each * tf.cast(tf.shape(each)[0], tf.float32), anchors)
