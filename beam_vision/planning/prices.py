"""The price table: one JSON file with a date, which the user may replace."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_vision import storage
from beam_vision.errors import UsageError

OWN_FILE = Path(__file__).with_name("prices.json")
MODES = ("batch", "streaming")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A type of worker.

    Attributes:
      name: Compute Engine's, e.g. ``g2-standard-8``.
      vcpus: its virtual CPUs.
      memory_gb: its memory.
      disk_gb: the disk that a worker gets.
      gpu: the GPU's short name, e.g. ``l4``; empty: it has none.
      gpus: how many of them.
    """

    name: str
    vcpus: int
    memory_gb: float
    disk_gb: float
    gpu: str = ""
    gpus: int = 0

    @property
    def shown(self) -> str:
        """The name with what is attached to it."""
        return f"{self.name} + {self.gpus} {self.gpu}" if self.gpu else self.name


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What workers cost.

    Attributes:
      date: as of when, ``YYYY-MM-DD``.
      region: where.
      currency: three letters.
      source: where the prices are published.
      note: what else to know of them.
      vcpu_hour, memory_gb_hour, shuffle_gb: by mode, ``batch`` or ``streaming``; a GB is 2**30 bytes.
      disk_gb_hour: of a worker's persistent disk.
      gpu_hour: by the GPU's short name.
      gpu_speed_vcpus: how many vCPUs run a model as fast as one GPU: (low, likely, high).
      gpu_speed_note: where those come from.
      machines: the types of worker to plan for.
    """

    date: str
    region: str
    currency: str
    source: str
    note: str
    vcpu_hour: Mapping[str, float]
    memory_gb_hour: Mapping[str, float]
    shuffle_gb: Mapping[str, float]
    disk_gb_hour: float
    gpu_hour: Mapping[str, float]
    gpu_speed_vcpus: Mapping[str, tuple[float, float, float]]
    gpu_speed_note: str
    machines: tuple[Machine, ...]

    def worker_hour(self, machine: Machine, mode: str = "batch") -> float:
        """What a worker costs an hour: its vCPUs, its memory, its disk and its GPUs."""
        return (
            machine.vcpus * self.vcpu_hour[mode]
            + machine.memory_gb * self.memory_gb_hour[mode]
            + machine.disk_gb * self.disk_gb_hour
            + (machine.gpus * self.gpu_hour[machine.gpu] if machine.gpu else 0.0)
        )


def read_prices(path: str = "") -> Prices:
    """Reads a price table; our own where no path is given.

    Raises:
      UsageError: it isn't there, isn't JSON, lacks something or holds what can't be.
    """
    place = path or str(OWN_FILE)
    try:
        content = json.loads(storage.read_text(place))
    except (OSError, ValueError) as error:
        raise UsageError(f"--prices {place} can't be read as JSON: {error}") from error
    try:
        return _prices(content)
    except KeyError as error:
        raise UsageError(f"--prices {place} lacks {error}; start from a copy of {OWN_FILE.name}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"--prices {place}: {error}; start from a copy of {OWN_FILE.name}") from error


def _prices(content: dict[str, Any]) -> Prices:
    gpu_hour = {name: _amount(value, f"gpu_hour.{name}") for name, value in content["gpu_hour"].items()}
    speeds = {name: _speed(name, value) for name, value in content["gpu_speed_vcpus"].items()}
    machines = tuple(Machine(**item) for item in content["machines"])
    for machine in machines:
        _check(machine, gpu_hour, speeds)
    if not machines:
        raise ValueError("machines is empty; give at least one type of worker")
    return Prices(
        date=str(content["date"]),
        region=str(content["region"]),
        currency=str(content["currency"]),
        source=str(content["source"]),
        note=str(content.get("note", "")),
        gpu_speed_note=str(content.get("gpu_speed_note", "")),
        vcpu_hour=_by_mode(content, "vcpu_hour"),
        memory_gb_hour=_by_mode(content, "memory_gb_hour"),
        shuffle_gb=_by_mode(content, "shuffle_gb"),
        disk_gb_hour=_amount(content["disk_gb_hour"], "disk_gb_hour"),
        gpu_hour=gpu_hour,
        gpu_speed_vcpus=speeds,
        machines=machines,
    )


def _by_mode(content: dict[str, Any], name: str) -> dict[str, float]:
    return {mode: _amount(content[name][mode], f"{name}.{mode}") for mode in MODES}


def _amount(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; it must be a number of 0 or more")
    return float(value)


def _speed(name: str, value: Any) -> tuple[float, float, float]:
    low, likely, high = (_amount(item, f"gpu_speed_vcpus.{name}") for item in value)
    if not 0 < low <= likely <= high:
        raise ValueError(f"gpu_speed_vcpus.{name} is {value}; it must be [low, likely, high], more than 0")
    return low, likely, high


def _check(machine: Machine, gpu_hour: Mapping[str, float], speeds: Mapping[str, Any]) -> None:
    if min(machine.vcpus, machine.memory_gb) <= 0 or min(machine.disk_gb, machine.gpus) < 0:
        raise ValueError(
            f"machine {machine.name}: vcpus and memory_gb must be more than 0, the rest 0 or more"
        )
    if bool(machine.gpu) != bool(machine.gpus):
        raise ValueError(f"machine {machine.name}: gpu and gpus go together")
    if machine.gpu and (machine.gpu not in gpu_hour or machine.gpu not in speeds):
        raise ValueError(f"machine {machine.name}: gpu_hour and gpu_speed_vcpus lack {machine.gpu}")
