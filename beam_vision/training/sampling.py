"""Batches of P classes with K images each, in which every image has others of its class beside it.

Which images a batch has is a function of the seed and the batch's number alone: a run that is taken up at a
step sees what it would have seen (Hermans, Beyer and Leibe, "In defense of the triplet loss", 2017, has the
P x K batches). Every class has the same chance, however many images it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.augmentation_steps import known

if TYPE_CHECKING:
    import tensorflow as tf

IMAGES_EACH = 4
"""Images of a class in a batch, where nothing is said; more, when there are too few classes to fill it."""
AT_ONCE = 2


class Images(Protocol):
    """What batches are made from: :class:`beam_vision.records.indexed.IndexedSplit` is such a thing."""

    labels: np.ndarray
    """int64 ``[n]``."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: height, width, 3."""

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Images uint8 ``[N, H, W, 3]`` by their numbers ``[N]``; may be called from several threads."""


def batch_shape(balanced: Mapping[str, int] | None, *, batch_size: int, classes: int) -> tuple[int, int]:
    """How many classes a batch has, and how many images of each.

    Args:
      balanced: ``{"classes": P, "images": K}``, as ``data.balanced``; None: as many as fit in a batch.
      batch_size: for None: images a batch, at most.
      classes: how many have two images or more.

    Raises:
      UsageError: an unknown key, or a number that can't be.
    """
    if classes < 2:
        raise UsageError(
            f"an embedder learns from classes of two images or more, and needs two; there are {classes}"
        )
    if balanced is None:
        wanted = min(max(batch_size // IMAGES_EACH, 2), classes)
        return wanted, max(batch_size // wanted, 2)
    for key in balanced:
        known(key, ("classes", "images"), "data.balanced")
    wanted, images = balanced.get("classes", min(8, classes)), balanced.get("images", IMAGES_EACH)
    if not 2 <= wanted <= classes:
        raise UsageError(f"data.balanced.classes must be 2 to {classes}, the classes there are, not {wanted}")
    if images < 2:
        raise UsageError(f"data.balanced.images must be at least 2 (an image and its like), not {images}")
    return wanted, images


def paired_classes(labels: np.ndarray) -> list[np.ndarray]:
    """The places of each class's images, of the classes that have two or more; of labels int ``[n]``."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return [places for places in np.split(order, starts[1:]) if len(places) > 1]


def plan_batch(
    groups: Sequence[np.ndarray], classes: int, images: int, *, seed: int, step: int
) -> np.ndarray:
    """The images of one batch: int64 ``[classes * images]`` places, a class after another.

    A class's images differ from each other; one that has fewer than ``images`` gives some of them again.

    Args:
      groups: as :func:`paired_classes` gives them.
      classes, images: P and K.
      seed, step: the same give the same.
    """
    rng = np.random.default_rng((seed, step))
    found = []
    for number in rng.choice(len(groups), classes, replace=False):
        group = groups[number]
        rounds = [rng.permutation(group) for _ in range(-(-images // len(group)))]
        found.append(np.concatenate(rounds)[:images])
    return np.concatenate(found)


def balanced_batches(
    data: Images, classes: int, images: int, *, seed: int = 0, first_step: int = 0, replicas: int = 1
) -> tf.data.Dataset:
    """Batches without end: (uint8 ``[N, H, W, 3]``, class ids int64 ``[N]``), where N is P * K * replicas.

    Args:
      data: the images.
      classes, images: P and K, as :func:`batch_shape` gives them.
      seed: the same gives the same batches, in the same order.
      first_step: the number of the first batch.
      replicas: that each take their equal part of a batch, which is balanced in itself: losses compare the
        images of one replica.
    """
    tf = deps.need("tensorflow")
    groups = paired_classes(data.labels)
    number = classes * images * replicas

    def make(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = range(int(step) * replicas, (int(step) + 1) * replicas)
        places = np.concatenate([plan_batch(groups, classes, images, seed=seed, step=part) for part in parts])
        return data.read(places), data.labels[places]

    def batch(step: Any) -> tuple[Any, Any]:
        pixels, ids = tf.numpy_function(make, [step], [tf.uint8, tf.int64])
        return tf.ensure_shape(pixels, [number, *data.shape]), tf.ensure_shape(ids, [number])

    steps = tf.data.Dataset.counter(first_step)
    plain = tf.autograph.experimental.do_not_convert(batch)
    return steps.map(plain, num_parallel_calls=AT_ONCE, deterministic=True).prefetch(AT_ONCE)


def steps_per_pass(images: int, classes: int, images_each: int) -> int:
    """Batches that hold as many images as there are."""
    return max(1, -(-images // (classes * images_each)))
