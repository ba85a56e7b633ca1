"""Optimizers by name, with a learning rate of its own for each variable where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.architectures import BACKBONE
from beam_vision.training.config import OPTIMIZERS

if TYPE_CHECKING:
    import keras
    from keras.optimizers.schedules import LearningRateSchedule

    from beam_vision.training.config import OptimizerConfig

_CLASSES = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
    "nadam": "Nadam",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "adamax": "Adamax",
    "ftrl": "Ftrl",
}
UNDECAYED = ("bias", "gamma", "beta")
"""Variables whose names hold one of these have no weight decay: biases, and normalisation's (He et al., "Bag
of Tricks for Image Classification", 2019)."""

FTRL_FIRST_SQUARES = 1e-12
"""FTRL (McMahan et al., 2013) starts from weights of zero, and with Keras's 0.1 as the first sum of squares
its first step would take a network's random weights there, where nothing is learned; with almost none it
doesn't."""


def names() -> list[str]:
    """The names that ``optimizer.name`` takes."""
    return list(OPTIMIZERS)


def build_optimizer(
    config: OptimizerConfig, schedule: LearningRateSchedule | float, *, multipliers: Sequence[float] = ()
) -> keras.optimizers.Optimizer:
    """The optimizer.

    Args:
      config: ``momentum`` is of ``sgd`` and ``rmsprop``, ``nesterov`` of ``sgd``; weight decay is decoupled
        from the gradients for all (Loshchilov and Hutter, 2019), and spares :data:`UNDECAYED`.
      schedule: the learning rate, or its course; in place of ``config.learning_rate``.
      multipliers: what the learning rate is multiplied by for each of the model's trainable variables, in
        their order, as :func:`rate_multipliers` gives them; none: 1 for all.

    Raises:
      UsageError: no such name; ``nesterov`` without momentum or for another than ``sgd``; a multiplier of 0
        for ``ftrl``.
    """
    _check(config, multipliers)
    kind = getattr(deps.need("keras").optimizers, _CLASSES[config.name])
    given = _settings(config)
    if any(multiplier != 1 for multiplier in multipliers):
        from beam_vision.training.rated import RATED

        kind, given["multipliers"] = RATED[_CLASSES[config.name]], list(multipliers)
    optimizer = kind(learning_rate=schedule, **given)
    optimizer.exclude_from_weight_decay(var_names=list(UNDECAYED))
    return optimizer


def _check(config: OptimizerConfig, multipliers: Sequence[float]) -> None:
    if config.name not in _CLASSES:
        raise UsageError(f"optimizer.name {config.name!r} is not known: there is {', '.join(names())}")
    if config.nesterov and (config.name != "sgd" or not config.momentum):
        raise UsageError(
            f"optimizer.nesterov is for sgd with a momentum, not for {config.name} with {config.momentum}; "
            "nadam is Adam with Nesterov's momentum"
        )
    if config.name == "ftrl" and 0 in multipliers:
        raise UsageError(
            "model.backbone_rate is 0, and ftrl divides by the rate; give model.freeze: backbone"
        )


def _settings(config: OptimizerConfig) -> dict[str, Any]:
    """What the class is given, by Keras's names."""
    given: dict[str, Any] = {"clipnorm": config.clipnorm, "weight_decay": config.weight_decay or None}
    if config.name == "adamw":
        given["weight_decay"] = config.weight_decay  # it doesn't take None
    if config.name in ("sgd", "rmsprop"):
        given["momentum"] = config.momentum
    if config.name == "sgd":
        given["nesterov"] = config.nesterov
    if config.name == "ftrl":
        given["initial_accumulator_value"] = FTRL_FIRST_SQUARES
    return given


def rate_multipliers(model: keras.Model, backbone_rate: float) -> list[float]:
    """For each trainable variable of ``model``, in order: ``backbone_rate`` for the backbone's, 1 for the
    rest.

    A pretrained backbone needs smaller steps than a new head (Howard and Ruder, "Universal Language Model
    Fine-tuning", 2018: discriminative fine-tuning). The rate is what differs, not the gradient: Adam and its
    kin divide by the gradient's size, so that scaling it would change nothing.

    Args:
      model: has the backbone among its layers, named :data:`~beam_vision.training.architectures.BACKBONE`.
      backbone_rate: 0 and up.
    """
    slow = {id(variable) for variable in model.get_layer(BACKBONE).trainable_variables}
    return [backbone_rate if id(variable) in slow else 1.0 for variable in model.trainable_variables]
