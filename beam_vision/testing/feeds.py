"""A feed of messages that are in memory already."""

from __future__ import annotations

from collections.abc import Sequence

from beam_vision.stream_types import Message
from beam_vision.streaming.feeds.base import Feed, Received


class ListFeed(Feed):
    """Hands out messages from a list, one after the other, and ends.

    Attributes:
      acked: the tokens that were acknowledged; a message's token is its place in the list.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.source = "list"
        self.acked: list[str] = []
        self._messages = messages
        self._given = 0

    def open(self) -> None:
        """Nothing to do."""

    def pull(self, max_messages: int, max_bytes: int, timeout_sec: float) -> list[Received]:
        """The next ``max_messages``."""
        first, self._given = self._given, min(self._given + max_messages, len(self._messages))
        return [Received(self._messages[i], str(i)) for i in range(first, self._given)]

    def ack(self, tokens: Sequence[str]) -> None:
        """Remembers them."""
        self.acked += tokens

    def stop(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    @property
    def exhausted(self) -> bool:
        """Whether all were handed out."""
        return self.waiting == 0

    @property
    def waiting(self) -> int:
        """How many were not."""
        return len(self._messages) - self._given
