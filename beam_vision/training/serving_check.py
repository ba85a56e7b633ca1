"""Whether serving says what the trainer says: answers of several paths for the same images, compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from beam_vision.errors import JobError

TOLERANCE = 1e-3
"""The most that probabilities, or an embedding's coordinates, may differ by. Sums in another order differ by
some 1e-6; another resize, value range or channel order by far more."""

FILE = "serving_check.json"

Answers = Mapping[str, np.ndarray]
"""Outputs by name, ``[N, ...]``; a masked array where a path leaves numbers out."""


@dataclass(frozen=True)
class ServingCheck:
    """How far each path is from the trainer.

    Attributes:
      images: how many were compared.
      tolerance: what was allowed.
      differences: path -> output -> the largest absolute difference.
      stated: the same of paths that may differ, since they round: TensorFlow Lite models.
    """

    images: int
    tolerance: float = TOLERANCE
    differences: dict[str, dict[str, float]] = field(default_factory=dict)
    stated: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        """Of all differences that are not only stated."""
        return max((value for each in self.differences.values() for value in each.values()), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def verify(self) -> None:
        """Checks that all paths agree.

        Raises:
          JobError: one differs by more than is allowed, or by something that is no number.
        """
        for path, each in self.differences.items():
            for output, value in each.items():
                if not value <= self.tolerance:
                    raise JobError(
                        f"training and serving differ: {path} gives {output} off by {value:.3g} on the same "
                        f"{self.images} images, and {self.tolerance:g} is allowed; no bundle was written. "
                        "Resize, value range and channel order are where to look"
                    )


def compare(
    trainer: Answers, paths: Mapping[str, Answers], stated: Mapping[str, Answers] | None = None
) -> ServingCheck:
    """The largest differences of each path's outputs from the trainer's.

    Args:
      trainer: what the model gave in the trainer's own path.
      paths: what others gave for the same images, in the same order.
      stated: of paths that are only stated.

    Raises:
      JobError: a path has none of the trainer's outputs, or another shape.
    """
    images = len(next(iter(trainer.values())))
    return ServingCheck(
        images,
        differences={name: _differences(name, trainer, found) for name, found in paths.items()},
        stated={name: _differences(name, trainer, found) for name, found in (stated or {}).items()},
    )


def _differences(path: str, trainer: Answers, found: Answers) -> dict[str, float]:
    shared = sorted(set(trainer) & set(found))
    if not shared:
        raise JobError(f"{path} gives none of {', '.join(sorted(trainer))}")
    result = {}
    for name in shared:
        mine, theirs = trainer[name], found[name]
        if mine.shape != theirs.shape:
            raise JobError(
                f"{path} gives {name} of shape {list(theirs.shape)}, the trainer {list(mine.shape)}"
            )
        difference = np.abs(mine.astype(np.float64) - np.ma.getdata(theirs))
        result[name] = float(difference[~np.ma.getmaskarray(theirs)].max(initial=0.0))
    return result
