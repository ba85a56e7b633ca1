"""What training is fed: batches that go on at any step as if there had been no break.

The order of a pass over the train split comes from the seed and the pass's number, and what a batch's
augmentation draws from the seed and the step's number. So a run that is taken up at step 1234 is given the
batch that it would have had.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.records.reader import SHUFFLE_BYTES, load_dataset
from beam_vision.training.config import DataConfig

if TYPE_CHECKING:
    import tensorflow as tf

    from beam_vision.records.manifest import DatasetManifest

PREFETCH = 2
_ENDLESS = 2**40
_PRIME = 1_000_003


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The images of a dataset with their targets, batch by batch.

    Attributes:
      data: which, and how they are decoded.
      manifest: the dataset's.
      targets: ``labels`` or ``boxes``, as :func:`~beam_vision.records.reader.load_dataset` takes them.
      batch_size: images a step, on all replicas together.
      seed: of the order.
      whole_batches: whether a last batch that isn't full is left out of a pass, as several replicas need it.
    """

    data: DataConfig
    manifest: DatasetManifest
    targets: str = "labels"
    batch_size: int = 64
    seed: int = 0
    whole_batches: bool = False

    def images(self, split: str) -> int:
        """How many of a split can be used: of ``labels`` those with one; 0 where there is no such split."""
        found = self.manifest.splits.get(split)
        if found is None:
            return 0
        return found.images - found.unlabelled if self.targets == "labels" else found.images

    @property
    def steps_per_pass(self) -> int:
        """Batches in one pass over the train split.

        Raises:
          UsageError: not even one.
        """
        images = self.images(self.data.train)
        steps = images // self.batch_size if self.whole_batches else math.ceil(images / self.batch_size)
        if not steps:
            raise UsageError(
                f"split {self.data.train} of {self.data.dataset} has {images} images, fewer than the "
                f"{self.batch_size} of a step on all replicas; set data.batch_size lower"
            )
        return steps

    def once(self, split: str) -> tf.data.Dataset:
        """Batches of a split in the dataset's order: images uint8 ``[N, H, W, 3]`` and their targets."""
        tf = deps.need("tensorflow")
        batches = math.ceil(self.images(split) / self.batch_size)
        data = self._usable(self._load(split)).batch(self.batch_size)
        data = data.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(PREFETCH)
        return data.with_options(_options())

    def endless(self, first_step: int = 0) -> tf.data.Dataset:
        """Batches of the train split, pass after pass, from the batch of a step on.

        Where decoded pixels are kept in memory, the images of :data:`SHUFFLE_BYTES` of them are shuffled at
        a time, else the shards and then the encoded images; a pass that is begun half way is read from its
        beginning.
        """
        tf = deps.need("tensorflow")
        passes, within = divmod(first_step, self.steps_per_pass)
        kept = self._usable(self._load(self.data.train)) if self._fits(self.data.train) else None

        def one_pass(number: Any) -> Any:
            # in this function's graph only: with a seed of 0 here TensorFlow takes no tensor for another
            tf.compat.v1.set_random_seed(1)
            seed = number * _PRIME + self.seed
            if kept is None:
                data = self._usable(self._load(self.data.train, shuffle_seed=seed))
            else:
                data = kept.shuffle(self._buffer(), seed=seed, reshuffle_each_iteration=False)
            return data.batch(self.batch_size, drop_remainder=self.whole_batches)

        plain = tf.autograph.experimental.do_not_convert(one_pass)
        return tf.data.Dataset.range(passes, _ENDLESS).flat_map(plain).skip(within).with_options(_options())

    def _load(self, split: str, shuffle_seed: Any = None) -> tf.data.Dataset:
        side = self.data.image_size
        return load_dataset(
            self.data.dataset,
            split,
            batch_size=self.batch_size,
            image_size=(side, side),
            targets=self.targets,
            max_boxes=self.data.max_boxes,
            resize=self.data.resize,
            value_range=None,
            shuffle=shuffle_seed is not None,
            seed=0 if shuffle_seed is None else shuffle_seed,
            cache=shuffle_seed is None and self._fits(split),
        )

    def _usable(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Images one by one; of ``labels`` only those with one."""
        tf = deps.need("tensorflow")
        data = batches.unbatch()
        if self.targets == "labels":
            several = self.manifest.multi_label
            data = data.filter(lambda _, label: tf.reduce_max(label) > 0 if several else label >= 0)
        return data

    def _fits(self, split: str) -> bool:
        return self.images(split) * self._image_bytes <= self.data.cache_bytes

    def _buffer(self) -> int:
        return max(1, min(self.images(self.data.train), SHUFFLE_BYTES // self._image_bytes))

    @property
    def _image_bytes(self) -> int:
        return 3 * self.data.image_size**2


def _options() -> Any:
    """The same order always; workers take turns at the batches, since their source is one list of passes."""
    tf = deps.need("tensorflow")
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options
