"""What each sampled image is, and what it takes here: seconds of a CPU, which other work doesn't lengthen."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from beam_vision.errors import Stage, VisionError
from beam_vision.failures import Guard
from beam_vision.images.codec import Header, read_header
from beam_vision.planning.sample import Wanted
from beam_vision.sources import tfrecord
from beam_vision.sources.files import read_image
from beam_vision.types import Failure, ImageRef

MOST_REPEATED_SEC = 1.0
"""Work on one image is repeated no longer than this."""


@dataclass(frozen=True)
class Step:
    """Something a job does to each image, on a CPU.

    Attributes:
      name: what it is called in the table, e.g. ``decode``.
      work: takes the file's bytes; gives how many rows the model gets of it (0: none). A
        :class:`~beam_vision.errors.VisionError` is a failure of the image.
    """

    name: str
    work: Callable[[bytes], int]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One sampled image.

    Attributes:
      ref: which.
      n_bytes: size of its file; 0 when it couldn't be read.
      header: what it says of itself; None when it says nothing readable.
      read_wall_sec: how long reading it took, waiting included.
      read_cpu_sec: of that, on the CPU.
      steps_sec: CPU seconds by the step's name; the steps after a failure are missing.
      rows: how many rows the model gets of it.
      failure: what went wrong first.
    """

    ref: ImageRef
    n_bytes: int = 0
    header: Header | None = None
    read_wall_sec: float = 0.0
    read_cpu_sec: float = 0.0
    steps_sec: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    failure: Failure | None = None

    @property
    def cpu_sec(self) -> float:
        """CPU seconds that it takes before the model, reading it once."""
        return self.read_cpu_sec + sum(self.steps_sec.values())


@dataclass(frozen=True)
class Timed:
    """A batch that was run: the model's time, and that of what is made of its outputs.

    Attributes:
      rows: rows of the batch.
      cpu_sec: CPU seconds of the model, over all its threads.
      wall_sec: seconds it took, with the cores there are.
      results_sec: CPU seconds to make results of its outputs.
      failed: rows that the model failed on.
    """

    rows: int
    cpu_sec: float
    wall_sec: float
    results_sec: float = 0.0
    failed: int = 0


def look(wanted: Iterable[Wanted], steps: Sequence[Step], *, repeats: int = 3) -> Iterator[Seen]:
    """Opens each image and does each step to it, one image after the other.

    Args:
      wanted: of a sample.
      steps: the job's, in their order.
      repeats: how often a step is timed; its time is the median. The first image is done once more, before,
        so that nothing is timed cold.
    """
    is_warm = False
    for item in wanted:
        if not is_warm:
            _look(item, steps, 1)
            is_warm = True
        yield _look(item, steps, repeats)


def _look(item: Wanted, steps: Sequence[Step], repeats: int) -> Seen:
    ref = item if isinstance(item, ImageRef) else ImageRef(key=item.key, uri=item.uri, labels=item.labels)
    wall, cpu = time.monotonic(), time.thread_time()
    data = Guard(_read, Stage.READ)(ref, item)
    read_wall_sec, read_cpu_sec = time.monotonic() - wall, time.thread_time() - cpu
    if isinstance(data, Failure):
        return Seen(ref=ref, read_wall_sec=read_wall_sec, read_cpu_sec=read_cpu_sec, failure=data)
    header = Guard(read_header, Stage.DECODE)(ref, data)
    steps_sec: dict[str, float] = {}
    rows, failed = 0, None
    for step in steps:
        made, steps_sec[step.name] = _timed(step, ref, data, repeats)
        if isinstance(made, Failure):
            failed = made
            break
        rows = max(rows, made)
    return Seen(
        ref=ref,
        n_bytes=len(data),
        header=header if isinstance(header, Header) else None,
        read_wall_sec=read_wall_sec,
        read_cpu_sec=read_cpu_sec,
        steps_sec=steps_sec,
        rows=0 if failed else rows,
        failure=failed,
    )


def _read(item: Wanted) -> bytes:
    """The bytes of a file, or of the image in a record."""
    if isinstance(item, ImageRef):
        return read_image(item.uri)
    (image,) = tfrecord.read_chunk(item.shard, [item])
    if isinstance(image, VisionError):
        raise image
    return image.data


def _timed(step: Step, ref: ImageRef, data: bytes, repeats: int) -> tuple[int | Failure, float]:
    """What a step gives, and the median of its CPU seconds."""
    guard, times = Guard(step.work, Stage.DECODE), []
    while True:
        start = time.thread_time()
        made = guard(ref, data)
        times.append(time.thread_time() - start)
        if len(times) >= repeats or sum(times) > MOST_REPEATED_SEC:
            return made, statistics.median(times)
