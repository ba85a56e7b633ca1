"""Runs a streaming pipeline in this process: at least once, and once in effect for what is in its state.

A turn takes the messages that are there, pushes them through all steps, and moves the watermark and the
timers on. About once a second what changed in the state is saved, and only then are the messages before it
acknowledged. So a process that is killed at any moment goes on from the last save: messages after it come
again, and find the state as it was when they came first; messages before it that come again, because their
acknowledgement was lost, are known by their ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp

from beam_vision.streaming.local.checkpoint import Checkpoint
from beam_vision.streaming.local.graph import Graph, Step
from beam_vision.streaming.local.seen import Seen
from beam_vision.streaming.local.state import Due, Store
from beam_vision.streaming.local.watermark import Watermark

if TYPE_CHECKING:
    from beam_vision.streaming.feeds.base import Feed, Received

_LOG = logging.getLogger(__name__)
_DRAIN_ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class RunnerSettings:
    """How the local runner paces itself.

    Attributes:
      max_messages, max_bytes: what one turn takes in, at most.
      save_every_sec: how often state is saved and messages are acknowledged.
      lag_sec: how far frames may come out of order; see
        :class:`~beam_vision.streaming.local.watermark.Watermark`.
      wait_sec: the longest wait for a message before timers are looked at again.
      remember_sec: how long a message that comes again, under its own id, is known and not taken in twice.
    """

    max_messages: int = 64
    max_bytes: int = 32 << 20
    save_every_sec: float = 1.0
    lag_sec: float = 5.0
    wait_sec: float = 0.25
    remember_sec: float = 900.0


class LocalStreamRunner(PipelineRunner):
    """Runs a pipeline that reads from :class:`~beam_vision.streaming.local.source.ReadFeed`.

    ``pipeline.run()`` returns when the feed is exhausted or ``stop`` is set, after a drain: what came in is
    finished, state saved, messages acknowledged, then windows are flushed. The flush doesn't end up in the
    state: a later run goes on with windows that are still open, and completes them.

    Args:
      feed: where messages come from; opened once all steps are set up, so that models are loaded by then.
      state_folder: where state is saved; a local folder of this job alone.
      stop: ends the run when it is set.
      settings: how it paces itself.
      ready: called once, when all steps are set up and the feed is open.

    Raises:
      UsageError: the pipeline holds something that it can't run, or the state is of another job.
    """

    def __init__(
        self,
        feed: Feed,
        state_folder: str,
        *,
        stop: threading.Event | None = None,
        settings: RunnerSettings | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._feed = feed
        self._state_folder = state_folder
        self._stop = stop or threading.Event()
        self._settings = settings or RunnerSettings()
        self._ready = ready

    def run_pipeline(self, pipeline: beam.Pipeline, options: Any) -> PipelineResult:
        """Runs to the end."""
        store = Store()
        graph = Graph(pipeline, store)
        checkpoint = Checkpoint(self._state_folder, steps=graph.stateful)
        try:
            facts = checkpoint.load(store)
            _Run(graph, store, checkpoint, facts, self._feed, self._settings).to_the_end(
                self._stop, self._ready
            )
        finally:
            checkpoint.close()
        return LocalResult(PipelineState.DONE)


class LocalResult(PipelineResult):
    """The end of a run that has ended well; one that hasn't raises."""

    def wait_until_finish(self, duration: int | None = None) -> str:
        """The state: it has ended."""
        return self.state


class _Run:
    """One run: its graph, its state, and what is not yet acknowledged."""

    def __init__(
        self,
        graph: Graph,
        store: Store,
        checkpoint: Checkpoint,
        facts: dict[str, Any],
        feed: Feed,
        settings: RunnerSettings,
    ) -> None:
        self._graph = graph
        self._store = store
        self._checkpoint = checkpoint
        self._feed = feed
        self._settings = settings
        self._marks = [step.mark for step in graph.steps if step.mark is not None]
        self._watermark = Watermark(settings.lag_sec, start_sec=facts.get("watermark_sec", 0.0))
        self._seen = Seen(store, settings.remember_sec)
        self._unacknowledged: list[str] = []
        self._saved_at = time.monotonic()
        self._set_themselves: dict[Due, int] = {}

    def to_the_end(self, stop: threading.Event, say_ready: Callable[[], None]) -> None:
        """Sets the steps up, takes messages until told to stop, drains."""
        ready: list[Step] = []
        try:
            for step in self._graph.steps:
                step.setup()
                ready.append(step)
            self._feed.open()
            try:
                say_ready()
                self._begin()
                while not stop.is_set() and not self._feed.exhausted:
                    self._turn(self._feed.pull(**self._bounds()))
                self._feed.stop()
                self._drain()
            finally:
                self._feed.close()
        finally:
            for step in ready:
                step.teardown()

    def _begin(self) -> None:
        value = GlobalWindows.windowed_value(b"")
        with _Bundle(self._graph.steps):
            for impulse in self._graph.impulses:
                impulse.receive(value)

    def _bounds(self) -> dict[str, Any]:
        """What the next pull may take, and how long it may wait: until the next timer, at most."""
        wait_sec = self._settings.wait_sec
        next_micros = self._store.next_micros(TimeDomain.REAL_TIME)
        if next_micros is not None:
            wait_sec = min(wait_sec, max(0.0, next_micros / 1e6 - time.time()))
        return {
            "max_messages": self._settings.max_messages,
            "max_bytes": self._settings.max_bytes,
            "timeout_sec": wait_sec,
        }

    def _turn(self, received: Sequence[Received]) -> None:
        if received or self._is_due(TimeDomain.REAL_TIME, _micros(time.time())):
            with _Bundle(self._graph.steps):
                self._push(received)
                self._fire_due(TimeDomain.REAL_TIME, _micros(time.time()))  # most are batches of these
        now_sec = time.time()
        for mark in self._marks:
            oldest_sec = mark.take()
            if oldest_sec is not None:
                self._watermark.observe(now_sec, oldest_sec)
        reached = _micros(self._watermark.advance(now_sec))
        if self._is_due(TimeDomain.WATERMARK, reached):
            with _Bundle(self._graph.steps):
                self._fire_due(TimeDomain.WATERMARK, reached)
        if time.monotonic() - self._saved_at >= self._settings.save_every_sec:
            self._save()

    def _push(self, received: Sequence[Received]) -> None:
        now_sec = time.time()
        for message, _ in received:
            if self._seen.take(message, now_sec):
                self._graph.source.receive(
                    GlobalWindows.windowed_value(message, timestamp=Timestamp(message.publish_sec))
                )
        self._unacknowledged += [token for _, token in received]

    def _is_due(self, domain: str, until_micros: int) -> bool:
        """Whether a timer is due."""
        first = self._store.next_micros(domain)
        return first is not None and first <= until_micros

    def _fire_due(self, domain: str, until_micros: int) -> None:
        """Fires the timers that are due, those too that are set by it."""
        while (found := self._store.take_due(domain, until_micros)) is not None:
            self._fire_one(*found)

    def _fire_one(self, micros: int, due: Due) -> None:
        timestamp = Timestamp(micros=micros)
        self._graph.stateful[due.step].fire(due.name, due.key, due.window, timestamp, due.tag)

    def _save(self) -> None:
        """Saves the state, then acknowledges what came before."""
        self._saved_at = time.monotonic()
        self._seen.forget(time.time())
        if not self._unacknowledged and not self._store.changed:
            return
        self._checkpoint.save(self._store, {"watermark_sec": self._watermark.value_sec})
        tokens, self._unacknowledged = self._unacknowledged, []
        if tokens:
            self._feed.ack(tokens)

    def _drain(self) -> None:
        """Finishes what came in and saves that; then flushes what is open, unsaved, so that it can go on.

        Timers of real time fire early: the batches that wait, and what they set in turn. One that sets itself
        again (to forget something later) fires no second time, or thousands of them would take the drain's
        time.
        """
        self._fire_early()
        self._save()
        for _ in range(_DRAIN_ROUNDS):
            windows_end = self._is_due(TimeDomain.WATERMARK, MAX_TIMESTAMP.micros)
            with _Bundle(self._graph.steps):
                self._fire_due(TimeDomain.WATERMARK, MAX_TIMESTAMP.micros)
            if not self._fire_early() and not windows_end:
                return
        _LOG.warning("timers that set others without an end are left pending at the end of the drain")

    def _fire_early(self) -> int:
        """Fires each timer of real time that is pending, and none that is set by it; how many."""
        timers = self._store.timers
        pending = [
            (micros, due)
            for due, micros in timers.items()
            if due.domain == TimeDomain.REAL_TIME and self._set_themselves.get(due) != micros
        ]
        with _Bundle(self._graph.steps):
            for micros, due in sorted(pending, key=lambda item: (item[0], self._store.ranks[item[1].step])):
                if timers.get(due) == micros:
                    self._store.clear_timer(due)
                    self._fire_one(micros, due)
                    if due in timers:
                        self._set_themselves[due] = timers[due]
        return len(pending)


class _Bundle:
    """Starts all steps, and finishes them in their order, so that what one gives at its end is taken."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def __enter__(self) -> None:
        for step in self._steps:
            step.start()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            for step in self._steps:
                step.finish()


def _micros(time_sec: float) -> int:
    return min(round(time_sec * 1e6), MAX_TIMESTAMP.micros)
