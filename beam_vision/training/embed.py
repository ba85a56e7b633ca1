"""The recipe of an embedder: batches of classes with several images each, a loss that compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.records.indexed import IndexedSplit
from beam_vision.records.reader import decode_settings
from beam_vision.training.classify import augmented, check_classes, make_examples
from beam_vision.training.model import EMBEDDING
from beam_vision.training.recipe import Rate, Recipe
from beam_vision.training.sampling import balanced_batches, batch_shape, paired_classes, steps_per_pass

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from beam_vision.records.manifest import DatasetManifest
    from beam_vision.training.config import JobConfig


def embed_recipe(config: JobConfig, manifest: DatasetManifest, *, replicas: int = 1) -> Recipe:
    """How an embedder is trained.

    Raises:
      UsageError: fewer than two classes of two train images or more, several labels an image, or a
        ``data.balanced`` that can't be.
    """
    check_pairs(config, manifest)
    maker = _Embedder(config, manifest, replicas)
    return Recipe(
        labels=tuple(manifest.classes),
        multi_label=False,
        steps_per_pass=maker.steps(config.data.train, replicas),
        build=maker.build,
        trainee=maker.trainee,
        train=maker.train,
        validation=maker.validation if maker.can_pair(config.data.validation) else None,
        measure=maker.measure,
    )


def check_pairs(config: JobConfig, manifest: DatasetManifest) -> None:
    """Looks whether there is something to compare, without TensorFlow.

    Raises:
      UsageError: as :func:`embed_recipe`.
    """
    check_classes(config.data, manifest)
    if manifest.multi_label:
        raise UsageError(
            f"{config.data.dataset} has images with several labels; an embedder learns from one an image"
        )
    there = sum(images > 1 for images in manifest.splits[config.data.train].classes.values())
    batch_shape(config.data.balanced, batch_size=config.data.batch_size, classes=there)


class _Embedder:
    """The parts of an embedder's recipe."""

    def __init__(self, config: JobConfig, manifest: DatasetManifest, replicas: int) -> None:
        self._config, self._manifest, self._replicas = config, manifest, replicas
        self._examples = make_examples(config, manifest)
        self._splits: dict[str, IndexedSplit] = {}

    def build(self) -> keras.Model:
        from beam_vision.training.embedder import build_embedder

        config = self._config
        return build_embedder(config.model, config.data.image_size, seed=config.run.seed)

    def trainee(self, model: keras.Model, rate: Rate) -> keras.Model:
        from beam_vision.training.losses import build_loss
        from beam_vision.training.metric_losses import batch_recall_at_1
        from beam_vision.training.optimizers import build_optimizer, rate_multipliers

        keras = deps.need("keras")
        config = self._config
        trainee = keras.Model(model.inputs, model.output[EMBEDDING])
        multipliers = rate_multipliers(trainee, config.model.backbone_rate)
        trainee.compile(
            build_optimizer(config.optimizer, rate, multipliers=multipliers),
            loss=build_loss(config.loss, task="embed", classes=len(self._manifest.classes)),
            metrics=[keras.metrics.MeanMetricWrapper(batch_recall_at_1, name="recall_at_1")],
            jit_compile=config.run.jit,
        )
        return trainee

    def train(self, first_step: int) -> tf.data.Dataset:
        config = self._config
        seed = config.data.shuffle_seed
        batches = balanced_batches(
            self._split(config.data.train),
            *self._shape(config.data.train),
            seed=config.run.seed if seed is None else seed,
            first_step=first_step,
            replicas=self._replicas,
        )
        return augmented(config, batches, first_step)

    def validation(self) -> tf.data.Dataset:
        split = self._config.data.validation
        batches = balanced_batches(self._split(split), *self._shape(split), replicas=self._replicas)
        return batches.take(self.steps(split, self._replicas))

    def measure(self, model: keras.Model) -> dict[str, Any] | None:
        from beam_vision.training.embedder import evaluate_embedder

        data = self._config.data
        split = next((name for name in (data.test, data.validation) if self.can_pair(name)), None)
        if split is None:
            return None
        return {"split": split, **evaluate_embedder(model, self._examples.once(split))}

    def steps(self, split: str, replicas: int) -> int:
        """Batches that hold as many images as the split has."""
        classes, images = self._shape(split)
        return steps_per_pass(len(self._split(split).labels), classes * replicas, images)

    def can_pair(self, split: str) -> bool:
        """Whether the split has two classes of two images or more."""
        found = self._manifest.splits.get(split)
        return found is not None and sum(images > 1 for images in found.classes.values()) > 1

    def _split(self, split: str) -> IndexedSplit:
        if split not in self._splits:
            data = self._config.data
            settings = decode_settings((data.image_size, data.image_size), resize=data.resize)
            self._splits[split] = IndexedSplit(data.dataset, split, settings, cache_bytes=data.cache_bytes)
        return self._splits[split]

    def _shape(self, split: str) -> tuple[int, int]:
        """Classes a batch and images of each; of too few classes for that all, except for training."""
        data = self._config.data
        there = len(paired_classes(self._split(split).labels))
        balanced = data.balanced
        if balanced and split != data.train:
            balanced = {**balanced, "classes": min(balanced.get("classes", there), there)}
        return batch_shape(balanced, batch_size=data.batch_size, classes=there)
