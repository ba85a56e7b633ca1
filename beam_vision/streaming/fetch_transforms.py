"""Reads the images of frames that brought only a URI."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import FAILED
from beam_vision.sources.reader import ImageReader
from beam_vision.stream_types import OBSERVED, DeadLetter, Frame
from beam_vision.streaming.dead import dead_letter
from beam_vision.streaming.parse_transforms import failed_outputs
from beam_vision.types import EncodedImage, Failure

MAX_FETCH_BYTES = 32 * 2**20
RETRY_DELAYS_SEC = (0.1, 0.4, 1.6)
"""Shorter than a batch job's: what comes after it waits."""
MOST_WAITING = 64
"""Frames of a bundle that are read together; so many files are held at most, while the first is slow."""


class Fetched(NamedTuple):
    """What :class:`FetchFrames` gives: ``frames in == frames out + dead``.

    Attributes:
      frames: PCollection of Frame, all with their bytes, at the times that they had.
      dead: PCollection of DeadLetter.
      observed: PCollection of Observation, one for each dead letter.
    """

    frames: beam.PCollection
    dead: beam.PCollection
    observed: beam.PCollection


class FetchFrames(beam.PTransform):
    """PCollection[Frame] -> :class:`Fetched`: frames without bytes are read by their URIs.

    A frame that has its bytes passes as it is, at once. The others of a bundle are read together in a pool of
    threads and given in the order in which they came. A transient error is tried again, with an end.

    Args:
      max_file_bytes: a larger file is a failure ``too_many_bytes``.
      threads: how many files are read at a time.
      retry_delays_sec: how long to wait before each further attempt.
      run_id: stands in each failure.
    """

    def __init__(
        self,
        *,
        max_file_bytes: int = MAX_FETCH_BYTES,
        threads: int = 16,
        retry_delays_sec: tuple[float, ...] = RETRY_DELAYS_SEC,
        run_id: str = "",
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {
            "max_file_bytes": max_file_bytes,
            "threads": threads,
            "retry_delays_sec": retry_delays_sec,
            "run_id": run_id,
        }

    def expand(self, frames: beam.PCollection) -> Fetched:
        """Reads what has to be read."""
        fetched = frames | "ReadImages" >> beam.ParDo(FetchDoFn(**self._options)).with_outputs(
            FAILED, OBSERVED, main="frames"
        )
        return Fetched(fetched.frames, fetched[FAILED], fetched[OBSERVED])


@dataclass(frozen=True)
class _Waiting:
    """A frame that has to be read, with the time and the window that it came with."""

    frame: Frame
    timestamp: Any
    window: Any

    def windowed(self, value: Any) -> WindowedValue:
        return WindowedValue(value, self.timestamp, (self.window,))


class FetchDoFn(beam.DoFn):
    """Frame -> Frame with its bytes, or DeadLetter under ``failed`` and its Observation under ``observed``.

    Args:
      run_id: stands in each failure.
      options: of :class:`~beam_vision.sources.reader.ImageReader`.
    """

    def __init__(self, *, run_id: str = "", **options: Any) -> None:
        self._run_id = run_id
        self._options = options

    def setup(self) -> None:
        """Makes the pool; its threads start when there is something to read."""
        self._reader = ImageReader(run_id=self._run_id, **self._options)

    def start_bundle(self) -> None:
        """Forgets what a failed bundle left."""
        self._waiting: list[_Waiting] = []

    def process(
        self, frame: Frame, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
    ) -> Iterator[Any]:
        """Lets a frame pass, or keeps it for the others of its bundle."""
        if frame.image.data:
            yield frame
            return
        self._waiting.append(_Waiting(frame, timestamp, window))
        if len(self._waiting) >= MOST_WAITING:
            yield from self._read()

    def finish_bundle(self) -> Iterator[Any]:
        """Reads those that wait."""
        yield from self._read()

    def teardown(self) -> None:
        """Ends the threads."""
        self._reader.close()

    def _read(self) -> Iterator[Any]:
        """Reads all that wait, and gives each as soon as those before it are given."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        outcomes: dict[int, bytes | Failure] = {}
        given, seconds = 0, 0.0
        for read in self._reader.read_all(one.frame.image.ref for one in waiting):
            seconds += read.seconds
            outcomes[id(read.ref)] = read.outcome
            while given < len(waiting) and id(waiting[given].frame.image.ref) in outcomes:
                one = waiting[given]
                given += 1
                yield from self._give(one, outcomes[id(one.frame.image.ref)])
        metrics.observe(metrics.READ_MS, 1000 * seconds)

    def _give(self, one: _Waiting, outcome: bytes | Failure) -> Iterator[Any]:
        fetched = with_bytes(one.frame, outcome, self._run_id)
        if isinstance(fetched, Frame):
            yield one.windowed(fetched)
            return
        for tag, value in failed_outputs(fetched):
            yield TaggedOutput(tag, one.windowed(value))


def with_bytes(frame: Frame, outcome: bytes | Failure, run_id: str = "") -> Frame | DeadLetter:
    """A frame with what came of reading its image, which is counted, or the dead letter in its place."""
    image = frame.image
    if isinstance(outcome, bytes) and outcome:
        metrics.count(metrics.READ)
        metrics.count(metrics.READ_BYTES, len(outcome))
        return dataclasses.replace(frame, image=EncodedImage(image.ref, outcome))
    error = outcome or VisionError(Reason.EMPTY, f"{image.ref.uri} is an empty file")
    return dead_letter(error, frame, Stage.READ, run_id)
