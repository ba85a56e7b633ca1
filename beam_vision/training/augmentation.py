"""Augmentation: batches changed at random before the model sees them, as a job's YAML says.

    augmentation: [{flip: horizontal}, {rotation: 0.05}, {mixup: {alpha: 0.2, probability: 0.5}}]

All happens in ``tf.data``, on whole batches, each image by its own draw; labels and boxes follow. Nothing of
it is in the model, so nothing of it is exported. :meth:`Augmentation.over` gives each batch a seed by its
number, and so the same batches however many threads make them, and after a resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.training.augmentation_steps import LIGHT, read_steps

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["LIGHT", "Augmentation", "build_augmentation", "read_steps"]

AT_ONCE = 2
"""Batches augmented at the same time."""


def build_augmentation(
    steps: Sequence[Mapping[str, Any]],
    *,
    task: str,
    image_size_px: int | tuple[int, int],
    classes: int = 0,
    seed: int = 0,
) -> Augmentation:
    """The augmentation of some steps.

    Args:
      steps: in their order, each of one kind: ``{"rotation": 0.05}``; see
        :func:`~beam_vision.training.augmentation_steps.read_steps`. Without any, labels take their form.
      task: ``classify``, ``embed`` or ``detect``.
      image_size_px: side of the images, or (height, width).
      classes: how many; for ``classify``.
      seed: the same gives the same.

    Raises:
      UsageError: a step is wrong, or not for this task.
    """
    from beam_vision.training.augmentation_layers import layers

    size = (image_size_px, image_size_px) if isinstance(image_size_px, int) else image_size_px
    made = layers(read_steps(steps, task=task))
    return Augmentation(made, task=task, image_size=size, classes=classes, seed=seed)


class Augmentation:
    """Takes a batch (images, targets) and gives such a batch, changed.

    Images are uint8 or float ``[N, H, W, 3]`` RGB in 0..255, and keep their dtype and range. Targets are

    - of ``classify``: class ids ``[N]`` or float ``[N, classes]`` of zeros and ones; they come back as
      float32 ``[N, classes]``, shares after a mix (an id of -1 gives zeros);
    - of ``embed``: class ids ``[N]``, given back as they are;
    - of ``detect``: ``{"boxes": float32 [N, M, 4] xyxy in pixels, "classes": int [N, M]}``, -1 where there is
      no box, given back in the same form, boxes first (``labels`` in place of ``classes``, as the reader
      names them, stays ``labels``).

    Args:
      made: layers, in their order.
      task: of the three.
      image_size: (height, width) in pixels.
      classes: of ``classify``.
      seed: of all draws.
    """

    def __init__(
        self, made: Sequence[Any], *, task: str, image_size: tuple[int, int], classes: int, seed: int
    ) -> None:
        self.layers = list(made)
        self._task = task
        self._size = image_size
        self._classes = classes
        self._seed = seed % 2**31
        self._drawn: Any = None

    def __call__(self, images: Any, targets: Any, seed: Any = None) -> tuple[Any, Any]:
        """One batch changed.

        Args:
          images, targets: see the class.
          seed: int ``[2]``: the same gives the same. Without one the object draws its own, one after the
            other; in a ``map`` of several threads their order is not fixed, so use :meth:`over` there.
        """
        tf = deps.need("tensorflow")
        dtype = images.dtype
        images = tf.ensure_shape(tf.cast(images, tf.float32), [None, *self._size, 3])
        targets, renamed = self._targets(targets)
        seed = self._draw() if seed is None else seed
        for number, layer in enumerate(self.layers):
            images, targets = layer(images, targets, tf.random.experimental.stateless_fold_in(seed, number))
        if renamed:
            targets = {"boxes": targets["boxes"], "labels": targets["classes"]}
        if not tf.as_dtype(dtype).is_floating:
            images = tf.clip_by_value(tf.round(images), 0, 255)
        return tf.cast(images, dtype), targets

    def over(self, data: tf.data.Dataset, *, first_step: int | None = None) -> tf.data.Dataset:
        """A dataset of batches (images, targets), each changed.

        Args:
          data: the batches.
          first_step: for data that repeats without end: its first batch's number in the run, so that a run
            taken up there goes on as it would have. None: for data that is gone through pass after pass:
            other draws at each pass, the same ones in each run of the same seed.
        """
        tf = deps.need("tensorflow")
        if first_step is None:
            seeds = tf.data.Dataset.random(seed=self._seed, rerandomize_each_iteration=True).batch(2)
        else:
            seeds = tf.data.Dataset.counter(first_step).map(lambda step: tf.stack([self._seed, step]))
        plain = tf.autograph.experimental.do_not_convert(lambda batch, seed: self(batch[0], batch[1], seed))
        return tf.data.Dataset.zip((data, seeds)).map(plain, num_parallel_calls=AT_ONCE)

    def _targets(self, targets: Any) -> tuple[Any, bool]:
        """In the layers' form, and whether boxes' classes came as ``labels``."""
        tf = deps.need("tensorflow")
        if self._task == "detect":
            renamed = "labels" in targets
            classes = targets["labels" if renamed else "classes"]
            boxes = tf.cast(targets["boxes"], tf.float32)
            return {"boxes": boxes, "classes": tf.convert_to_tensor(classes)}, renamed
        targets = tf.convert_to_tensor(targets)
        if self._task == "classify" and targets.shape.rank == 1:
            return tf.one_hot(targets, self._classes), False
        return (tf.cast(targets, tf.float32) if self._task == "classify" else targets), False

    def _draw(self) -> Any:
        tf = deps.need("tensorflow")
        if self._drawn is None:
            with tf.init_scope():
                self._drawn = tf.random.Generator.from_seed(self._seed)
        return self._drawn.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
