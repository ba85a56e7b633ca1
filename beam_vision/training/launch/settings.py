"""The section ``launch`` of a job's YAML, checked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_vision.errors import UsageError
from beam_vision.training.config import JobConfig
from beam_vision.training.config_fields import nearest, setting
from beam_vision.training.config_reading import Source, build

ACCELERATORS = {
    "NVIDIA_TESLA_T4": "nvidia_t4_gpus",
    "NVIDIA_TESLA_V100": "nvidia_v100_gpus",
    "NVIDIA_TESLA_P100": "nvidia_p100_gpus",
    "NVIDIA_TESLA_P4": "nvidia_p4_gpus",
    "NVIDIA_L4": "nvidia_l4_gpus",
    "NVIDIA_TESLA_A100": "nvidia_a100_gpus",
    "NVIDIA_A100_80GB": "nvidia_a100_80gb_gpus",
    "NVIDIA_H100_80GB": "nvidia_h100_gpus",
    "NVIDIA_H100_MEGA_80GB": "nvidia_h100_mega_gpus",
    "NVIDIA_H200_141GB": "nvidia_h200_gpus",
    "TPU_V2": "tpu_v2",
    "TPU_V3": "tpu_v3",
}
"""Vertex AI's AcceleratorType -> the end of its training quota's name (Vertex AI quotas and limits)."""

_NAME = (re.compile(r"[a-z][a-z0-9-]{0,62}\Z"), "lower-case letters, digits and hyphens, 63 at most")
_PROJECT = (re.compile(r"[a-z][a-z0-9.:-]{2,61}[a-z0-9]\Z"), "a project's id, such as my-project")
_REGION = (re.compile(r"[a-z]+-[a-z]+\d+\Z"), "a region, such as us-central1")
_STAGING = (re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/[^?#]*)?\Z"), "a folder of a bucket, gs://BUCKET/PREFIX")
_IMAGE = (re.compile(r"\S+\Z"), "a container image that has beam-vision installed")
_NETWORK = (
    re.compile(r"(projects/\d+/global/networks/[a-z0-9-]+)?\Z"),
    "projects/NUMBER/global/networks/NAME, with the project's number and not its id",
)
_ACCOUNT = (re.compile(r"([^@\s]+@[^@\s]+)?\Z"), "an e-mail address, NAME@PROJECT.iam.gserviceaccount.com")
_TENSORBOARD = (
    re.compile(r"(projects/[^/]+/locations/[^/]+/tensorboards/\d+)?\Z"),
    "projects/P/locations/REGION/tensorboards/ID",
)
_LABEL = re.compile(r"[a-z0-9_-]{0,63}\Z")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One way to run a job: on what, and where.

    Attributes:
      region: such as ``us-central1``.
      machine_type: of each replica, such as ``n1-standard-8``.
      accelerator: one of :data:`ACCELERATORS`, such as ``NVIDIA_TESLA_T4``; empty: none.
      accelerators: how many a replica has.
      spot: on Spot machines, which are cheaper and may be taken away at any time.
    """

    region: str = ""
    machine_type: str = "n1-standard-8"
    accelerator: str = setting("", choices=("", *ACCELERATORS))
    accelerators: int = setting(0, least=0)
    spot: bool = False

    def __post_init__(self) -> None:
        _check("launch.region", self.region, _REGION)
        if bool(self.accelerator) != bool(self.accelerators):
            raise UsageError(
                f"launch: {self.machine_type} has accelerator {self.accelerator!r} and accelerators "
                f"{self.accelerators}; give both or neither"
            )

    def __str__(self) -> str:
        gpus = f" with {self.accelerators} x {self.accelerator}" if self.accelerator else ""
        return f"{'Spot ' if self.spot else ''}{self.machine_type}{gpus} in {self.region}"


@dataclass(frozen=True, kw_only=True)
class LaunchSettings(Placement):
    """Where and as what a job runs on Vertex AI; the fields of :class:`Placement`, and these.

    Attributes:
      project: the Google Cloud project's id.
      staging: ``gs://BUCKET/PREFIX``: the job's file, its checkpoints and its model come below it.
      image: the container image that has beam-vision installed.
      replicas: machines that train together (TF_CONFIG tells them of each other).
      name: for people, and of the job's folder below staging; empty: of the task and the job's digest.
      restart: start all replicas anew when one was restarted: they can't go on without each other.
      service_account: that the job runs as; empty: Vertex AI's own.
      network: ``projects/NUMBER/global/networks/NAME`` to peer with.
      labels: of lower-case letters, digits, ``-`` and ``_``, 63 at most.
      timeout_sec: the job is ended after so long; 0: Vertex AI's default, 7 days.
      max_wait_sec: a job that hasn't begun after so long is cancelled and the next of fallbacks tried, while
        someone waits for it; 0: it may wait for ever. (Vertex AI itself may keep a job pending for hours
        where it has no machine.)
      boot_disk_gb: of each replica.
      tensorboard: ``projects/P/locations/REGION/tensorboards/ID`` to upload logs to; needs service_account.
      env: further environment variables.
      fallbacks: where to run when there is no quota or no free machine, in this order: each gives anew some
        of the fields of :class:`Placement`.
    """

    project: str = ""
    staging: str = ""
    image: str = ""
    replicas: int = setting(1, least=1)
    name: str = ""
    restart: bool = False
    service_account: str = ""
    network: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    timeout_sec: int = setting(0, least=0)
    max_wait_sec: int = setting(0, least=0)
    boot_disk_gb: int = setting(100, least=100)
    tensorboard: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    fallbacks: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        shapes = {"project": _PROJECT, "staging": _STAGING, "image": _IMAGE, "network": _NETWORK}
        shapes |= {"service_account": _ACCOUNT, "tensorboard": _TENSORBOARD}
        for name, shape in (shapes | ({"name": _NAME} if self.name else {})).items():
            _check(f"launch.{name}", getattr(self, name), shape)
        if self.tensorboard and not self.service_account:
            raise UsageError(
                "launch.tensorboard needs launch.service_account: Vertex AI uploads the logs as it"
            )
        for key, value in self.labels.items():
            if not (key[:1].isalpha() and _LABEL.match(key) and _LABEL.match(value)):
                raise UsageError(
                    f"launch.labels has {key}: {value}; Vertex AI takes lower-case letters, digits, - and "
                    "_, at most 63, and a key begins with a letter"
                )
        self.placements()

    def placements(self) -> list[Placement]:
        """All ways to run it, in the order in which they are tried.

        Raises:
          UsageError: a fallback has an unknown key, or a value that can't be.
        """
        first = {one.name: getattr(self, one.name) for one in dataclasses.fields(Placement)}
        others = [
            build(Placement, {**first, **one}, Source(), ("launch", f"fallbacks[{at}]"))
            for at, one in enumerate(self.fallbacks)
        ]
        return [Placement(**first), *others]

    @property
    def bucket(self) -> str:
        """The bucket of ``staging``."""
        return self.staging.removeprefix("gs://").partition("/")[0]


def _check(place: str, value: str, shape: tuple[re.Pattern[str], str]) -> None:
    pattern, wanted = shape
    if not pattern.match(value):
        raise UsageError(f"{place} is {value!r}; it must be {wanted}")


def read_launch(section: Mapping[str, Any], source: Source | None = None) -> LaunchSettings:
    """The section, checked.

    Args:
      section: as ``JobConfig.launch`` has it.
      source: where it came from, for messages.

    Raises:
      UsageError: a key is unknown (with the nearest known one), or a value can't be.
    """
    return build(LaunchSettings, section, source or Source(), ("launch",))


def check_names(section: Mapping[str, Any]) -> None:
    """Refuses misspelt keys, also of a section that isn't whole yet, as a job that runs here may have it.

    Raises:
      UsageError: a key is unknown, with the nearest known one.
    """
    fallbacks = section.get("fallbacks") or ()
    if not isinstance(fallbacks, list | tuple):
        raise UsageError(f"launch.fallbacks must be a list, not {fallbacks!r}")
    parts: list[tuple[str, Any, type[Placement]]] = [("launch", section, LaunchSettings)]
    parts += [(f"launch.fallbacks[{at}]", one, Placement) for at, one in enumerate(fallbacks)]
    for where, values, kind in parts:
        if not isinstance(values, Mapping):
            raise UsageError(f"{where} must hold names with values, not {values!r}")
        known = [field.name for field in dataclasses.fields(kind)]
        for name in values:
            if name not in known:
                raise UsageError(f"{where} has no {name!r}; {nearest(str(name), known)}")


def without_env(config: JobConfig) -> JobConfig:
    """The job as it may be written to disk: without ``launch.env``, which may hold keys."""
    return dataclasses.replace(config, launch={k: v for k, v in config.launch.items() if k != "env"})
