"""An archive's frames, watched camera by camera as a live stream is; only refs are shuffled."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.failures import FAILED
from beam_vision.sources.reader import ImageReader
from beam_vision.stream_types import OBSERVED, DeadLetter, Frame, Observation, StreamRow
from beam_vision.streaming import archive, camera
from beam_vision.streaming.camera_transforms import Watched
from beam_vision.streaming.camera_watch import ALERTS, Watch
from beam_vision.streaming.fetch_transforms import MAX_FETCH_BYTES, with_bytes
from beam_vision.streaming.health import WatchSettings
from beam_vision.streaming.parse_transforms import failed_outputs
from beam_vision.types import Failure

Keyed = tuple[str, tuple[int, str, bytes]]
"""A camera and one of its frames, packed."""

_DEFAULTS = WatchSettings()


class WatchArchive(beam.PTransform):
    """``PCollection[Frame]``, bounded, of frames without bytes -> :class:`Watched`, with their bytes.

    ``frames in == frames out + dead + gated + repetitions`` (both among what is observed). Frames are brought
    together by camera, put in order, read ahead in a pool of threads, and taken in one by one as a live
    stream's are. The refs of one camera, about 500 bytes each, have to fit into a worker's memory.

    Args:
      settings: when a frame is like another, and when a camera is ill.
      run_id: stands in each alert and failure.
      max_file_bytes: a larger file is a failure ``too_many_bytes``.
      threads: how many files are read at a time.
    """

    def __init__(
        self,
        settings: WatchSettings = _DEFAULTS,
        *,
        run_id: str = "",
        max_file_bytes: int = MAX_FETCH_BYTES,
        threads: int = 16,
    ) -> None:
        super().__init__()
        self._dofn = WatchArchiveDoFn(settings, run_id=run_id, max_file_bytes=max_file_bytes, threads=threads)

    def expand(self, frames: beam.PCollection) -> Watched:
        """Groups and watches."""
        watched = (
            frames
            | "PackByCamera" >> beam.Map(pack_by_camera).with_output_types(Keyed)
            | "GroupByCamera" >> beam.GroupByKey()
            | "WatchInOrder" >> beam.ParDo(self._dofn).with_outputs(OBSERVED, ALERTS, FAILED, main="frames")
        )
        return Watched(watched.frames, watched[OBSERVED], watched[ALERTS], watched[FAILED])


def pack_by_camera(frame: Frame) -> Keyed:
    """A frame, packed, behind its camera."""
    return frame.info.camera, archive.pack(frame)


@beam.typehints.with_output_types(Frame, observed=Observation, alerts=StreamRow, failed=DeadLetter)
class WatchArchiveDoFn(beam.DoFn):
    """(camera, its frames, packed) -> what :class:`Watched` names, frames in the order of their capture.

    Args:
      settings: of :class:`WatchArchive`.
      run_id: stands in each alert and failure.
      options: of :class:`~beam_vision.sources.reader.ImageReader`.
    """

    def __init__(self, settings: WatchSettings, *, run_id: str = "", **options: Any) -> None:
        self._watch = Watch(settings, run_id)
        self._run_id = run_id
        self._options = options

    def setup(self) -> None:
        """Makes the pool; its threads start when there is something to read."""
        self._reader = ImageReader(run_id=self._run_id, **self._options)

    def process(self, element: tuple[str, Iterable[tuple[int, str, bytes]]]) -> Iterator[Any]:
        """All frames of a camera; its clock is that of their capture."""
        name, packed = element
        taken, repeated = archive.in_order(itertools.starmap(archive.Packed, packed))
        for one in repeated:
            metrics.count(metrics.DUPLICATES)
            yield TaggedOutput(OBSERVED, Observation(name, one.micros / 1e6, "duplicate"))
        state: camera.CameraState | None = None
        for frame in self._read(taken):
            if isinstance(frame, DeadLetter):
                yield from (TaggedOutput(*output) for output in failed_outputs(frame))
                continue
            step = self._watch.take(state, frame, frame.info.capture_sec)
            state = state if isinstance(step, Failure) else step.state
            yield from self._watch.outputs(frame, step)

    def teardown(self) -> None:
        """Ends the threads."""
        self._reader.close()

    def _read(self, taken: Iterable[archive.Packed]) -> Iterator[Frame | DeadLetter]:
        """Each frame with its bytes, in order."""
        frames, ahead = itertools.tee(map(archive.unpack, taken))
        seconds = 0.0
        reads = self._reader.read_in_order(frame.image.ref for frame in ahead)
        for frame, read in zip(frames, reads, strict=True):
            seconds += read.seconds
            yield with_bytes(frame, read.outcome, self._run_id)
        metrics.observe(metrics.READ_MS, 1000 * seconds)
