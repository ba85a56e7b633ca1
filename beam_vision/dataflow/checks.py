"""What would go wrong with a job on Dataflow, found before it is submitted and costs time and money."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from beam_vision.dataflow.machines import carrier, gpu_of_accelerator
from beam_vision.dataflow.resources import (
    DRIVER,
    MPS,
    ONE_PROCESS,
    SEVERAL_PROCESSES,
    WORKER_ACCELERATOR,
    Accelerator,
    parse_accelerator,
)
from beam_vision.errors import UsageError

STREAMING_RIGHT_FIT = "enable_streaming_rightfitting"
"""The experiment by which Dataflow takes resource hints in streams
(https://cloud.google.com/dataflow/docs/guides/right-fitting)."""
PRIME = "enable_prime"
_BEAM_IMAGE = re.compile(r"(?:.*/)?beam_python(?P<python>\d\.\d+)_sdk(?::(?P<tag>[^@]+))?(?:@.*)?\Z")
_NO_STANDARD_DISK = ("g2", "a3")
_REMOTE = ("gs://", "bigquery://", "pubsub://", "http://", "https://")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is about to be sent: Beam's options, ``""`` where they aren't given, and who sends them.

    Attributes:
      project, region, temp_location, staging_location, machine_type, disk_type, endpoint: by their options.
      image: of the workers' container.
      has_packages: whether workers install packages when they start (``--setup_file`` and the like).
      experiments, service_options, resource_hints: each a list of texts.
      streaming: whether it is a streaming job.
      flexrs: whether it is scheduled flexibly.
      python: ``MAJOR.MINOR`` of this process.
      beam: the version of Beam here.
    """

    project: str = ""
    region: str = ""
    temp_location: str = ""
    staging_location: str = ""
    machine_type: str = ""
    disk_type: str = ""
    image: str = ""
    endpoint: str = ""
    has_packages: bool = False
    experiments: tuple[str, ...] = ()
    service_options: tuple[str, ...] = ()
    resource_hints: tuple[str, ...] = ()
    streaming: bool = False
    flexrs: bool = False
    python: str = ""
    beam: str = ""

    @property
    def is_rehearsal(self) -> bool:
        """Whether it goes to a service on this machine, which may use local folders."""
        endpoint = self.endpoint if "//" in self.endpoint else f"//{self.endpoint}"
        return urlsplit(endpoint).hostname == "localhost"

    @property
    def accelerators(self) -> tuple[str, ...]:
        """Texts of ``worker_accelerator``, wherever it is given."""
        given = (*self.service_options, *self.experiments)
        prefix = f"{WORKER_ACCELERATOR}="
        return tuple(one.removeprefix(prefix) for one in given if one.startswith(prefix))

    @property
    def hinted(self) -> tuple[str, ...]:
        """Texts of accelerator hints for all steps."""
        prefix = "accelerator="
        return tuple(one.removeprefix(prefix) for one in self.resource_hints if one.startswith(prefix))

    @property
    def is_prime(self) -> bool:
        """Whether it runs on Dataflow Prime."""
        return PRIME in (*self.service_options, *self.experiments)


def problems(sent: Submission, paths: Mapping[str, str] | None = None, *, right_fit: str = "") -> list[str]:
    """All that keeps a job from running on Dataflow, each with its remedy; empty where nothing is known of.

    Args:
      sent: what is to be sent, our own additions included.
      paths: what workers read and write, by the option that names it; several separated by commas.
      right_fit: the accelerator hint of inference; ``""``: none.
    """
    return [
        *_places(sent, paths or {}),
        *_software(sent),
        *_accelerators(sent, right_fit),
        *_hints(sent, right_fit),
    ]


def check(sent: Submission, paths: Mapping[str, str] | None = None, *, right_fit: str = "") -> None:
    """Refuses what :func:`problems` finds.

    Raises:
      UsageError: something was found; says all of it.
    """
    found = problems(sent, paths, right_fit=right_fit)
    if len(found) == 1:
        raise UsageError(found[0])
    if found:
        listed = "".join(f"\n  - {one}" for one in found)
        raise UsageError(f"{len(found)} things keep this job from running on Dataflow:{listed}")


def check_local(gpu: str) -> None:
    """Refuses ``--gpu`` for a run on this machine.

    Raises:
      UsageError: it is given.
    """
    if gpu:
        raise UsageError(
            f"--gpu {gpu} is for --runner DataflowRunner; a run on this machine uses the GPU that it has: "
            "leave --gpu out (and give --require_gpu if it must not run without one)"
        )


def _places(sent: Submission, paths: Mapping[str, str]) -> Iterator[str]:
    if not sent.project:
        yield "--project is missing: the project that the job runs in, and that pays for it"
    if not sent.region:
        yield "--region is missing: where the job runs, e.g. us-central1; best where the images are"
    if not sent.temp_location:
        yield "--temp_location is missing: give --temp_location gs://BUCKET/temp"
    if sent.is_rehearsal:
        return
    for name, value in (("temp", sent.temp_location), ("staging", sent.staging_location)):
        if value and not value.startswith("gs://"):
            yield (
                f"--{name}_location {value} isn't in a bucket, where Dataflow could read it: give "
                f"--{name}_location gs://BUCKET/{name}"
            )
    for option, value in paths.items():
        for part in filter(None, (part.strip() for part in value.split(","))):
            if not part.startswith(_REMOTE):
                yield f"{option} {part} is on this machine, where workers don't reach it: give gs://BUCKET/..."


def _software(sent: Submission) -> Iterator[str]:
    if not (sent.image or sent.has_packages):
        yield (
            "workers would lack beam_vision: give --sdk_container_image IMAGE with it (`beam-vision template "
            "build` makes one), or --setup_file"
        )
    beams = _BEAM_IMAGE.match(sent.image)
    if beams and beams["python"] != sent.python:
        yield (
            f"--sdk_container_image {sent.image} has Python {beams['python']}, and this is {sent.python}: "
            f"what is sent from here can't be read there; take the image of beam_python{sent.python}_sdk"
        )
    tag = beams and beams["tag"]
    if tag and re.match(r"\d", tag) and tag != sent.beam:
        yield (
            f"--sdk_container_image {sent.image} has Beam {tag}, and this is {sent.beam}: take the tag "
            f"{sent.beam}, or install apache-beam=={tag} here"
        )


def _accelerators(sent: Submission, right_fit: str) -> Iterator[str]:
    given = (*sent.accelerators, *sent.hinted)
    if len(sent.accelerators) > 1:
        yield (
            f"{WORKER_ACCELERATOR} is given more than once ({' and '.join(sent.accelerators)}): "
            "give --gpu, or one --dataflow_service_options, not both"
        )
    for text in given:
        try:
            accelerator = parse_accelerator(text)
        except UsageError as error:
            yield str(error)
            continue
        on_all = text in sent.accelerators
        yield from _accelerator(sent, accelerator, sent.machine_type if on_all else accelerator.machine_type)
    if (given or right_fit) and not (sent.image or sent.has_packages):
        yield "Beam's own container has no CUDA: give --sdk_container_image of one made for GPUs"


def _accelerator(sent: Submission, accelerator: Accelerator, machine_type: str) -> Iterator[str]:
    gpu = gpu_of_accelerator(accelerator.type)
    if not any(flag.partition(":")[0] == DRIVER for flag in accelerator.flags):
        yield f"accelerator {accelerator.text}: no driver would be installed; add ;{DRIVER}"
    if gpu is not None and not (machine_type or gpu.n1):
        yield f"{accelerator.type} comes with its own machines: give --worker_machine_type of {gpu.families}"
    elif gpu is not None:
        try:
            carrier(gpu, accelerator.count, machine_type)
        except UsageError as error:
            yield str(error)
    if sent.disk_type.rpartition("/")[2] == "pd-standard" and machine_type.startswith(_NO_STANDARD_DISK):
        yield f"{machine_type} takes no pd-standard disks: leave --worker_disk_type out, or take pd-balanced"
    if MPS in accelerator.flags:
        yield from _mps(sent, accelerator)
    elif SEVERAL_PROCESSES in sent.experiments:
        yield (
            f"--experiments={SEVERAL_PROCESSES}: each process would hold a copy of the model in the GPU's "
            f"memory; leave it out, or add ;{MPS} to the {WORKER_ACCELERATOR} of --dataflow_service_options"
        )


def _mps(sent: Submission, accelerator: Accelerator) -> Iterator[str]:
    if ONE_PROCESS in sent.experiments:
        yield (
            f"{MPS} shares a GPU between processes, and --experiments={ONE_PROCESS} allows but one: leave "
            "one of them out"
        )
    if accelerator.count != 1:
        yield f"{MPS} goes with one GPU a worker, not with count:{accelerator.count}"
    if sent.is_prime:
        yield f"{MPS} isn't there on Dataflow Prime: leave {PRIME} out"


def _hints(sent: Submission, right_fit: str) -> Iterator[str]:
    if not (right_fit or sent.hinted):
        return
    what = "--right_fit" if right_fit else "an accelerator in --resource_hints"
    if sent.accelerators:
        yield (
            f"{what} doesn't go with {WORKER_ACCELERATOR}={sent.accelerators[0]}: the one gives GPUs to some "
            "steps, the other to all workers; leave one out"
        )
    if right_fit and sent.hinted:
        yield f"--right_fit doesn't go with accelerator={sent.hinted[0]} in --resource_hints, which would win"
    if sent.streaming and STREAMING_RIGHT_FIT not in sent.experiments:
        yield (
            f"{what} is for batch jobs: leave it out, so that all workers have GPUs, or opt in to Dataflow's "
            f"experiment (--experiments={STREAMING_RIGHT_FIT})"
        )
    if sent.flexrs:
        yield f"{what} doesn't go with --flexrs_goal, which Dataflow doesn't take with resource hints"
