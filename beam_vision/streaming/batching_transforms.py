"""Frames to batches of frames, with state and timers; see :mod:`beam_vision.streaming.batching`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import PickleCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

import beam_vision.coders  # noqa: F401  (registers our rows)
from beam_vision.digest import bucket
from beam_vision.stream_types import Frame
from beam_vision.streaming.batching import BatchSettings, Costs, Held, wait_sec

Batch = tuple[Frame, ...]


class BatchFrames(beam.PTransform):
    """Gathers frames into batches: ``PCollection[Frame]`` -> ``PCollection[tuple[Frame, ...]]``.

    Each frame's ``info.queued_sec`` tells since when it waited. A batch's time is that of its earliest frame.
    Frames of one camera are in one shard.

    Args:
      settings: the bounds. With ``max_latency_ms=0`` there is no state: what a bundle brings is a batch.
    """

    def __init__(self, settings: BatchSettings = BatchSettings()) -> None:  # noqa: B008  (frozen)
        super().__init__()
        self._settings = settings

    def expand(self, frames: beam.PCollection[Frame]) -> beam.PCollection[Batch]:
        """Builds the stage; with state its input is spread by key."""
        settings = self._settings
        if not settings.max_latency_ms:
            return frames | "Gather" >> beam.ParDo(GatherBundle(settings)).with_output_types(Batch)
        return (
            frames
            | "Shard" >> beam.Map(with_shard, settings.shards).with_output_types(tuple[str, Frame])
            | "Gather" >> beam.ParDo(GatherFrames(settings)).with_output_types(Batch)
        )


def with_shard(frame: Frame, shards: int) -> tuple[str, Frame]:
    """A frame behind its shard's name."""
    return f"batch-{bucket(frame.info.camera, shards)}", frame


def queued(frame: Frame, now_sec: float) -> Frame:
    """The frame, which begins to wait now."""
    return Frame(dataclasses.replace(frame.info, queued_sec=now_sec), frame.image)


def earliest_sec(frames: Iterable[Frame]) -> float:
    """When the earliest of some frames was taken."""
    return min(frame.info.capture_sec for frame in frames)


class GatherFrames(beam.DoFn):
    """Holds frames of a shard until a batch is full, enough, or its first frame has waited long enough.

    What a batch takes is measured where it is given: the steps after this one are fused with it, so that
    they have done their work when the ``yield`` comes back. On a runner that doesn't fuse them batches seem
    to cost nothing, and no frame waits longer than a bundle.
    """

    FRAMES = BagStateSpec("frames", PickleCoder())
    HELD = ReadModifyWriteStateSpec("held", PickleCoder())
    ENOUGH = TimerSpec("enough", TimeDomain.REAL_TIME)
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._costs = Costs()

    def process(
        self,
        element: tuple[str, Frame],
        window: Any = beam.DoFn.WindowParam,
        frames: Any = beam.DoFn.StateParam(FRAMES),
        held: Any = beam.DoFn.StateParam(HELD),
        enough: Any = beam.DoFn.TimerParam(ENOUGH),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[Any]:
        """Takes a frame in; gives a batch where that fills one."""
        settings, now_sec = self._settings, time.time()
        frame = queued(element[1], now_sec)
        size_bytes = len(frame.image.data)
        state: Held = held.read() or Held()
        if not state.has_room(size_bytes, settings):
            state = yield from self._give(frames, state)
        frames.add(frame)
        state = state.add(size_bytes, now_sec)
        if state.is_full(settings):
            state = yield from self._give(frames, state)
        held.write(state)
        if state.images:
            enough.set(Timestamp.of(now_sec + wait_sec(state, self._costs, settings, now_sec)))
            end.set(window.max_timestamp())
        else:
            enough.clear()
            end.clear()

    @on_timer(ENOUGH)
    def give_enough(
        self,
        frames: Any = beam.DoFn.StateParam(FRAMES),
        held: Any = beam.DoFn.StateParam(HELD),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[Any]:
        """Gives what is held."""
        held.write((yield from self._give(frames, held.read() or Held())))
        end.clear()

    @on_timer(END)
    def give_rest(
        self,
        frames: Any = beam.DoFn.StateParam(FRAMES),
        held: Any = beam.DoFn.StateParam(HELD),
        enough: Any = beam.DoFn.TimerParam(ENOUGH),
    ) -> Iterator[Any]:
        """Gives what is held when the input ends."""
        held.write((yield from self._give(frames, held.read() or Held())))
        enough.clear()

    def _give(self, frames: Any, state: Held) -> Any:
        """Yields the batch, if there is one; returns the state without it."""
        batch = tuple(frames.read())
        frames.clear()
        if batch:
            start = time.monotonic()
            yield TimestampedValue(batch, earliest_sec(batch))
            self._costs = self._costs.seen(len(batch), time.monotonic() - start)
        return state.emptied()


class GatherBundle(beam.DoFn):
    """Batches of what a bundle brings, cut at the bounds; holds nothing from one bundle to the next."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._frames: list[Frame] = []
        self._held = Held()
        self._window: Any = None

    def start_bundle(self) -> None:
        """Begins with nothing, whatever became of the bundle before."""
        self._frames, self._held, self._window = [], Held(), None

    def process(self, frame: Frame, window: Any = beam.DoFn.WindowParam) -> Iterator[WindowedValue]:
        """Takes a frame in; gives the batch that it doesn't fit in."""
        now_sec, size_bytes = time.time(), len(frame.image.data)
        other = self._window is not None and window != self._window
        if other or not self._held.has_room(size_bytes, self._settings):
            yield from self._batches()
        self._window = window
        self._frames.append(queued(frame, now_sec))
        self._held = self._held.add(size_bytes, now_sec)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Gives the rest."""
        yield from self._batches()

    def _batches(self) -> Iterator[WindowedValue]:
        if self._frames:
            batch, window = tuple(self._frames), self._window
            self._frames, self._held = [], self._held.emptied()
            yield WindowedValue(batch, Timestamp.of(earliest_sec(batch)), (window,))
