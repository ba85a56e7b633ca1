"""A DoFn that gathers elements and stages them as files of a bounded size, as Beam's own file sinks do.

Only what a committed bundle emitted is ever listed, so the files of a bundle that was tried again are left
behind and removed with the staging folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Flush:
    """When gathered elements are written: at whichever limit comes first, and at the end of a bundle.

    Attributes:
      most: elements.
      most_bytes: bytes, by the DoFn's own estimate.
      every_sec: seconds since the oldest gathered element came (looked at when the next comes); a killed
        run loses what was gathered since.
    """

    most: int = 10_000
    most_bytes: int = 16 * 2**20
    every_sec: float = 20.0


class StageInFiles(beam.DoFn, Generic[T]):
    """Gathers elements and hands them over together; subclasses say how large one is and how to write many.

    Works in the global window.
    """

    def __init__(self, flush: Flush) -> None:
        self._flush = flush

    def size_bytes(self, element: T) -> int:
        """About how many bytes ``element`` will take."""
        raise NotImplementedError

    def write(self, elements: list[T]) -> Iterable[Any]:
        """Writes a file and gives what to emit: values, or ``beam.pvalue.TaggedOutput``."""
        raise NotImplementedError

    def start_bundle(self) -> None:
        """Begins with nothing gathered."""
        self._clear()

    def _clear(self) -> None:
        self._elements: list[T] = []
        self._bytes = 0
        self._since = 0.0

    def process(self, element: Any) -> Iterator[Any]:
        """Gathers ``element``; writes when a limit is reached."""
        yield from self.gather(element)

    def gather(self, element: T) -> Iterator[Any]:
        """Adds an element; writes when a limit is reached."""
        if not self._elements:
            self._since = time.monotonic()
        self._elements.append(element)
        self._bytes += self.size_bytes(element)
        limits = self._flush
        if (
            len(self._elements) >= limits.most
            or self._bytes >= limits.most_bytes
            or time.monotonic() - self._since >= limits.every_sec
        ):
            yield from self._take()

    def last(self) -> Iterator[Any]:
        """What is emitted at the end of a bundle: the rest, written."""
        yield from self._take()

    def finish_bundle(self) -> Iterator[Any]:
        """Writes the rest."""
        window = GlobalWindow()
        for value in self.last():
            if isinstance(value, beam.pvalue.TaggedOutput):
                inner = WindowedValue(value.value, window.max_timestamp(), [window])
                yield beam.pvalue.TaggedOutput(value.tag, inner)
            else:
                yield WindowedValue(value, window.max_timestamp(), [window])

    def _take(self) -> list[Any]:
        elements = self._elements
        self._clear()
        return list(self.write(elements)) if elements else []
