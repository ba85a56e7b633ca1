"""What a camera did in a window, as sums that can be merged in any order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from beam_vision.stream_types import Observation
from beam_vision.streaming import sketch
from beam_vision.streaming.sketch import Sketch

MEASURES = ("brightness", "sharpness", "skew_sec")
"""Of an observation: those whose mean is given."""

_NEVER = (-math.inf, "")


@dataclass(frozen=True)
class Tally:
    """Sums over observations; never changed once made.

    Attributes:
      kinds: how many observations there are of each kind.
      labels: how often each label was given.
      stages: milliseconds of each stage, as sketches.
      sums: of each of :data:`MEASURES` the sum of what was measured, of ``saved_sec`` the sum.
      measured: how many times each was measured.
      states: the states that frames were seen in.
      last: when the newest of them was taken, and in which state.
      gaps: how many there are.
      longest_gap_sec: the longest time between two frames.
    """

    kinds: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    stages: Mapping[str, Sketch] = field(default_factory=dict)
    sums: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, int] = field(default_factory=dict)
    states: frozenset[str] = frozenset()
    last: tuple[float, str] = _NEVER
    gaps: int = 0
    longest_gap_sec: float = 0.0

    @property
    def observations(self) -> int:
        """How many there are in all."""
        return sum(self.kinds.values())

    def mean(self, measure: str) -> float | None:
        """The mean of one of :data:`MEASURES`; None where nothing was measured."""
        times = self.measured.get(measure, 0)
        return self.sums[measure] / times if times else None


def tally(observations: Iterable[Observation]) -> Tally:
    """The tally of observations."""
    kinds: dict[str, int] = {}
    labels: dict[str, int] = {}
    measured: dict[str, int] = {}
    sums: dict[str, float] = {"saved_sec": 0.0}
    stages: dict[str, list[float]] = {}
    states, last, gaps, longest_gap_sec = set(), _NEVER, 0, 0.0
    for seen in observations:
        kinds[seen.kind] = kinds.get(seen.kind, 0) + 1
        for label in seen.labels:
            labels[label] = labels.get(label, 0) + 1
        for measure in MEASURES:
            value = getattr(seen, measure)
            if value is not None:
                sums[measure] = sums.get(measure, 0.0) + value
                measured[measure] = measured.get(measure, 0) + 1
        sums["saved_sec"] += seen.saved_sec
        for stage, duration_ms in seen.stage_ms.items():
            stages.setdefault(stage, []).append(duration_ms)
        if seen.state:
            states.add(seen.state)
            last = max(last, (seen.capture_sec, seen.state))
        gaps += seen.gap
        longest_gap_sec = max(longest_gap_sec, seen.gap_sec)
    return Tally(
        kinds=kinds,
        labels=labels,
        stages={stage: sketch.sketch_of(values) for stage, values in stages.items()},
        sums=sums,
        measured=measured,
        states=frozenset(states),
        last=last,
        gaps=gaps,
        longest_gap_sec=longest_gap_sec,
    )


def merged(a: Tally, b: Tally) -> Tally:
    """The tally of the observations of both."""
    stages = dict(a.stages)
    for stage, more in b.stages.items():
        stages[stage] = sketch.merged(stages[stage], more) if stage in stages else more
    return Tally(
        kinds=_added(a.kinds, b.kinds),
        labels=_added(a.labels, b.labels),
        stages=stages,
        sums=_added(a.sums, b.sums),
        measured=_added(a.measured, b.measured),
        states=a.states | b.states,
        last=max(a.last, b.last),
        gaps=a.gaps + b.gaps,
        longest_gap_sec=max(a.longest_gap_sec, b.longest_gap_sec),
    )


def _added(a: Mapping, b: Mapping) -> dict:
    total = dict(a)
    for name, amount in b.items():
        total[name] = total.get(name, 0) + amount
    return total
