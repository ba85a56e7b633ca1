"""Messages to frames, in a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.timestamp import Timestamp

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.failures import FAILED
from beam_vision.stream_types import OBSERVED, DeadLetter, Message, Observation
from beam_vision.streaming.content import ParseSettings, Skipped
from beam_vision.streaming.dead import failed_observation
from beam_vision.streaming.parse import parse_or_fail


class Parsed(NamedTuple):
    """What :class:`ParseMessages` gives: ``messages == frames + dead + skipped`` (a counter).

    Attributes:
      frames: PCollection of Frame, each at its capture time.
      dead: PCollection of DeadLetter.
      observed: PCollection of Observation: the failed messages whose camera is known.
    """

    frames: beam.PCollection
    dead: beam.PCollection
    observed: beam.PCollection


class ParseMessages(beam.PTransform):
    """PCollection[Message] -> :class:`Parsed`.

    Args:
      settings: how messages are read.
      run_id: stands in each failure.
    """

    def __init__(self, settings: ParseSettings | None = None, *, run_id: str = "") -> None:
        super().__init__()
        self._settings = settings or ParseSettings()
        self._run_id = run_id

    def expand(self, messages: beam.PCollection) -> Parsed:
        """Parses each message."""
        parsed = messages | "ParseMessage" >> beam.ParDo(
            ParseDoFn(self._settings, self._run_id)
        ).with_outputs(FAILED, OBSERVED, main="frames")
        return Parsed(parsed.frames, parsed[FAILED], parsed[OBSERVED])


class ParseDoFn(beam.DoFn):
    """Message -> Frame, or DeadLetter under ``failed`` and its Observation under ``observed``."""

    def __init__(self, settings: ParseSettings, run_id: str) -> None:
        self._settings = settings
        self._run_id = run_id

    def process(self, message: Message) -> Iterator[Any]:
        """Parses one message."""
        metrics.count(metrics.MESSAGES)
        parsed = parse_or_fail(message, self._settings, self._run_id)
        if isinstance(parsed, Skipped):
            metrics.count(metrics.MESSAGES_SKIPPED)
            metrics.count(f"{metrics.MESSAGES_SKIPPED}_{parsed.reason}")
        elif isinstance(parsed, DeadLetter):
            for tag, value in failed_outputs(parsed):
                timed = at_capture_time(value, value.capture_sec) if isinstance(value, Observation) else value
                yield TaggedOutput(tag, timed)
        else:
            yield at_capture_time(parsed, parsed.info.capture_sec)


def failed_outputs(dead: DeadLetter) -> Iterator[tuple[str, DeadLetter | Observation]]:
    """Counts a failure, and gives what goes out for it with its tag: the dead letter, its observation."""
    metrics.count_failure(dead.failure.reason)
    yield FAILED, dead
    observation = failed_observation(dead)
    if observation is not None:
        yield OBSERVED, observation


def at_capture_time(value: Any, capture_sec: float) -> beam.window.TimestampedValue:
    """``value`` at a time that is exact to the microsecond."""
    return beam.window.TimestampedValue(value, Timestamp(micros=round(capture_sec * 1e6)))
