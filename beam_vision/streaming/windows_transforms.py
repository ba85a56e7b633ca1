"""Counts observations by camera and window; see :mod:`beam_vision.streaming.windows`."""

from __future__ import annotations

import functools
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

_MOST_GATHERED = 5000
_DEFAULTS = windows.WindowSettings()

Part = tuple[int, Tally]


class CountWindows(beam.PTransform):
    """Observations, one PCollection or a tuple -> ``PCollection[StreamRow]``: counts, health, latency.

    The input must be in the global window; observations are put in windows by their capture time. Its
    watermark says when a window has ended. Each bundle is summed up first, so that state is written once
    for a camera, a window and a bundle. Of bounded input each window is given once, when all is known of it.

    Args:
      settings: how time is cut.
      run_id: stands in each row.
    """

    def __init__(self, settings: windows.WindowSettings = _DEFAULTS, *, run_id: str = "") -> None:
        super().__init__()
        self._settings = settings
        self._run_id = run_id

    def expand(self, observed: Any) -> beam.PCollection[StreamRow]:
        """Builds the stage; live, its input is spread by camera, else by camera and window."""
        parts = observed if isinstance(observed, tuple) else (observed,)
        if all(part.is_bounded for part in parts):
            return self._at_once(parts)
        together = parts | "Observed" >> beam.Flatten()
        keep = KeepWindowsDoFn(self._settings, run_id=self._run_id)
        return together | "SumUp" >> beam.ParDo(SumUpDoFn(self._settings)) | "KeepWindows" >> beam.ParDo(keep)

    def _at_once(self, parts: tuple[beam.PCollection, ...]) -> beam.PCollection[StreamRow]:
        """No state, which would hold all windows of a camera until the end; and each part is summed up where
        it is made, as a runner may hold what flows together in memory."""
        summed = [
            part | f"SumUp{number or ''}" >> beam.ParDo(SumUpDoFn(self._settings))
            for number, part in enumerate(parts)
        ]
        return (
            tuple(summed)
            | "Summed" >> beam.Flatten()
            | "ByWindow" >> beam.Map(by_window).with_output_types(tuple[tuple[str, int], Tally])
            | "GroupByWindow" >> beam.GroupByKey()
            | "GiveWindow" >> beam.ParDo(GiveWindowDoFn(self._settings, run_id=self._run_id))
        )


def by_window(summed: tuple[str, Part]) -> tuple[tuple[str, int], Tally]:
    """A tally behind its camera and the beginning of its window."""
    camera, (start, part) = summed
    return (camera, start), part


@beam.typehints.with_output_types(tuple[str, Part])
class SumUpDoFn(beam.DoFn):
    """Observation -> (camera, (beginning of a window, Tally)) of a bundle.

    Args:
      settings: how time is cut.
    """

    def __init__(self, settings: windows.WindowSettings) -> None:
        self._settings = settings

    def start_bundle(self) -> None:
        """Begins with nothing."""
        self._clear()

    def process(self, element: Observation) -> Iterator[WindowedValue]:
        """Takes one in; a large bundle is summed up in pieces."""
        place = element.camera, self._settings.start(element.capture_sec)
        self._gathered.setdefault(place, []).append(element)
        self._count += 1
        if self._count >= _MOST_GATHERED:
            yield from self._give()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Gives the sums."""
        yield from self._give()

    def _clear(self) -> None:
        self._gathered: dict[tuple[str, int], list[Observation]] = {}
        self._count = 0

    def _give(self) -> Iterator[WindowedValue]:
        gathered = self._gathered
        self._clear()
        for (camera, start), observed in gathered.items():
            part = camera, (start, tally(observed))
            yield WindowedValue(part, Timestamp(micros=start), [GlobalWindow()])


@beam.typehints.with_output_types(StreamRow)
class GiveWindowDoFn(beam.DoFn):
    """((camera, beginning of a window), all Tallies of it) -> its rows.

    Args:
      settings: how time is cut.
      run_id: stands in each row.
    """

    def __init__(self, settings: windows.WindowSettings, *, run_id: str = "") -> None:
        self._settings = settings
        self._run_id = run_id

    def process(self, element: tuple[tuple[str, int], Iterable[Tally]]) -> Iterator[StreamRow]:
        """One window."""
        (camera, start), parts = element
        pane = windows.Pane(start, functools.reduce(merged, parts), windows.ON_TIME)
        yield from windows.rows(camera, pane, self._settings, self._run_id)


@beam.typehints.with_output_types(StreamRow)
class KeepWindowsDoFn(beam.DoFn):
    """(camera, (beginning of a window, Tally)) -> rows, when a window ends and when it is corrected.

    Args:
      settings: how time is cut.
      run_id: stands in each row.
    """

    WINDOWS = ReadModifyWriteStateSpec("windows", PickleCoder())
    ENDS = TimerSpec("ends", TimeDomain.WATERMARK)
    CORRECTS = TimerSpec("corrects", TimeDomain.REAL_TIME)

    def __init__(self, settings: windows.WindowSettings, *, run_id: str = "") -> None:
        self._settings = settings
        self._run_id = run_id

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
        if after.owes and not before.owes:
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
