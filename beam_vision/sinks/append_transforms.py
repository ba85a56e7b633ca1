"""Rows of a stream -> tables of BigQuery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.sinks.append import Destination, StreamTables
from beam_vision.stream_types import DeadLetter, StreamRow

APPEND_ROWS = 5_000
APPEND_BYTES = 32 * 2**20


class AppendRows(beam.PTransform):
    """``PCollection[StreamRow]``, or a tuple of them -> ``PCollection[DeadLetter]``: the rows that BigQuery
    refuses.

    All of a bundle's rows are stored when the bundle is finished, at least once each: those of a bundle that
    comes again stand there twice, with one ``row_id``. Views show each once, see
    :mod:`beam_vision.warehouse.once`. A refused row stands in the table of failures already, where the
    destination has one.

    Args:
      to: where rows go; the tables have to be there.

    Raises:
      UsageError: while it runs: BigQuery refuses a table for good.
      JobError: while it runs: BigQuery can't be reached.
    """

    def __init__(self, to: Destination) -> None:
        super().__init__()
        self._to = to

    def expand(self, rows: Any) -> beam.PCollection:
        """Appends them."""
        if isinstance(rows, tuple):
            rows = rows | "Rows" >> beam.Flatten()
        windowed = rows | "InOneWindow" >> beam.WindowInto(GlobalWindows())
        return windowed | "Append" >> beam.ParDo(AppendDoFn(self._to))


@beam.typehints.with_output_types(DeadLetter)
class AppendDoFn(beam.DoFn):
    """Appends what a bundle holds, at the latest when it is finished."""

    def __init__(self, to: Destination) -> None:
        self._to = to

    def setup(self) -> None:
        """Connects."""
        self._tables = StreamTables(self._to)
        self._tables.open()

    def start_bundle(self) -> None:
        """Begins with nothing gathered."""
        self._clear()

    def _clear(self) -> None:
        self._gathered: dict[str, list[StreamRow]] = {}
        self._rows = 0
        self._bytes = 0

    def process(self, element: StreamRow) -> Iterator[Any]:
        """Gathers a row; a large bundle is appended in pieces."""
        if element.table not in self._to.names:
            return
        self._gathered.setdefault(element.table, []).append(element)
        self._rows += 1
        self._bytes += 500 + sum(len(value) for value in element.values.values() if isinstance(value, bytes))
        if self._rows >= APPEND_ROWS or self._bytes >= APPEND_BYTES:
            yield from self._append()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Appends the rest."""
        for dead in self._append():
            yield WindowedValue(dead, Timestamp(dead.info.capture_sec), [GlobalWindow()])

    def _append(self) -> list[DeadLetter]:
        if not self._gathered:
            return []
        gathered, number = self._gathered, self._rows
        self._clear()
        dead = self._tables.append(gathered)
        metrics.count(metrics.APPENDED, number - len(dead))
        if dead:
            metrics.count(metrics.REFUSED_ROWS, len(dead))
        return dead

    def teardown(self) -> None:
        """Ends the connections."""
        self._tables.close()
