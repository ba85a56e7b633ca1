"""A thread that polls a subscription with unary pulls, for the emulator alone.

The emulator goes on sending to streams whose client was killed: after n kills a message that comes again
reaches the one stream that is alive about once in n times, a lease apart. A unary pull has no such memory.
Pub/Sub itself ends a dead stream; there :mod:`~beam_vision.streaming.feeds.reader` reads.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from beam_vision import pubsub
from beam_vision.streaming.feeds.base import Received
from beam_vision.streaming.feeds.reader import ROLE, as_message

if TYPE_CHECKING:
    from google.pubsub_v1 import SubscriberClient

    from beam_vision.streaming.feeds.inbox import Inbox

_LOG = logging.getLogger(__name__)
_EVERY_SEC = 0.01
_WHILE_BUSY_SEC = 0.05
"""Pulls take processor time, here and in the emulator, from what is worked on meanwhile."""
_AFTER_ERROR_SEC = 0.5
_MOST = 500
_RPC_SEC = 10.0


class Poller:
    """Receives messages until it is stopped, or an error that no further attempt can mend.

    Args:
      client: to read by.
      name: the subscription.
      inbox: takes the messages in; told of an error that ends the reading.
    """

    def __init__(self, client: SubscriberClient, name: pubsub.Name, inbox: Inbox) -> None:
        self._client = client
        self._request = {"subscription": name.path, "max_messages": _MOST, "return_immediately": True}
        self._name = name
        self._inbox = inbox
        self._stopped = threading.Event()
        self._refused: list[str] = []
        self._thread = threading.Thread(target=self._run, name="pubsub-poller", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> list[str]:
        """Ends, after the inbox was stopped; gives the tokens of what came too late for it."""
        self._stopped.set()
        self._thread.join(_RPC_SEC)
        return self._refused

    @property
    def alive(self) -> bool:
        """Whether it still reads."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                found = self._pull()
            except pubsub.errors() as error:
                if pubsub.is_permanent(error):
                    self._inbox.fail(pubsub.explain(error, self._name, ROLE))
                    return
                _LOG.info("a pull of %s failed and is tried again: %s", self._name.path, error)
                self._stopped.wait(_AFTER_ERROR_SEC)
                continue
            if not found:
                self._stopped.wait(_EVERY_SEC)
            elif not self._inbox.put(found):
                self._refused += [item.token for item in found]
            if len(found) < _MOST:
                self._inbox.wait_for_taker(_WHILE_BUSY_SEC)

    def _pull(self) -> list[Received]:
        response = self._client.pull(request=self._request, retry=None, timeout=_RPC_SEC)
        now = time.time()
        raw = type(response).pb(response).received_messages
        return [Received(as_message(item.message, now), item.ack_id) for item in raw]
