"""Where a local run's messages come from: the interface of a feed.

A feed hands out messages, keeps them from being handed out again while they are worked on, and takes back
a token for each that is done with. What was handed out and never acknowledged comes again, in this run or
in the next: at least once, never lost.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

from beam_vision.stream_types import Message


class Received(NamedTuple):
    """A message and the token that acknowledges this delivery of it."""

    message: Message
    token: str


class Feed(abc.ABC):
    """A source of messages. Used by one thread: open, pull and ack as long as needed, stop, ack, close.

    Attributes:
      source: what it reads, as its user named it.
    """

    source: str

    def __enter__(self) -> Feed:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:  # noqa: B027  (nothing to find out unless a feed says so)
        """Finds out, before it is opened, whether the source is there; leaves nothing behind.

        Raises:
          UsageError: it isn't, or may not be read; says the remedy.
        """

    @abc.abstractmethod
    def open(self) -> None:
        """Connects and begins to receive.

        Raises:
          UsageError: the source isn't there or may not be read; says the remedy.
        """

    @abc.abstractmethod
    def pull(self, max_messages: int, max_bytes: int, timeout_sec: float) -> list[Received]:
        """The next messages: returns as soon as there is one, with all that are there, up to the bounds.

        Args:
          max_messages: at most so many.
          max_bytes: of payload together; a single larger message is handed out all the same.
          timeout_sec: waits so long for the first one; 0 doesn't wait.

        Returns:
          in the order of their arrival; empty when none came in time, and after :meth:`stop`.

        Raises:
          UsageError: the source is gone or may no longer be read.
        """

    @abc.abstractmethod
    def ack(self, tokens: Sequence[str]) -> None:
        """Says that these deliveries are done with, so that they don't come again.

        Works after :meth:`stop` too. A token that is unknown, or was acknowledged before, is passed over.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """Takes in nothing new and gives back what was received but not handed out.

        What was handed out stays leased until it is acknowledged or the feed is closed.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Stops, sends acknowledgements still on their way, gives back all else. May be called twice."""

    @property
    @abc.abstractmethod
    def exhausted(self) -> bool:
        """Whether all there will ever be has been handed out; always False for a feed without an end."""

    @property
    @abc.abstractmethod
    def waiting(self) -> int:
        """How many messages were received and not handed out yet: what a pull would give at once."""
