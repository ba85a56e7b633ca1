"""``beam-vision template``: flex templates of the jobs on Dataflow: list, build and run them."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_vision import __version__
from beam_vision.dataflow import launch
from beam_vision.dataflow.metadata import BEAM_PARAMETERS, text_of, to_text
from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import beam_actions, make_parser, option, parse
from beam_vision.pipelines.template_context import make_context, write_metadata
from beam_vision.pipelines.template_jobs import metadata_of, module_of, options_of, template_jobs, template_of
from beam_vision.pipelines.template_launch import pairs_of

NAME = "template"
USAGE = """usage: beam-vision template ACTION ...

Flex templates of the jobs on Dataflow. build and run print the commands; --execute runs them, too.

actions:
  list            the jobs that there are templates of
  metadata JOB    what a job's template says of its parameters, as JSON
  context DIR     fill a folder with all that the images are built from
  build JOBS      build the images and write the templates
  run JOB         run a job from its template: takes the job's own options, and Beam's

`beam-vision template ACTION --help` shows an action's options.

example:
  beam-vision template build predict --image us-docker.pkg.dev/my-project/vision/beam-vision \\
      --templates gs://BUCKET/templates
"""
RUN_USAGE = """usage: beam-vision template run JOB --template gs://... --region REGION [--execute]
           [--launcher_machine_type TYPE] [the job's options] [Beam's options]

--template is JOB.json, as build wrote it, or the folder that it is in. Options are those of
`beam-vision JOB --help`, and Beam's by their own names: --project, --temp_location, --max_num_workers ...

example:
  beam-vision template run predict --template gs://BUCKET/templates --region us-central1 \\
      --temp_location gs://BUCKET/temp --task embed --images gs://BUCKET/photos \\
      --model gs://BUCKET/model --output gs://BUCKET/table
"""
ALL = "all"
_WHEEL = "beam-vision's own wheel (default: made from the source tree that beam-vision runs from)"


@dataclass(frozen=True, kw_only=True)
class MetadataOptions:
    """What ``template metadata`` takes."""

    job: str = option("", help="the job, such as predict", metavar="JOB", positional=True)
    output: str = option(
        "", help="write all jobs' to this folder, as JOB/metadata.json, instead", metavar="DIR"
    )


@dataclass(frozen=True, kw_only=True)
class ContextOptions:
    """What ``template context`` takes."""

    folder: str = option(help="an empty or new folder, or an earlier one", metavar="DIR", positional=True)
    wheel: str = option("", help=_WHEEL, metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What ``template build`` takes."""

    jobs: str = option(
        help="the jobs, separated by commas, such as predict,stream; or all", metavar="JOBS", positional=True
    )
    image: str = option(
        help="name of the images, without a tag: REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME; a job's is "
        "NAME/JOB",
        metavar="IMAGE",
    )
    templates: str = option(help="folder in a bucket for the templates: JOB.json each", metavar="gs://...")
    tag: str = option(__version__, help="of the images; with --gpu, -gpu is added to it", metavar="TAG")
    gpu: bool = option(False, help="images with CUDA, and templates called JOB-gpu.json")
    context: str = option("template-build", help="the folder that images are built from", metavar="DIR")
    wheel: str = option("", help=_WHEEL, metavar="FILE")
    project: str = option("", help="that builds (default: gcloud's own)", metavar="ID")
    execute: bool = option(False, help="run the commands, too")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``template run`` takes, besides the job's options and Beam's; none has a name of theirs."""

    template: str = option(
        help="the template, as build wrote it, or the folder with templates", metavar="gs://..."
    )
    launcher_machine_type: str = option(
        launch.LAUNCHER_MACHINE_TYPE, help="machine that starts the job", metavar="TYPE"
    )
    execute: bool = option(False, help="run the command, too")


def run(argv: list[str]) -> int:
    """Runs an action; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    actions = {
        "list": run_list,
        "metadata": run_metadata,
        "context": run_context,
        "build": run_build,
        "run": run_run,
    }
    if not argv or argv[0] in ("-h", "--help"):
        jobs.emit(USAGE)
        return 0 if argv else 2
    if argv[0] not in actions:
        raise UsageError(f"beam-vision template has no action {argv[0]!r}; there are {', '.join(actions)}")
    return actions[argv[0]](argv[1:])


def _options(action: str, options: type, argv: list[str], what: str, example: str) -> Any:
    parser = make_parser(f"{NAME} {action}", options, description=what, example=example, beam=False)
    return parse(parser, options, argv, beam=False)[0]


def run_list(argv: list[str]) -> int:
    """Says which templates there are."""
    if argv:
        raise UsageError(f"beam-vision template list takes nothing, not {argv[0]!r}")
    width = max(map(len, template_jobs()))
    for job in template_jobs():
        kind = "streaming" if template_of(job).streaming else "batch"
        jobs.emit(f"{job:<{width}}  {kind:<9}  {template_of(job).title}")
    return 0


def run_metadata(argv: list[str]) -> int:
    """Shows a job's ``metadata.json``, or writes those of all jobs."""
    what = "Shows what a job's template says of its parameters."
    options = _options("metadata", MetadataOptions, argv, what, "beam-vision template metadata predict")
    if bool(options.job) == bool(options.output):
        raise UsageError("beam-vision template metadata takes a JOB, or --output DIR for those of all jobs")
    if options.job:
        jobs.emit(to_text(metadata_of(options.job)))
        return 0
    for path in write_metadata(Path(options.output)):
        jobs.say(f"wrote {path}")
    return 0


def run_context(argv: list[str]) -> int:
    """Makes the folder that images are built from."""
    what = "Fills a folder with all that the images are built from."
    options = _options("context", ContextOptions, argv, what, "beam-vision template context template-build/")
    for path in make_context(options.folder, wheel=options.wheel):
        jobs.say(f"wrote {path}")
    return 0


def run_build(argv: list[str]) -> int:
    """Prints, and runs if asked, what builds images and templates."""
    example = (
        "beam-vision template build predict,stream --image us-docker.pkg.dev/P/R/beam-vision \\\n"
        "    --templates gs://BUCKET/templates --gpu --execute"
    )
    what = "Builds the images of jobs on Cloud Build, and writes their templates."
    options = _options("build", BuildOptions, argv, what, example)
    return carry_out(build_commands(options), execute=options.execute)


def build_commands(options: BuildOptions) -> list[list[str]]:
    """The commands of ``template build``, in their order.

    Raises:
      UsageError: there is no template of a job, or a name won't do.
    """
    given = filter(None, map(str.strip, options.jobs.split(",")))
    names = template_jobs() if options.jobs == ALL else tuple(dict.fromkeys(given))
    if not names:
        raise UsageError(f"JOBS is {options.jobs!r} and names no job; there are {', '.join(template_jobs())}")
    for job in names:
        module_of(job)
    images = launch.Images(repository=options.image, tag=options.tag, gpu=options.gpu)
    project = options.project
    make = ["beam-vision", NAME, "context", options.context]
    make += [f"--wheel={options.wheel}"] if options.wheel else []
    return [
        make,
        launch.image_command(images, names, options.context, project=project),
        *(
            launch.spec_command(images, job, options.context, options.templates, project=project)
            for job in names
        ),
    ]


def run_run(argv: list[str]) -> int:
    """Prints, and runs if asked, what starts a job from its template."""
    if not argv or argv[0].startswith("-"):
        jobs.emit(RUN_USAGE)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    command, execute = job_command(argv[0], argv[1:])
    return carry_out([command], execute=execute)


def job_command(job: str, argv: list[str]) -> tuple[list[str], bool]:
    """The command of ``template run``, and whether to run it.

    Raises:
      UsageError: an option is unknown or has no meaning in a template, or a value won't do.
    """
    parser = make_parser(f"{NAME} run {job}", Options, description="", example="", beam=False)
    values, rest = parser.parse_known_args(argv)
    parameters, beam_args = parameters_of(job, rest)
    switches = {name[2:] for name, action in beam_actions().items() if action.nargs == 0}
    beam = list(pairs_of(beam_args, switches))
    now = datetime.datetime.now(datetime.timezone.utc)
    name = dict(beam).get("job_name") or f"{job}-{now:%Y%m%d-%H%M%S}"
    spec = values.template
    started = launch.Run(
        name=name,
        spec=spec if spec.endswith(".json") else launch.spec_path(spec, job, gpu="gpu" in parameters),
        parameters=parameters,
        beam=[(option_name, value) for option_name, value in beam if option_name != "job_name"],
        launcher_machine_type=values.launcher_machine_type,
    )
    return launch.run_command(started, known=[one.name for one in BEAM_PARAMETERS]), values.execute


def parameters_of(job: str, argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """The template's parameters from the job's own command line, and what is left for Beam.

    Raises:
      UsageError: as the job itself, or an option has no meaning in a template.
    """
    template, options = template_of(job), options_of(job)
    parser = make_parser(f"{NAME} run {job}", options, description="", example="")
    given, beam_args = parse(parser, options, argv)
    parameters = {}
    for one in dataclasses.fields(options):
        value = getattr(given, one.name)
        if value == one.default:
            continue
        if one.name in template.omitted:
            raise UsageError(f"--{one.name} has no meaning in a template: {template.omitted[one.name]}")
        parameters[one.name.rstrip("_")] = text_of(value)
    for name in template.required:
        if name not in parameters:
            raise UsageError(f"--{name} is missing: the template of {job} can't do without it")
    return parameters, beam_args


def carry_out(commands: Sequence[Sequence[str]], *, execute: bool) -> int:
    """Prints commands; with ``execute`` also runs them, each after the one before.

    Raises:
      UsageError: a command isn't installed.
      JobError: one of them failed.
    """
    for command in commands:
        jobs.emit(launch.shell(command))
        if not execute:
            continue
        if command[:3] == ["beam-vision", NAME, "context"]:
            run_context(list(command[3:]))
            continue
        if shutil.which(command[0]) is None:
            raise UsageError(f"{command[0]} is not installed; install it, or run the command elsewhere")
        code = subprocess.run(command, check=False).returncode
        if code:
            raise JobError(f"{shlex.join(command[:4])} ... ended with exit code {code}")
    return 0
