"""Rows and dead letters -> a Pub/Sub topic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam

import beam_vision.coders  # noqa: F401
from beam_vision import metrics, pubsub
from beam_vision.sinks.publish import (
    MAX_MESSAGES,
    MAX_REQUEST_BYTES,
    Outgoing,
    Topic,
    dead_message,
    row_message,
)
from beam_vision.stream_types import DeadLetter, StreamRow


class PublishRows(beam.PTransform):
    """``PCollection[StreamRow]`` -> messages of a topic.

    What is in them: :func:`beam_vision.sinks.publish.row_message`. All of a bundle is published when the
    bundle is finished, in one request where it fits. A row that is published twice has the same ``row_id``.

    Args:
      topic: ``pubsub://projects/P/topics/T``.
      ordering: makes the camera the ordering key, so that a subscription that asks for it has the rows of a
        camera in order.

    Raises:
      UsageError: ``topic`` is no such name; while it runs: Pub/Sub refuses for good.
      JobError: while it runs: Pub/Sub can't be reached.
    """

    def __init__(self, topic: str, *, ordering: bool = False) -> None:
        super().__init__()
        self._topic = pubsub.parse_name(topic, kind="topics").uri
        self._ordering = ordering

    def expand(self, rows: beam.PCollection) -> None:
        """Publishes them; gives nothing."""
        _ = rows | "Publish" >> beam.ParDo(_Publish(self._topic, row_message, {"ordering": self._ordering}))


class PublishDeadLetters(beam.PTransform):
    """``PCollection[DeadLetter]`` -> messages of a topic.

    What is in them: :func:`beam_vision.sinks.publish.dead_message`.

    Args:
      topic: ``pubsub://projects/P/topics/T``.

    Raises:
      As :class:`PublishRows`.
    """

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = pubsub.parse_name(topic, kind="topics").uri

    def expand(self, dead: beam.PCollection) -> None:
        """Publishes them; gives nothing."""
        _ = dead | "Publish" >> beam.ParDo(_Publish(self._topic, dead_message, {}))


class _Publish(beam.DoFn):
    """Publishes what a bundle holds, at the latest when it is finished."""

    def __init__(self, topic: str, to_message: Callable[..., Outgoing], options: dict[str, Any]) -> None:
        self._topic = topic
        self._to_message = to_message
        self._options = options

    def setup(self) -> None:
        self._connection = Topic(self._topic)
        self._connection.open()

    def start_bundle(self) -> None:
        self._messages: list[Outgoing] = []
        self._bytes = 0

    def process(self, element: StreamRow | DeadLetter) -> None:
        message = self._to_message(element, **self._options)
        self._messages.append(message)
        self._bytes += message.size_bytes
        if len(self._messages) >= MAX_MESSAGES or self._bytes >= MAX_REQUEST_BYTES:
            self._publish()

    def finish_bundle(self) -> None:
        if self._messages:
            self._publish()

    def _publish(self) -> None:
        self._connection.publish(self._messages)
        metrics.count(metrics.PUBLISHED, len(self._messages))
        self._messages, self._bytes = [], 0

    def teardown(self) -> None:
        self._connection.close()
