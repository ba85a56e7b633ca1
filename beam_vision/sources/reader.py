"""Reads many files at once in a pool of threads, holding no more bytes than it may."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from beam_vision.errors import Stage
from beam_vision.failures import Guard
from beam_vision.sources.files import MAX_FILE_BYTES, RETRY_DELAYS_SEC, read_image
from beam_vision.types import Failure, ImageRef

MAX_HELD_BYTES = 64 * 2**20


class ByteBudget:
    """At most ``most`` bytes held at a time; only one alone may be larger."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._held: dict[object, int] = {}
        self._changed = threading.Condition()

    def take(self, holder: object, size_bytes: int) -> None:
        """Waits until ``holder`` may hold ``size_bytes``, in the place of what it held."""
        with self._changed:
            self._held.pop(holder, None)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not self._held or sum(self._held.values()) + size_bytes <= self._most
            )
            self._held[holder] = size_bytes

    def release(self, holder: object) -> None:
        """Says that ``holder`` holds nothing any more."""
        with self._changed:
            self._held.pop(holder, None)
            self._changed.notify_all()

    def lift(self) -> None:
        """Lets everyone pass who waits now or later."""
        with self._changed:
            self._most = float("inf")
            self._changed.notify_all()


@dataclass(frozen=True)
class Read:
    """What came of reading one file, and the seconds it took (waiting for memory left out)."""

    ref: ImageRef
    outcome: bytes | Failure
    seconds: float


class ImageReader:
    """Reads images by their refs.

    Args:
      threads: how many files are read at a time.
      max_file_bytes: a larger file is a Failure ``too_many_bytes``.
      max_held_bytes: how many bytes of files may be read and not yet be handed on.
      retry_delays_sec: how long to wait before each further attempt at a transient error.
      run_id: stands in each failure.
      attempt: stands in each failure.
    """

    def __init__(
        self,
        *,
        threads: int = 16,
        max_file_bytes: int = MAX_FILE_BYTES,
        max_held_bytes: int = MAX_HELD_BYTES,
        retry_delays_sec: tuple[float, ...] = RETRY_DELAYS_SEC,
        run_id: str = "",
        attempt: int = 1,
    ) -> None:
        self._threads = threads
        self._max_held_bytes = max_held_bytes

        def read(uri: str, reserve: Callable[[int], None]) -> bytes:
            return read_image(
                uri, max_bytes=max_file_bytes, retry_delays_sec=retry_delays_sec, reserve=reserve
            )

        self._guard: Guard[bytes] = Guard(read, Stage.READ, run_id=run_id, attempt=attempt)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-image")

    def read_all(self, refs: Iterable[ImageRef]) -> Iterator[Read]:
        """Each ref's bytes or Failure, in the order in which they arrive."""
        todo = iter(refs)
        budget = ByteBudget(self._max_held_bytes)
        running: dict[Future[Read], object] = {}

        def start(count: int) -> None:
            for ref in itertools.islice(todo, count):
                holder = object()
                running[self._pool.submit(self._read, ref, budget, holder)] = holder

        try:
            start(2 * self._threads)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    holder = running.pop(future)
                    yield future.result()
                    budget.release(holder)
                    start(1)
        finally:  # the consumer may have given up: nobody may be left waiting for bytes
            for future in running:
                future.cancel()
            budget.lift()

    def read_in_order(self, refs: Iterable[ImageRef]) -> Iterator[Read]:
        """Each ref's bytes or Failure, in the order of the refs.

        Files are read ahead of the one that is wanted next: no more than twice as many as there are threads,
        and no further one while ``max_held_bytes`` wait.
        """
        todo = iter(refs)
        ahead: deque[Future[Read]] = deque()
        try:
            while True:
                while len(ahead) < 2 * self._threads and _held_bytes(ahead) < self._max_held_bytes:
                    more = [self._pool.submit(self._read, ref) for ref in itertools.islice(todo, 1)]
                    if not more:
                        break
                    ahead += more
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, ref: ImageRef, budget: ByteBudget | None = None, holder: object = None) -> Read:
        start = time.monotonic()
        waited_sec = 0.0

        def reserve(size_bytes: int) -> None:
            nonlocal waited_sec
            before = time.monotonic()
            if budget is not None:
                budget.take(holder, size_bytes)
            waited_sec += time.monotonic() - before

        outcome = self._guard(ref, ref.uri, reserve)
        return Read(ref, outcome, time.monotonic() - start - waited_sec)


def _held_bytes(ahead: Iterable[Future[Read]]) -> int:
    """The bytes of files that were read."""
    outcomes = (future.result().outcome for future in ahead if future.done())
    return sum(len(outcome) for outcome in outcomes if isinstance(outcome, bytes))
