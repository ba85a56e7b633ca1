"""Where ``train`` and ``tune`` run: ``--on local`` in a child process, ``--on vertex`` on Vertex AI.

``train.Options`` and ``tune.Options`` have the options of :class:`LaunchOptions`; both call :func:`launch`
where :func:`launches` says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import option
from beam_vision.training.config import JobConfig
from beam_vision.training.launch.base import Launched, State
from beam_vision.training.launch.settings import LaunchSettings, read_launch

if TYPE_CHECKING:
    from beam_vision.training.launch.vertex_api import Api
    from beam_vision.training.tune_space import Space

_LISTED = 50


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Where the job runs."""

    on: str = option(
        "",
        help="where it runs: in this process, in a child process of its own session, or on Vertex AI as the "
        "section launch of the YAML says",
        choices=("", "local", "vertex"),
    )
    print_job: bool = option(False, help="show the request that Vertex AI would get, and ask it nothing")
    detach: bool = option(False, help="with --on vertex: don't wait for the job's end")
    poll_sec: float = option(10.0, help="seconds between looks at a job on Vertex AI", metavar="SEC")
    list_jobs: bool = option(False, help="list the jobs on Vertex AI, the latest first, and end")
    follow_job: str = option(
        "", help="wait for a job on Vertex AI, show its log, and end as it", metavar="NAME"
    )
    cancel_job: str = option("", help="cancel a job on Vertex AI, and end", metavar="NAME")


def overrides_of(given: Sequence[str]) -> dict[str, str]:
    """The names and values of ``--set``.

    Raises:
      UsageError: one has no ``=``.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: write a field's name, = and its value, e.g. model.dropout=0.2")
        found[name.strip()] = value
    return found


def launches(options: LaunchOptions) -> bool:
    """Whether the options ask for anything but a run in this process."""
    asked = (options.on, options.print_job, options.list_jobs, options.follow_job, options.cancel_job)
    return any(asked)


def launch(
    options: LaunchOptions,
    config: JobConfig,
    argv: Sequence[str],
    *,
    job: str = "train",
    space: Space | None = None,
    preflight_only: bool = False,
) -> int:
    """Does what the options ask for.

    Args:
      options: of the command line.
      config: the job that they and the YAML describe.
      argv: the command line after the job's name; a child process gets it without ``--on``.
      job: ``train`` or ``tune``.
      space: of ``tune``: on Vertex AI it becomes a tuning job.
      preflight_only: only asks whether the job could run on Vertex AI.

    Returns:
      The exit code: the child's; 0 where a job succeeded or was left to itself.

    Raises:
      UsageError: a section can't be, or Vertex AI refuses.
      JobError: the job failed, was cancelled, or has room nowhere.
    """
    if options.on == "local" and not options.print_job:
        from beam_vision.training.launch.local import run_local

        return run_local([job, *without_on(argv)], jobs.emit)
    if options.follow_job or options.cancel_job:
        return _with_job(options, config)
    settings = read_launch(config.launch)
    if options.print_job:
        return _print_job(config, settings, space)
    return _on_vertex(options, config, settings, space, preflight_only)


def without_on(argv: Sequence[str]) -> list[str]:
    """A command line without ``--on X`` and ``--on=X``."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--on":
            next(words, None)
        elif not word.startswith("--on="):
            kept.append(word)
    return kept


def _print_job(config: JobConfig, settings: LaunchSettings, space: Space | None) -> int:
    from beam_vision.training.launch.vertex_spec import custom_job, tuning_job

    place = settings.placements()[0]
    if space is None:
        request = custom_job(config, settings, place, submission="SUBMISSION")
    else:
        request = tuning_job(config, settings, place, space, submission="SUBMISSION")
    jobs.emit(json.dumps(request, indent=2))
    return 0


def _with_job(options: LaunchOptions, config: JobConfig) -> int:
    """Follows or cancels a job by its name; what one has trained is published as ``config`` says."""
    from beam_vision.training.launch import vertex
    from beam_vision.training.launch.vertex_api import Api, errors, explain
    from beam_vision.training.launch.vertex_jobs import project_of

    name = options.follow_job or options.cancel_job
    with Api(project_of(name)) as api:
        if options.cancel_job:
            vertex.cancel(api, name)
            jobs.say(f"asked for the end of {name}")
            return 0
        try:
            found = vertex.look(api, name)
        except errors() as error:
            raise explain(error, f"job {name}") from error
        timing = vertex.Timing(poll_sec=options.poll_sec)
        return _ended(vertex.Follower(api, found, tell=jobs.emit, timing=timing).wait(), config)


def _on_vertex(
    options: LaunchOptions,
    config: JobConfig,
    settings: LaunchSettings,
    space: Space | None,
    preflight_only: bool,
) -> int:
    from beam_vision.pipelines.train_export import check_export
    from beam_vision.training.launch import preflight, vertex
    from beam_vision.training.launch.vertex_api import Api

    with Api(settings.project) as api:
        if options.list_jobs:
            return _list(api, settings)
        refuse_local_data(config)
        if config.export.output and space is None:
            check_export(config.export, task=config.task)
        found = preflight.check(api, config, settings, tuning=space is not None)
        found["notes"] += check_remote_data(config)
        for note in found["notes"]:
            jobs.say(f"note: {note}")
        if preflight_only:
            return jobs.show_plan(found)
        launcher = vertex.Launcher(
            api,
            config,
            settings,
            space=space,
            tell=jobs.emit,
            timing=vertex.Timing(poll_sec=options.poll_sec),
        )
        try:
            job = launcher.run(wait=not options.detach)
        except KeyboardInterrupt:
            jobs.say(
                "the job, if it was made, goes on; --list_jobs names it for --follow_job and --cancel_job"
            )
            return 130
        return 0 if options.detach else _ended(job, config)


def refuse_local_data(config: JobConfig) -> None:
    """Refuses a dataset that no machine but this one has.

    Raises:
      UsageError: it is neither remote nor in the image.
    """
    import os

    if not config.data.dataset:
        raise UsageError("data.dataset is empty; a job on Vertex AI needs a dataset, gs://BUCKET/PREFIX")
    if os.path.exists(config.data.dataset):
        raise UsageError(
            f"data.dataset {config.data.dataset} is of this machine, so Vertex AI can't read it; copy it: "
            f"gcloud storage cp -r {config.data.dataset} gs://BUCKET/PREFIX"
        )


def check_remote_data(config: JobConfig) -> list[str]:
    """Checks the job against its dataset, before a machine is hired for it.

    Returns:
      Why it couldn't be checked; nothing where it could, or where the dataset is in the image.

    Raises:
      UsageError: there is no dataset, or it can't be trained on as the job says.
    """
    from beam_vision.records.manifest import read_manifest
    from beam_vision.training.launch.vertex_api import errors
    from beam_vision.training.recipe import check_job

    dataset = config.data.dataset
    if not storage.is_remote(dataset):
        return []
    try:
        manifest = read_manifest(dataset)
    except errors() as error:
        return [f"data.dataset {dataset} can't be read from here, so the job wasn't checked by it: {error}"]
    check_job(config, manifest)
    return []


def _list(api: Api, settings: LaunchSettings) -> int:
    from beam_vision.training.launch.vertex import list_jobs

    regions = [place.region for place in settings.placements()]
    for job in list_jobs(api, regions, limit=_LISTED):
        jobs.emit(f"{job.state.value:<10} {job.display_name}  {job.name}")
    return 0


def _ended(job: Launched, config: JobConfig) -> int:
    """Says how a job ended, and brings the model of one that succeeded to ``export.output``.

    Raises:
      JobError: it failed, was cancelled, or its model missed the gate.
    """
    for line in _trial_lines(job):
        jobs.emit(line)
    if job.state is State.SUCCEEDED:
        if job.trials:
            jobs.say(f"the trials' models are below {job.output}")
        elif config.export.output:
            from beam_vision.pipelines.train_publish import publish_bundle

            publish_bundle(config, job.output, jobs.say)
        else:
            jobs.say(
                f"the model is in {job.output}; bring it past its gate to a folder by: beam-vision train "
                f"--config JOB.yaml --publish {job.output}"
            )
        return 0
    if job.state is State.CANCELLED:
        raise JobError(f"job {job.name} was cancelled")
    raise JobError(f"job {job.name} failed: {job.error}")


def _trial_lines(job: Launched) -> list[str]:
    def shown(values: Any) -> str:
        return " ".join(f"{name}={value}" for name, value in values.items())

    return [
        f"trial {trial['id']} {trial['state']}: {shown(trial['parameters'])} -> {shown(trial['metrics'])}"
        for trial in job.trials
    ]
