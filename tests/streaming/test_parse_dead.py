import json
import pickle

import pytest

from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.stream_types import DeadLetter, Frame, FrameInfo, Message
from beam_vision.streaming.content import ParseSettings
from beam_vision.streaming.dead import dead_letter, failed_observation
from beam_vision.streaming.parse import parse_or_fail
from beam_vision.types import EncodedImage, Failure, ImageRef

SEC = 1795342500.25
KEY = "gate/2026-11-22T10:15:00.250000Z"
INFO = FrameInfo(camera="gate", capture_sec=SEC, message_id="m1", publish_sec=SEC + 1, sequence="7")
BROKEN = VisionError(Reason.TRUNCATED, "ends early")


def frame(data):
    return Frame(INFO, EncodedImage(ImageRef(key=KEY, uri="gs://lake/a.jpg"), data))


def test_a_frame_keeps_its_image():
    dead = dead_letter(BROKEN, frame(b"jpeg"), Stage.DECODE, "run")
    assert dead.failure == Failure(KEY, "gs://lake/a.jpg", "decode", "truncated", "ends early", 1, "run")
    assert (dead.info, dead.data) == (INFO, b"jpeg")
    assert pickle.loads(pickle.dumps(dead)) == dead
    seen = failed_observation(dead)
    assert (seen.camera, seen.capture_sec, seen.kind, seen.reason) == ("gate", SEC, "failed", "truncated")


def test_a_frame_without_an_image_is_written_as_the_message_that_brings_it():
    dead = dead_letter(BROKEN, frame(b""), Stage.READ)
    assert json.loads(dead.data) == {
        "camera": "gate",
        "capture_time": "2026-11-22T10:15:00.250000Z",
        "sequence": "7",
        "uri": "gs://lake/a.jpg",
    }


@pytest.mark.parametrize(
    ("info", "key", "observed_sec"),
    [
        (None, "m1", None),
        (FrameInfo("gate", SEC, "m1", SEC + 1), KEY, SEC),
        (FrameInfo("gate", 0.0, "m1", SEC + 1), "m1", SEC + 1),
        (FrameInfo("gate", 0.0, "m1", 0.0, SEC + 2), "m1", SEC + 2),
        (FrameInfo("", SEC, "m1", SEC + 1), "m1", None),
    ],
)
def test_a_message_has_the_key_of_its_frame_where_that_is_known(info, key, observed_sec):
    message = Message(b"payload", {"a": "b"}, "m1", SEC + 1)
    made = Failure("old", "old", "message", "bad_time", "too old", run_id="run")
    for error in (made, VisionError(Reason.BAD_TIME, "too old")):
        dead = dead_letter(error, message, Stage.MESSAGE, "run", info=info)
        assert dead.failure == Failure(key, "pubsub:m1", "message", "bad_time", "too old", 1, "run")
        assert dead.data == b"payload"
        seen = failed_observation(dead)
        assert (seen.capture_sec if seen else None) == observed_sec
    assert dead_letter(BROKEN, message, Stage.MESSAGE).info.attributes == {"a": "b"}


def test_what_nobody_foresaw_is_a_dead_letter_too():
    message = Message(b"payload", {"camera": "gate", "content-type": 7}, "m1", SEC)
    dead = parse_or_fail(message, ParseSettings(), "run")
    assert isinstance(dead, DeadLetter)
    assert (dead.failure.key, dead.failure.reason, dead.data) == ("m1", "unexpected", b"payload")
    assert "AttributeError" in dead.failure.detail
