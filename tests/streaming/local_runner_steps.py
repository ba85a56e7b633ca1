"""DoFns of the local runner's tests, in a module of their own: a test module's are pickled by value."""

import time

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import CombiningValueStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from beam_vision.stream_types import Frame, FrameInfo
from beam_vision.streaming.local.source import MarkTime as MarkTime
from beam_vision.types import EncodedImage, ImageRef


def number(message):
    return int(message.data)


def odd(value):
    return f"o{value}"


def by_parity(value):
    return ("odd" if value % 2 else "even", value)


def by_message(message):
    return ("k", message.message_id)


def by_camera(frame):
    return (frame.info.camera, frame.info.sequence)


def timed(value):
    return beam.window.TimestampedValue(("a", str(value)), value)


def fails_at_12(value):
    if value == 12:
        raise ValueError("twelve")
    return value


def frame_of(message):
    capture_sec = float(message.data)
    info = FrameInfo("a", capture_sec, publish_sec=capture_sec, sequence=message.data.decode())
    frame = Frame(info, EncodedImage(ImageRef(key=info.sequence, uri=""), b""))
    return beam.window.TimestampedValue(frame, capture_sec)


class Split(beam.DoFn):
    def process(self, element):
        yield beam.pvalue.TaggedOutput("odd", element) if element % 2 else element


class SumAtEnd(beam.DoFn):
    def start_bundle(self):
        self.total = None

    def process(self, element):
        self.total = (self.total or 0) + element

    def finish_bundle(self):
        if self.total is not None:
            yield beam.transforms.window.GlobalWindows.windowed_value(self.total)


class Append(beam.DoFn):
    """Appends lines to a file."""

    def __init__(self, path):
        self.path = path

    def process(self, element):
        with open(self.path, "a") as stream:
            stream.write(f"{element}\n")


@beam.typehints.with_input_types(tuple[str, int])
class CountAndFlush(beam.DoFn):
    """Counts by key; says the count a while after the last change."""

    COUNT = CombiningValueStateSpec("count", sum)
    SOON = TimerSpec("soon", TimeDomain.REAL_TIME)

    def __init__(self, delay_sec):
        self.delay_sec = delay_sec

    def process(
        self,
        element,
        count=beam.DoFn.StateParam(COUNT),
        soon=beam.DoFn.TimerParam(SOON),
    ):
        count.add(1)
        soon.set(Timestamp.of(time.time() + self.delay_sec))

    @on_timer(SOON)
    def say(self, key=beam.DoFn.KeyParam, count=beam.DoFn.StateParam(COUNT)):
        yield f"{key}={count.read()}"


@beam.typehints.with_input_types(tuple[str, str])
class CountWindow(beam.DoFn):
    """Counts by key and window; says it at the window's end."""

    COUNT = CombiningValueStateSpec("count", sum)
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self,
        element,
        window=beam.DoFn.WindowParam,
        count=beam.DoFn.StateParam(COUNT),
        end=beam.DoFn.TimerParam(END),
    ):
        count.add(1)
        end.set(window.end)

    @on_timer(END)
    def say(self, window=beam.DoFn.WindowParam, count=beam.DoFn.StateParam(COUNT)):
        yield f"{int(window.start)}:{count.read()}"
