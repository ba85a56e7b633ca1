"""A Pub/Sub subscription, or a topic through a subscription of its own, as a feed.

It reads Pub/Sub's streaming pull itself. The subscriber of ``google.cloud.pubsub`` hands out the messages of
an ordering key one by one, each only after the one before is acknowledged; ours are acknowledged together,
about once a second, so a camera that publishes with its name as the key would come to one frame a second.
It also loses the acknowledgements that come after it was told to stop. The emulator is polled instead, see
:mod:`~beam_vision.streaming.feeds.poller`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_vision import pubsub
from beam_vision.errors import JobError, UsageError
from beam_vision.streaming.feeds import subscription
from beam_vision.streaming.feeds.base import Feed, Received
from beam_vision.streaming.feeds.inbox import Inbox
from beam_vision.streaming.feeds.leases import LeaseKeeper
from beam_vision.streaming.feeds.poller import Poller
from beam_vision.streaming.feeds.reader import StreamReader

if TYPE_CHECKING:
    from google.pubsub_v1 import SubscriberClient

DEADLINE_SEC = (10, 600)
"""What Pub/Sub takes as the length of a lease: from, to."""


class PubSubFeed(Feed):
    """Messages of a subscription.

    A topic is read through a subscription made for it. It is deleted at the close, unless messages were
    handed out and not acknowledged (the run failed) and ``state_dir`` can remember it: then the next run goes
    on with it, and so it does when the process was killed. Pub/Sub deletes it after a day without use.

    Args:
      source: ``pubsub://projects/P/subscriptions/S``, or a topic's name.
      state_dir: a local folder that keeps the name of a topic's subscription; empty: none.
      max_outstanding: receives no more while so many messages are not acknowledged.
      max_outstanding_bytes: or so many bytes of payload.
      ack_deadline_sec: how long a lease is, 10 to 600: after a kill, messages come again when it ends. It is
        extended while we live.
      max_lease_sec: how long a message may be worked on at all.
      by_stream: whether to read the streaming pull; None: unless it is the emulator's.

    Raises:
      UsageError: the source is no such name, or a setting is out of bounds.
    """

    def __init__(
        self,
        source: str,
        *,
        state_dir: str = "",
        max_outstanding: int = 2000,
        max_outstanding_bytes: int = 256 * 2**20,
        ack_deadline_sec: int = 60,
        max_lease_sec: float = 3600.0,
        by_stream: bool | None = None,
    ) -> None:
        if not DEADLINE_SEC[0] <= ack_deadline_sec <= DEADLINE_SEC[1]:
            raise UsageError(
                f"a lease is of {DEADLINE_SEC[0]} to {DEADLINE_SEC[1]} s, not {ack_deadline_sec}"
            )
        self.source = source
        self._asked = pubsub.parse_name(source)
        self._state_dir = state_dir
        self._max_outstanding = max_outstanding
        self._max_outstanding_bytes = max_outstanding_bytes
        self._deadline_sec = ack_deadline_sec
        self._max_lease_sec = max_lease_sec
        self._by_stream = not pubsub.emulated() if by_stream is None else by_stream
        self._inbox = Inbox(max_outstanding, max_outstanding_bytes)
        self._client: SubscriberClient | None = None

    def check(self) -> None:
        """As :meth:`Feed.check`."""
        client = self._connect()
        try:
            subscription.check(client, self._asked)
        finally:
            client.transport.close()

    def open(self) -> None:
        """As :meth:`Feed.open`."""
        client = self._connect()
        try:
            name = subscription.find(
                client, self._asked, state_dir=self._state_dir, deadline_sec=self._deadline_sec
            )
        except UsageError:
            client.transport.close()
            raise
        self._client, self._name = client, name
        self._keeper = LeaseKeeper(
            *(client, name, self._inbox),
            deadline_sec=self._deadline_sec,
            max_lease_sec=self._max_lease_sec,
        )
        self._reader = self._read_by(client, name)
        self._keeper.start()
        self._reader.start()

    def _read_by(self, client: SubscriberClient, name: pubsub.Name) -> StreamReader | Poller:
        if not self._by_stream:
            return Poller(client, name, self._inbox)
        return StreamReader(
            *(client, name, self._inbox),
            deadline_sec=self._deadline_sec,
            max_messages=self._max_outstanding,
            max_bytes=self._max_outstanding_bytes,
        )

    def _connect(self) -> SubscriberClient:
        try:
            return pubsub.subscriber()
        except pubsub.errors() as error:
            raise pubsub.explain(error, self._asked, subscription.ROLE) from error

    def pull(self, max_messages: int, max_bytes: int, timeout_sec: float) -> list[Received]:
        """As :meth:`Feed.pull`."""
        if not self._reader.alive and not self._inbox.ended:
            raise JobError(f"{self.source} is no longer read: its thread ended, see the log")
        return self._inbox.take(max_messages, max_bytes, timeout_sec)

    def ack(self, tokens: Sequence[str]) -> None:
        """As :meth:`Feed.ack`; they are on their way when this returns."""
        self._keeper.ack(self._inbox.settle(tokens))

    def stop(self) -> None:
        """As :meth:`Feed.stop`; takes some milliseconds, at most some seconds."""
        if self._client is None or self._inbox.stopped:
            return
        unwanted = self._inbox.stop()
        self._keeper.give_back(unwanted + self._reader.stop())

    def close(self) -> None:
        """As :meth:`Feed.close`."""
        if self._client is None:
            return
        self.stop()
        self._keeper.close()
        left = self._inbox.settle(self._inbox.held())
        self._keeper.give_back(left)
        if self._asked.kind == "topics" and not (left and self._state_dir):
            subscription.delete(self._client, self._name, self._state_dir)
        self._client.transport.close()
        self._client = None

    @property
    def exhausted(self) -> bool:
        """Always False: there may be more."""
        return False

    @property
    def waiting(self) -> int:
        """As :attr:`Feed.waiting`."""
        return len(self._inbox)
