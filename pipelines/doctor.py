"""``beam-vision doctor``: check this machine, the project in the cloud and a job's options; run nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from beam_vision.doctor import cloud, environment, image, libraries, places, quota
from beam_vision.doctor.base import FAIL, OK, UNKNOWN, WARN, Check, Finding, examine
from beam_vision.doctor.google import Google
from beam_vision.doctor.job import Uses
from beam_vision.doctor.render import render, to_json
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.doctor_options import Asked, read, submission_problems, uses
from beam_vision.pipelines.options import make_parser, option

if TYPE_CHECKING:
    import argparse

NAME = "doctor"
DESCRIPTION = """check this machine, the project in the cloud and a job's options; run nothing.

`beam-vision doctor` looks at this machine. `beam-vision doctor JOB OPTIONS` (the job first) also looks at
whatever those options name, and `beam-vision doctor --runner=DataflowRunner --project=P ...` at what Beam's
options name. Each finding is ok, warn, fail or unknown, with the reason and the remedy. Exit code 1:
something fails."""
EXAMPLE = (
    "beam-vision doctor predict --task embed --images gs://B/photos --model gs://B/model \\\n"
    "    --output gs://B/table --runner=DataflowRunner --project=P --region=us-central1 \\\n"
    "    --temp_location=gs://B/temp"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``doctor`` takes, besides a job's options."""

    output_format: str = option("table", help="how to print", choices=("table", "json"))
    timeout_sec: float = option(10.0, help="wait so long for an answer of Google Cloud", metavar="SEC")
    libraries: bool = option(True, help="import the large libraries (in a process apart)")
    preflight: bool = option(True, help="with JOB: run its own checks (--preflight_only) too")


def checks(options: Options, asked: Asked, found: Uses, google: Google) -> Iterator[Check]:
    """All questions, in the order in which their answers are shown."""
    yield from machine_checks(options, asked, found)
    yield from cloud_checks(found, google)
    yield from data_checks(found, google)
    if found.on_dataflow:
        yield Check("submission", "job", lambda: check_submission(asked))
        if found.image:
            yield Check("container", "job", lambda: image.check_image(google, found.image, versions()))
    if asked.job and options.preflight:
        yield Check("options", "job", lambda: check_preflight(asked, found, google))


def data_checks(found: Uses, google: Google) -> Iterator[Check]:
    """Questions to what the job reads and writes."""
    for bucket in found.buckets:
        yield Check(f"bucket {bucket}", "data", partial(places.check_bucket, google, found, bucket))
    for table in found.tables:
        yield Check(f"dataset {table.dataset}", "data", partial(places.check_dataset, google, found, table))
    for name in found.subscriptions:
        ask = partial(places.check_subscription, google, found, name)
        yield Check(f"subscription {name.id}", "data", ask)
    for name in found.topics:
        yield Check(f"topic {name.id}", "data", partial(places.check_topic, google, found, name))


def machine_checks(options: Options, asked: Asked, found: Uses) -> Iterator[Check]:
    """Questions to this machine."""
    needs_gpu = bool(asked.options.get("require_gpu")) and not found.on_dataflow
    group = "this machine"
    yield Check("Python", group, environment.check_python)
    yield Check("packages", group, libraries.check_packages)
    if options.libraries:
        yield Check(
            "libraries", group, lambda: libraries.check_libraries(libraries.probe(), needs_gpu=needs_gpu)
        )
    yield Check("machine", group, environment.check_machine)
    yield Check("disk", group, lambda: environment.check_disk(found.folders))
    yield Check("Java", group, lambda: environment.check_java(needed_by=found.needs_java))
    yield Check("gcloud", group, environment.check_gcloud)


def cloud_checks(found: Uses, google: Google) -> Iterator[Check]:
    """Questions to Google Cloud about the project."""
    group = "Google Cloud"
    yield Check("credentials", group, lambda: check_login(google, found))
    if found.project and places.needs_cloud(found):
        yield Check("project", group, lambda: cloud.check_project(google, found.project))
        yield Check("APIs", group, lambda: cloud.check_apis(google, found))
    if found.on_dataflow and found.project:
        yield Check("permissions", group, lambda: cloud.check_permissions(google, found))
        yield Check("workers' roles", group, lambda: cloud.check_worker_roles(google, found))
        if found.region:
            yield Check("region", group, lambda: quota.check_region(google, found))


def check_login(google: Google, found: Uses) -> Iterator[Finding]:
    """Credentials, and whether what answers is Google Cloud at all."""
    emulators = places.emulators()
    if emulators:
        said = f"{', '.join(emulators)}: what is asked there says nothing of Google Cloud"
        yield Finding("emulators", WARN, said, f"unset {' '.join(emulators)}")
    yield from cloud.check_credentials(google, needed=places.needs_cloud(found))


def versions() -> image.Versions:
    """Those of this process."""
    import apache_beam

    return image.Versions(f"{sys.version_info.major}.{sys.version_info.minor}", apache_beam.__version__)


def check_submission(asked: Asked) -> Iterator[Finding]:
    """Whether Dataflow would take the job, as far as its options say."""
    found = submission_problems(asked)
    for problem in found:
        said, _, remedy = problem.rpartition(": ")
        yield Finding("submission", FAIL, said or remedy, remedy if said else "")
    if not found:
        yield Finding("submission", OK, "nothing in the options keeps it from running on Dataflow")


def check_preflight(asked: Asked, found: Uses, google: Google) -> Iterator[Finding]:
    """The job's own checks, which read what the options name, and try the model.

    Raises:
      UsageError: the job can't run as asked.
    """
    if "preflight_only" not in _option_names(asked.job):
        return
    if submission_problems(asked):
        yield Finding("options", UNKNOWN, "the job's own checks are not run while the submission fails")
        return
    if found.remote and places.needs_cloud(found):
        google.check_way()
    run = importlib.import_module(f"beam_vision.pipelines.{asked.job.replace('-', '_')}").run
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = run([*asked.argv, "--preflight_only"])
    if code:
        yield Finding("options", UNKNOWN, f"its own checks ended with exit code {code}", "see what it said")
        return
    notes = _notes(said.getvalue())
    yield Finding("options", OK, "the job's own checks pass (--preflight_only shows what it would do)")
    for note in notes:
        yield Finding("note", OK, note)


def _option_names(job: str) -> set[str]:
    module = importlib.import_module(f"beam_vision.pipelines.{job.replace('-', '_')}")
    names = {field.name for field in dataclasses.fields(module.Options)}
    return names | ({"preflight_only"} if job == "redrive" else set())


def _notes(plan: str) -> list[str]:
    """What a job's plan notes."""
    try:
        return [str(note) for note in json.loads(plan).get("notes") or ()]
    except ValueError:
        return []


def run(argv: list[str]) -> int:
    """Looks, and prints. Exit code 1 when something fails, 2 when the command line can't be read."""
    named = bool(argv) and not argv[0].startswith("-")
    job, rest = (argv[0], argv[1:]) if named else ("", argv)
    options, rest = own_options(job, rest)
    asked = read(job, rest)
    found = uses(asked)
    with Google(options.timeout_sec) as google:
        findings = examine(checks(options, asked, found, google))
    answer = to_json(findings, job=job)
    jobs.emit(json.dumps(answer, indent=2) if options.output_format == "json" else render(findings))
    return 0 if answer["ok"] else 1


def own_options(job: str, argv: list[str]) -> tuple[Options, list[str]]:
    """The doctor's options, wherever they stand, and the others.

    Raises:
      UsageError: one has a value that it can't have.
    """
    parser: argparse.ArgumentParser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE)
    parser.usage = "beam-vision doctor [JOB options...] [options]"
    values, rest = parser.parse_known_args(argv)
    options = Options(**vars(values))
    if not 0 < options.timeout_sec <= 600:
        raise UsageError(f"--timeout_sec is {options.timeout_sec}; it must be in 0..600, and more than 0")
    return options, rest
