"""Between a camera's frames and inference: repetitions go, its health is watched, like frames are gated.

Each keeps state by camera. On a bounded input (a backfill) there is no clock to go by: nothing is forgotten
before the end, and a camera's silence shows in the capture times alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.coders import BytesCoder, PickleCoder
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.failures import FAILED
from beam_vision.stream_types import OBSERVED, DeadLetter, Frame, Observation, StreamRow
from beam_vision.streaming import camera, repeats
from beam_vision.streaming.camera_watch import ALERTS, Watch
from beam_vision.streaming.dead import FAILED_BEFORE
from beam_vision.streaming.health import WatchSettings

_DEFAULTS = WatchSettings()


class Repeated(NamedTuple):
    """What :class:`DropRepeats` gives: each frame once, an Observation ``duplicate`` for each of the rest."""

    frames: beam.PCollection
    observed: beam.PCollection


class Watched(NamedTuple):
    """What :class:`WatchCameras` gives.

    Attributes:
      frames: those that go to inference.
      observed: an Observation of each frame, and of a silent camera one now and then.
      alerts: a StreamRow for each change of a camera's health.
      dead: DeadLetters of frames at which our own code failed; one that can't be decoded goes to inference.
    """

    frames: beam.PCollection
    observed: beam.PCollection
    alerts: beam.PCollection
    dead: beam.PCollection


class DropRepeats(beam.PTransform):
    """``PCollection[Frame]`` -> :class:`Repeated`: of frames with the same camera and capture time the first.

    A dead letter that was published again passes, too: there is no row of it yet.

    Args:
      horizon_sec: a repetition that comes later than this after the frame counts as another frame.
    """

    def __init__(self, *, horizon_sec: float = 600.0) -> None:
        super().__init__()
        self._horizon_sec = horizon_sec

    def expand(self, frames: beam.PCollection[Frame]) -> Repeated:
        """Builds the stage; its input is spread by camera and time."""
        dofn = DropRepeatsDoFn(self._horizon_sec, live=not frames.is_bounded)
        kept = (
            frames
            | "ByTime" >> beam.Map(by_time).with_output_types(tuple[str, Frame])
            | "Drop" >> beam.ParDo(dofn).with_outputs(OBSERVED, main="frames")
        )
        return Repeated(kept.frames, kept[OBSERVED])


class WatchCameras(beam.PTransform):
    """``PCollection[Frame]`` -> :class:`Watched`: health, alerts, and frames like the last one left out.

    Args:
      settings: when a frame is like another, and when a camera is ill.
      run_id: stands in each alert and failure.
    """

    def __init__(self, settings: WatchSettings = _DEFAULTS, *, run_id: str = "") -> None:
        super().__init__()
        self._settings = settings
        self._run_id = run_id

    def expand(self, frames: beam.PCollection[Frame]) -> Watched:
        """Builds the stage; its input is spread by camera."""
        dofn = WatchDoFn(self._settings, run_id=self._run_id, live=not frames.is_bounded)
        watched = (
            frames
            | "ByCamera" >> beam.Map(by_camera).with_output_types(tuple[str, Frame])
            | "Watch" >> beam.ParDo(dofn).with_outputs(OBSERVED, ALERTS, FAILED, main="frames")
        )
        return Watched(watched.frames, watched[OBSERVED], watched[ALERTS], watched[FAILED])


def by_time(frame: Frame) -> tuple[str, Frame]:
    """A frame behind its camera and the ten seconds in which it was taken."""
    return repeats.place(frame.info).name, frame


def by_camera(frame: Frame) -> tuple[str, Frame]:
    """A frame behind its camera."""
    return frame.info.camera, frame


@beam.typehints.with_output_types(Frame, observed=Observation)
class DropRepeatsDoFn(beam.DoFn):
    """(ten seconds of a camera, Frame) -> Frame, or an Observation under ``observed``.

    Args:
      horizon_sec: for how long a frame is remembered.
      live: whether to forget by the clock; else nothing is forgotten.
      clock: seconds since the epoch.
    """

    SEEN = ReadModifyWriteStateSpec("seen", BytesCoder())
    FORGET = TimerSpec("forget", TimeDomain.REAL_TIME)

    def __init__(
        self, horizon_sec: float, *, live: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._horizon_sec = horizon_sec
        self._live = live
        self._clock = clock

    def process(
        self,
        element: tuple[str, Frame],
        seen: Any = beam.DoFn.StateParam(SEEN),
        forget: Any = beam.DoFn.TimerParam(FORGET),
    ) -> Iterator[Any]:
        """One frame or one observation."""
        frame = element[1]
        info = frame.info
        found = repeats.see(seen.read(), repeats.place(info).micros, self._horizon_sec, self._clock())
        if found.repeated and FAILED_BEFORE not in info.attributes:
            metrics.count(metrics.DUPLICATES)
            yield TaggedOutput(OBSERVED, Observation(info.camera, info.capture_sec, "duplicate"))
            return
        seen.write(found.state)
        if found.forget_sec is not None and self._live:
            forget.set(Timestamp.of(found.forget_sec))
        yield frame

    @on_timer(FORGET)
    def forget_them(
        self,
        seen: Any = beam.DoFn.StateParam(SEEN),
        forget: Any = beam.DoFn.TimerParam(FORGET),
    ) -> None:
        """Forgets the frames, unless a drain fired the timer early."""
        state = seen.read()
        due_sec = repeats.forget_time(state) if state else 0.0
        if self._clock() + 1 < due_sec:
            forget.set(Timestamp.of(due_sec))
        else:
            seen.clear()


@beam.typehints.with_output_types(Frame, observed=Observation, alerts=StreamRow, failed=DeadLetter)
class WatchDoFn(beam.DoFn):
    """(camera, Frame) -> Frame, and what else :class:`Watched` names.

    Args:
      settings: of :class:`WatchCameras`.
      run_id: stands in each alert and failure.
      live: whether silence is looked for by the clock.
      clock: seconds since the epoch.
    """

    CAMERA = ReadModifyWriteStateSpec("camera", PickleCoder())
    WAKE = TimerSpec("wake", TimeDomain.REAL_TIME)

    def __init__(
        self,
        settings: WatchSettings,
        *,
        run_id: str = "",
        live: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._wakes = live and settings.silent_sec > 0
        self._watch = Watch(settings, run_id)

    def process(
        self,
        element: tuple[str, Frame],
        known: Any = beam.DoFn.StateParam(CAMERA),
        wake: Any = beam.DoFn.TimerParam(WAKE),
    ) -> Iterator[Any]:
        """What one frame gives."""
        frame = element[1]
        now_sec = self._clock()
        step = self._watch.take(known.read(), frame, now_sec)
        if isinstance(step, camera.Taken):
            state = step.state
            if self._wakes and state.wakes_sec + 1 < now_sec:  # no timer is pending
                state = state._replace(wakes_sec=now_sec + self._settings.silent_sec)
                wake.set(Timestamp.of(state.wakes_sec))
            known.write(state)
        yield from self._watch.outputs(frame, step)

    @on_timer(WAKE)
    def look_for_silence(
        self,
        name: Any = beam.DoFn.KeyParam,
        known: Any = beam.DoFn.StateParam(CAMERA),
        wake: Any = beam.DoFn.TimerParam(WAKE),
    ) -> Iterator[Any]:
        """What the passing of time gives; a drain that fires the timer early changes nothing."""
        before = known.read()
        if before is None:
            return
        step = camera.wake(before, name, self._settings, now_sec=self._clock())
        if step.state is None:
            known.clear()
        else:
            known.write(step.state)
            wake.set(Timestamp.of(step.state.wakes_sec))
        yield from self._watch.told(name, step.observation, step.changes)
