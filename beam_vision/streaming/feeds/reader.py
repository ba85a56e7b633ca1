"""A thread that reads the streaming pull of a subscription into an inbox, and connects again when it ends."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from beam_vision import pubsub
from beam_vision.stream_types import Message
from beam_vision.streaming.feeds.base import Received

if TYPE_CHECKING:
    from google.pubsub_v1 import SubscriberClient
    from google.pubsub_v1.types import StreamingPullResponse

    from beam_vision.streaming.feeds.inbox import Inbox

ROLE = "roles/pubsub.subscriber"

_LOG = logging.getLogger(__name__)
_END_SEC, _CANCEL_SEC = 1.0, 10.0
_FIRST_WAIT_SEC, _LONGEST_WAIT_SEC = 0.1, 10.0


class StreamReader:
    """Receives messages until it is stopped, or an error that no further attempt can mend.

    Args:
      client: to read by.
      name: the subscription.
      inbox: takes the messages in; told of an error that ends the reading.
      deadline_sec: how long the lease of a message is at first.
      max_messages, max_bytes: what the server may send and we not acknowledge; the inbox's own bounds hold
        where a server (such as the emulator) doesn't heed them.
    """

    def __init__(
        self,
        client: SubscriberClient,
        name: pubsub.Name,
        inbox: Inbox,
        *,
        deadline_sec: int,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self._client = client
        self._name = name
        self._inbox = inbox
        self._first = {
            "subscription": name.path,
            "stream_ack_deadline_seconds": deadline_sec,
            "max_outstanding_messages": max_messages,
            "max_outstanding_bytes": max_bytes,
        }
        self._requests: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        self._call: Any = None
        self._stopped = threading.Event()
        self._refused: list[str] = []
        self._thread = threading.Thread(target=self._run, name="pubsub-reader", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> list[str]:
        """Ends the stream, after the inbox was stopped; gives the tokens of what came too late for it.

        The stream is ended in good order: a server may go on feeding one that was cancelled.
        """
        self._stopped.set()
        self._requests.put(None)
        self._thread.join(_END_SEC)
        if self._thread.is_alive() and self._call is not None:
            self._call.cancel()
            self._thread.join(_CANCEL_SEC)
        return self._refused

    @property
    def alive(self) -> bool:
        """Whether it still reads."""
        return self._thread.is_alive()

    def _run(self) -> None:
        wait_sec = _FIRST_WAIT_SEC
        while not self._stopped.is_set():
            received = 0
            try:
                for response in self._connect():
                    received += self._take_in(response)
            except pubsub.errors() as error:
                if self._stopped.is_set():
                    return
                if pubsub.is_permanent(error):
                    self._inbox.fail(pubsub.explain(error, self._name, ROLE))
                    return
                _LOG.info("the stream of %s ended and is opened again: %s", self._name.path, error)
            wait_sec = _FIRST_WAIT_SEC if received else min(2 * wait_sec, _LONGEST_WAIT_SEC)
            self._stopped.wait(wait_sec * random.uniform(0.5, 1.0))

    def _connect(self) -> Any:
        """A new stream, or none once we are stopped."""
        self._requests = queue.SimpleQueue()
        self._requests.put(self._first)
        if self._stopped.is_set():
            return ()
        self._call = self._client.streaming_pull(
            requests=iter(self._requests.get, None), retry=None, timeout=None
        )
        return self._call

    def _take_in(self, response: StreamingPullResponse) -> int:
        """How many messages a response brought."""
        now = time.time()
        raw = type(response).pb(response).received_messages  # proto-plus is ten times slower
        items = [Received(as_message(item.message, now), item.ack_id) for item in raw]
        if items and not self._inbox.put(items):
            self._refused += [item.token for item in items]
        return len(items)


def as_message(message: Any, pull_sec: float) -> Message:
    """A message of Pub/Sub's protocol as ours."""
    published = message.publish_time
    return Message(
        data=message.data,
        attributes=dict(message.attributes),
        message_id=message.message_id,
        publish_sec=published.seconds + published.nanos / 1e9,
        pull_sec=pull_sec,
        ordering_key=message.ordering_key,
    )
