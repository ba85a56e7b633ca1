"""How far event time has come: the oldest capture time among what came lately, else the clock."""

from __future__ import annotations

from collections import deque


class Watermark:
    """The watermark of the source, in seconds since the epoch; it never goes back.

    While frames come it follows the oldest capture time of the last ``lag_sec``, so that a frame may come by
    so much after another that was taken later. When nothing comes it follows the clock, ``lag_sec`` behind.
    It is never ahead of the clock: a frame that says it comes from the future must not make all others late.

    Args:
      lag_sec: how much out of order frames may come without being late; infinite where they have an end: it
        then stays at the oldest of them.
      start_sec: where it begins.
    """

    def __init__(self, lag_sec: float, *, start_sec: float = 0.0) -> None:
        self._lag_sec = lag_sec
        self._recent: deque[tuple[float, float]] = deque()
        self.value_sec = start_sec

    def observe(self, now_sec: float, oldest_sec: float) -> None:
        """Frames came in; ``oldest_sec`` is the oldest capture time among them."""
        while self._recent and self._recent[-1][1] >= oldest_sec:
            self._recent.pop()  # it can't be the minimum any more
        self._recent.append((now_sec, oldest_sec))

    def advance(self, now_sec: float) -> float:
        """Where it stands at ``now_sec``."""
        while self._recent and self._recent[0][0] < now_sec - self._lag_sec:
            self._recent.popleft()
        reached = self._recent[0][1] if self._recent else now_sec - self._lag_sec
        self.value_sec = max(self.value_sec, min(reached, now_sec))
        return self.value_sec
