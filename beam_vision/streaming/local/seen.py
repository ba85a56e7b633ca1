"""Which messages are in the state already: an acknowledgement can be lost, a message then comes again."""

from __future__ import annotations

from collections import deque

from beam_vision.stream_types import Message
from beam_vision.streaming.local.state import MESSAGES, Cell, Store


class Seen:
    """Message ids that were taken in lately, kept in the state so that both are saved as one.

    Args:
      store: the job's state.
      horizon_sec: how long an id is kept.
    """

    def __init__(self, store: Store, horizon_sec: float) -> None:
        self._store = store
        self._horizon_sec = horizon_sec
        found = [(at_sec, cell) for cell, at_sec in store.cells.items() if cell.step == MESSAGES]
        self._ages = deque(sorted(found, key=lambda item: item[0]))

    def take(self, message: Message, now_sec: float) -> bool:
        """Whether a message is new, and from now on it isn't; one without an id always is.

        Its time of publishing belongs to it: an emulator that is started anew counts its ids from 1 again.
        """
        if not message.message_id:
            return True
        cell = Cell(MESSAGES, (message.message_id, message.publish_sec), None, "")
        if self._store.get(cell) is not None:
            return False
        self._store.put(cell, now_sec)
        self._ages.append((now_sec, cell))
        return True

    def forget(self, now_sec: float) -> None:
        """Forgets those that are older than the horizon."""
        while self._ages and self._ages[0][0] < now_sec - self._horizon_sec:
            self._store.drop(self._ages.popleft()[1])
