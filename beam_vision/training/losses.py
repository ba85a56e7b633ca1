"""Losses by name, and weights of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from beam_vision.errors import UsageError
from beam_vision.training.config_fields import nearest

if TYPE_CHECKING:
    import keras

    from beam_vision.training.config import LossConfig

ONE_LABEL = ("cross_entropy", "focal", "brier")
SEVERAL_LABELS = ("binary_cross_entropy", "binary_focal", "brier")
NAMES: Mapping[str, tuple[str, ...]] = {
    "classify": ("auto", *ONE_LABEL, *SEVERAL_LABELS[:2]),
    "embed": ("auto", "triplet", "supervised_contrastive"),
    "detect": ("auto",),
}
"""By task; a detector's loss is of one kind, focal and smooth L1."""


def names(task: str = "classify") -> list[str]:
    """The names that ``loss.name`` takes for a task."""
    return list(NAMES[task])


def choose(config: LossConfig, *, task: str, multi_label: bool = False) -> str:
    """The name of the loss, ``auto`` resolved.

    Raises:
      UsageError: no such loss, or not for this task, or for the other kind of labels.
    """
    if config.name not in NAMES[task]:
        raise UsageError(
            f"loss.name {config.name!r} is not one of task {task}: {nearest(config.name, NAMES[task])}"
        )
    if task != "classify":
        return NAMES[task][1] if config.name == "auto" and task == "embed" else config.name
    fitting = SEVERAL_LABELS if multi_label else ONE_LABEL
    if config.name == "auto":
        return fitting[0]
    if config.name not in fitting:
        kind = "several labels" if multi_label else "one label"
        raise UsageError(
            f"loss.name {config.name} is not for images with {kind} each: use {', '.join(fitting)}"
        )
    return config.name


def build_loss(
    config: LossConfig,
    *,
    task: str,
    classes: int,
    multi_label: bool = False,
    weights: Sequence[float] | None = None,
) -> keras.losses.Loss:
    """A classifier's or an embedder's loss.

    Args:
      config: which one, and its parameters.
      task: ``classify`` or ``embed``.
      classes: how many.
      multi_label: whether an image may have several labels.
      weights: of the classes, as :func:`class_weights` gives them; None: all 1.

    Returns:
      :class:`~beam_vision.training.probability_loss.ProbabilityLoss`, of truth and probabilities float
      ``[N, classes]``; an embedder's as :mod:`beam_vision.training.metric_losses` says.

    Raises:
      UsageError: as :func:`choose`; a detector, which brings its own; or weights that don't fit.
    """
    name = choose(config, task=task, multi_label=multi_label)
    if task == "detect":
        raise UsageError("task detect brings its own loss: leave loss.name at auto")
    if task == "embed":
        from beam_vision.training.metric_losses import build_metric_loss

        return build_metric_loss(name, margin=config.margin, temperature=config.temperature)
    if weights is not None and len(weights) != classes:
        raise UsageError(f"there are {len(weights)} class weights for {classes} classes")
    from beam_vision.training.probability_loss import ProbabilityLoss

    return ProbabilityLoss(
        name,
        label_smoothing=config.label_smoothing,
        gamma=config.gamma,
        alpha=config.alpha,
        weights=weights,
    )


def class_weights(
    setting: str | Mapping[str, float],
    labels: Sequence[str],
    counts: Sequence[int],
    *,
    images: int,
    multi_label: bool = False,
) -> list[float] | None:
    """A weight for each class, so that a rare one is not drowned out.

    ``balanced`` is ``images / (classes * images of the class)`` where an image has one label (King and Zeng,
    "Logistic Regression in Rare Events Data", 2001): with it all classes weigh the same, and an image 1 on
    average. Where it has several it is ``images without the class / images with it``: then a class's two
    answers weigh the same.

    Args:
      setting: ``none``, ``balanced``, or weights by label; a label that isn't named has 1.
      labels: of the classes, in order.
      counts: train images of each class; one without any has the weight 1.
      images: train images.
      multi_label: whether an image may have several labels.

    Returns:
      None for ``none``.

    Raises:
      UsageError: a label that isn't known (the nearest one is told), or a weight that isn't above 0.
    """
    if setting == "none":
        return None
    if not isinstance(setting, str):
        return _given_weights(setting, labels)
    if setting != "balanced":
        raise UsageError(f"loss.class_weights {setting!r} is not none, balanced, or weights by label")
    if multi_label:
        return [max(images - n, 1) / n if n else 1.0 for n in counts]
    return [images / (len(labels) * n) if n else 1.0 for n in counts]


def _given_weights(setting: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    for label, weight in setting.items():
        if label not in labels:
            raise UsageError(
                f"loss.class_weights names {label!r}, which is no class: {nearest(label, labels)}"
            )
        if not weight > 0:
            raise UsageError(f"loss.class_weights of {label!r} must be more than 0, not {weight}")
    return [float(setting.get(label, 1.0)) for label in labels]
