"""Several slow sources read at a time, by threads, into one bounded queue."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

WAITING = 2
"""How many items a thread may have ready."""


def in_parallel(
    sources: Sequence[Callable[[], Iterator[T]]], threads: int, *, waiting: int = WAITING
) -> Iterator[T]:
    """What each of ``sources`` gives, as it comes; the first error of one ends it all.

    Args:
      sources: what opens each.
      threads: how many are read at a time, at least 1.
      waiting: how many items a thread may have ready.
    """
    if len(sources) <= 1:
        for source in sources:
            yield from source()
        return
    shared = _Shared(sources, min(threads, len(sources)), waiting)
    pool = ThreadPoolExecutor(shared.threads)
    try:
        workers = [pool.submit(shared.work, number) for number in range(shared.threads)]
        while shared.threads:
            items, ended = shared.done.get()
            yield from items
            if ended is not None:
                workers[ended].result()  # raises what it ended with
                shared.threads -= 1
    finally:
        shared.stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


class _Shared:
    """What the threads and the caller have in common."""

    def __init__(self, sources: Sequence[Callable[[], Iterator]], threads: int, waiting: int) -> None:
        self.todo: queue.SimpleQueue[Callable[[], Iterator]] = queue.SimpleQueue()
        for source in sources:
            self.todo.put(source)
        self.threads = threads
        self.done: queue.Queue[tuple[list, int | None]] = queue.Queue(threads * waiting)
        self.stopped = threading.Event()

    def work(self, number: int) -> None:
        """Reads one source after the other, and says when there are no more."""
        try:
            with contextlib.suppress(queue.Empty):
                while not self.stopped.is_set():
                    for item in self.todo.get_nowait()():
                        if not self._hand_over([item], None):
                            return
        finally:
            self._hand_over([], number)

    def _hand_over(self, items: list, ended: int | None) -> bool:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.done.put((items, ended), timeout=0.2)
                return True
        return False
