"""Messages between the thread that receives them and the one that works on them, and which are out."""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Iterable, Sequence

from beam_vision.streaming.feeds.base import Received


class Inbox:
    """A bounded buffer that also keeps account of what was taken from it and not settled yet.

    Thread-safe. A message is *waiting* until it is taken, and *held* from when it is put in until it is
    settled; the bounds are on what is held.

    Args:
      max_messages: takes in no more while so many are held.
      max_bytes: takes in no more while so many bytes of payload are held.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: collections.deque[Received] = collections.deque()
        self._held: dict[str, tuple[int, float]] = {}  # token -> bytes, when it came
        self._held_bytes = 0
        self._error: Exception | None = None
        self._stopped = False
        self._takers = 0
        self._change = threading.Condition()

    def __len__(self) -> int:
        """How many are waiting."""
        return len(self._waiting)

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped

    @property
    def ended(self) -> bool:
        """Whether nothing more will come: it was stopped, or it failed."""
        return self._stopped or self._error is not None

    def put(self, items: Sequence[Received]) -> bool:
        """Adds messages; waits until what is held is within the bounds.

        Returns:
          whether they were taken in; False once the inbox is stopped.
        """
        now = time.monotonic()
        with self._change:
            self._change.wait_for(lambda: self._stopped or not self._full())
            if self._stopped:
                return False
            for item in items:
                self._drop(item.token)
                self._held[item.token] = len(item.message.data), now
                self._held_bytes += len(item.message.data)
            self._waiting.extend(items)
            self._change.notify_all()
            return True

    def take(self, max_messages: int, max_bytes: int, timeout_sec: float) -> list[Received]:
        """The next messages, as :meth:`~beam_vision.streaming.feeds.base.Feed.pull` gives them.

        Raises:
          Exception: what :meth:`fail` was given, once nothing is waiting any more.
        """
        taken: list[Received] = []
        size = 0
        with self._change:
            self._wait_for_some(timeout_sec)
            while self._waiting and len(taken) < max_messages:
                size += len(self._waiting[0].message.data)
                if taken and size > max_bytes:
                    break
                taken.append(self._waiting.popleft())
            if self._error and not taken and not self._stopped:
                raise self._error
        return taken

    def _wait_for_some(self, timeout_sec: float) -> None:
        if self._waiting:
            return
        self._takers += 1
        self._change.notify_all()
        try:
            self._change.wait_for(lambda: self._waiting or self._stopped or self._error, timeout_sec)
        finally:
            self._takers -= 1

    def wait_for_taker(self, timeout_sec: float) -> None:
        """Returns once somebody waits for a message, it is stopped, or the time is up."""
        with self._change:
            self._change.wait_for(lambda: self._stopped or (self._takers and not self._waiting), timeout_sec)

    def settle(self, tokens: Iterable[str]) -> list[str]:
        """Lets go of messages that are done with; gives the tokens that were held."""
        with self._change:
            known = [token for token in dict.fromkeys(tokens) if self._drop(token)]
            self._change.notify_all()
            return known

    def held(self, least_age_sec: float = 0.0) -> list[str]:
        """The tokens of all that is held for so long, waiting or taken."""
        latest = time.monotonic() - least_age_sec
        with self._change:
            return [token for token, (_, came) in self._held.items() if came <= latest]

    def fail(self, error: Exception) -> None:
        """No more will come: the next take that would find nothing raises ``error``."""
        with self._change:
            self._error = error
            self._change.notify_all()

    def stop(self) -> list[str]:
        """Takes in nothing more and lets go of what is waiting; gives the tokens of that."""
        with self._change:
            self._stopped = True
            tokens = [item.token for item in self._waiting]
            self._waiting.clear()
            for token in tokens:
                self._drop(token)
            self._change.notify_all()
            return tokens

    def _full(self) -> bool:
        return len(self._held) >= self._max_messages or self._held_bytes >= self._max_bytes

    def _drop(self, token: str) -> bool:
        size, _ = self._held.pop(token, (-1, 0.0))
        self._held_bytes -= max(size, 0)
        return size >= 0
