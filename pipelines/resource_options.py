"""The options by which a job asks for GPUs on Dataflow, and what becomes of them before it is submitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from beam_vision.dataflow.checks import check, check_local
from beam_vision.dataflow.machines import GPUS
from beam_vision.dataflow.resources import CPU_BATCH_SIZE, Asked, WorkerPlan, plan_workers
from beam_vision.errors import UsageError
from beam_vision.pipelines.options import option
from beam_vision.pipelines.submission import is_dataflow, submission_of

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_vision.pipelines.model_options import ModelOptions

_Options = TypeVar("_Options", bound="ResourceOptions")


@dataclass(frozen=True, kw_only=True)
class ResourceOptions:
    """Which GPUs run the model."""

    gpu: str = option(
        "",
        help="Dataflow: workers with this GPU; sets what belongs to it: machine, driver, one process and one "
        "model copy a worker, threads, batch size. Options of Beam's that you give yourself win. Name the "
        "container by Beam's --sdk_container_image",
        choices=tuple(GPUS),
    )
    gpu_count: int = option(1, help="with --gpu: GPUs on a worker", metavar="N")
    right_fit: bool = option(
        False,
        help="with --gpu: only inference runs on workers with GPUs (a resource hint); the rest runs on "
        "others, and encoded images go between them. Batch jobs",
    )
    require_gpu: bool = option(
        False, help="a worker (or this machine) that sees no GPU fails instead of running on its CPU"
    )


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a job runs on; of a job whose options hold those of ``ModelOptions`` too.

    Attributes:
      beam_args: Beam's arguments, the user's and what was added to them.
      workers: with GPUs; None where none are asked for.
      batch_size: images in a model batch.
      decode_threads: that decode; 0: one a core.
    """

    beam_args: list[str]
    workers: WorkerPlan | None
    batch_size: int
    decode_threads: int

    @property
    def added(self) -> list[str]:
        """What was added to Beam's arguments, and the hints of inference."""
        if self.workers is None:
            return []
        return [*self.workers.beam_args, *(f"{name}={text}" for name, text in self.workers.hint.items())]

    @property
    def notes(self) -> list[str]:
        """What the person who runs the job should know."""
        return list(self.workers.notes) if self.workers else []

    def applied_to(self, options: _Options) -> _Options:
        """A job's options with what was settled here."""
        model_options: Any = options
        return replace(model_options, batch_size=self.batch_size, decode_threads=self.decode_threads)

    @property
    def bounds(self) -> dict[str, int]:
        """What a runner's thread holds at once, as arguments of ``Infer``."""
        if self.workers is None:
            return {}
        names = ("max_batch_images", "max_batch_bytes")
        return {name: getattr(self.workers, name) for name in names}


def resources_of(
    options: Any, beam_args: list[str], paths: Mapping[str, str], *, streaming: bool = False
) -> Resources:
    """Plans what a job runs on and refuses what Dataflow would not take, or would take and then fail.

    Args:
      options: a job's, with those of :class:`ResourceOptions` and ``ModelOptions``.
      beam_args: Beam's part of the command line.
      paths: what workers read and write, by the option that names it.
      streaming: whether it is a streaming job.

    Raises:
      UsageError: see :mod:`beam_vision.dataflow.checks`.
    """
    if not options.gpu and (options.right_fit or options.gpu_count != 1):
        given = "--right_fit" if options.right_fit else f"--gpu_count {options.gpu_count}"
        raise UsageError(f"{given} goes with --gpu; say which GPU, e.g. --gpu l4")
    check_numbers(options)
    if not is_dataflow(beam_args):
        check_local(options.gpu)
        return Resources(
            beam_args=beam_args,
            workers=None,
            batch_size=options.batch_size or CPU_BATCH_SIZE,
            decode_threads=options.decode_threads,
        )
    workers = plan_workers(asked_of(options, beam_args)) if options.gpu else None
    all_args = [*beam_args, *(workers.beam_args if workers else ())]
    hint = workers.hint.get("accelerator", "") if workers else ""
    check(submission_of(all_args, streaming=streaming), paths, right_fit=hint)
    return Resources(
        beam_args=all_args,
        workers=workers,
        batch_size=workers.batch_size if workers else options.batch_size or CPU_BATCH_SIZE,
        decode_threads=workers.decode_threads if workers else options.decode_threads,
    )


def hinted(infer: beam.PTransform, resources: Resources | None) -> beam.PTransform:
    """Inference, on workers of its own where that is asked for."""
    hint = resources.workers.hint if resources and resources.workers else {}
    return infer.with_resource_hints(**hint) if hint else infer


def check_numbers(options: ModelOptions) -> None:
    """Checks those that are checked nowhere else.

    Raises:
      UsageError: a number is out of range.
    """
    for name in ("batch_size", "decode_threads"):
        if getattr(options, name) < 0:
            raise UsageError(f"--{name} is {getattr(options, name)}; it must be 0 or more")


def asked_of(options: Any, beam_args: list[str]) -> Asked:
    """What the command line says of workers, in our options and Beam's."""
    from apache_beam.options.pipeline_options import DebugOptions, WorkerOptions

    from beam_vision.pipelines import job as jobs

    beam_options = jobs.beam_options(beam_args)
    workers = beam_options.view_as(WorkerOptions)
    return Asked(
        gpu=options.gpu,
        gpu_count=options.gpu_count,
        right_fit=options.right_fit,
        machine_type=workers.machine_type or "",
        threads=beam_options.view_as(DebugOptions).number_of_worker_harness_threads or 0,
        disk_gb=workers.disk_size_gb or 0,
        decode_threads=options.decode_threads,
        batch_size=options.batch_size,
    )


def fits_model(options: Any, model_format: str) -> None:
    """Checks that the model can run on the GPUs that are asked for.

    Raises:
      UsageError: it runs on CPUs alone.
    """
    from beam_vision.inference.devices import GPU_FORMATS

    asked = f"--gpu {options.gpu}" if options.gpu else "--require_gpu" if options.require_gpu else ""
    if asked and model_format not in GPU_FORMATS:
        raise UsageError(
            f"{asked}: a model in the format {model_format} runs on CPUs alone; leave it out, or take the "
            "model as a SavedModel"
        )
