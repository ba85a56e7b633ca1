"""Learning rates over the steps of a run, by name, each with a warm-up before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.config import SCHEDULES

if TYPE_CHECKING:
    from keras.optimizers.schedules import LearningRateSchedule

    from beam_vision.training.config import ScheduleConfig


def names() -> list[str]:
    """The names that ``schedule.name`` takes."""
    return list(SCHEDULES)


def build_schedule(config: ScheduleConfig, learning_rate: float, total_steps: int) -> LearningRateSchedule:
    """The learning rate at each step: up a straight line while warming up, then as its name says.

    What falls begins to fall when the warm-up is over. ``cosine`` (Loshchilov and Hutter, "SGDR", 2017) and
    ``polynomial`` reach ``end`` of the highest with the last step; ``exponential`` is the highest times
    ``decay_rate ** (step / decay_steps)``, ``inverse_time`` the highest over
    ``1 + decay_rate * step / decay_steps``.

    Args:
      config: the schedule's.
      learning_rate: the highest, more than 0.
      total_steps: of the run, at least 1.

    Returns:
      From a step, 0 for the first, to its rate.

    Raises:
      UsageError: the warm-up is as long as the run, or ``piecewise`` has factors that don't fit its
        boundaries.
    """
    keras = deps.need("keras")
    warm_up = _steps(config.warmup, total_steps, least=0)
    if warm_up and warm_up >= total_steps:
        raise UsageError(f"schedule.warmup takes {warm_up} steps, and the run has {total_steps}")
    after = _after(keras.optimizers.schedules, config, learning_rate, total_steps, warm_up)
    if not warm_up:
        return after
    from beam_vision.training.warm_up import WarmUp

    return WarmUp(learning_rate, warm_up, after)


def _after(kinds, config, rate, total_steps, warm_up):  # type: ignore[no-untyped-def]
    """The schedule whose step 0 is the first after the warm-up."""
    left = total_steps - warm_up
    if config.name == "constant":
        return kinds.PiecewiseConstantDecay([total_steps], [rate, rate])
    if config.name == "cosine":
        return kinds.CosineDecay(rate, left, alpha=config.end)
    if config.name == "polynomial":
        return kinds.PolynomialDecay(rate, left, end_learning_rate=rate * config.end, power=config.power)
    if config.name == "piecewise":
        return _piecewise(kinds, config, rate, total_steps, warm_up)
    kind = {"exponential": kinds.ExponentialDecay, "inverse_time": kinds.InverseTimeDecay}.get(config.name)
    if kind is None:
        raise UsageError(f"schedule.name {config.name!r} is not known: there is {', '.join(names())}")
    return kind(rate, _steps(config.decay_steps, total_steps), config.decay_rate, config.staircase)


def _piecewise(kinds, config, rate, total_steps, warm_up):  # type: ignore[no-untyped-def]
    if len(config.factors) != len(config.boundaries) + 1:
        raise UsageError(
            f"schedule.factors has {len(config.factors)} values and schedule.boundaries "
            f"{len(config.boundaries)}; there must be one factor more than boundaries"
        )
    steps = [_steps(value, total_steps) for value in config.boundaries]
    if steps != sorted(set(steps)) or (steps and steps[0] <= warm_up):
        raise UsageError(
            f"schedule.boundaries are the steps {steps} of {total_steps}; they must ascend, past the "
            f"{warm_up} steps of the warm-up"
        )
    if not steps:
        return kinds.PiecewiseConstantDecay([total_steps], [rate * config.factors[0]] * 2)
    # Keras holds a value up to and with its boundary, and the first step is 0
    boundaries = [step - warm_up - 1 for step in steps]
    return kinds.PiecewiseConstantDecay(boundaries, [rate * factor for factor in config.factors])


def _steps(value: float, total_steps: int, *, least: int = 1) -> int:
    """A number of steps; below 1 it is a share of them all."""
    return max(round(value * total_steps if value < 1 else value), least)
