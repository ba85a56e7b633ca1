"""What tests of camera transforms run inside pipelines; a module of its own, as it isn't pickled by value."""

import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_pipeline

from beam_vision.stream_types import Frame, FrameInfo, frame_key
from beam_vision.types import EncodedImage, ImageRef

FOUND = []
AHEAD_SEC = [0.0]


def clock():
    """The time, and what a test adds."""
    return time.time() + AHEAD_SEC[0]


class Keep(beam.DoFn):
    """Appends to a list of this process, with a name."""

    def __init__(self, name):
        self.name = name

    def process(self, element):
        FOUND.append((self.name, element))


def keep(pcoll, name):
    _ = pcoll | f"Keep{name}" >> beam.ParDo(Keep(name))


def run_stream(stream, build):
    """Runs ``build`` over a TestStream on Beam's streaming runner; what was kept, in order."""
    FOUND.clear()
    options = PipelineOptions()
    options.view_as(StandardOptions).streaming = True
    with test_pipeline.TestPipeline(runner=BundleBasedDirectRunner(), options=options) as p:
        build(p | stream)
    return list(FOUND)


def frame(at_sec, data=b"", camera="gate", publish_sec=0.0):
    ref = ImageRef(key=frame_key(camera, at_sec), uri="pubsub:1")
    return Frame(FrameInfo(camera, at_sec, publish_sec=publish_sec), EncodedImage(ref, data))


def advance(element, by_sec):
    """Moves the clock of the tests on."""
    AHEAD_SEC[0] += by_sec
    return element


def frame_of(message):
    """The frame of a message that is a capture time."""
    at = frame(float(message.data), message.data, publish_sec=float(message.data))
    return beam.window.TimestampedValue(at, at.info.capture_sec)
