"""What ends a local run of ``stream``: a signal, or the end of its time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from beam_vision.pipelines import job as jobs

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal came before any message was taken: there is nothing to drain."""


class Stop:
    """What SIGTERM and SIGINT do within the block: raise :class:`Stopped` before messages are taken, later on
    drain. (A container's first process has to handle them: one that doesn't never sees them.)

    Args:
      drain_sec: the process ends with exit code 1 when a drain takes longer.

    Attributes:
      event: set: the run drains.
    """

    def __init__(self, drain_sec: float) -> None:
        self.event = threading.Event()
        self._drain_sec = drain_sec
        self._drains = False
        self._done = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._by_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _by_signal(self, *_: object) -> None:
        if not self._drains:
            raise Stopped
        self.drain()

    def drain(self) -> None:
        """Begins the drain, if it hasn't begun."""
        if not self.event.is_set():
            self.event.set()
            threading.Thread(target=self._give_up, name="drain", daemon=True).start()

    def _give_up(self) -> None:
        if not self._done.wait(self._drain_sec):
            jobs.say(f"failed: the drain took longer than --drain_sec {self._drain_sec:g}")
            os._exit(1)

    @contextlib.contextmanager
    def draining(self, run_sec: float) -> Iterator[threading.Event]:
        """Messages are taken within the block; what comes after it isn't cut short.

        Args:
          run_sec: drains after so long; 0: never.
        """
        self._drains = True
        timer = threading.Timer(run_sec, self.drain)
        timer.daemon = True
        if run_sec:
            timer.start()
        try:
            yield self.event
        finally:
            timer.cancel()
            self._done.set()
