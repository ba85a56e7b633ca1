"""The steps of an augmentation as a job's YAML names them: what each takes, checked. No TensorFlow here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_vision.errors import UsageError
from beam_vision.training.config_fields import nearest

TASKS = ("classify", "embed", "detect")
FILLS = ("reflect", "nearest", "wrap", "constant")
"""What lies beyond an image's edge: itself mirrored, its outermost pixels, itself again, or gray (114)."""

LIGHT: tuple[Mapping[str, Any], ...] = ({"translation": 1 / 16}, {"brightness": 24 / 255}, {"contrast": 0.15})
"""Small shifts, brightness and contrast: safe for digits and letters, which mirroring or turning changes."""


@dataclass(frozen=True)
class Number:
    """A number within a range, both ends included."""

    default: float
    low: float
    high: float
    whole: bool = False

    def read(self, value: Any, place: str) -> float:
        """The value as a number, or UsageError. (YAML 1.1 takes ``1e-3`` for text, since it has no point.)"""
        try:
            number = float("" if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            number = math.nan
        if not self.low <= number <= self.high or (self.whole and not number.is_integer()):
            kind = "a whole number" if self.whole else "a number"
            raise UsageError(f"{place} must be {kind} of {self.low:g} to {self.high:g}, not {value!r}")
        return int(number) if self.whole else number


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    default: str
    words: tuple[str, ...]

    def read(self, value: Any, place: str) -> str:
        """The value, or UsageError."""
        if value not in self.words:
            raise UsageError(f"{place} must be one of {', '.join(self.words)}, not {value!r}")
        return str(value)


@dataclass(frozen=True)
class Kind:
    """A kind of step: its parameters by name; the first is what a bare value means.

    Attributes:
      parameters: all but ``probability``, which every kind has.
      probability: the default share of images that it changes.
      tasks: those that it is for.
      why_not: what is wrong with it in other tasks.
    """

    parameters: Mapping[str, Number | Choice]
    probability: float = 1.0
    tasks: tuple[str, ...] = TASKS
    why_not: str = ""

    @property
    def all_parameters(self) -> dict[str, Number | Choice]:
        """With ``probability``."""
        return {**self.parameters, "probability": Number(self.probability, 0, 1)}


_FILL = Choice("", FILLS)
_MIXES = "an image would show two things, and only classify has labels for shares"

KINDS: dict[str, Kind] = {
    "flip": Kind({"direction": Choice("horizontal", ("horizontal", "vertical", "both"))}, probability=0.5),
    "rotation": Kind({"factor": Number(0.05, 0, 0.5), "fill": _FILL}),
    "zoom": Kind({"factor": Number(0.1, 0, 0.9), "fill": _FILL}),
    "translation": Kind({"factor": Number(0.1, 0, 0.9), "fill": _FILL}),
    "crop": Kind({"area": Number(0.8, 0.05, 1), "ratio": Number(0.25, 0, 3), "fill": _FILL}),
    "brightness": Kind({"factor": Number(0.1, 0, 1)}),
    "contrast": Kind({"factor": Number(0.2, 0, 1)}),
    "saturation": Kind({"factor": Number(0.3, 0, 1)}),
    "cutout": Kind({"size": Number(0.25, 0.01, 1), "value": Number(128, 0, 255)}),
    "mixup": Kind({"alpha": Number(0.2, 0.05, 10)}, tasks=("classify",), why_not=_MIXES),
    "cutmix": Kind({"alpha": Number(1.0, 0.05, 10)}, tasks=("classify",), why_not=_MIXES),
    "randaugment": Kind(
        {"count": Number(2, 1, 8, whole=True), "magnitude": Number(0.3, 0, 1), "fill": _FILL}
    ),
}
GEOMETRIC = ("flip", "rotation", "zoom", "translation", "crop")


@dataclass(frozen=True)
class StepSpec:
    """One step, complete.

    Attributes:
      kind: a name of :data:`KINDS`.
      values: each of its parameters, ``probability`` among them.
    """

    kind: str
    values: Mapping[str, Any]


def read_steps(
    steps: Sequence[Mapping[str, Any]], *, task: str, place: str = "augmentation"
) -> list[StepSpec]:
    """The steps of a YAML list, checked and filled up with defaults.

    Args:
      steps: each a mapping of one kind to a value of its first parameter, to a mapping of parameters, or to
        None for the defaults: ``{"flip": "vertical"}``, ``{"mixup": {"alpha": 0.2, "probability": 0.5}}``.
      task: ``classify``, ``embed`` or ``detect``; what lies beyond the edge is a reflection by default, but
        gray for ``detect``: a reflected object would be one without a box.
      place: where the list stands, for messages.

    Raises:
      UsageError: an unknown kind or parameter (with the nearest known one), a value out of its range, or a
        kind that isn't for this task.
    """
    if task not in TASKS:
        raise UsageError(f"task {task!r} is none of {', '.join(TASKS)}")
    return [_read_step(step, task, f"{place}[{number}]") for number, step in enumerate(steps)]


def _read_step(step: Mapping[str, Any], task: str, place: str) -> StepSpec:
    if not isinstance(step, Mapping) or len(step) != 1:
        raise UsageError(f"{place} must be one step, such as {{flip: horizontal}}, not {step!r}")
    (name, given), *_ = step.items()
    known(name, KINDS, place)
    kind = KINDS[name]
    if task not in kind.tasks:
        raise UsageError(f"{place}.{name} is not for the task {task}: {kind.why_not}; leave it out")
    parameters = kind.all_parameters
    if given is None:
        given = {}
    elif not isinstance(given, Mapping):
        given = {next(iter(parameters)): given}
    for key in given:
        known(key, parameters, f"{place}.{name}")
    values = {
        key: parameter.read(given[key], f"{place}.{name}.{key}") if key in given else parameter.default
        for key, parameter in parameters.items()
    }
    if values.get("fill") == "":
        values["fill"] = "constant" if task == "detect" else "reflect"
    return StepSpec(name, values)


def known(name: Any, names: Iterable[str], place: str) -> None:
    """Nothing when ``name`` is one of ``names``.

    Raises:
      UsageError: it is not; the message has the nearest that is.
    """
    names = list(names)
    if name not in names:
        raise UsageError(f"{place} has no {name!r}: {nearest(str(name), names)}")
