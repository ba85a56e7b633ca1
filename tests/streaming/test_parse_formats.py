import base64
import json

import pytest

from beam_vision.errors import Reason, VisionError
from beam_vision.stream_types import Message
from beam_vision.streaming.content import ParseSettings, Skipped
from beam_vision.streaming.parse import parse

TIME = "2026-11-22T10:15:00.250Z"
SEC = 1795342500.25
KEY = "gate/2026-11-22T10:15:00.250000Z"
NAMED = {"camera": "gate", "capture_time": TIME, "sequence": "7"}
JPEG = b"\xff\xd8\xff\xe0 not looked at here"
EVENT = {"specversion": "1.0", "type": "com.example.frame", "source": "/cameras", "id": "e1", "time": TIME}
PATTERN = r"/(?P<camera>[^/]+)/(?P<time>[^/]+)\.jpg$"


def parsed(data=JPEG, attributes=None, **options):
    if isinstance(data, dict | list):
        data = json.dumps(data).encode()
    return parse(
        Message(data, NAMED if attributes is None else attributes, "m1", SEC + 0.5), ParseSettings(**options)
    )


def reason_of(data=JPEG, attributes=None, **options):
    with pytest.raises(VisionError) as caught:
        parsed(data, attributes, **options)
    return caught.value.reason


def b64(data):
    return base64.b64encode(data).decode()


def notification(name="gate/a.jpg", *, body=None, **attributes):
    told = {"eventType": "OBJECT_FINALIZE", "bucketId": "lake", "objectId": name, "objectGeneration": "3"}
    body = {"kind": "storage#object", **(body or {})}
    return body, {"payloadFormat": "JSON_API_V1", "eventTime": "2026-11-22T10:15:02Z", **told, **attributes}


def test_a_storage_notification_of_a_new_object():
    found = {"metadata": {"camera": "gate", "capture_time": TIME}}
    frame = parsed(*notification(body=found))
    assert (frame.image.ref.key, frame.image.ref.uri) == (KEY, "gs://lake/gate/a.jpg")
    assert frame.image.data == b""
    assert frame.info.attributes["objectGeneration"] == "3"
    without_body = parsed(b"", notification(**NAMED, payloadFormat="NONE")[1])
    assert without_body.image.ref == frame.image.ref
    named = parsed(*notification("gate/20261122T101500.250.jpg"), camera_pattern=PATTERN)
    assert named.image.ref.key == KEY
    served = parsed(*notification(camera="gate"), trust_server_time=True)
    assert served.info.capture_sec == 1795342502.0  # the event's time, not the message's
    assert reason_of(*notification()) is Reason.MISSING_FIELD
    assert reason_of(*notification("", **NAMED)) is Reason.MISSING_FIELD
    assert reason_of(JPEG, NAMED, format="gcs") is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    ("name", "event", "reason"),
    [
        ("gate/a.jpg", "OBJECT_DELETE", "other_event"),
        ("gate/a.jpg", "OBJECT_METADATA_UPDATE", "other_event"),
        ("gate/a.jpg", "OBJECT_ARCHIVE", "other_event"),
        ("gate/", "OBJECT_FINALIZE", "folder"),
        ("gate/a.json", "OBJECT_FINALIZE", "no_image_name"),
    ],
)
def test_other_notifications_are_skipped(name, event, reason):
    skipped = parsed(*notification(name, eventType=event))
    assert isinstance(skipped, Skipped)
    assert skipped.reason == reason


STRUCTURED = {"content-type": "application/cloudevents+json; charset=UTF-8"}
BINARY = {f"ce-{name}": value for name, value in EVENT.items()}


@pytest.mark.parametrize(
    ("data", "attributes"),
    [
        ({**EVENT, "camera": "gate", "datacontenttype": "image/jpeg", "data_base64": b64(JPEG)}, STRUCTURED),
        ({**EVENT, "camera": "gate", "data_base64": b64(JPEG)}, {}),
        ({**EVENT, "data": {"camera": "gate", "image": b64(JPEG)}}, STRUCTURED),
        ({**EVENT, "time": None, "capturetime": TIME, "data": {"image": b64(JPEG)}}, {"camera": "gate"}),
        ({**EVENT, "data_base64": b64(json.dumps({"image": b64(JPEG)}).encode())}, {"camera": "gate"}),
        (JPEG, {**BINARY, "ce-camera": "gate", "content-type": "image/jpeg"}),
        (JPEG, {**BINARY, "ce-camera": "gate"}),
        ({"camera": "gate", "image": b64(JPEG)}, {**BINARY, "content-type": "application/json"}),
        ({"camera": "gate", "image": b64(JPEG)}, {**BINARY, "ce-datacontenttype": "Application/JSON"}),
        (
            {"camera": "gate", "image": b64(JPEG), "capture_time": TIME},
            {**BINARY, "ce-time": "2026-11-22T10:15:09Z", "ce-camera": "gateway"},
        ),
    ],
)
def test_cloud_events_in_both_modes(data, attributes):
    for form in ("auto", "cloudevents"):
        frame = parsed(data, attributes, format=form)
        assert (frame.image.ref.key, frame.image.ref.uri, frame.image.data) == (KEY, "pubsub:m1", JPEG)


def test_the_source_of_a_cloud_event_can_name_the_camera():
    frame = parsed({**EVENT, "data_base64": b64(JPEG)}, STRUCTURED, camera_attribute="source")
    assert frame.info.camera == "/cameras"
    assert reason_of({**EVENT, "data_base64": b64(JPEG)}, STRUCTURED) is Reason.MISSING_FIELD


def test_cloud_events_of_storage():
    start = {**EVENT, "type": "google.cloud.storage.object.v1.finalized", "subject": "objects/gate/a.jpg"}
    told = {"bucket": "lake", "name": "gate/a.jpg", "metadata": {"camera": "gate", "capture_time": TIME}}
    frame = parsed({**start, "data": told}, STRUCTURED)
    assert (frame.image.ref.key, frame.image.ref.uri) == (KEY, "gs://lake/gate/a.jpg")
    binary = {f"ce-{name}": value for name, value in {**start, "bucket": "lake"}.items()}
    assert parsed({}, {**binary, **NAMED}).image.ref == frame.image.ref
    untimed = {**told, "metadata": {"camera": "gate"}}  # when it was stored isn't when it was taken
    assert reason_of({**start, "data": untimed}, STRUCTURED) is Reason.MISSING_FIELD
    assert parsed({**start, "data": untimed}, STRUCTURED, trust_server_time=True).image.ref.key == KEY
    deleted = {**start, "type": "google.cloud.storage.object.v1.deleted", "data": told}
    assert parsed(deleted, STRUCTURED) == Skipped("other_event", deleted["type"])


@pytest.mark.parametrize(
    ("data", "attributes"),
    [
        ({**EVENT, "specversion": "0.3", "data": {"uri": "gs://a/b"}}, STRUCTURED),
        ({**EVENT, "data": "text"}, STRUCTURED),
        (EVENT, STRUCTURED),
        ([EVENT], {"content-type": "application/cloudevents-batch+json"}),
        (b"avro", {"content-type": "application/cloudevents+avro"}),
        (JPEG, STRUCTURED),
        (JPEG, {**BINARY, "content-type": "application/json; charset=utf-16"}),
        (JPEG, {**BINARY, "content-type": "application/json"}),
    ],
)
def test_broken_cloud_events(data, attributes):
    assert reason_of(data, {**NAMED, **attributes}) in (Reason.BAD_MESSAGE, Reason.UNSUPPORTED_ENCODING)
