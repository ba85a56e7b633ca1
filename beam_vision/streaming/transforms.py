"""Where messages come from on Dataflow, what failed for the counts, and what a local run shows of itself."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection

import beam_vision.coders  # noqa: F401
from beam_vision.errors import UsageError
from beam_vision.pubsub import parse_name
from beam_vision.stream_types import DeadLetter, Message, Observation, StreamRow
from beam_vision.streaming.board import BOARD
from beam_vision.streaming.dead import failed_observation
from beam_vision.streaming.parse_transforms import at_capture_time


class ReadMessages(beam.PTransform):
    """PBegin -> ``PCollection[Message]``, through Beam's own Pub/Sub read.

    Args:
      source: ``pubsub://projects/P/subscriptions/S``, or ``.../topics/T``.
      id_label: the attribute by which the service drops messages that were published again.
      timestamp_attribute: the attribute with the capture time, by which the service keeps its watermark;
        every message must have it, as RFC 3339 or in milliseconds.

    Raises:
      UsageError: ``source`` is neither.
    """

    def __init__(self, source: str, *, id_label: str = "", timestamp_attribute: str = "") -> None:
        super().__init__()
        name = parse_name(source)
        self._read: dict[str, Any] = {
            "subscription" if name.kind == "subscriptions" else "topic": name.path,
            "id_label": id_label or None,
            "timestamp_attribute": timestamp_attribute or None,
        }

    def expand(self, begin: PBegin) -> PCollection[Message]:
        """Reads with attributes."""
        from apache_beam.io.gcp.pubsub import ReadFromPubSub

        try:
            source = ReadFromPubSub(with_attributes=True, **self._read)
        except ValueError as error:  # Beam is stricter about names than Pub/Sub's emulator
            raise UsageError(str(error)) from error
        read = begin | "ReadFromPubSub" >> source
        return read | "AsMessages" >> beam.Map(as_message).with_output_types(Message)


def as_message(received: Any) -> Message:
    """Beam's ``PubsubMessage`` as ours, received now."""
    published = received.publish_time
    if isinstance(published, datetime.datetime):
        publish_sec = published.timestamp()
    else:
        publish_sec = float(published.micros) / 1e6 if published is not None else 0.0
    return Message(
        data=received.data or b"",
        attributes=dict(received.attributes or {}),
        message_id=received.message_id or "",
        publish_sec=publish_sec,
        pull_sec=time.time(),
        ordering_key=received.ordering_key or "",
    )


@beam.typehints.with_output_types(Observation)
class ObserveDead(beam.DoFn):
    """Dead letters to what is to be counted of them, where their camera is known."""

    def process(self, dead: DeadLetter) -> Iterator[Observation]:
        """At most one observation."""
        observation = failed_observation(dead)
        if observation is not None:
            yield at_capture_time(observation, observation.capture_sec)


class ShowObservations(beam.DoFn):
    """Tells this process's board what became of frames; gives nothing."""

    def process(self, observation: Observation) -> Iterator[Any]:
        """Tells of one."""
        BOARD.observe(observation)
        return iter(())


class ShowRows(beam.DoFn):
    """Tells this process's board of rows that are more than counts; gives nothing."""

    def process(self, row: StreamRow) -> Iterator[Any]:
        """Tells of one."""
        BOARD.tell(row)
        return iter(())
