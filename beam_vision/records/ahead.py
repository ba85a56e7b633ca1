"""A map over threads that keeps the order and never runs further ahead than it is told."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ahead(
    pool: ThreadPoolExecutor,
    fn: Callable[[T], R],
    items: Iterable[T],
    *,
    most: int,
    most_bytes: int,
    size_bytes: Callable[[T], int],
) -> Iterator[R]:
    """``map(fn, items)`` on the threads of ``pool``, results in the order of ``items``.

    Args:
      most: items that are being worked on or wait to be taken.
      most_bytes: their sizes together; one item alone may be larger.
      size_bytes: the size of one item.
    """
    waiting: deque[tuple[Future[R], int]] = deque()
    held_bytes = 0
    try:
        for item in items:
            size = size_bytes(item)
            while waiting and (len(waiting) >= most or held_bytes + size > most_bytes):
                future, freed = waiting.popleft()
                held_bytes -= freed
                yield future.result()
            waiting.append((pool.submit(fn, item), size))
            held_bytes += size
        while waiting:
            yield waiting.popleft()[0].result()
    finally:
        for future, _ in waiting:
            future.cancel()
