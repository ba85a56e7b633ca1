"""PTransforms that write the tables of a streaming job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

import beam_vision.coders  # noqa: F401
from beam_vision.sinks import windows
from beam_vision.sinks.windows import Committed, Windows
from beam_vision.stream_types import StreamRow

STAGE_ROWS = 10_000
STAGE_BYTES = 16 * 2**20
GATHER_ROWS = 1_000

Notice = tuple[str, float]
"""That rows of a window are staged: ``TABLE/WINDOW``, and when it ends."""


class WriteWindows(beam.PTransform):
    """``PCollection[StreamRow]``, or a tuple of them -> ``PCollection[Committed]``: tables by window, with
    each row id once.

    A bundle's rows are safe, in staged files, when it ends. They become a part of their table when the
    watermark passes the end of their window; or, where the window was past already, ``commit_late_sec``
    after they came; and at the latest when the pipeline ends. What a killed run has staged is committed
    with it.

    Args:
      folder: the folder of the tables; check it with :func:`~beam_vision.sinks.windows.check_folder`.
      window_sec, task, embedding_dim, fsync: see :class:`~beam_vision.sinks.windows.Windows`.
      commit_late_sec: how long late rows are gathered, so that they don't make many small parts.
      gather_sec: rows of a window are brought together for so long before they are staged, so that a store
        of objects gets fewer files; 0: each bundle stages its own. Only for runners that can group.
    """

    def __init__(
        self,
        folder: str,
        *,
        window_sec: int = 60,
        task: str = "classify",
        embedding_dim: int | None = None,
        commit_late_sec: float = 10.0,
        fsync: bool = True,
        gather_sec: float = 0.0,
    ) -> None:
        super().__init__()
        self._settings = Windows(
            folder=folder, window_sec=window_sec, task=task, embedding_dim=embedding_dim, fsync=fsync
        )
        self._commit_late_sec = commit_late_sec
        self._gather_sec = gather_sec

    def expand(self, rows: Any) -> beam.PCollection:
        """Stages; commits what this run and earlier ones have staged."""
        parts = rows if isinstance(rows, tuple) else (rows,)
        if len(parts) > 1 and (self._gather_sec or not all(part.is_bounded for part in parts)):
            parts = (parts | "Rows" >> beam.Flatten(),)
        # in batch each is staged where it is made: a runner may hold what flows together in memory
        staged = [self._stage(part, str(number or "")) for number, part in enumerate(parts)]
        left = (
            parts[0].pipeline
            | "Once" >> beam.Impulse()
            | "FindStaged" >> beam.ParDo(FindStaged(self._settings)).with_output_types(Notice)
        )
        return (
            (*staged, left)
            | "Notices" >> beam.Flatten()
            | "CommitWindows" >> beam.ParDo(CommitWindow(self._settings, self._commit_late_sec))
        )

    def _stage(self, rows: beam.PCollection, number: str) -> beam.PCollection:
        rows = rows | f"InOneWindow{number}" >> beam.WindowInto(GlobalWindows())
        if self._gather_sec:
            rows = rows | f"Gather{number}" >> GatherRows(self._settings, self._gather_sec)
        stage = beam.ParDo(StageStreamRows(self._settings)).with_output_types(Notice)
        return rows | f"StageRows{number}" >> stage


class GatherRows(beam.PTransform):
    """``PCollection[StreamRow]`` -> the same, rows of a window one after the other in larger bundles."""

    def __init__(self, settings: Windows, gather_sec: float) -> None:
        super().__init__()
        self._settings = settings
        self._gather_sec = gather_sec

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Groups by table and window, within the time."""
        return (
            rows
            | "ByWindow" >> beam.Map(self._keyed).with_output_types(tuple[str, StreamRow])
            | "InBatches" >> beam.GroupIntoBatches(GATHER_ROWS, max_buffering_duration_secs=self._gather_sec)
            | "Rows" >> beam.FlatMapTuple(lambda _, batch: batch).with_output_types(StreamRow)
        )

    def _keyed(self, row: StreamRow) -> tuple[str, StreamRow]:
        return f"{row.table}/{self._settings.window(row.time_sec)}", row


class StageStreamRows(beam.DoFn):
    """Rows -> notices; a bundle's rows are staged, a file for each table and window, when it ends."""

    def __init__(self, settings: Windows) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Loads what the first bundle would wait for."""
        windows.warm_up(self._settings)

    def start_bundle(self) -> None:
        """Begins with nothing gathered."""
        self._clear()

    def _clear(self) -> None:
        self._gathered: dict[tuple[str, str], list[StreamRow]] = {}
        self._rows = 0
        self._bytes = 0

    def process(self, element: StreamRow) -> Iterator[Any]:
        """Gathers a row; a large bundle is staged in pieces."""
        key = (element.table, self._settings.window(element.time_sec))
        self._gathered.setdefault(key, []).append(element)
        self._rows += 1
        self._bytes += 500 + sum(len(value) for value in element.values.values() if isinstance(value, bytes))
        if self._rows >= STAGE_ROWS or self._bytes >= STAGE_BYTES:
            yield from self._stage()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Stages the rest."""
        for notice in self._stage():
            # as old as its rows, so that the watermark doesn't pass the window's end before it is heard
            yield WindowedValue(notice, Timestamp(notice[1]) - 0.001, [GlobalWindow()])

    def _stage(self) -> list[Notice]:
        gathered = self._gathered
        self._clear()
        notices = []
        for (table, window), rows in gathered.items():
            windows.stage(self._settings, table, window, rows)
            notices.append((f"{table}/{window}", self._settings.end_sec(window)))
        return notices


class FindStaged(beam.DoFn):
    """Impulse -> notices of what earlier runs have staged and not committed."""

    def __init__(self, settings: Windows) -> None:
        self._settings = settings

    def process(self, element: bytes) -> Iterator[Notice]:
        """Lists the staging folder; removes files that a killed process was writing."""
        windows.remove_aside(self._settings)
        for table, window in windows.staged_windows(self._settings):
            yield f"{table}/{window}", self._settings.end_sec(window)


class CommitWindow(beam.DoFn):
    """Notices by ``TABLE/WINDOW`` -> :class:`~beam_vision.sinks.windows.Committed`, when it is time.

    Holds no rows: what is committed is what lies in the staging folder. So a timer too many does no harm,
    and its state is gone with each commit.
    """

    WAITING = ReadModifyWriteStateSpec("waiting", beam.coders.BooleanCoder())
    ON_TIME = TimerSpec("on_time", TimeDomain.WATERMARK)
    LATE = TimerSpec("late", TimeDomain.REAL_TIME)
    AT_END = TimerSpec("at_end", TimeDomain.WATERMARK)

    def __init__(self, settings: Windows, late_sec: float) -> None:
        self._settings = settings
        self._late_sec = late_sec

    def process(
        self,
        element: Notice,
        waiting: Any = beam.DoFn.StateParam(WAITING),
        on_time: Any = beam.DoFn.TimerParam(ON_TIME),
        late: Any = beam.DoFn.TimerParam(LATE),
        at_end: Any = beam.DoFn.TimerParam(AT_END),
    ) -> None:
        """Sets the timer that the commit waits for."""
        _, end_sec = element
        now_sec = time.time()
        if end_sec > now_sec:
            on_time.set(Timestamp(end_sec))
        elif not waiting.read():
            waiting.write(True)
            late.set(Timestamp(now_sec + self._late_sec))
            at_end.set(GlobalWindow().max_timestamp())  # a runner may end without firing timers of real time

    @on_timer(ON_TIME)
    def window_ended(self, key: str = beam.DoFn.KeyParam) -> Iterator[Committed]:  # type: ignore[assignment]
        """The watermark has passed the window's end."""
        yield from self._commit(key)

    @on_timer(LATE)
    def late_rows_gathered(
        self,
        key: str = beam.DoFn.KeyParam,  # type: ignore[assignment]
        waiting: Any = beam.DoFn.StateParam(WAITING),
        at_end: Any = beam.DoFn.TimerParam(AT_END),
    ) -> Iterator[Committed]:
        """Late rows have been gathered for long enough."""
        waiting.clear()
        at_end.clear()
        yield from self._commit(key)

    @on_timer(AT_END)
    def pipeline_ends(
        self,
        key: str = beam.DoFn.KeyParam,  # type: ignore[assignment]
        waiting: Any = beam.DoFn.StateParam(WAITING),
    ) -> Iterator[Committed]:
        """No more rows will come."""
        waiting.clear()
        yield from self._commit(key)

    def _commit(self, key: str) -> Iterator[Committed]:
        table, _, window = key.partition("/")
        yield from windows.commit(self._settings, table, window)
