"""``beam-vision plan JOB``: how long a job takes, on how many workers, and what it costs, from a sample."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines import plan_work
from beam_vision.pipelines.options import find_source, make_parser, parse, source_facts
from beam_vision.pipelines.plan_options import (
    PlanOptions,
    PredictOptions,
    StreamOptions,
    TfrecordsOptions,
    check,
    gpu_speeds,
)

if TYPE_CHECKING:
    from beam_vision.planning.estimate import Assumed
    from beam_vision.planning.model import Work
    from beam_vision.planning.prices import Machine, Prices
    from beam_vision.planning.render import Plan

NAME = "plan"
_ABOUT = (__doc__ or "").partition(": ")[2]
Options = PlanOptions
"""What every plan takes; the options of the job that is planned come with them."""


@dataclass(frozen=True)
class Planned:
    """A job that can be planned.

    Attributes:
      options: its own options and the plan's.
      work_of: checks them, and makes its work of them.
      example: of a command.
    """

    options: type
    work_of: Callable[[Any], Work]
    example: str


PLANNED = {
    "predict": Planned(
        PredictOptions,
        plan_work.of_predict,
        "beam-vision plan predict --task embed --images gs://bucket/photos/ --model model/",
    ),
    "stream": Planned(
        StreamOptions,
        plan_work.of_stream,
        "beam-vision plan stream --task classify --images frames/ --model model/ --images_per_sec 200",
    ),
    "create-tfrecords": Planned(
        TfrecordsOptions,
        plan_work.of_create_tfrecords,
        "beam-vision plan create-tfrecords --images gs://bucket/photos/",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What Beam's own options say of the workers.

    Attributes:
      machine_type: of ``--worker_machine_type``; empty: any.
      most_workers: of ``--max_num_workers``; 0: as many as it takes.
    """

    machine_type: str = ""
    most_workers: int = 0


def wanted_workers(beam_args: list[str]) -> Wanted:
    """Reads them."""
    from apache_beam.options.pipeline_options import WorkerOptions

    if not beam_args:
        return Wanted()
    worker = jobs.beam_options(beam_args).view_as(WorkerOptions)
    return Wanted(machine_type=worker.machine_type or "", most_workers=worker.max_num_workers or 0)


def machines_of(prices: Prices, machine_type: str, gpu: str = "") -> Sequence[Machine]:
    """The types of worker to plan for; with ``gpu`` those with that one and those without any.

    Raises:
      UsageError: the price table doesn't hold the one that is asked for.
    """
    chosen = [item for item in prices.machines if machine_type in ("", item.name)]
    if not chosen:
        names = ", ".join(dict.fromkeys(item.name for item in prices.machines))
        raise UsageError(
            f"--worker_machine_type {machine_type} is not in the price table, which has {names}; add it to a "
            "copy of the table and give that as --prices"
        )
    if gpu and gpu not in prices.gpu_hour:
        raise UsageError(f"--gpu {gpu} has no price in the price table; add it to a copy, given as --prices")
    return [item for item in chosen if not gpu or item.gpu in ("", gpu)]


def make_plan(name: str, options: Any, beam_args: list[str]) -> Plan:
    """Samples, measures and estimates.

    Args:
      name: of :data:`PLANNED`.
      options: of its kind.
      beam_args: ``--max_num_workers`` and ``--worker_machine_type`` count.

    Raises:
      UsageError: the job can't run as asked, or nothing can be measured.
    """
    from beam_vision.planning.assemble import assemble, measure
    from beam_vision.planning.prices import read_prices
    from beam_vision.planning.sample import take_sample

    check(options)
    source, prices, wanted = find_source(options), read_prices(options.prices), wanted_workers(beam_args)
    machines, speeds = (
        machines_of(prices, wanted.machine_type, getattr(options, "gpu", "")),
        gpu_speeds(options, prices),
    )
    assumed = assumed_of(options, speeds, wanted)
    work = PLANNED[name].work_of(options)  # a model that isn't there is said before anything is listed
    jobs.say("listing...")
    sample = take_sample(source, options.sample, seed=options.seed, limit=options.limit)
    if not sample.images:
        raise UsageError(f"--images {options.images or options.query}: no image is listed, so none measured")
    jobs.say(f"measuring {len(sample.images):,} of {sample.total:,} images...")
    measured = measure(work, sample, repeats=options.repeats, seed=options.seed)
    images = options.total_images
    if isinstance(options, StreamOptions):
        images = max(1, round(3600 * options.images_per_sec))
    return assemble(name, work, measured, prices, assumed, machines=machines, images=images)


def assumed_of(options: PlanOptions, speeds: dict[str, float], wanted: Wanted) -> Assumed:
    """What the options say of what can't be measured.

    Raises:
      UsageError: a number is out of range.
    """
    from beam_vision.planning.estimate import Assumed

    if isinstance(options, StreamOptions):
        return Assumed(
            efficiency=options.efficiency,
            vcpu_speed=options.vcpu_speed,
            startup_cpu_sec=0.0,
            startup_gpu_sec=0.0,
            most_workers=wanted.most_workers,
            gpu_images_per_sec=speeds,
            mode="streaming",
        )
    return Assumed(
        efficiency=options.efficiency,
        vcpu_speed=options.vcpu_speed,
        deadline_sec=3600 * options.deadline_hours,
        most_workers=wanted.most_workers,
        gpu_images_per_sec=speeds,
    )


def preflight(name: str, options: Any) -> dict[str, Any]:
    """Checks what can be checked without measuring.

    Raises:
      UsageError: something isn't there, or an option is out of range.
    """
    from beam_vision.planning.prices import read_prices

    check(options)
    prices = read_prices(options.prices)
    return {
        "job": f"{NAME} {name}",
        "images": source_facts(find_source(options)),
        "sample": options.sample,
        "prices": {"date": prices.date, "region": prices.region, "currency": prices.currency},
        "gpu_images_per_sec": gpu_speeds(options, prices),
    }


def usage() -> str:
    """The text of ``beam-vision plan --help``: the options of every plan, and which jobs there are."""
    description = (
        f"{_ABOUT}\n\nJOB is one of {', '.join(PLANNED)}; its own options follow it, and those below. "
        "`beam-vision plan JOB --help` shows them all."
    )
    example = "\n  ".join(item.example for item in PLANNED.values())
    return make_parser(f"{NAME} JOB", PlanOptions, description=description, example=example).format_help()


def run(argv: list[str]) -> int:
    """Runs the job.

    Raises:
      UsageError: it can't run as asked.
    """
    if not argv or argv[0] in ("-h", "--help"):
        jobs.emit(usage())
        return 0 if argv else 2
    name = argv[0]
    if name not in PLANNED:
        raise UsageError(f"{name!r} can't be planned; the jobs that can are {', '.join(PLANNED)}")
    planned = PLANNED[name]
    parser = make_parser(f"{NAME} {name}", planned.options, description=_ABOUT, example=planned.example)
    options, beam_args = parse(parser, planned.options, argv[1:])
    if options.preflight_only:
        return jobs.show_plan(preflight(name, options))
    made = make_plan(name, options, beam_args)
    from beam_vision.planning import render

    if options.summary:
        from beam_vision import storage

        storage.write_json(options.summary, render.to_json(made))
    if options.output_format == "json":
        jobs.emit(json.dumps(render.to_json(made), indent=2, sort_keys=True))
    else:
        jobs.emit(render.render(made))
    return 0
