"""``beam-vision tune``: searches over a training job's own fields, here by KerasTuner or on Vertex AI."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_vision import deps, storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.pipelines.train_launch import LaunchOptions, launch, launches, overrides_of
from beam_vision.training.config import JobConfig, load_job
from beam_vision.training.tune_space import Space, read_space

NAME = "tune"
DESCRIPTION = (
    "Trains a job many times with other values of the fields that its section `tune` names, and finds the\n"
    "best. A search that was ended goes on where it was when the same is asked for again."
)
EXAMPLE = "beam-vision tune --config job.yaml --set tune.trials=20"


@dataclass(frozen=True, kw_only=True)
class Options(LaunchOptions):
    """What ``tune`` takes."""

    config: str = option(help="the job's YAML, with a section tune", metavar="FILE")
    set: str = option((), help="SECTION.FIELD=VALUE over the YAML", metavar="FIELD=VALUE", repeated=True)
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


def run(argv: list[str]) -> int:
    """Searches and writes the report; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    config = load_job(options.config, overrides_of(options.set))
    if options.follow_job or options.cancel_job:
        return launch(options, config, argv, job=NAME)
    space = read_space(config)
    if launches(options):
        return launch(options, config, argv, job=NAME, space=space, preflight_only=options.preflight_only)
    folder = folder_of(config, space)
    check(config)
    if options.preflight_only:
        return jobs.show_plan(plan(config, space, folder))
    return search(config, space, folder)


def folder_of(config: JobConfig, space: Space) -> str:
    """Where the trials are noted; see ``Space.directory``.

    Raises:
      UsageError: nothing says so, or it isn't local.
    """
    beside = f"{config.export.output.rstrip('/')}-tune" if config.export.output else ""
    in_work = os.path.join(config.run.work_dir, "tune") if config.run.work_dir else ""
    folder = space.directory or in_work or beside
    if not folder:
        raise UsageError("name a folder for the trials in tune.directory, or run.work_dir, or export.output")
    if storage.is_remote(folder):
        raise UsageError(f"tune.directory {folder}: trials are noted in a local folder")
    return storage.absolute(folder)


def check(config: JobConfig) -> None:
    """Checks the job once, and not by trials that all fail alike.

    Raises:
      UsageError: it can't be trained as described.
    """
    from beam_vision.records.manifest import read_manifest
    from beam_vision.training.recipe import check_job

    if not config.data.dataset:
        raise UsageError("what to train on isn't said: give --set data.dataset=DIR, or data.dataset")
    check_job(config, read_manifest(config.data.dataset))


def plan(config: JobConfig, space: Space, folder: str) -> dict[str, Any]:
    """What would be done."""
    return {
        "algorithm": space.algorithm,
        "trials": "by run.epochs and tune.factor" if space.algorithm == "hyperband" else space.trials,
        "objective": f"{space.objective} ({space.direction})",
        "parameters": dict(space.parameters),
        "dataset": config.data.dataset,
        "directory": folder,
    }


def search(config: JobConfig, space: Space, folder: str) -> int:
    """Searches here and writes the table, the picture and the best trial's YAML."""
    from beam_vision.training.tune import tune
    from beam_vision.training.tune_report import BEST_FILE, table_lines, write_report

    trials = tune(config, space, folder, trainer(config), jobs.say)
    best = write_report(folder, config, space, trials)
    for line in table_lines(space, trials):
        jobs.emit(line)
    path = os.path.join(folder, BEST_FILE)
    jobs.say(f"best: trial {best.number}; train it by: beam-vision train --config {path}")
    return 0


def trainer(config: JobConfig) -> Callable[[JobConfig, Callable[[str], None]], Sequence[Mapping[str, Any]]]:
    """What trains one trial."""
    from beam_vision.records.manifest import read_manifest

    manifest = read_manifest(config.data.dataset)

    def train(job: JobConfig, tell: Callable[[str], None]) -> Sequence[Mapping[str, Any]]:
        from beam_vision.training.job import train_job

        deps.need("keras").backend.clear_session()  # the last trial's graphs and their memory
        return train_job(job, manifest, tell).history

    return train
