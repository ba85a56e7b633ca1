"""Topics and subscriptions on the Pub/Sub emulator, for tests: made, filled and emptied in a line each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from beam_vision import pubsub
from beam_vision.stream_types import Message

_BATCH = 100
_RPC_SEC = 20.0


class PubSub:
    """A project of its own on a running emulator; names that tests give never meet those of another test.

    Needs ``PUBSUB_EMULATOR_HOST`` in the environment, as the fixture ``pubsub`` sets it.

    Args:
      host: ``127.0.0.1:PORT``.
      project: its id; by default one that no one else has.

    Attributes:
      project: its id.
      host: ``127.0.0.1:PORT``.
    """

    def __init__(self, host: str, project: str = "") -> None:
        self.host = host
        self.project = project or f"test-{uuid.uuid4().hex[:12]}"
        self._publisher = pubsub.publisher()
        self._subscriber = pubsub.subscriber()

    def close(self) -> None:
        """Ends its connections."""
        self._publisher.transport.close()
        self._subscriber.transport.close()

    def topic(self, name: str = "frames") -> str:
        """Makes a topic; gives its path, ``projects/P/topics/NAME``."""
        path = pubsub.Name(self.project, "topics", name).path
        self._publisher.create_topic(request={"name": path}, timeout=_RPC_SEC)
        return path

    def subscription(self, topic: str, name: str = "", **settings: Any) -> str:
        """Makes a subscription to a topic; gives its path.

        Args:
          topic: its path.
          name: of the subscription; one of its own by default.
          settings: further fields, such as ``enable_message_ordering`` or ``ack_deadline_seconds``.
        """
        path = pubsub.Name(self.project, "subscriptions", name or f"sub-{uuid.uuid4().hex[:8]}").path
        request = {"name": path, "topic": topic, "ack_deadline_seconds": 60, **settings}
        self._subscriber.create_subscription(request=request, timeout=_RPC_SEC)
        return path

    def publish(
        self,
        topic: str,
        messages: Iterable[bytes | tuple[bytes, Mapping[str, str]]],
        *,
        ordering_key: str = "",
    ) -> list[str]:
        """Publishes payloads, each alone or with its attributes; gives their message ids."""
        items = [item if isinstance(item, tuple) else (item, {}) for item in messages]
        sent = [
            {"data": data, "attributes": dict(attributes), "ordering_key": ordering_key}
            for data, attributes in items
        ]
        ids: list[str] = []
        for first in range(0, len(sent), _BATCH):
            request = {"topic": topic, "messages": sent[first : first + _BATCH]}
            ids += self._publisher.publish(request=request, timeout=_RPC_SEC).message_ids
        return ids

    def take(self, subscription: str, number: int, *, timeout_sec: float = 20.0) -> list[Message]:
        """Takes and acknowledges messages until there are ``number``, or the time is over.

        Asked for more than there are, it waits all the time: to see that nothing comes, give a short one.
        """
        end = time.monotonic() + timeout_sec
        taken: list[Message] = []
        while len(taken) < number and time.monotonic() < end:
            for ack_id, message in self._pull(subscription, min(number - len(taken), _BATCH)):
                taken.append(message)
                self._subscriber.acknowledge(subscription=subscription, ack_ids=[ack_id], timeout=_RPC_SEC)
        return taken

    def _pull(self, subscription: str, most: int) -> list[tuple[str, Message]]:
        request = {"subscription": subscription, "max_messages": most, "return_immediately": True}
        found = self._subscriber.pull(request=request, retry=None, timeout=_RPC_SEC).received_messages
        if not found:
            time.sleep(0.02)
        return [(item.ack_id, _message(item.message)) for item in found]

    def exists(self, subscription: str) -> bool:
        """Whether a subscription is there."""
        listed = self._subscriber.list_subscriptions(project=f"projects/{self.project}", timeout=_RPC_SEC)
        return subscription in {item.name for item in listed}

    def subscriptions(self) -> list[str]:
        """The paths of all subscriptions of the project, sorted."""
        listed = self._subscriber.list_subscriptions(project=f"projects/{self.project}", timeout=_RPC_SEC)
        return sorted(item.name for item in listed)

    def delete_subscription(self, subscription: str) -> None:
        """Deletes a subscription."""
        self._subscriber.delete_subscription(subscription=subscription, timeout=_RPC_SEC)


def _message(message: Any) -> Message:
    return Message(
        data=message.data,
        attributes=dict(message.attributes),
        message_id=message.message_id,
        publish_sec=message.publish_time.timestamp(),
        pull_sec=time.time(),
        ordering_key=message.ordering_key,
    )
