"""``Recipe``: what the run loop must know of a task, so that one loop fits them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError
from beam_vision.training.config_fields import nearest

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from beam_vision.records.manifest import DatasetManifest
    from beam_vision.training.config import JobConfig

Rate = Any
"""A learning rate, or its schedule."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the model of one job is made, fed, fitted and measured.

    Attributes:
      labels: the classes' names, in order.
      multi_label: whether an image may have several.
      steps_per_pass: steps that show each train image once.
      build: makes the model that is exported; in the strategy's scope, with the same weights each time.
      trainee: of that model, and a learning rate, makes the compiled model that is fitted; in the scope.
      train: batches without end from a step on.
      validation: makes the batches of the validation split; None: there is none.
      measure: of the model, its figures on the test split (on the validation split where there is none) with
        the name of the ``split``; None without both.
    """

    labels: tuple[str, ...]
    multi_label: bool
    steps_per_pass: int
    build: Callable[[], keras.Model]
    trainee: Callable[[keras.Model, Rate], keras.Model]
    train: Callable[[int], tf.data.Dataset]
    validation: Callable[[], tf.data.Dataset] | None
    measure: Callable[[keras.Model], dict[str, Any] | None]


def make_recipe(config: JobConfig, manifest: DatasetManifest, *, replicas: int = 1) -> Recipe:
    """The recipe of a job's task.

    Args:
      config: the job's.
      manifest: its dataset's.
      replicas: that each take a batch at a step.

    Raises:
      UsageError: the dataset isn't one for the task.
    """
    if config.task == "classify":
        from beam_vision.training.classify import classify_recipe

        return classify_recipe(config, manifest, replicas=replicas)
    if config.task == "embed":
        from beam_vision.training.embed import embed_recipe

        return embed_recipe(config, manifest, replicas=replicas)
    from beam_vision.training.detect import detect_recipe

    return detect_recipe(config, manifest, replicas=replicas)


def figures_of_task(config: JobConfig, manifest: DatasetManifest) -> tuple[str, ...]:
    """What a job's model is measured by at the end; a gate may ask for these."""
    if config.task == "detect":
        from beam_vision.training.detect import FIGURES

        return FIGURES
    if config.task == "embed":
        return ("recall_at_1", "pixels_recall_at_1")
    from beam_vision.training.classify import find_multi_label

    return ("accuracy", "f1", "loss") if find_multi_label(config, manifest) else ("accuracy", "loss")


def check_job(config: JobConfig, manifest: DatasetManifest) -> None:
    """Looks whether a job can be done, without TensorFlow: in a moment, and before a machine is hired for it.

    Raises:
      UsageError: it can't, and why.
    """
    from beam_vision.training.architectures import find
    from beam_vision.training.augmentation import read_steps
    from beam_vision.training.classify import augmentation_steps, check_classes, find_multi_label
    from beam_vision.training.gate import check_figures, parse_gate
    from beam_vision.training.losses import choose, class_weights

    find(config.model.architecture)
    read_steps(augmentation_steps(config), task=config.task)
    if config.task == "detect":
        from beam_vision.training.detect import check_boxes

        check_boxes(config, manifest)
    elif config.task == "embed":
        from beam_vision.training.embed import check_pairs

        check_pairs(config, manifest)
    else:
        check_classes(config.data, manifest)
    several = config.task == "classify" and find_multi_label(config, manifest)
    choose(config.loss, task=config.task, multi_label=several)
    if config.task == "classify":
        counts = [1] * len(manifest.classes)
        class_weights(config.loss.class_weights, manifest.classes, counts, images=len(counts))
    check_epoch_figure("run.monitor", config.run.monitor, config.task)
    check_epoch_figure("tune.objective", str(config.tune.get("objective", "")), config.task)
    data = config.data
    there = [name for name in (data.test, data.validation) if name in manifest.splits]
    check_figures(parse_gate(config.export.gate), figures_of_task(config, manifest), there)


def check_epoch_figure(place: str, asked: str, task: str) -> None:
    """Refuses a figure that no epoch will have; a detector's losses are known at its first epoch only.

    Args:
      place: the field that asks for it.
      asked: its name, ``auto``, or empty.
      task: the job's.

    Raises:
      UsageError: it is no figure of the task's epochs.
    """
    if asked in ("", "auto") or task == "detect":
        return
    figures = ("loss", "recall_at_1" if task == "embed" else "accuracy")
    known = [f"{before}{name}" for before in ("val_", "validation_", "") for name in figures]
    if asked not in known:
        raise UsageError(f"{place} {asked!r} is no figure of an epoch; {nearest(asked, known)}")
