"""A search over a job's fields by KerasTuner: random, Bayesian (a Gaussian process), or Hyperband.

Each trial is a whole training job with some fields changed, and is noted on disk when it begins and when it
ends: a search that was ended goes on with the trial that it was in, and that from its last checkpoint.
Hyperband ("Hyperband: A Novel Bandit-Based Approach", Li et al., 2018) trains many trials for few epochs and
the best of them for more; such a trial starts anew, since its learning rate runs another course.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from beam_vision import deps, digest, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.training.config import JobConfig
from beam_vision.training.tune_space import Range, Space, with_values

if TYPE_CHECKING:
    import keras_tuner

Tell = Callable[[str], None]
Train = Callable[[JobConfig, Tell], Sequence[Mapping[str, Any]]]
"""Trains a job; gives a row an epoch with its figures by name."""

SEARCH_FILE = "search.json"
_PROJECT = "trials"
_FAILED_IN_A_ROW = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values that was tried.

    Attributes:
      number: from 1, in the order of their beginnings.
      values: by dotted name.
      score: the objective's best over the epochs; None where the trial failed or isn't at its end.
      epochs: how many it had at most.
      status: KerasTuner's word: ``COMPLETED``, ``FAILED``, ``RUNNING``, ...
      error: why it failed.
    """

    number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    score: float | None = None
    epochs: int = 0
    status: str = ""
    error: str = ""


def tune(config: JobConfig, space: Space, folder: str, train: Train, tell: Tell) -> list[Trial]:
    """Searches, or goes on with a search that ``folder`` has.

    Args:
      config: the job; its fields are the same in all trials but for those searched over.
      space: its section ``tune``.
      folder: a local folder, where trials are noted.
      train: trains one trial's job.
      tell: is called with lines for the person who watches.

    Returns:
      All trials in the order of their beginnings, those of earlier runs too.

    Raises:
      UsageError: ``folder`` has another search, or KerasTuner isn't installed.
      JobError: too many trials failed in a row, or none came to its end.
    """
    kt = deps.need("keras_tuner")
    _claim(folder, config, space)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where it goes on from
        tuner = _make_tuner(kt, config, space, folder, train, tell)
    tuner.oracle.verbose = 0
    tuner.save()
    done = sum(trial.score is not None for trial in trials_of(tuner.oracle, config, space))
    if done:
        tell(f"goes on with the search in {folder}: {done} trials are done")
    try:
        tuner.search(verbose=0)
    except RuntimeError as error:
        if "consecutive failures" not in str(error):
            raise
        raise JobError(
            f"{tuner.oracle.max_consecutive_failed_trials} trials in a row failed: {_last(error)}"
        ) from error
    found = trials_of(tuner.oracle, config, space)
    if not any(trial.score is not None for trial in found):
        raise JobError(f"no trial came to its end: {found[-1].error if found else 'there was none'}")
    return found


def _claim(folder: str, config: JobConfig, space: Space) -> None:
    """Marks a folder with the search that it is of; refuses it where it is another's."""
    path = storage.join(folder, SEARCH_FILE)
    # not how many trials: more may be asked for
    kept = ("algorithm", "objective", "goal", "factor", "seed", "parameters")
    made = {name: value for name, value in config.tune.items() if name in kept}
    facts = {"job": config.digest, "search": digest.settings_digest(made), "algorithm": space.algorithm}
    if storage.exists(path) and storage.read_json(path) != facts:
        raise UsageError(
            f"{folder} holds the trials of another search; name another in tune.directory, or remove it"
        )
    storage.write_json(path, facts)


def _make_tuner(
    kt: Any, config: JobConfig, space: Space, folder: str, train: Train, tell: Tell
) -> keras_tuner.engine.base_tuner.BaseTuner:
    """A tuner whose trials are jobs."""
    failed = kt.errors.FailedTrialError

    class Tuner(kt.engine.base_tuner.BaseTuner):
        def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
            place = storage.join(folder, "work", trial.trial_id)
            job = job_of(config, space, trial.hyperparameters.values, place)
            shown = ", ".join(
                f"{name} {show(v)}" for name, v in values_of(space, trial.hyperparameters.values).items()
            )
            tell(f"trial {int(trial.trial_id) + 1}: {shown}, {job.run.epochs} epochs at most")
            try:
                score = best_of(train(job, tell), space)
            except (JobError, UsageError) as error:
                tell(f"trial {int(trial.trial_id) + 1} failed: {error}")
                raise failed(str(error)) from error
            tell(f"trial {int(trial.trial_id) + 1}: {space.objective} {score:.4g}")
            return {space.objective: score}

        def load_model(self, trial: Any) -> Any:
            raise NotImplementedError("trials leave figures, not models; train the best one's job")

    hp = _hyperparameters(kt, space)
    oracle = _make_oracle(kt, config, space, hp)
    return Tuner(oracle=oracle, directory=folder, project_name=_PROJECT, hypermodel=lambda hp: None)


def _make_oracle(kt: Any, config: JobConfig, space: Space, hp: Any) -> Any:
    settings: dict[str, Any] = {
        "objective": kt.Objective(space.objective, space.direction),
        "hyperparameters": hp,
        "seed": space.seed + 1,  # it takes 0 for none
        "allow_new_entries": False,
        "tune_new_entries": False,
        "max_consecutive_failed_trials": space.max_failed or _FAILED_IN_A_ROW,
    }
    if space.algorithm == "hyperband":
        return kt.oracles.HyperbandOracle(max_epochs=config.run.epochs, factor=space.factor, **settings)
    made = {"random": kt.oracles.RandomSearchOracle, "bayesian": kt.oracles.BayesianOptimizationOracle}
    return made[space.algorithm](max_trials=space.trials, **settings)


def _hyperparameters(kt: Any, space: Space) -> Any:
    """The space in KerasTuner's words."""
    hp = kt.HyperParameters()
    for name, one in space.ranges().items():
        if one.values:
            hp.Choice(name, list(_alike(one)), ordered=not isinstance(one.values[0], str | bool))
        elif one.whole:
            low, high = one.ends()
            hp.Int(
                name,
                low,
                high,
                step=int(one.step or 1) if one.scale == "linear" else None,
                sampling=one.scale,
            )
        else:
            hp.Float(name, one.min, one.max, step=one.step, sampling=one.scale)
    return hp


def _alike(one: Range) -> Sequence[Any]:
    """The values of a list, all of one type."""
    whole = all(type(value) is int for value in one.values)
    return one.values if whole or isinstance(one.values[0], str | bool) else [float(v) for v in one.values]


def job_of(config: JobConfig, space: Space, values: Mapping[str, Any], work_dir: str = "") -> JobConfig:
    """The job of one trial.

    Args:
      config: the job that is searched from.
      space: the search space.
      values: KerasTuner's, which may have more than the space's parameters.
      work_dir: of the trial's checkpoints; empty: the job's own.
    """
    job = with_values(config, values_of(space, values))
    run: dict[str, Any] = {"work_dir": work_dir} if work_dir else {}
    if "tuner/epochs" in values:
        run["epochs"] = int(values["tuner/epochs"])
    return job.replace(run=run)


def values_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The space's parameters among KerasTuner's values; true and false anew, which it makes 1 and 0."""
    found = {}
    for name, one in space.ranges().items():
        is_bool = bool(one.values) and isinstance(one.values[0], bool)
        found[name] = bool(values[name]) if is_bool else values[name]
    return found


def best_of(rows: Sequence[Mapping[str, Any]], space: Space) -> float:
    """The objective's best over the epochs.

    Raises:
      UsageError: the history has no such figure.
      JobError: it is no finite number in any epoch.
    """
    name = (
        space.objective.replace("val_", "validation_", 1)
        if space.objective.startswith("val_")
        else space.objective
    )
    found = [row[name] for row in rows if row.get(name) is not None]
    if not found:
        known = sorted({key for row in rows for key, value in row.items() if isinstance(value, float)})
        raise UsageError(f"tune.objective is {space.objective}, and the history has only {', '.join(known)}")
    finite = [float(value) for value in found if math.isfinite(value)]
    if not finite:
        raise JobError(f"{space.objective} is a finite number in no epoch")
    return max(finite) if space.direction == "max" else min(finite)


def trials_of(oracle: Any, config: JobConfig, space: Space) -> list[Trial]:
    """An oracle's trials, in the order of their beginnings."""
    return [
        Trial(
            number=int(one.trial_id) + 1,
            values=values_of(space, one.hyperparameters.values),
            score=one.score if one.status == "COMPLETED" else None,
            epochs=int(one.hyperparameters.values.get("tuner/epochs", config.run.epochs)),
            status=one.status,
            error=_last(one.message) if one.message else "",
        )
        for one in sorted(oracle.trials.values(), key=lambda one: int(one.trial_id))
    ]


def best_trial(trials: Sequence[Trial], space: Space) -> Trial:
    """The trial with the best score; of several the first."""
    done = [trial for trial in trials if trial.score is not None]
    sign = -1 if space.direction == "max" else 1
    return min(done, key=lambda trial: sign * (trial.score or 0.0))


def _last(error: object) -> str:
    """The last line that says something, of a message with a stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def show(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
