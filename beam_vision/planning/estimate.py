"""From what images take here to what workers need, with the uncertainty of the sample and of the factors.

For a worker with ``V`` vCPUs and ``G`` GPUs, all per image and per second::

    CPU side   = V * efficiency * vcpu_speed / (CPU seconds of reading, decoding, results [+ model: no GPU])
    model side = G * gpu_images_per_sec                                              (with a GPU)
    reading    = V * READS_AT_ONCE / (seconds to read a file)
    Python     = 1 / (CPU seconds of results and Beam)     (with a GPU: one process, and one thread at a time)
    rate       = the least of them

Every figure is computed for :data:`DRAWS` resamples of the images and of the timed batches (bootstrap,
Efron 1979), each with a GPU's factor drawn from its range; shown are the median and what holds nine of ten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from beam_vision.errors import UsageError
from beam_vision.planning.measure import Seen, Timed
from beam_vision.planning.prices import Machine, Prices

DRAWS = 1000
READS_AT_ONCE = 16
"""Files that a process reads at a time (``ReadImages``), with one process or one bundle a vCPU."""
BEAM = "Beam"
ONE_PROCESS = "Python in one process"
_QUANTILES = (0.5, 0.05, 0.95)


@dataclass(frozen=True)
class Range:
    """A figure: its median, and between what nine of ten draws lie."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> Range:
        """Of draws ``[DRAWS]``."""
        return cls(*(float(item) for item in np.quantile(draws, _QUANTILES)))


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What can't be measured here.

    Attributes:
      efficiency: the share of a vCPU's time that a job's steps get; the rest is waiting, more so at the
        end of a job.
      vcpu_speed: how fast one vCPU of a worker is, in cores of this machine.
      startup_cpu_sec, startup_gpu_sec: until a worker works; with a GPU its driver is installed, too.
      deadline_sec: the job is to be done in; decides how many workers there are.
      most_workers: there are no more; 0: as many as it takes.
      gpu_images_per_sec: by GPU, where it was measured: in place of the table's factor.
      mode: ``batch`` or ``streaming``: which prices hold; workers of a stream run until the deadline.
    """

    efficiency: float = 0.8
    vcpu_speed: float = 1.0
    startup_cpu_sec: float = 180.0
    startup_gpu_sec: float = 480.0
    deadline_sec: float = 3600.0
    most_workers: int = 0
    gpu_images_per_sec: Mapping[str, float] = field(default_factory=dict)
    mode: str = "batch"

    def __post_init__(self) -> None:
        if not 0 < self.efficiency <= 1:
            raise UsageError(f"--efficiency is {self.efficiency}; it must be in 0..1, more than 0")
        if not self.vcpu_speed > 0:
            raise UsageError(f"--vcpu_speed is {self.vcpu_speed}; it must be more than 0")
        if not self.deadline_sec > 0:
            raise UsageError(f"the deadline is {self.deadline_sec} s; it must be more than 0")
        for gpu, rate in self.gpu_images_per_sec.items():
            if not rate > 0:
                raise UsageError(f"--gpu_images_per_sec {gpu}={rate}: it must be more than 0")

    def startup_sec(self, machine: Machine) -> float:
        """Until a worker of this type works."""
        return self.startup_gpu_sec if machine.gpu else self.startup_cpu_sec


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Means over resamples, each ``[DRAWS]``.

    Attributes:
      side_sec: CPU seconds an image before and after the model, all readings of it included.
      steps_sec: the parts of it, by name.
      model_sec: CPU seconds of the model for an image.
      model_wall_sec: the same as seconds it took here.
      read_wall_sec: seconds to read a file, waiting included.
      n_bytes: size of a file.
      factor: 0..1, where in its range a GPU's factor lies.
    """

    side_sec: np.ndarray
    steps_sec: Mapping[str, np.ndarray]
    model_sec: np.ndarray
    model_wall_sec: np.ndarray
    read_wall_sec: np.ndarray
    n_bytes: np.ndarray
    factor: np.ndarray


def draw(
    seen: Sequence[Seen],
    timed: Sequence[Timed],
    *,
    reads: int = 1,
    beam_ms: float = 0.0,
    seed: int = 0,
    draws: int = DRAWS,
) -> Draws:
    """Resamples images and batches.

    Args:
      seen: at least one.
      timed: batches of the model; none where there is no model.
      reads: how often each file is read.
      beam_ms: CPU milliseconds an image for what is in no step.
      seed: the same gives the same draws.
      draws: how many.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(seen), (draws, len(seen)))

    def mean(values: Sequence[float]) -> np.ndarray:
        return np.asarray(values, np.float64)[picks].mean(axis=1)

    rows = mean([item.rows for item in seen])
    names = dict.fromkeys(name for item in seen for name in item.steps_sec)
    steps = {"read": reads * mean([item.read_cpu_sec for item in seen])}
    steps |= {name: mean([item.steps_sec.get(name, 0.0) for item in seen]) for name in names}
    model, wall = np.zeros(draws), np.zeros(draws)
    if timed:
        batches = rng.integers(0, len(timed), (draws, len(timed)))
        cpu, waited, results = (
            np.array([value / item.rows for value, item in zip(values, timed, strict=True)])[batches].mean(1)
            for values in zip(
                *((item.cpu_sec, item.wall_sec, item.results_sec) for item in timed), strict=True
            )
        )
        model, wall = rows * cpu, rows * waited
        steps["results"] = rows * results
    steps[BEAM] = np.full(draws, beam_ms / 1000)
    return Draws(
        side_sec=np.sum(list(steps.values()), axis=0),
        steps_sec=steps,
        model_sec=model,
        model_wall_sec=wall,
        read_wall_sec=reads * mean([item.read_wall_sec for item in seen]),
        n_bytes=reads * mean([item.n_bytes for item in seen]),
        factor=rng.random(draws),
    )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job takes on one type of worker.

    Attributes:
      machine: the type.
      images_per_sec: of one worker, once it works.
      limit: what limits it: a step's name, ``model`` or ``waiting for files``.
      workers: how many, to be done by the deadline (or as many as are allowed).
      run_sec: how long the job takes with them, start-up included.
      in_time: whether that is by the deadline, for the median.
      cost: of the job, with start-up.
      cost_per_million: of a million images, without start-up; of a stream at the planned rate.
      gpu_busy: the share of time that its GPU works; None without one.
      vcpus_per_gpu: with fewer vCPUs a GPU waits for decoding; None without a GPU.
      worker_hour: what a worker costs an hour.
    """

    machine: Machine
    images_per_sec: Range
    limit: str
    workers: int
    run_sec: Range
    in_time: bool
    cost: Range
    cost_per_million: Range
    gpu_busy: Range | None
    vcpus_per_gpu: Range | None
    worker_hour: float


def gpu_rate(gpu: str, draws: Draws, prices: Prices, assumed: Assumed) -> np.ndarray:
    """Images/s of one GPU, ``[DRAWS]``: as measured, else as many vCPUs as the table says it stands for."""
    if gpu in assumed.gpu_images_per_sec:
        return np.full(len(draws.factor), assumed.gpu_images_per_sec[gpu])
    logs = np.log(prices.gpu_speed_vcpus[gpu])
    vcpus = np.exp(np.interp(draws.factor, (0, 0.5, 1), logs))
    return vcpus * assumed.vcpu_speed / draws.model_sec


def estimate(
    machine: Machine,
    images: int,
    draws: Draws,
    prices: Prices,
    assumed: Assumed,
    *,
    shuffled_bytes: float = 0.0,
) -> Estimate:
    """What ``images`` take on workers of one type, when each shuffles so many bytes."""
    vcpus = machine.vcpus * assumed.efficiency * assumed.vcpu_speed
    on_gpu = bool(machine.gpu) and bool(draws.model_sec.any())
    busy_sec = draws.side_sec if on_gpu else draws.side_sec + draws.model_sec
    sides = {"cpu": vcpus / _positive(busy_sec)}
    sides["waiting for files"] = machine.vcpus * READS_AT_ONCE / _positive(draws.read_wall_sec)
    ratio = None
    if on_gpu:
        rate_of_one = gpu_rate(machine.gpu, draws, prices, assumed)
        sides["model"] = machine.gpus * rate_of_one
        sides[ONE_PROCESS] = assumed.vcpu_speed / _positive(
            draws.steps_sec["results"] + draws.steps_sec[BEAM]
        )
        ratio = rate_of_one * draws.side_sec / (assumed.efficiency * assumed.vcpu_speed)
    rate = np.min(list(sides.values()), axis=0)
    workers = workers_for(images, float(np.median(rate)), assumed.startup_sec(machine), assumed)
    run_sec = assumed.startup_sec(machine) + images / (workers * rate)
    in_time = float(np.median(run_sec)) <= assumed.deadline_sec * (1 + 1e-9)
    hour = prices.worker_hour(machine, assumed.mode)
    shuffle = shuffled_bytes / 2**30 * prices.shuffle_gb[assumed.mode]
    paid = np.full_like(rate, workers)
    if assumed.mode == "streaming":  # workers stay, whether there is work or not
        run_sec = np.full_like(rate, assumed.deadline_sec)
        paid = np.minimum(
            np.ceil(images / (rate * assumed.deadline_sec) - 1e-9), assumed.most_workers or images
        )
    cost = paid * run_sec / 3600 * hour + images * shuffle
    each = cost / images if assumed.mode == "streaming" else hour / 3600 / rate + shuffle
    return Estimate(
        machine=machine,
        images_per_sec=Range.of(rate),
        limit=limit_of(sides, draws, on_gpu=on_gpu),
        workers=workers,
        run_sec=Range.of(run_sec),
        in_time=in_time,
        cost=Range.of(cost),
        cost_per_million=Range.of(each * 1e6),
        gpu_busy=Range.of(rate / sides["model"]) if on_gpu else None,
        vcpus_per_gpu=None if ratio is None else Range.of(ratio),
        worker_hour=hour,
    )


def _positive(values: np.ndarray) -> np.ndarray:
    """No less than a nanosecond, so that what takes no time at all divides nothing by zero."""
    return np.maximum(values, 1e-9)


def workers_for(images: int, images_per_sec: float, startup_sec: float, assumed: Assumed) -> int:
    """How many workers are done by the deadline, at least 1; all that are allowed where that is too few."""
    left_sec = assumed.deadline_sec - startup_sec
    most = assumed.most_workers or images
    wanted = most if left_sec <= 0 else math.ceil(images / (images_per_sec * left_sec) - 1e-9)
    return max(1, min(wanted, most))


def limit_of(sides: Mapping[str, np.ndarray], draws: Draws, *, on_gpu: bool) -> str:
    """What limits a worker: of the CPU side the step that takes most of its time."""
    slowest = min(sides, key=lambda name: float(np.median(sides[name])))
    if slowest != "cpu":
        return slowest
    steps = dict(draws.steps_sec) if on_gpu else {**draws.steps_sec, "model": draws.model_sec}
    return max(steps, key=lambda name: float(np.median(steps[name])))
