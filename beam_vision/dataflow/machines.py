"""GPUs that Dataflow attaches to workers, and the machine types that carry each, with vCPUs and memory.

The figures are Compute Engine's (https://cloud.google.com/compute/docs/gpus and
https://cloud.google.com/compute/docs/accelerator-optimized-machines); which GPUs Dataflow takes is in
https://cloud.google.com/dataflow/docs/gpu/gpu-support. Zones and quotas differ: ``beam-vision doctor`` asks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from beam_vision.errors import UsageError

_NAME = re.compile(r"(?P<family>[a-z][a-z0-9]*)-(?P<kind>[a-z]+)-(?P<size>\d+)g?\Z")
_CUSTOM = re.compile(r"(?:(?P<family>[a-z][a-z0-9]*)-)?custom-(?P<vcpus>\d+)-(?P<mb>\d+)(?:-ext)?\Z")
_GB_A_VCPU = {
    "n1": {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9},
    "n2": {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0},
    "n2d": {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0},
    "e2": {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0},
    "t2d": {"standard": 4.0},
    "c2": {"standard": 4.0},
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine type.

    Attributes:
      name: as Compute Engine has it.
      vcpus: at least 1.
      memory_gb: in GB.
      gpu: the short name of the GPU that it comes with; ``""``: none of its own.
      gpu_count: how many it comes with.
    """

    name: str
    vcpus: int
    memory_gb: float
    gpu: str = ""
    gpu_count: int = 0

    @property
    def family(self) -> str:
        """``n1``, ``g2``, ...: what comes before the first dash."""
        return "n1" if self.name.startswith("custom-") else self.name.partition("-")[0]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What an N1 machine may have at most with so many GPUs."""

    vcpus: int
    memory_gb: float


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU.

    Attributes:
      name: as ``--gpu`` takes it.
      accelerator: as Dataflow takes it.
      memory_gb: of one GPU, in GB.
      n1: for GPUs that N1 machines carry, what such a machine may have, by number of GPUs; empty for GPUs
        that come with machines of their own.
      machine: by number of GPUs, the machine type that is taken where the user names none.
    """

    name: str
    accelerator: str
    memory_gb: int
    machine: dict[int, str]
    n1: dict[int, Limit]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many of them a worker can have."""
        return tuple(sorted(self.machine))

    @property
    def families(self) -> str:
        """The machine types that carry it, in words."""
        if self.n1:
            return "n1-..."
        return ", ".join(sorted(one.name for one in MACHINES.values() if one.gpu == self.name))


def _n1(*limits: tuple[int, int, float]) -> dict[int, Limit]:
    return {count: Limit(vcpus=vcpus, memory_gb=gb) for count, vcpus, gb in limits}


def _with(gpu: str, *rows: tuple[str, int, int, float]) -> dict[str, Machine]:
    return {
        name: Machine(name=name, vcpus=vcpus, memory_gb=gb, gpu=gpu, gpu_count=count)
        for name, count, vcpus, gb in rows
    }


MACHINES = {
    **_with(
        "l4",
        ("g2-standard-4", 1, 4, 16),
        ("g2-standard-8", 1, 8, 32),
        ("g2-standard-12", 1, 12, 48),
        ("g2-standard-16", 1, 16, 64),
        ("g2-standard-32", 1, 32, 128),
        ("g2-standard-24", 2, 24, 96),
        ("g2-standard-48", 4, 48, 192),
        ("g2-standard-96", 8, 96, 384),
    ),
    **_with(
        "a100",
        ("a2-highgpu-1g", 1, 12, 85),
        ("a2-highgpu-2g", 2, 24, 170),
        ("a2-highgpu-4g", 4, 48, 340),
        ("a2-highgpu-8g", 8, 96, 680),
        ("a2-megagpu-16g", 16, 96, 1360),
    ),
    **_with(
        "a100_80gb",
        ("a2-ultragpu-1g", 1, 12, 170),
        ("a2-ultragpu-2g", 2, 24, 340),
        ("a2-ultragpu-4g", 4, 48, 680),
        ("a2-ultragpu-8g", 8, 96, 1360),
    ),
    **_with(
        "h100",
        ("a3-highgpu-1g", 1, 26, 234),
        ("a3-highgpu-2g", 2, 52, 468),
        ("a3-highgpu-4g", 4, 104, 936),
        ("a3-highgpu-8g", 8, 208, 1872),
    ),
    **_with("h100_mega", ("a3-megagpu-8g", 8, 208, 1872)),
}
"""Machine types that come with GPUs, by name."""

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            name="t4",
            accelerator="nvidia-tesla-t4",
            memory_gb=16,
            machine={1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"},
            n1=_n1((1, 48, 312), (2, 48, 312), (4, 96, 624)),
        ),
        Gpu(
            name="p4",
            accelerator="nvidia-tesla-p4",
            memory_gb=8,
            machine={1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"},
            n1=_n1((1, 24, 156), (2, 48, 312), (4, 96, 624)),
        ),
        Gpu(
            name="p100",
            accelerator="nvidia-tesla-p100",
            memory_gb=16,
            machine={1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"},
            n1=_n1((1, 16, 104), (2, 32, 208), (4, 64, 208)),
        ),
        Gpu(
            name="v100",
            accelerator="nvidia-tesla-v100",
            memory_gb=16,
            machine={1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32", 8: "n1-standard-96"},
            n1=_n1((1, 12, 78), (2, 24, 156), (4, 48, 312), (8, 96, 624)),
        ),
        Gpu(
            name="l4",
            accelerator="nvidia-l4",
            memory_gb=24,
            machine={1: "g2-standard-8", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"},
            n1={},
        ),
        Gpu(
            name="a100",
            accelerator="nvidia-tesla-a100",
            memory_gb=40,
            machine={
                **{count: f"a2-highgpu-{count}g" for count in (1, 2, 4, 8)},
                16: "a2-megagpu-16g",
            },
            n1={},
        ),
        Gpu(
            name="a100_80gb",
            accelerator="nvidia-a100-80gb",
            memory_gb=80,
            machine={count: f"a2-ultragpu-{count}g" for count in (1, 2, 4, 8)},
            n1={},
        ),
        Gpu(
            name="h100",
            accelerator="nvidia-h100-80gb",
            memory_gb=80,
            machine={count: f"a3-highgpu-{count}g" for count in (1, 2, 4, 8)},
            n1={},
        ),
        Gpu(
            name="h100_mega",
            accelerator="nvidia-h100-mega-80gb",
            memory_gb=80,
            machine={8: "a3-megagpu-8g"},
            n1={},
        ),
    )
}
"""GPUs by the name that ``--gpu`` takes."""


def gpu_of_accelerator(accelerator: str) -> Gpu | None:
    """The GPU that Dataflow knows by this name; None where it isn't in the table."""
    return next((gpu for gpu in GPUS.values() if gpu.accelerator == accelerator), None)


def machine_of(name: str) -> Machine | None:
    """What a machine type has; None where it isn't in the table.

    Args:
      name: such as ``g2-standard-8``, ``n1-standard-16`` or ``n1-custom-8-32768`` (memory in MB).
    """
    if name in MACHINES:
        return MACHINES[name]
    custom, usual = _CUSTOM.match(name), _NAME.match(name)
    if custom:
        return Machine(name=name, vcpus=int(custom["vcpus"]), memory_gb=int(custom["mb"]) / 1024)
    gb = _GB_A_VCPU.get(usual["family"], {}).get(usual["kind"]) if usual else None
    if usual is None or gb is None:
        return None
    vcpus = int(usual["size"])
    return Machine(name=name, vcpus=vcpus, memory_gb=vcpus * gb)


def carrier(gpu: Gpu, count: int, machine_type: str = "") -> Machine:
    """The machine that carries so many GPUs of a kind.

    Args:
      gpu: the kind.
      count: how many a worker has.
      machine_type: the one that is asked for; ``""``: the table's.

    Raises:
      UsageError: no worker can have so many, or not that machine.
    """
    if count not in gpu.machine:
        counts = ", ".join(map(str, gpu.counts))
        raise UsageError(f"--gpu_count is {count}; a worker with --gpu {gpu.name} can have {counts} of them")
    name = machine_type or gpu.machine[count]
    machine = machine_of(name)
    advice = f"leave --worker_machine_type out (then it is {gpu.machine[count]})"
    if gpu.n1:
        return _attached(gpu, count, name, machine, advice)
    if machine is None or machine.gpu != gpu.name:
        raise UsageError(
            f"--worker_machine_type {name} doesn't carry {gpu.accelerator}; only {gpu.families} do: {advice}"
        )
    if machine.gpu_count != count:
        raise UsageError(f"{name} comes with {machine.gpu_count} GPUs, not with {count}: {advice}")
    return machine


def _attached(gpu: Gpu, count: int, name: str, machine: Machine | None, advice: str) -> Machine:
    """An N1 machine with GPUs attached to it."""
    if machine is None or machine.family != "n1":
        raise UsageError(
            f"--worker_machine_type {name} can't have {gpu.accelerator} attached; only N1 machines can: "
            f"{advice}"
        )
    limit = gpu.n1[count]
    if machine.vcpus > limit.vcpus or machine.memory_gb > limit.memory_gb:
        raise UsageError(
            f"{name} has {machine.vcpus} vCPUs and {machine.memory_gb:g} GB; with {count} {gpu.accelerator} "
            f"a worker has at most {limit.vcpus} and {limit.memory_gb:g} GB: {advice}, or take more GPUs"
        )
    return machine
