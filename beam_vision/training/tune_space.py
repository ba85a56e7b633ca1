"""The section ``tune`` of a job's YAML: a search space over the job's fields, for KerasTuner and Vertex."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_vision.errors import UsageError
from beam_vision.training.config import JobConfig, fields_of
from beam_vision.training.config_fields import nearest, setting
from beam_vision.training.config_reading import Source, build

ALGORITHMS = ("random", "bayesian", "hyperband")
SECTIONS = ("data", "model", "optimizer", "schedule", "loss", "run")
_MOST_STEPS = 1000  # of a discrete parameter of Vertex AI


@dataclass(frozen=True, kw_only=True)
class Range:
    """What one field of the job may be: a range of numbers, or a list of values.

    Attributes:
      min, max: the ends of a range, both in it.
      step: between the numbers of a range; null: every number (of whole ones: 1).
      scale: ``linear``, or ``log``: as likely between 0.001 and 0.01 as between 0.01 and 0.1.
      whole: whether the numbers are whole.
      values: the list, in place of a range; all numbers, all texts, or true and false.
    """

    min: float | None = None
    max: float | None = None
    step: float | None = setting(None, above=0)
    scale: str = setting("linear", choices=("linear", "log"))
    whole: bool = False
    values: tuple[str | int | float | bool, ...] = ()

    def check(self, place: str) -> None:
        """Raises a UsageError that names ``place`` where it is no range and no list."""
        if bool(self.values) == (self.min is not None or self.max is not None):
            raise UsageError(f"{place} needs either min and max, or values")
        if self.values:
            kinds = {float if type(one) is int else type(one) for one in self.values}
            if len(kinds) > 1 or not kinds <= {float, str, bool} or len(set(self.values)) < len(self.values):
                raise UsageError(
                    f"{place}.values has {list(self.values)}; they must be all numbers, all texts, or true "
                    "and false, each once"
                )
            return
        if self.min is None or self.max is None or self.min >= self.max:
            raise UsageError(f"{place} goes from {self.min} to {self.max}; min must be below max")
        if self.scale == "log" and (self.min <= 0 or self.step):
            raise UsageError(f"{place} has scale: log; then min must be above 0, and there is no step")
        if self.whole and any(one is not None and one % 1 for one in (self.min, self.max, self.step)):
            raise UsageError(f"{place} is of whole numbers; min, max and step must be whole")

    def ends(self) -> tuple[Any, ...]:
        """Values by which a job can be checked: all of a list, the ends of a range."""
        if self.values:
            return self.values
        assert self.min is not None
        assert self.max is not None
        return (int(self.min), int(self.max)) if self.whole else (self.min, self.max)

    def steps(self) -> list[float] | None:
        """All numbers of a range with a step, ascending; None without one."""
        if self.step is None or self.min is None or self.max is None:
            return None
        count = int((self.max - self.min) / self.step + 1e-9) + 1
        return [self.min + at * self.step for at in range(count)]


@dataclass(frozen=True, kw_only=True)
class Space:
    """The section ``tune``.

    Attributes:
      algorithm: one of :data:`ALGORITHMS`. On Vertex AI ``bayesian`` is its own default algorithm, and
        ``hyperband`` is not there.
      objective: the figure to make best, by its name in the history, such as ``val_accuracy``.
      goal: ``max``, ``min``; ``auto``: ``min`` for a loss, else ``max``.
      trials: how many sets of values are tried; ``hyperband`` has its own number.
      parallel: trials at once (Vertex AI only; here one after another).
      max_failed: the search is given up when so many trials failed: in a row here (0: three), in all on
        Vertex AI (0: its own choice).
      factor: of ``hyperband``: only the best 1/factor of the trials go on to factor times the epochs, up to
        the job's ``run.epochs``.
      seed: of the search.
      directory: where trials are noted, so that a search that was ended goes on; empty: ``tune`` in
        ``run.work_dir``, or beside ``export.output``.
      parameters: what is searched over: ``SECTION.FIELD: {min, max, ...}`` or ``{values: [...]}``.
    """

    algorithm: str = setting("bayesian", choices=ALGORITHMS)
    objective: str = "val_loss"
    goal: str = setting("auto", choices=("auto", "max", "min"))
    trials: int = setting(10, least=1)
    parallel: int = setting(1, least=1)
    max_failed: int = setting(0, least=0)
    factor: int = setting(3, least=2)
    seed: int = setting(0, least=0)
    directory: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def direction(self) -> str:
        """``max`` or ``min``."""
        if self.goal != "auto":
            return self.goal
        return "min" if "loss" in self.objective else "max"

    def ranges(self) -> dict[str, Range]:
        """Each parameter's range, by its dotted name."""
        return {
            name: build(Range, one, Source(), ("tune", "parameters", name))
            for name, one in self.parameters.items()
        }

    def study_spec(self) -> dict[str, Any]:
        """As Vertex AI's StudySpec.

        Raises:
          UsageError: Vertex AI has no such algorithm.
        """
        if self.algorithm == "hyperband":
            raise UsageError("tune.algorithm is hyperband; Vertex AI has only bayesian and random")
        goal = {"max": "MAXIMIZE", "min": "MINIMIZE"}[self.direction]
        spec: dict[str, Any] = {
            "metrics": [{"metric_id": self.objective, "goal": goal}],
            "parameters": [_parameter_spec(name, one) for name, one in self.ranges().items()],
            "measurement_selection_type": "BEST_MEASUREMENT",
        }
        return spec | ({"algorithm": "RANDOM_SEARCH"} if self.algorithm == "random" else {})


def read_space(config: JobConfig, source: Source | None = None) -> Space:
    """The section ``tune`` of a job, checked against the job's fields.

    Raises:
      UsageError: a key is unknown, a parameter is no field of the job, or the job can't have a value of its
        range.
    """
    space = build(Space, config.tune, source or Source(), ("tune",))
    if not space.parameters:
        raise UsageError("tune.parameters is empty; name what to search, e.g. optimizer.learning_rate: {...}")
    for name, one in space.ranges().items():
        place = f"tune.parameters.{name}"
        _check_field(name, place)
        one.check(place)
        for value in one.ends():
            try:
                with_values(config, {name: value})
            except UsageError as error:
                raise UsageError(f"{place}: {error}") from error
    return space


def _check_field(name: str, place: str) -> None:
    known = [f"{section}.{one}" for section in SECTIONS for one in fields_of(section)]
    if name not in known:
        raise UsageError(f"{place} is no field of the job; {nearest(name, known)}")


def with_values(config: JobConfig, values: Mapping[str, Any]) -> JobConfig:
    """The job with some fields changed.

    Args:
      config: the job.
      values: by dotted name, such as ``optimizer.learning_rate``.
    """
    for name, value in values.items():
        section, _, one = name.partition(".")
        config = config.replace(**{section: {one: value}})
    return config


def parameter_id(name: str) -> str:
    """A parameter's name on Vertex AI, where it is an option: ``optimizer__learning_rate``."""
    return name.replace(".", "__")


def _parameter_spec(name: str, one: Range) -> dict[str, Any]:
    """As Vertex AI's ParameterSpec."""
    found: dict[str, Any] = {"parameter_id": parameter_id(name)}
    steps = one.steps()
    if one.values and not isinstance(one.values[0], int | float):
        return found | {"categorical_value_spec": {"values": [str(value) for value in one.values]}}
    if one.values and isinstance(one.values[0], bool):
        return found | {"categorical_value_spec": {"values": [str(value).lower() for value in one.values]}}
    if one.values or (steps and not (one.whole and one.step == 1)):
        listed = sorted(map(float, one.values or steps or ()))
        if len(listed) > _MOST_STEPS:
            raise UsageError(
                f"tune.parameters.{name} has {len(listed)} values; Vertex AI takes {_MOST_STEPS}"
            )
        return found | {"discrete_value_spec": {"values": listed}, "scale_type": "UNIT_LINEAR_SCALE"}
    scale = "UNIT_LOG_SCALE" if one.scale == "log" else "UNIT_LINEAR_SCALE"
    low, high = one.ends()
    kind = "integer_value_spec" if one.whole else "double_value_spec"
    return found | {kind: {"min_value": low, "max_value": high}, "scale_type": scale}
