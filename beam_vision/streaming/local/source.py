"""The source that only our local runner knows, and the step that tells it how far event time has come."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.window import GlobalWindows

from beam_vision.stream_types import Frame, Message


class ReadFeed(beam.PTransform):
    """PBegin -> ``PCollection[Message]``: what the runner's feed gives."""

    def expand(self, begin: PBegin) -> PCollection[Message]:
        """A source without an expansion: any other runner refuses it."""
        messages: PCollection[Message] = PCollection(begin.pipeline, element_type=Message, is_bounded=False)
        return messages

    def get_windowing(self, inputs: object) -> Windowing:
        """One global window."""
        return Windowing(GlobalWindows())

    def infer_output_type(self, unused_input_type: object) -> type:
        """Messages."""
        return Message


@beam.typehints.with_input_types(Frame)
@beam.typehints.with_output_types(Frame)
class MarkTime(beam.DoFn):
    """Frames as they are. On the local runner their capture times make the watermark.

    A camera whose clock is more than ``most_sec`` behind the server's doesn't hold the others back: its
    frames are late.
    """

    def __init__(self, *, most_sec: float = 60.0) -> None:
        self._most_sec = most_sec
        self.oldest_sec: float | None = None

    def process(self, element: Frame) -> Iterator[Frame]:
        """The frame itself."""
        info = element.info
        taken_sec = max(info.capture_sec, info.publish_sec - self._most_sec)
        if self.oldest_sec is None or taken_sec < self.oldest_sec:
            self.oldest_sec = taken_sec
        yield element

    def take(self) -> float | None:
        """The oldest capture time since the last call."""
        oldest_sec, self.oldest_sec = self.oldest_sec, None
        return oldest_sec
