"""The command lines of ``gcloud`` that build a flex template and run it. Nothing is run here.

Flags are those of ``gcloud builds submit``, ``gcloud dataflow flex-template build`` and ``... run``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from beam_vision.errors import UsageError

DOCKERFILES = {False: "Dockerfile.cpu", True: "Dockerfile.gpu"}
LAUNCHER_MACHINE_TYPE = "n1-standard-4"
"""The launcher imports TensorFlow and tries the model: Dataflow's default, n1-standard-1, is too small."""

_DELIMITERS = (*",;|~!@%#+", "-:-", "~:~", "=:=", "+:+")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+\Z")
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]{0,1022}[a-z0-9])?\Z")

FLAGS = {
    "project": "project",
    "region": "region",
    "staging_location": "staging-location",
    "temp_location": "temp-location",
    "service_account_email": "service-account-email",
    "network": "network",
    "subnetwork": "subnetwork",
    "num_workers": "num-workers",
    "max_num_workers": "max-workers",
    "worker_machine_type": "worker-machine-type",
    "machine_type": "worker-machine-type",
    "worker_region": "worker-region",
    "worker_zone": "worker-zone",
    "dataflow_kms_key": "dataflow-kms-key",
    "flexrs_goal": "flexrs-goal",
}
"""Beam's option -> the flag of ``gcloud dataflow flex-template run`` for it."""
LIST_FLAGS = {
    "experiments": "additional-experiments",
    "experiment": "additional-experiments",
    "labels": "additional-user-labels",
    "label": "additional-user-labels",
}
SWITCHES = {
    "no_use_public_ips": "disable-public-ips",
    "enable_streaming_engine": "enable-streaming-engine",
    "update": "update",
}
REFUSED = {
    "template_location": "the launcher sets it",
    "requirements_file": "what workers need is in the template's image",
    "setup_file": "what workers need is in the template's image",
    "extra_package": "what workers need is in the template's image",
    "extra_packages": "what workers need is in the template's image",
    "save_main_session": "jobs need none",
}


@dataclass(frozen=True, kw_only=True)
class Images:
    """Names of the images of one build.

    Attributes:
      repository: such as ``us-docker.pkg.dev/PROJECT/REPOSITORY/beam-vision``.
      tag: of all of them.
      gpu: whether they hold CUDA.

    Raises:
      UsageError: ``repository`` is no name of an image, or has a tag of its own.
    """

    repository: str
    tag: str
    gpu: bool = False

    def __post_init__(self) -> None:
        if not _IMAGE.match(self.repository):
            raise UsageError(
                f"--image {self.repository!r} must be REGION-docker.pkg.dev/PROJECT/REPOSITORY/NAME, in "
                "lower case and without a tag: --tag gives that"
            )

    @property
    def full_tag(self) -> str:
        """The tag, which also says whether they hold CUDA."""
        return f"{self.tag}-gpu" if self.gpu else self.tag

    @property
    def base(self) -> str:
        """The image that all jobs share."""
        return f"{self.repository}:{self.full_tag}"

    def of(self, job: str) -> str:
        """The image of a job's launcher and workers: the shared one, and the job's name."""
        return f"{self.repository}/{job}:{self.full_tag}"


def spec_path(templates: str, job: str, *, gpu: bool = False) -> str:
    """Where a job's template is: ``TEMPLATES/predict.json``, or ``TEMPLATES/predict-gpu.json``.

    Raises:
      UsageError: ``templates`` isn't in a bucket.
    """
    if not templates.startswith("gs://"):
        raise UsageError(f"--templates {templates!r} must be a folder in a bucket: gs://BUCKET/FOLDER")
    return f"{templates.rstrip('/')}/{job}{'-gpu' if gpu else ''}.json"


def image_command(images: Images, jobs: Sequence[str], context: str, *, project: str = "") -> list[str]:
    """Builds and pushes the images of jobs on Cloud Build.

    Args:
      images: their names.
      jobs: of each there is one.
      context: the folder with the Dockerfile, as ``beam-vision template context`` makes it.
      project: that builds; empty: gcloud's own.
    """
    substitutions = {
        "_IMAGE": images.repository,
        "_TAG": images.full_tag,
        "_DOCKERFILE": DOCKERFILES[images.gpu],
        "_JOBS": " ".join(jobs),
    }
    command = ["gcloud", "builds", "submit", context, f"--config={context}/cloudbuild.yaml"]
    command.append(f"--substitutions={joined(substitutions)}")
    return command + _project(project)


def spec_command(images: Images, job: str, context: str, templates: str, *, project: str = "") -> list[str]:
    """Writes a job's template: the name of its image, and what parameters it takes."""
    command = ["gcloud", "dataflow", "flex-template", "build", spec_path(templates, job, gpu=images.gpu)]
    command += [f"--image={images.of(job)}", "--sdk-language=PYTHON"]
    command.append(f"--metadata-file={context}/{job}/metadata.json")
    return command + _project(project)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job that is to be run from its template.

    Attributes:
      name: of the job: lower-case letters, digits and hyphens.
      spec: the template, ``gs://....json``.
      parameters: of the template, by name.
      beam: Beam's own options as (name, value); the value of a switch is ``true``.
      launcher_machine_type: of the machine that starts the job.
    """

    name: str
    spec: str
    parameters: Mapping[str, str]
    beam: Sequence[tuple[str, str]] = ()
    launcher_machine_type: str = LAUNCHER_MACHINE_TYPE


@dataclass
class _Sorted:
    """Where each of Beam's options goes on gcloud's command line."""

    flags: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    switches: list[str] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def run_command(run: Run, *, known: Iterable[str] = ()) -> list[str]:
    """Has Dataflow start a job from its template.

    Args:
      run: the job.
      known: those of Beam's options that the template has as parameters; what is neither of them nor a flag
        of gcloud's is an additional pipeline option.

    Raises:
      UsageError: a name that Dataflow refuses, an option that a template can't have, or no ``--region``.
    """
    if not _JOB_NAME.match(run.name):
        raise UsageError(
            f"--job_name {run.name!r} must be of lower-case letters, digits and hyphens, beginning with a "
            "letter and not ending with a hyphen"
        )
    if not run.spec.startswith("gs://"):
        raise UsageError(f"the template {run.spec!r} must be in a bucket: gs://BUCKET/FOLDER/JOB.json")
    said = _sort(run.beam, set(known))
    if "region" not in said.flags:
        raise UsageError("--region is missing: the region that the job runs in, such as us-central1")
    command = ["gcloud", "dataflow", "flex-template", "run", run.name]
    command.append(f"--template-file-gcs-location={run.spec}")
    command += [f"--{flag}={value}" for flag, value in said.flags.items()]
    command.append(f"--launcher-machine-type={run.launcher_machine_type}")
    command += [f"--{flag}" for flag in said.switches]
    command += [f"--{flag}={listed(values)}" for flag, values in said.lists.items()]
    parameters = {**run.parameters, **said.parameters}
    if parameters:
        command.append(f"--parameters={joined(parameters)}")
    if said.others:
        command.append(f"--additional-pipeline-options={joined(said.others)}")
    return command


def _sort(options: Iterable[tuple[str, str]], known: set[str]) -> _Sorted:
    said = _Sorted()
    for name, value in options:
        if name == "runner":
            if value.rsplit(".", 1)[-1].lower() != "dataflowrunner":
                raise UsageError(f"--runner {value}: a template runs on Dataflow only; leave it out")
        elif name in REFUSED:
            raise UsageError(f"--{name} doesn't go with a template: {REFUSED[name]}")
        elif name in FLAGS:
            said.flags[FLAGS[name]] = value
        elif name in LIST_FLAGS:
            said.lists.setdefault(LIST_FLAGS[name], []).extend(value.split(","))
        elif name in SWITCHES:
            said.switches.append(SWITCHES[name])
        else:
            to = said.parameters if name in known else said.others
            to[name] = f"{to[name]},{value}" if name in to else value
    return said


def _project(project: str) -> list[str]:
    return [f"--project={project}"] if project else []


def joined(values: Mapping[str, str]) -> str:
    """``a=1,b=2``; where a value has a comma, something else stands between (``gcloud topic escaping``).

    Raises:
      UsageError: the values hold all that could.
    """
    return listed([f"{name}={value}" for name, value in values.items()])


def listed(items: Sequence[str]) -> str:
    """``a,b``, or with something else between, as :func:`joined`.

    Raises:
      UsageError: the items hold all that could.
    """
    for delimiter in _DELIMITERS:
        whole = delimiter.join(items)
        if whole.split(delimiter) == list(items):
            plain = delimiter == "," and not whole.startswith("^")
            return whole if plain else f"^{delimiter}^{whole}"
    raise UsageError(
        f"gcloud could not tell these values apart, which hold all of {' '.join(_DELIMITERS)}: "
        f"{' '.join(items)!r}; change one of them"
    )


def shell(command: Sequence[str]) -> str:
    """A command as one types it, an option a line."""
    return " \\\n    ".join(_lines(command))


def _lines(command: Sequence[str]) -> list[str]:
    words = [shlex.quote(word) for word in command]
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    return [" ".join(words[:first]), *words[first:]]
