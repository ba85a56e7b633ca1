"""The gate before ``LATEST``: what a model's figures must be, e.g. ``accuracy>=0.9,not_worse``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from beam_vision.errors import UsageError
from beam_vision.training.config_fields import nearest

NOT_WORSE = "not_worse"
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_BOUND = re.compile(r"([A-Za-z_][\w@.:]*)\s*(>=|<=|>|<)\s*(-?[\d.]+(?:[eE][+-]?\d+)?)")
_LESS_IS_BETTER = ("loss", "error")


@dataclass(frozen=True)
class Bound:
    """One figure against a number.

    Attributes:
      metric: its name, with or without the split's before it (``accuracy``, ``test_accuracy``).
      sign: ``>=``, ``<=``, ``>`` or ``<``.
      value: the number.
    """

    metric: str
    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.value:g}"


@dataclass(frozen=True)
class Gate:
    """All that must hold.

    Attributes:
      bounds: figures against numbers.
      not_worse: whether it must also be as good as the model that serves, on the same images.
    """

    bounds: tuple[Bound, ...] = ()
    not_worse: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether a model is past the gate, and why."""

    passed: bool
    reason: str


def parse_gate(text: str) -> Gate:
    """The gate that ``text`` says: bounds and ``not_worse``, with commas between; empty: all may pass.

    Raises:
      UsageError: a part that is neither.
    """
    bounds, not_worse = [], False
    for part in filter(None, map(str.strip, text.split(","))):
        found = _BOUND.fullmatch(part)
        if found:
            bounds.append(Bound(found[1], found[2], _number(found[3], part)))
        elif part == NOT_WORSE:
            not_worse = True
        else:
            raise UsageError(
                f"export.gate has {part!r}; it takes bounds such as 'accuracy>=0.9', and {NOT_WORSE!r}, with "
                "commas between"
            )
    return Gate(tuple(bounds), not_worse)


def _number(text: str, part: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"export.gate has {part!r}, and {text!r} is no number") from error


def check_figures(gate: Gate, figures: Sequence[str], splits: Sequence[str]) -> None:
    """Looks before the training whether what the gate asks for will be measured.

    Args:
      gate: what must hold.
      figures: names of what the task's models are measured by.
      splits: names of the splits that there are to measure on.

    Raises:
      UsageError: it won't be.
    """
    known = {*figures, *(f"{split}_{figure}" for split in splits for figure in figures)}
    if (gate.bounds or gate.not_worse) and not splits:
        raise UsageError(
            "export.gate asks for figures, and the dataset has no test and no validation split to measure on"
        )
    for bound in gate.bounds:
        if bound.metric not in known:
            raise UsageError(f"export.gate {bound}: no such figure; {nearest(bound.metric, figures)}")


def find_metric(name: str, metrics: Mapping[str, float]) -> float:
    """A figure by its name; without the split's before it where only one split has it.

    Raises:
      UsageError: there is none of that name, or more than one split has it.
    """
    if name in metrics:
        return metrics[name]
    splits = [known.removesuffix(f"_{name}") for known in metrics if known.endswith(f"_{name}")]
    # test_pixels_recall_at_1 is another figure of the split test, and no recall_at_1 of a split test_pixels
    splits = [split for split in splits if not any(split.startswith(f"{other}_") for other in splits)]
    fitting = [f"{split}_{name}" for split in splits]
    if len(fitting) != 1:
        known = ", ".join(sorted(metrics)) or "none: without a test or validation split nothing is measured"
        several = f"{' and '.join(fitting)} are there" if fitting else "it was not measured"
        raise UsageError(f"the gate asks for {name!r}, and {several}; figures: {known}")
    return metrics[fitting[0]]


def judge(
    gate: Gate, metrics: Mapping[str, float], pair: Mapping[str, tuple[float, float]] | None = None
) -> Verdict:
    """Whether a model is past the gate.

    Args:
      gate: what must hold.
      metrics: the model's figures.
      pair: for ``not_worse``: figure -> that of the model and that of the one that serves, measured on the
        same images; None: none serves yet. A ``loss`` or an ``error`` is better when it is less.

    Raises:
      UsageError: the gate asks for what wasn't measured.
    """
    said, passed = [], True
    for bound in gate.bounds:
        value = find_metric(bound.metric, metrics)
        holds = _OPERATORS[bound.sign](value, bound.value)
        said.append(f"{bound.metric} {value:.4g} {'meets' if holds else 'misses'} {bound}")
        passed &= holds
    if gate.not_worse and pair is None:
        said.append("no version serves yet to be compared with")
    for name, (new, old) in (pair or {}).items() if gate.not_worse else ():
        holds = new <= old if name.endswith(_LESS_IS_BETTER) else new >= old
        said.append(f"{name} {new:.4g} is {'not worse' if holds else 'worse'} than {old:.4g}")
        passed &= holds
    return Verdict(passed, "; ".join(said) or "there is no gate")
