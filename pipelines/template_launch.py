"""What runs in a flex template's launcher: parameters become a job's command line, and the job is written.

Dataflow starts the launcher with ``--name=value`` for each parameter and for what else was asked for, and
with ``--template_location``: where the job is to be written. It runs the job from there.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterator, Mapping, Sequence

from beam_vision import storage
from beam_vision.dataflow.metadata import text_of
from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import beam_actions
from beam_vision.pipelines.template_jobs import module_of, options_of, template_of

JOB = "BEAM_VISION_JOB"
"""Environment variable of the image: the job's name."""
IMAGE = "BEAM_VISION_IMAGE"
"""Environment variable of the image: its own name, for the workers."""


def pairs_of(argv: Sequence[str], switches: set[str]) -> Iterator[tuple[str, str]]:
    """``--name=value``, ``--name value`` and ``--switch`` as (name, value); a switch alone is ``true``.

    Args:
      argv: words.
      switches: names of options that take no value.

    Raises:
      UsageError: a word is no option's, or an option has no value.
    """
    words = iter(argv)
    for word in words:
        name, given, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise UsageError(f"unexpected argument {word!r}; parameters are --name=value")
        if not given and name not in switches:
            value = next(words, "")
            if not value:
                raise UsageError(f"--{name} has no value")
        yield name, value if given or name not in switches else "true"


def argv_of(job: str, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The job's own command line from a launcher's.

    Empty values are left out: that is how consoles send what was left alone.

    Returns:
      The command line, and the names of options that neither the job nor Beam has.

    Raises:
      UsageError: a parameter of the job has no meaning in a template, or a switch is neither true nor false.
    """
    beam = {name.removeprefix("--"): action for name, action in beam_actions().items()}
    switches = {name for name, action in beam.items() if action.nargs == 0}
    template, options = template_of(job), options_of(job)
    fields = {one.name.rstrip("_"): one for one in dataclasses.fields(options)}
    hints = typing.get_type_hints(options)
    words: list[str] = []
    unknown: list[str] = []
    for name, value in pairs_of(argv, switches):
        if name in fields:
            field = fields[name]
            if field.name in template.omitted and value.lower() not in ("", text_of(field.default)):
                raise UsageError(f"--{name} has no meaning in a template: {template.omitted[field.name]}")
            words += _own(field, hints[field.name] is bool, name, value)
        elif name in beam:
            words += _of_beam(name, value, switches)
        else:
            unknown.append(name)
    return words, unknown


def _own(field: dataclasses.Field, is_switch: bool, name: str, value: str) -> list[str]:
    if not value:
        return []
    if is_switch:
        wanted = _true(name, value)
        return [] if wanted == field.default else [f"--{name}" if wanted else f"--no-{name}"]
    return [value] if field.metadata["positional"] else [f"--{name}={value}"]


def _of_beam(name: str, value: str, switches: set[str]) -> list[str]:
    if not value:
        return []
    if name not in switches:
        return [f"--{name}={value}"]
    if _true(name, value):
        return [f"--{name}"]
    return [f"--no_{name}"] if f"no_{name}" in switches else []


def _true(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise UsageError(f"--{name} is {value!r}; it must be true or false")
    return value.lower() == "true"


def launch(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Writes the job that the image is of; gives the exit code.

    Args:
      argv: as Dataflow gives it.
      environ: with :data:`JOB`, and :data:`IMAGE` for the workers unless a parameter names another.

    Raises:
      UsageError: the image names no job, the parameters won't do, or nobody says where the job is written.
      JobError: the job can't be made, or there is nothing to do.
    """
    job = environ.get(JOB, "")
    if not job:
        raise UsageError(f"{JOB} is not set: this isn't the image of a template")
    words, unknown = argv_of(job, argv)
    if unknown:
        jobs.say(f"left out, being neither the job's nor Beam's: {', '.join(unknown)}")
    where = [word.partition("=")[2] for word in words if word.startswith("--template_location=")]
    if not where:
        raise UsageError("--template_location is missing: a launcher only writes the job")
    given = {word.partition("=")[0] for word in words}
    if environ.get(IMAGE) and not given & {"--sdk_container_image", "--worker_harness_container_image"}:
        words.append(f"--sdk_container_image={environ[IMAGE]}")
    code = int(module_of(job).run(words))
    if code == 0 and not storage.exists(where[-1]):
        raise JobError(f"{job} had nothing to do: there is no job for Dataflow to run")
    return code


def main(argv: Sequence[str]) -> int:
    """The launcher's entry; gives the exit code, 0 where the job was written."""
    return jobs.guarded(lambda words: launch(words, os.environ), list(argv))
