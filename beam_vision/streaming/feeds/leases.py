"""Acknowledges messages of a subscription, and extends the leases of those that are worked on."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from beam_vision import pubsub

if TYPE_CHECKING:
    from google.pubsub_v1 import SubscriberClient

    from beam_vision.streaming.feeds.inbox import Inbox

MAX_IDS = 1000
"""A request may be of 512 KiB; an id has about 200 bytes."""

ACKNOWLEDGE, EXTEND = "acknowledge", "extend the leases of"

_LOG = logging.getLogger(__name__)
_RPC_SEC = 10.0
_RETRY_SEC = 1.0


class LeaseKeeper:
    """A thread that sends acknowledgements as they come, and extensions before leases end.

    An acknowledgement that can't be sent is tried again each second; what is lost of them with the process
    only makes messages come again.

    Args:
      client: to send by.
      name: the subscription.
      inbox: knows what is held; told when the subscription is gone.
      deadline_sec: how long a lease is.
      max_lease_sec: a message held longer than this is given up: it may be handed to someone else.
    """

    def __init__(
        self,
        client: SubscriberClient,
        name: pubsub.Name,
        inbox: Inbox,
        *,
        deadline_sec: int,
        max_lease_sec: float,
    ) -> None:
        self._client = client
        self._name = name
        self._inbox = inbox
        self._deadline_sec = deadline_sec
        self._max_lease_sec = max_lease_sec
        self._asked: queue.SimpleQueue[Sequence[str] | None] = queue.SimpleQueue()
        self._unsent: list[str] = []
        self._extended: dict[str, float] = {}
        self._troubled: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="pubsub-leases", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def ack(self, tokens: Sequence[str]) -> None:
        """Has these acknowledged soon."""
        self._asked.put(tokens)

    def close(self) -> None:
        """Sends what is left, once, and ends."""
        self._asked.put(None)
        self._thread.join()
        if self._unsent:
            _LOG.warning("%d acknowledgements were not sent: these messages come again", len(self._unsent))

    def give_back(self, tokens: Sequence[str]) -> None:
        """Ends leases, so that the messages are handed out again at once; where that fails, when they end."""
        try:
            self._modify(tokens, 0)
        except pubsub.errors() as error:
            _LOG.warning("messages could not be given back and will come when their leases end: %s", error)

    def _run(self) -> None:
        look_sec = min(_RETRY_SEC, self._deadline_sec / 10)
        while self._gather(look_sec):
            self._send()
            self._extend()
        self._send()

    def _gather(self, timeout_sec: float) -> bool:
        """Waits for acknowledgements that are asked for, and gathers all there are; False at the end."""
        try:
            asked = self._asked.get(timeout=timeout_sec)
            while asked is not None:
                self._unsent += asked
                asked = self._asked.get_nowait()
        except queue.Empty:
            return True
        return False

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        for ids in _chunks(unsent):
            try:
                request = {"subscription": self._name.path, "ack_ids": ids}
                self._client.acknowledge(request=request, retry=None, timeout=_RPC_SEC)
                self._troubled.discard(ACKNOWLEDGE)
            except pubsub.errors() as error:
                self._note(error, ACKNOWLEDGE)
                if not pubsub.is_permanent(error):
                    self._unsent += ids

    def _extend(self) -> None:
        lost = self._inbox.settle(self._inbox.held(self._max_lease_sec))
        if lost:
            _LOG.warning("%d messages were held for %g s and given up", len(lost), self._max_lease_sec)
        now, pause_sec = time.monotonic(), self._deadline_sec / 3
        old = self._inbox.held(pause_sec)
        due = [token for token in old if now - self._extended.get(token, -math.inf) >= pause_sec]
        self._extended = {token: self._extended[token] for token in old if token in self._extended}
        try:
            self._modify(due, self._deadline_sec)
            self._extended.update(dict.fromkeys(due, now))
            self._troubled.discard(EXTEND)
        except pubsub.errors() as error:
            self._note(error, EXTEND)

    def _modify(self, tokens: Sequence[str], deadline_sec: int) -> None:
        for ids in _chunks(tokens):
            request = {
                "subscription": self._name.path,
                "ack_ids": ids,
                "ack_deadline_seconds": deadline_sec,
            }
            self._client.modify_ack_deadline(request=request, retry=None, timeout=_RPC_SEC)

    def _note(self, error: Exception, what: str) -> None:
        """An error that ends the subscription ends the feed; ids that are no longer valid just come again.
        One that lasts is told once."""
        from google.api_core import exceptions

        level = logging.INFO if what in self._troubled else logging.WARNING
        self._troubled.add(what)
        _LOG.log(level, "could not %s messages of %s: %s", what, self._name.path, error)
        if isinstance(error, exceptions.NotFound | exceptions.Forbidden | exceptions.Unauthorized):
            self._inbox.fail(pubsub.explain(error, self._name, "roles/pubsub.subscriber"))


def _chunks(tokens: Sequence[str]) -> Iterator[list[str]]:
    for first in range(0, len(tokens), MAX_IDS):
        yield list(tokens[first : first + MAX_IDS])
