"""How a run of so many steps is cut into calls of ``fit``, from wherever it was."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
      steps: of the whole run.
      steps_per_epoch: of an epoch, after which there is a validation; the last may be shorter.
    """

    steps: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """All, a last shorter one among them."""
        return math.ceil(self.steps / self.steps_per_epoch)


@dataclass(frozen=True)
class Phase:
    """One call of ``fit``: epochs of the same number of steps.

    Attributes:
      first_step: how many steps were done before it.
      first_epoch, end_epoch: the epochs from 0, without ``end_epoch`` itself.
      steps: in each of them.
    """

    first_step: int
    first_epoch: int
    end_epoch: int
    steps: int


def plan_length(
    steps_per_pass: int, *, epochs: int, steps: int | None = None, steps_per_epoch: int | None = None
) -> Length:
    """The run's length: ``steps`` where they are given, else ``epochs`` epochs.

    Args:
      steps_per_pass: steps that show each image once.
      epochs: how many, where ``steps`` is None.
      steps: of the whole run.
      steps_per_epoch: of a virtual epoch; None: one pass.
    """
    each = steps_per_epoch or max(steps_per_pass, 1)
    return Length(steps or epochs * each, each)


def plan_phases(length: Length, done: int = 0) -> list[Phase]:
    """What is left of a run after ``done`` steps.

    An epoch that was left half way is ended first, in a phase of its own; so is a last, shorter one.
    """
    each, phases = length.steps_per_epoch, []
    while done < length.steps:
        epoch, within = divmod(done, each)
        if within:
            phase = Phase(done, epoch, epoch + 1, min(each - within, length.steps - done))
        else:
            whole = (length.steps - done) // each
            phase = Phase(done, epoch, epoch + (whole or 1), each if whole else length.steps - done)
        phases.append(phase)
        done += phase.steps * (phase.end_epoch - phase.first_epoch)
    return phases
