"""The recipe of a classifier."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.examples import Examples
from beam_vision.training.model import SCORES
from beam_vision.training.recipe import Rate, Recipe

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from beam_vision.records.manifest import DatasetManifest
    from beam_vision.training.config import DataConfig, JobConfig

MAX_CONFUSION_CLASSES = 100


def classify_recipe(config: JobConfig, manifest: DatasetManifest, *, replicas: int = 1) -> Recipe:
    """How a classifier is trained.

    Raises:
      UsageError: no labelled train images, those of one class only, or several labels an image where
        ``model.multi_label`` is false.
    """
    multi_label = find_multi_label(config, manifest)
    check_classes(config.data, manifest)
    examples = make_examples(config, manifest, replicas=replicas)
    labels = tuple(manifest.classes)
    maker = _Classifier(config, examples, labels, multi_label)
    validates = examples.images(config.data.validation) > 0
    return Recipe(
        labels=labels,
        multi_label=multi_label,
        steps_per_pass=examples.steps_per_pass,
        build=maker.build,
        trainee=maker.trainee,
        train=maker.train,
        validation=maker.validation if validates else None,
        measure=maker.measure,
    )


def make_examples(
    config: JobConfig, manifest: DatasetManifest, *, replicas: int = 1, targets: str = "labels"
) -> Examples:
    """The job's images, with a batch for all replicas at a step."""
    seed = config.data.shuffle_seed
    return Examples(
        data=config.data,
        manifest=manifest,
        targets=targets,
        batch_size=config.data.batch_size * replicas,
        seed=config.run.seed if seed is None else seed,
        whole_batches=replicas > 1,
    )


def find_multi_label(config: JobConfig, manifest: DatasetManifest) -> bool:
    """Whether the model gives each class a probability of its own.

    Raises:
      UsageError: it is told not to, and the dataset has images with several labels.
    """
    asked = config.model.multi_label
    if asked is False and manifest.multi_label:
        raise UsageError(
            f"{config.data.dataset} has images with several labels, and model.multi_label is false; "
            "leave it at auto"
        )
    return manifest.multi_label if asked == "auto" else bool(asked)


def check_classes(data: DataConfig, manifest: DatasetManifest) -> None:
    """Looks whether there is something to learn.

    Raises:
      UsageError: no labelled train images, or those of one class only.
    """
    split = manifest.splits.get(data.train)
    if split is None or split.images <= split.unlabelled:
        raise UsageError(
            f"{data.dataset} has no labelled images in a split named {data.train}; make the dataset from "
            "class folders or a manifest with a label column (with more images, if there were only a few)"
        )
    seen = [name for name, images in split.classes.items() if images]
    if len(seen) == 1:
        raise UsageError(
            f"{data.dataset} has train images of one class only ({seen[0]}), and a classifier needs two; "
            "the classes of a folder are the folders directly in it"
        )


def augmentation_steps(config: JobConfig) -> Any:
    """The job's steps; where it says nothing the light one for ``compact``, and none for others."""
    from beam_vision.training.augmentation_steps import LIGHT

    if config.augmentation is not None:
        return config.augmentation
    return LIGHT if config.model.architecture == "compact" else ()


def augmented(config: JobConfig, batches: tf.data.Dataset, first_step: int, *, classes: int = 0) -> Any:
    """Batches from a step on, changed as the job's steps say, and made ready ahead.

    Args:
      config: the job's.
      batches: of the train split; begin at ``first_step``.
      first_step: the run's step whose batch is the first.
      classes: how many; for ``classify``.
    """
    from beam_vision.training.augmentation import build_augmentation
    from beam_vision.training.examples import PREFETCH

    augmentation = build_augmentation(
        augmentation_steps(config),
        task=config.task,
        image_size_px=config.data.image_size,
        classes=classes,
        seed=config.run.seed,
    )
    return augmentation.over(batches, first_step=first_step).prefetch(PREFETCH)


class _Classifier:
    """The parts of a classifier's recipe."""

    def __init__(
        self, config: JobConfig, examples: Examples, labels: tuple[str, ...], multi_label: bool
    ) -> None:
        self._config, self._examples = config, examples
        self._labels, self._multi_label = labels, multi_label

    def build(self) -> keras.Model:
        from beam_vision.training.classifier import build_classifier

        config = self._config
        return build_classifier(
            config.model,
            config.data.image_size,
            len(self._labels),
            multi_label=self._multi_label,
            seed=config.run.seed,
        )

    def trainee(self, model: keras.Model, rate: Rate) -> keras.Model:
        from beam_vision.training.losses import build_loss
        from beam_vision.training.optimizers import build_optimizer, rate_multipliers

        keras = deps.need("keras")
        config = self._config
        scorer = keras.Model(model.inputs, model.output[SCORES])
        metric = "binary_accuracy" if self._multi_label else "categorical_accuracy"
        named = {"binary_accuracy": "BinaryAccuracy", "categorical_accuracy": "CategoricalAccuracy"}[metric]
        scorer.compile(
            build_optimizer(
                config.optimizer, rate, multipliers=rate_multipliers(scorer, config.model.backbone_rate)
            ),
            loss=build_loss(
                config.loss,
                task="classify",
                classes=len(self._labels),
                multi_label=self._multi_label,
                weights=self._class_weights(),
            ),
            metrics=[getattr(keras.metrics, named)(name="accuracy")],
            jit_compile=config.run.jit,
        )
        return scorer

    def _class_weights(self) -> list[float] | None:
        from beam_vision.training.losses import class_weights

        split = self._config.data.train
        found = self._examples.manifest.splits[split]
        return class_weights(
            self._config.loss.class_weights,
            self._labels,
            [found.classes.get(label, 0) for label in self._labels],
            images=self._examples.images(split),
            multi_label=self._multi_label,
        )

    def train(self, first_step: int) -> tf.data.Dataset:
        batches = self._examples.endless(first_step)
        return augmented(self._config, batches, first_step, classes=len(self._labels))

    def validation(self) -> tf.data.Dataset:
        return self._truth(self._config.data.validation)

    def _truth(self, split: str) -> tf.data.Dataset:
        """Batches of a split with targets float32 ``[N, classes]``."""
        tf = deps.need("tensorflow")
        number = len(self._labels)

        def as_shares(pixels: Any, labels: Any) -> tuple[Any, Any]:
            return pixels, tf.one_hot(labels, number) if labels.shape.rank == 1 else tf.cast(
                labels, tf.float32
            )

        return self._examples.once(split).map(tf.autograph.experimental.do_not_convert(as_shares))

    def measure(self, model: keras.Model) -> dict[str, Any] | None:
        data = self._config.data
        split = next((name for name in (data.test, data.validation) if self._examples.images(name)), None)
        if split is None:
            return None
        if self._multi_label:
            return {"split": split, **_measure_several(model, self._truth(split))}
        from beam_vision.training.evaluate import evaluate

        kept = dataclasses.asdict(evaluate(model, self._examples.once(split), len(self._labels)))
        if len(self._labels) > MAX_CONFUSION_CLASSES:
            del kept["confusion"]
        return {"split": split, **kept}


def _measure_several(model: keras.Model, data: Any) -> dict[str, Any]:
    """Of several labels an image: the share of right answers, F1 over all answers, the mean log loss."""
    import numpy as np

    right = answers = images = hits = said = there = 0
    loss = 0.0
    for pixels, truth in data:
        p, y = np.asarray(model(pixels, training=False)[SCORES]), np.asarray(truth) > 0.5
        yes = p >= 0.5
        right, answers, images = right + int((yes == y).sum()), answers + y.size, images + len(y)
        hits, said, there = hits + int((yes & y).sum()), said + int(yes.sum()), there + int(y.sum())
        loss -= float(np.log(np.maximum(np.where(y, p, 1 - p), 1e-12)).sum())
    return {
        "images": images,
        "accuracy": right / max(answers, 1),
        "f1": 2 * hits / max(said + there, 1),
        "loss": loss / max(answers, 1),
    }
