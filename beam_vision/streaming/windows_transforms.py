"""Counts observations by camera and window; see :mod:`beam_vision.streaming.windows`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import PickleCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.stream_types import Observation, StreamRow
from beam_vision.streaming import windows
from beam_vision.streaming.tally import Tally, merged, tally

CORRECT_EVERY_SEC = 10.0
"""Corrections of windows that were given are gathered for so long."""

_MOST_GATHERED = 1000
_DEFAULTS = windows.WindowSettings()

Part = tuple[int, Tally]


class CountWindows(beam.PTransform):
    """``PCollection[Observation]`` -> ``PCollection[StreamRow]`` of counts, health and latency.

    The input must be in the global window; observations are put in windows by their capture time. Its
    watermark says when a window has ended. Each bundle is summed up first, so that state is written once
    for a camera, a window and a bundle.

    Args:
      settings: how time is cut.
      run_id: stands in each row.
    """

    def __init__(self, settings: windows.WindowSettings = _DEFAULTS, *, run_id: str = "") -> None:
        super().__init__()
        self._settings = settings
        self._run_id = run_id

    def expand(self, observed: beam.PCollection[Observation]) -> beam.PCollection[StreamRow]:
        """Builds the stage; its input is spread by camera."""
        dofn = KeepWindowsDoFn(self._settings, run_id=self._run_id, live=not observed.is_bounded)
        return observed | "SumUp" >> beam.ParDo(SumUpDoFn(self._settings)) | "KeepWindows" >> beam.ParDo(dofn)


@beam.typehints.with_output_types(tuple[str, Part])
class SumUpDoFn(beam.DoFn):
    """Observation -> (camera, (beginning of a window, Tally)) of a bundle.

    Args:
      settings: how time is cut.
    """

    def __init__(self, settings: windows.WindowSettings) -> None:
        self._settings = settings
        self._gathered: dict[tuple[str, int], list[Observation]] = {}
        self._summed: dict[tuple[str, int], Tally] = {}

    def start_bundle(self) -> None:
        """Begins with nothing."""
        self._gathered, self._summed = {}, {}

    def process(self, element: Observation) -> None:
        """Takes one in."""
        place = element.camera, self._settings.start(element.capture_sec)
        gathered = self._gathered.setdefault(place, [])
        gathered.append(element)
        if len(gathered) >= _MOST_GATHERED:
            self._sum_up(place)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Gives the sums."""
        for place in list(self._gathered):
            self._sum_up(place)
        for (camera, start), summed in self._summed.items():
            yield WindowedValue((camera, (start, summed)), Timestamp(micros=start), [GlobalWindow()])

    def _sum_up(self, place: tuple[str, int]) -> None:
        new = tally(self._gathered.pop(place))
        self._summed[place] = merged(self._summed[place], new) if place in self._summed else new


@beam.typehints.with_output_types(StreamRow)
class KeepWindowsDoFn(beam.DoFn):
    """(camera, (beginning of a window, Tally)) -> rows, when a window ends and when it is corrected.

    Args:
      settings: how time is cut.
      run_id: stands in each row.
      live: whether corrections are given as time passes, not only when their window expires.
    """

    WINDOWS = ReadModifyWriteStateSpec("windows", PickleCoder())
    ENDS = TimerSpec("ends", TimeDomain.WATERMARK)
    CORRECTS = TimerSpec("corrects", TimeDomain.REAL_TIME)

    def __init__(self, settings: windows.WindowSettings, *, run_id: str = "", live: bool = True) -> None:
        self._settings = settings
        self._run_id = run_id
        self._live = live

    def process(
        self,
        element: tuple[str, Part],
        kept: Any = beam.DoFn.StateParam(WINDOWS),
        ends: Any = beam.DoFn.TimerParam(ENDS),
        corrects: Any = beam.DoFn.TimerParam(CORRECTS),
    ) -> None:
        """Takes a part of a window in."""
        start, more = element[1]
        before = kept.read() or windows.CameraWindows()
        after = windows.take(before, start, more, self._settings)
        if after is None:
            metrics.count(metrics.TOO_LATE, more.observations)
            return
        kept.write(after)
        due = windows.next_time(after, self._settings)
        if due != windows.next_time(before, self._settings):
            ends.set(Timestamp(micros=due))
        if self._live and after.owes and not before.owes:
            corrects.set(Timestamp.of(time.time() + CORRECT_EVERY_SEC))

    @on_timer(ENDS)
    def end_windows(
        self,
        camera: Any = beam.DoFn.KeyParam,
        reached: Any = beam.DoFn.TimestampParam,
        kept: Any = beam.DoFn.StateParam(WINDOWS),
        ends: Any = beam.DoFn.TimerParam(ENDS),
    ) -> Iterator[StreamRow]:
        """Gives windows that have ended."""
        state, panes = windows.reach(
            kept.read() or windows.CameraWindows(), Timestamp.of(reached).micros, self._settings
        )
        kept.write(state)
        due = windows.next_time(state, self._settings)
        if due is not None:
            ends.set(Timestamp(micros=due))
        yield from self._rows(camera, panes)

    @on_timer(CORRECTS)
    def correct_windows(
        self, camera: Any = beam.DoFn.KeyParam, kept: Any = beam.DoFn.StateParam(WINDOWS)
    ) -> Iterator[StreamRow]:
        """Gives windows again to which something was added."""
        state, panes = windows.correct(kept.read() or windows.CameraWindows())
        kept.write(state)
        yield from self._rows(camera, panes)

    def _rows(self, camera: str, panes: Iterable[windows.Pane]) -> Iterator[StreamRow]:
        for pane in panes:
            given = windows.rows(camera, pane, self._settings, self._run_id)
            if pane.timing == windows.LATE:
                metrics.count(metrics.LATE_ROWS, len(given))
            yield from given
