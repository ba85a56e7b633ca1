import json

import apache_beam as beam
from apache_beam.utils.timestamp import Timestamp

from beam_vision.stream_types import Message
from beam_vision.streaming.content import ParseSettings
from beam_vision.streaming.parse_transforms import ParseMessages
from beam_vision.testing.pipelines import collect_with_counters

SEC = 1795342500.123457
KEY = "gate/2026-11-22T10:15:00.123457Z"


def with_time(element, timestamp=beam.DoFn.TimestampParam):
    return element, timestamp


def run(messages, **options):
    def build(p):
        parsed = p | beam.Create(messages) | ParseMessages(ParseSettings(**options), run_id="r")
        return tuple(
            pcoll | f"{name}" >> beam.Map(with_time)
            for name, pcoll in zip(parsed._fields, parsed, strict=True)
        )

    return collect_with_counters(build)


def test_every_message_ends_once():
    event = {"bucketId": "lake", "objectId": "a.jpg", "camera": "gate", "capture_time": str(SEC)}
    messages = [
        Message(b"jpeg", {"camera": "gate", "capture_time": str(SEC)}, "1", SEC + 1),
        Message(b"", {**event, "eventType": "OBJECT_FINALIZE"}, "2", SEC + 1),
        Message(b"", {**event, "eventType": "OBJECT_DELETE"}, "3", SEC + 1),
        Message(b"", {**event, "eventType": "OBJECT_FINALIZE", "objectId": "a/"}, "4", SEC + 1),
        Message(b"{", {"camera": "yard"}, "5", SEC + 1),
        Message(b"{", {}, "6", SEC + 1),
        Message(json.dumps({"uri": "/a.jpg", **event}).encode(), {}, "7", SEC + 1),
    ]
    (frames, dead, observed), counters = run(messages)
    assert {(f.info.message_id, f.image.ref.key, f.image.ref.uri) for f, _ in frames} == {
        ("1", KEY, "pubsub:1"),
        ("2", KEY, "gs://lake/a.jpg"),
    }
    assert {time for _, time in frames} == {Timestamp(micros=1795342500123457)}
    failures = {d.info.message_id: (d.failure.key, d.failure.reason, d.failure.run_id) for d, _ in dead}
    assert failures == {
        "5": ("5", "bad_message", "r"),
        "6": ("6", "bad_message", "r"),
        "7": (KEY, "forbidden", "r"),
    }
    assert {(o.camera, o.reason, o.capture_sec, time) for o, time in observed} == {
        ("yard", "bad_message", SEC + 1, Timestamp(micros=1795342501123457)),
        ("gate", "forbidden", SEC, Timestamp(micros=1795342500123457)),
    }
    assert counters == {
        "messages": 7,
        "messages_skipped": 2,
        "messages_skipped_other_event": 1,
        "messages_skipped_folder": 1,
        "images_failed": 3,
        "images_failed_bad_message": 2,
        "images_failed_forbidden": 1,
    }


def test_settings_reach_the_messages():
    (frames, dead, _), _ = run([Message(b"1", {"cam": "gate"}, "1", SEC)], camera_attribute="cam")
    assert not frames
    assert [d.failure.reason for d, _ in dead] == ["missing_field"]
    (frames, _, _), _ = run(
        [Message(b"1", {"cam": "gate"}, "1", SEC)], camera_attribute="cam", trust_server_time=True
    )
    assert [f.image.ref.key for f, _ in frames] == [KEY]
