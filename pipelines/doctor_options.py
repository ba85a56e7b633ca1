"""What the doctor reads off a job's command line, by the job's own parser."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Any

from beam_vision.doctor.job import Uses, uses_of
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, parse
from beam_vision.pipelines.submission import is_dataflow, submission_of

JOBS = (
    *("create-tfrecords", "verify-tfrecords", "synth-detection", "predict", "stream", "redrive", "evaluate"),
    "build-index",
)
"""Jobs that run a pipeline."""
PATHS = ("images", "input", "output", "model", "failures", "staging")
"""Options whose files workers read and write."""
_DESCRIPTION = "A job's options, read for the doctor."


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A job's command line, read.

    Attributes:
      job: its name; ``""``: none.
      argv: its options, and Beam's.
      options: its options' values, by name.
      beam_args: Beam's, our own additions included.
      right_fit: the accelerator hint of inference; ``""``: none.
    """

    job: str = ""
    argv: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    beam_args: tuple[str, ...] = ()
    right_fit: str = ""


def read(job: str, argv: list[str]) -> Asked:
    """Reads a job's command line by its own parser.

    Raises:
      UsageError: there is no such job, or the job doesn't take these options.
    """
    if job and job not in JOBS:
        raise UsageError(
            f"doctor looks at {', '.join(JOBS)}; {job!r} is none of them (see beam-vision --help)"
        )
    if job == "redrive":
        return _read_redrive(argv)
    given, beam_args = _parsed(job, argv)
    options = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    added, hint = _added(given, beam_args)
    return Asked(job=job, argv=tuple(argv), options=options, beam_args=(*beam_args, *added), right_fit=hint)


@dataclass(frozen=True, kw_only=True)
class _Nothing:
    """The options of no job."""


def _parsed(job: str, argv: list[str]) -> tuple[Any, list[str]]:
    kind = (
        importlib.import_module(f"beam_vision.pipelines.{job.replace('-', '_')}").Options if job else _Nothing
    )
    parser = make_parser(f"doctor {job}".strip(), kind, description=_DESCRIPTION, example="")
    return parse(parser, kind, argv)


def _read_redrive(argv: list[str]) -> Asked:
    """``redrive`` takes its own options and those of the job that failed.

    It reads from the failures which one that is; we tell by whether a model is given.
    """
    from beam_vision.pipelines import redrive

    parser = make_parser("doctor redrive", redrive.Options, description=_DESCRIPTION, example="")
    values, rest = parser.parse_known_args(argv)
    own = redrive.Options(**vars(values))
    by_model = "predict" if any(word.partition("=")[0] == "--model" for word in rest) else "create-tfrecords"
    inner = read(by_model if own.job == "auto" else own.job, rest)
    options = inner.options | {"failures": own.failures}
    return dataclasses.replace(inner, job="redrive", argv=tuple(argv), options=options)


def _added(options: Any, beam_args: list[str]) -> tuple[tuple[str, ...], str]:
    """What ``--gpu`` adds to Beam's arguments, and the hint of inference."""
    from beam_vision.dataflow.resources import plan_workers
    from beam_vision.pipelines.resource_options import asked_of

    if not getattr(options, "gpu", ""):
        return (), ""
    workers = plan_workers(asked_of(options, beam_args))
    return workers.beam_args, workers.hint.get("accelerator", "")


def uses(asked: Asked) -> Uses:
    """What the command line says that is used.

    Raises:
      UsageError: a name in it is not one.
    """
    from beam_vision.dataflow.resources import parse_accelerator

    beam = jobs.beam_options(list(asked.beam_args)).get_all_options()
    found = uses_of(asked.job, asked.options, beam)
    if found.on_dataflow:
        found = dataclasses.replace(found, region=submission_of(list(asked.beam_args)).region)
    if not asked.right_fit:
        return found
    hint = parse_accelerator(asked.right_fit)
    return dataclasses.replace(
        found, accelerator=hint.type, accelerators=hint.count, machine_type=hint.machine_type
    )


def submission_problems(asked: Asked) -> list[str]:
    """What would keep the job from running on Dataflow, as its options say; nothing for a run elsewhere."""
    from beam_vision.dataflow.checks import problems

    if not is_dataflow(list(asked.beam_args)):
        return []
    paths = {f"--{name}": asked.options[name] for name in PATHS if asked.options.get(name)}
    sent = submission_of(list(asked.beam_args), streaming=asked.job == "stream")
    return problems(sent, paths, right_fit=asked.right_fit)
