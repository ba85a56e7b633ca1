"""What belongs together on a worker with GPUs: accelerator, driver, machine, processes, threads, batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from beam_vision.dataflow.machines import GPUS, Machine, carrier
from beam_vision.errors import UsageError

ONE_PROCESS = "no_use_multiple_sdk_containers"
SEVERAL_PROCESSES = "use_multiple_sdk_containers"
"""Experiments of Beam's: Python processes on a worker, one in all or one a vCPU."""
WORKER_ACCELERATOR = "worker_accelerator"
DRIVER = "install-nvidia-driver"
MPS = "use_nvidia_mps"

GPU_BATCH_SIZE = 128
CPU_BATCH_SIZE = 32
DISK_GB = 50
_THREADS_A_GPU = 2
_MOST_BATCH_BYTES = 256 << 20
_BATCH_SHARE = 1 / 32


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A ``worker_accelerator`` service option, or the text of an accelerator hint.

    Attributes:
      type: as Dataflow names it, such as ``nvidia-l4``.
      count: on each worker.
      machine_type: of the workers that get it; only in a hint.
      flags: such as ``install-nvidia-driver``.
    """

    type: str
    count: int = 1
    machine_type: str = ""
    flags: tuple[str, ...] = (DRIVER,)

    @property
    def text(self) -> str:
        """As Dataflow reads it."""
        fields = [f"type:{self.type}", f"count:{self.count}"]
        fields += [f"machine_type:{self.machine_type}"] if self.machine_type else []
        return ";".join([*fields, *self.flags])


def parse_accelerator(text: str) -> Accelerator:
    """Reads ``type:TYPE;count:N;install-nvidia-driver``.

    Raises:
      UsageError: it can't be read. Dataflow would say so only once workers start.
    """
    fields: dict[str, str] = {}
    flags = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, colon, value = part.partition(":")
        if not colon:
            flags.append(name)
        elif name in ("type", "count", "machine_type") and name not in fields:
            fields[name] = value
        elif name == DRIVER:  # with the version of a driver
            flags.append(part)
        else:
            raise UsageError(f"accelerator {text!r}: {part!r} isn't known, or is there twice; {_FORM}")
    count = fields.get("count", "1")
    if not fields.get("type") or not count.isdigit() or int(count) < 1:
        raise UsageError(f"accelerator {text!r} has no type, or a count that is no number above 0; {_FORM}")
    return Accelerator(
        type=fields["type"],
        count=int(count),
        machine_type=fields.get("machine_type", ""),
        flags=tuple(flags),
    )


_FORM = f"it reads type:TYPE;count:N;{DRIVER}"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asks for, by our options and Beam's; 0 and ``""`` are what isn't given.

    Attributes:
      gpu: a name of :data:`~beam_vision.dataflow.machines.GPUS`.
      gpu_count: on each worker.
      right_fit: whether only inference gets workers with GPUs.
      machine_type: ``--worker_machine_type``; with ``right_fit`` that of the workers without GPUs.
      threads: ``--number_of_worker_harness_threads``.
      disk_gb: ``--disk_size_gb``.
      decode_threads, batch_size: of the job's own options.
    """

    gpu: str
    gpu_count: int = 1
    right_fit: bool = False
    machine_type: str = ""
    threads: int = 0
    disk_gb: int = 0
    decode_threads: int = 0
    batch_size: int = 0


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What a job with GPUs is given.

    Attributes:
      machine: of the workers that run the model.
      accelerator: what they carry.
      right_fit: whether only inference runs on them.
      beam_args: Beam's arguments, to be added to the user's.
      threads: of the runner's, in the one Python process of a worker.
      decode_threads: that decode images, shared by all of the process.
      batch_size: images in a model batch.
      max_batch_images, max_batch_bytes: what a runner's thread holds at once: images, and encoded bytes.
      notes: what the person who runs the job should know.
    """

    machine: Machine
    accelerator: Accelerator
    right_fit: bool
    beam_args: tuple[str, ...]
    threads: int
    decode_threads: int
    batch_size: int
    max_batch_images: int
    max_batch_bytes: int
    notes: tuple[str, ...]

    @property
    def hint(self) -> dict[str, str]:
        """Resource hints of inference; none where all workers have GPUs."""
        return {"accelerator": self.accelerator.text} if self.right_fit else {}


def plan_workers(asked: Asked) -> WorkerPlan:
    """What belongs together on workers with GPUs.

    One Python process a worker, so that the model lies in the GPU's memory once (Dataflow's default is a
    process a vCPU, each with a copy); in it two of the runner's threads for each GPU, one of which reads
    while the other's batch runs; a thread a vCPU that decodes, shared by all of them. A runner's thread holds
    four model batches, so that three are decoded while one runs; all of them together hold at most 1/32 of
    the machine's memory in encoded bytes (decoded images are larger, and are held too).

    Raises:
      UsageError: there is no such GPU, or no worker that can have it so.
    """
    if asked.gpu not in GPUS:
        raise UsageError(f"--gpu {asked.gpu} isn't one of {', '.join(GPUS)}")
    gpu = GPUS[asked.gpu]
    machine = carrier(gpu, asked.gpu_count, "" if asked.right_fit else asked.machine_type)
    machine_type = machine.name if asked.right_fit else ""
    accelerator = Accelerator(type=gpu.accelerator, count=asked.gpu_count, machine_type=machine_type)
    threads = asked.threads or _THREADS_A_GPU * asked.gpu_count
    batch_size = asked.batch_size or GPU_BATCH_SIZE
    share_bytes = math.floor(machine.memory_gb * 2**30 * _BATCH_SHARE / threads)
    return WorkerPlan(
        machine=machine,
        accelerator=accelerator,
        right_fit=asked.right_fit,
        beam_args=_beam_args(asked, machine, accelerator, threads),
        threads=threads,
        decode_threads=asked.decode_threads or machine.vcpus,
        batch_size=batch_size,
        max_batch_images=4 * batch_size,
        max_batch_bytes=min(_MOST_BATCH_BYTES, share_bytes),
        notes=_notes(asked, machine, accelerator),
    )


def _beam_args(asked: Asked, machine: Machine, accelerator: Accelerator, threads: int) -> tuple[str, ...]:
    args = [f"--experiments={ONE_PROCESS}"]
    if not asked.right_fit:
        args.append(f"--dataflow_service_options={WORKER_ACCELERATOR}={accelerator.text}")
        if not asked.machine_type:
            args.append(f"--worker_machine_type={machine.name}")
    if not asked.threads:
        args.append(f"--number_of_worker_harness_threads={threads}")
    if not asked.disk_gb:
        args.append(f"--disk_size_gb={DISK_GB}")
    return tuple(args)


def _notes(asked: Asked, machine: Machine, accelerator: Accelerator) -> tuple[str, ...]:
    has = f"{machine.name} ({machine.vcpus} vCPUs, {machine.memory_gb:g} GB) with {accelerator.count} x"
    notes = [f"workers: {has} {accelerator.type}, one Python process and one copy of the model each"]
    if asked.right_fit:
        notes = [
            f"inference alone: {notes[0]}",
            "encoded images, as large as their files, go from workers without GPUs to those with them; they "
            "are decoded where the model runs, so pixels never cross",
        ]
    if accelerator.count > 1:
        notes.append(
            f"one model copy uses one GPU: of {accelerator.count} the others idle; take more workers"
        )
    return tuple(notes)
