"""Measures a sample and puts a plan together, with its assumptions in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from beam_vision.errors import UsageError
from beam_vision.inference.decoding import cores
from beam_vision.planning.estimate import BEAM, READS_AT_ONCE, Assumed, Draws, Estimate, Range, draw, estimate
from beam_vision.planning.lake import describe, images_text
from beam_vision.planning.measure import Seen, Timed, look
from beam_vision.planning.model import Work
from beam_vision.planning.prices import Machine, Prices
from beam_vision.planning.render import Plan, StepTime
from beam_vision.planning.sample import Sample

BATCHES = 5
"""Batches of the model that are timed, at least."""
ROUGH_IMAGES = 30
"""With fewer images in the sample, a note says that the plan is rough: resamples of a few images are too much
alike, so that intervals are too narrow."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured.

    Attributes:
      sample: what was looked at, and how much there is.
      seen: each of its images.
      timed: batches of the model; none for a job without one.
      draws: their means over resamples.
    """

    sample: Sample
    seen: tuple[Seen, ...]
    timed: tuple[Timed, ...]
    draws: Draws


def measure(work: Work, sample: Sample, *, repeats: int = 3, seed: int = 0) -> Measured:
    """Does a job's work to a sample, and times it.

    Raises:
      UsageError: nothing could be measured: no image could be read, or none prepared for the model.
    """
    seen = tuple(look(sample.images, work.steps, repeats=repeats))
    bad = next((item.failure for item in seen if item.failure), None)
    if bad and all(item.failure for item in seen):
        raise UsageError(f"all {len(seen)} images that were looked at failed, the first with: {bad.detail}")
    timed = tuple(work.model.time_batches(max(repeats, BATCHES))) if work.model else ()
    draws = draw(seen, timed, reads=work.reads, beam_ms=work.beam_ms, seed=seed)
    return Measured(sample=sample, seen=seen, timed=timed, draws=draws)


def assemble(
    job: str,
    work: Work,
    measured: Measured,
    prices: Prices,
    assumed: Assumed,
    *,
    machines: Iterable[Machine] | None = None,
    images: int = 0,
) -> Plan:
    """The plan of a job.

    Args:
      job: its name.
      work: what it does.
      measured: what that takes here.
      prices: of workers.
      assumed: what can't be measured here.
      machines: the types of worker; None: all of the price table. Without a model none with a GPU.
      images: how many it is for; 0: as many as are listed.
    """
    sample, draws = measured.sample, measured.draws
    images = images or sample.total
    chosen = [item for item in machines or prices.machines if work.model or not item.gpu]
    shuffled_bytes = work.shuffled_bytes + work.shuffles / work.reads * float(np.median(draws.n_bytes))
    workers = [
        estimate(machine, images, draws, prices, assumed, shuffled_bytes=shuffled_bytes) for machine in chosen
    ]
    here = Machine(name="this machine", vcpus=cores(), memory_gb=0, disk_gb=0)
    wall = _positive(draws.model_wall_sec)
    return Plan(
        job=job,
        mode=assumed.mode,
        images=images,
        lake=describe(
            measured.seen, total=sample.total, exact=sample.exact, listing_failed=dict(sample.failed)
        ),
        steps=_steps(draws),
        model_images_per_sec=Range.of(1 / wall) if work.model else None,
        here=estimate(here, images, draws, prices, replace(assumed, vcpu_speed=1.0, startup_cpu_sec=0.0)),
        workers=tuple(sorted(workers, key=lambda item: item.cost_per_million.value)),
        prices={name: getattr(prices, name) for name in ("date", "region", "currency", "source", "note")},
        assumptions=tuple(_assumptions(work, prices, assumed, chosen)),
        notes=(*work.notes, *_notes(work, measured, workers)),
    )


def _positive(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 1e-9)


def _steps(draws: Draws) -> tuple[StepTime, ...]:
    """In the order in which they are done."""
    steps = dict(draws.steps_sec)
    if draws.model_sec.any():
        results = steps.pop("results")
        steps |= {"model": draws.model_sec, "results": results}
    steps[BEAM] = steps.pop(BEAM)
    total = float(np.median(draws.side_sec + draws.model_sec)) or 1.0
    return tuple(
        StepTime(name, Range.of(1000 * values), float(np.median(values)) / total)
        for name, values in steps.items()
    )


def _assumptions(work: Work, prices: Prices, assumed: Assumed, machines: Sequence[Machine]) -> Iterable[str]:
    """What the figures rest on, besides what was measured."""
    yield (
        f"a worker's vCPU is {assumed.vcpu_speed:g} times as fast as a core here (--vcpu_speed), and "
        f"{assumed.efficiency:.0%} of its time goes into the steps above (--efficiency); the rest is waiting"
    )
    yield f"Beam and the job around its steps take {work.beam_ms:g} ms an image (NOT measured now)"
    gpus = dict.fromkeys(machine.gpu for machine in machines if machine.gpu)
    yield from (_gpu_assumption(gpu, prices, assumed) for gpu in gpus)
    yield _time_assumption(assumed, with_gpu=bool(gpus))
    yield (
        f"each vCPU reads {READS_AT_ONCE} files at a time, each as fast as one was read from here; "
        "the network and the storage keep up"
    )
    yield (
        f"list prices of Dataflow ({assumed.mode}, {prices.region}, {prices.date}; {prices.source}): vCPUs, "
        "memory, disk, GPUs and shuffle; storage, BigQuery and what leaves the region are not in it"
    )


def _time_assumption(assumed: Assumed, *, with_gpu: bool) -> str:
    if assumed.mode == "streaming":
        return "workers run all the time, as many as it takes; an hour is planned"
    startup = f"{assumed.startup_cpu_sec / 60:g} min"
    if with_gpu:
        startup += f", {assumed.startup_gpu_sec / 60:g} min with a GPU (its driver is installed)"
    return f"a worker works after {startup}; the job is to be done in {assumed.deadline_sec / 3600:g} h"


def _gpu_assumption(gpu: str, prices: Prices, assumed: Assumed) -> str:
    if gpu in assumed.gpu_images_per_sec:
        rate = assumed.gpu_images_per_sec[gpu]
        return f"one {gpu} runs the model on {rate:,g} images/s, as --gpu_images_per_sec says"
    low, likely, high = prices.gpu_speed_vcpus[gpu]
    return (
        f"one {gpu} runs the model as fast as {likely:g} ({low:g} to {high:g}) vCPUs: a factor of the price "
        f"table, NOT measured; --gpu_images_per_sec {gpu}=N replaces it"
    )


def _notes(work: Work, measured: Measured, workers: Sequence[Estimate]) -> Iterable[str]:
    seen, sample = measured.seen, measured.sample
    if len(seen) < ROUGH_IMAGES:
        remedy = "raise --sample" if len(seen) < sample.total else "give more images that are like those"
        yield f"only {images_text(len(seen))} looked at: figures are rough, their intervals narrow; {remedy}"
    if not sample.exact:
        yield "the images were counted in some of the shards, and the others taken to be like them"
    failed = sum(item.failed for item in measured.timed)
    if failed:
        rows = sum(item.rows for item in measured.timed)
        yield f"the model failed on {failed} of {rows} rows; each such batch is run in parts, which is slow"
    late = [item.machine.shown for item in workers if not item.in_time]
    if late:
        yield (
            f"not done in time: {', '.join(late)}; give a longer --deadline_hours or more --max_num_workers"
        )
    if work.model is not None and work.model.process_bytes:
        yield from _memory_note(work.model.process_bytes / 2**30, [item.machine for item in workers])


def _memory_note(needed_gb: float, machines: Sequence[Machine]) -> Iterable[str]:
    small = [item.name for item in machines if not item.gpu and needed_gb * item.vcpus > item.memory_gb]
    if small:
        yield (
            f"a process with the model loaded holds {needed_gb:.1f} GB here, and Dataflow starts one a vCPU, "
            f"which {', '.join(small)} can't hold: --experiments=no_use_multiple_sdk_containers makes it one"
        )
