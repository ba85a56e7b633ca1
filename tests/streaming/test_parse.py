import base64
import gzip
import json
import pickle
import tracemalloc

import pytest

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.stream_types import DeadLetter, Frame, Message
from beam_vision.streaming.content import ParseSettings
from beam_vision.streaming.dead import failed_observation
from beam_vision.streaming.parse import parse, parse_or_fail, readable_uri

TIME = "2026-11-22T10:15:00.250Z"
SEC = 1795342500.25
KEY = "gate/2026-11-22T10:15:00.250000Z"
NAMED = {"camera": "gate", "capture_time": TIME, "sequence": "7"}
JPEG = b"\xff\xd8\xff\xe0 not looked at here"
PATTERN = r"/(?P<camera>[^/]+)/(?P<time>[^/]+)\.jpg$"


def message(data=JPEG, attributes=None, **fields):
    if isinstance(data, dict | list):
        data = json.dumps(data).encode()
    return Message(
        data=data,
        attributes=NAMED if attributes is None else attributes,
        **{"message_id": "m1", "publish_sec": SEC + 0.5, "pull_sec": SEC + 1, **fields},
    )


def parsed(data=JPEG, attributes=None, **options):
    return parse(message(data, attributes), ParseSettings(**options))


def reason_of(data=JPEG, attributes=None, **options):
    with pytest.raises(VisionError) as caught:
        parsed(data, attributes, **options)
    return caught.value.reason


def b64(data):
    return base64.b64encode(data).decode()


def test_image_bytes_with_attributes():
    frame = parsed()
    assert frame.image.data == JPEG
    assert (frame.image.ref.key, frame.image.ref.uri) == (KEY, "pubsub:m1")
    assert frame.image.ref.attributes == {}
    info = frame.info
    assert (info.camera, info.capture_sec, info.sequence, info.message_id) == ("gate", SEC, "7", "m1")
    assert (info.publish_sec, info.pull_sec, info.attributes) == (SEC + 0.5, SEC + 1, NAMED)
    assert pickle.loads(pickle.dumps(frame)) == frame


def test_bytes_that_begin_like_json_are_an_image_where_that_is_said():
    assert parsed(b"{raw}", {**NAMED, "content-type": "image/x-raw"}).image.data == b"{raw}"
    assert parsed(b"{raw}", format="bytes").image.data == b"{raw}"
    assert reason_of(b"{raw}") is Reason.BAD_MESSAGE


def test_names_of_attributes_can_be_set():
    attributes = {"cam": "gate", "at": str(SEC), "n": "1"}
    options = {"camera_attribute": "cam", "time_attribute": "at", "sequence_attribute": "n"}
    frame = parsed(JPEG, attributes, **options)
    assert (frame.image.ref.key, frame.info.sequence) == (KEY, "1")


def test_json_with_a_uri():
    body = {"uri": "gs://lake/gate/a.jpg", "camera": "gate", "capture_time": SEC, "sequence": 7}
    frame = parsed(body, {})
    assert (frame.image.ref.key, frame.image.ref.uri, frame.image.data) == (KEY, body["uri"], b"")
    assert frame.info.sequence == "7"
    assert parsed({"uri": body["uri"]}).image.ref.key == KEY  # the rest are attributes
    assert parsed({**body, "camera": "yard"}).info.camera == "yard"  # the payload knows best
    assert parsed({**body, "camera": "", "capture_time": None}).image.ref.key == KEY
    assert parsed(b"\xef\xbb\xbf\n {" + json.dumps(body).encode()[1:], {}) == frame


@pytest.mark.parametrize("name", ["image", "data"])
def test_json_with_the_image_in_it(name):
    assert parsed({name: b64(JPEG), **NAMED}, {}).image.data == JPEG
    frame = parsed({name: f"data:image/jpeg;base64,{b64(JPEG)}", "uri": "cam:7", **NAMED}, {})
    assert (frame.image.data, frame.image.ref.uri) == (JPEG, "cam:7")
    assert parsed({name: b64(JPEG)[:8] + "\n" + b64(JPEG)[8:]}).image.data == JPEG


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"uri": "gs://lake/a.jpg"', Reason.BAD_MESSAGE),
        (b"[" * 100_000, Reason.BAD_MESSAGE),
        (b'{"camera": ' + b"7" * 5000 + b"}", Reason.BAD_MESSAGE),
        ([{"uri": "gs://lake/a.jpg"}], Reason.BAD_MESSAGE),
        (b'{"uri": "gs://lake/\xff.jpg"}', Reason.UNSUPPORTED_ENCODING),
        ({}, Reason.MISSING_FIELD),
        ({"uri": 7}, Reason.BAD_MESSAGE),
        ({"uri": "a/b.jpg"}, Reason.BAD_MESSAGE),
        ({"uri": "gs://lake/a\u0000.jpg"}, Reason.BAD_MESSAGE),
        ({"uri": "gs://lake/\ud800.jpg"}, Reason.BAD_MESSAGE),
        ({"uri": "gs://lake/" + "a" * 5000}, Reason.BAD_MESSAGE),
        ({"image": "not base64!"}, Reason.BAD_MESSAGE),
        ({"image": "AAA"}, Reason.BAD_MESSAGE),
        ({"image": "AAAA!"}, Reason.BAD_MESSAGE),
        ({"image": "é"}, Reason.BAD_MESSAGE),
        ({"image": {"uri": "gs://lake/a.jpg"}}, Reason.BAD_MESSAGE),
        ({"image": ""}, Reason.EMPTY),
        ({"image": "data:image/jpeg,raw"}, Reason.UNSUPPORTED_ENCODING),
        ({"uri": "gs://lake/a.jpg", "camera": ["gate"]}, Reason.BAD_MESSAGE),
        ({"uri": "gs://lake/a.jpg", "camera": True}, Reason.BAD_MESSAGE),
        ({"uri": "gs://lake/a.jpg", "camera": "a\nb"}, Reason.BAD_MESSAGE),
        ({"uri": "gs://lake/a.jpg", "camera": "\ud800"}, Reason.BAD_MESSAGE),
        ({"uri": "gs://lake/a.jpg", "camera": "  "}, Reason.MISSING_FIELD),
        ({"uri": "gs://lake/a.jpg", "sequence": {}}, Reason.BAD_MESSAGE),
        ({"uri": "gs://lake/a.jpg", "capture_time": "soon"}, Reason.BAD_TIME),
        ({"uri": "gs://lake/a.jpg", "capture_time": float("nan")}, Reason.BAD_TIME),
        (b"", Reason.EMPTY),
    ],
)
def test_broken_messages_say_why(data, reason):
    assert reason_of(data) is reason


def test_camera_and_time_are_needed():
    assert reason_of(JPEG, {"capture_time": TIME}) is Reason.MISSING_FIELD
    assert reason_of(JPEG, {"camera": "gate"}) is Reason.MISSING_FIELD
    assert reason_of(JPEG, {**NAMED, "camera": ""}) is Reason.MISSING_FIELD
    assert reason_of(JPEG, {**NAMED, "camera": "x" * 201}) is Reason.BAD_MESSAGE


def test_the_server_time_serves_only_where_asked_for_and_is_the_same_at_a_redelivery():
    options = ParseSettings(trust_server_time=True)
    first = parse(message(JPEG, {"camera": "gate"}, pull_sec=SEC + 9), options)
    again = parse(message(JPEG, {"camera": "gate"}, pull_sec=SEC + 99), options)
    assert first.info.capture_sec == again.info.capture_sec == SEC + 0.5
    assert parse(message(), options).info.capture_sec == SEC  # the camera's own is better
    assert reason_of(JPEG, {**NAMED, "capture_time": "broken"}, trust_server_time=True) is Reason.BAD_TIME
    with pytest.raises(VisionError, match="capture_time"):
        parse(message(JPEG, {"camera": "gate"}, publish_sec=0.0), options)


@pytest.mark.parametrize(
    ("ahead_sec", "passes"), [(-86_399, True), (-86_401, False), (599, True), (601, False), (7200, False)]
)
def test_a_time_far_off_the_clock_fails(ahead_sec, passes):
    late = message(publish_sec=SEC - ahead_sec)
    outcome = parse_or_fail(late, ParseSettings(), "run")
    assert isinstance(outcome, Frame) == passes
    if not passes:
        assert outcome.failure.reason == "bad_time"
        assert outcome.failure.key == "m1"  # the time isn't to be trusted
        assert (outcome.info.camera, outcome.info.capture_sec) == ("gate", 0.0)
        assert failed_observation(outcome).capture_sec == late.publish_sec
    assert isinstance(parse_or_fail(late, ParseSettings(max_skew_sec=0)), Frame)


def test_gzip_is_unpacked_and_other_encodings_are_refused():
    packed = {**NAMED, "Content_Encoding": "gzip"}
    assert parsed(gzip.compress(JPEG), packed).image.data == JPEG
    assert parsed(gzip.compress(json.dumps({"image": b64(JPEG)}).encode()), packed).image.data == JPEG
    assert parsed(JPEG, {**NAMED, "content-encoding": "identity"}).image.data == JPEG
    assert reason_of(JPEG, packed) is Reason.BAD_MESSAGE
    assert reason_of(gzip.compress(JPEG)[:-9], packed) is Reason.BAD_MESSAGE
    assert reason_of(gzip.compress(JPEG) * 2, packed) is Reason.BAD_MESSAGE
    assert reason_of(JPEG, {**NAMED, "contentEncoding": "br"}) is Reason.UNSUPPORTED_ENCODING
    for_latin = {**NAMED, "content-type": 'application/json; charset="latin-1"'}
    assert reason_of({"uri": "gs://a/b"}, for_latin) is Reason.UNSUPPORTED_ENCODING


def test_what_is_too_large_is_refused_packed_or_not():
    assert parsed(b"x" * 100, max_message_bytes=100).image.data == b"x" * 100
    assert reason_of(b"x" * 101, max_message_bytes=100) is Reason.TOO_MANY_BYTES
    bomb = gzip.compress(bytes(20_000_000))
    packed = {**NAMED, "content-encoding": "gzip"}
    tracemalloc.start()
    try:
        assert reason_of(bomb, packed, max_message_bytes=100_000) is Reason.TOO_MANY_BYTES
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # it was never unpacked whole
    finally:
        tracemalloc.stop()


def test_the_pattern_says_what_nothing_else_does():
    uri = "gs://lake/gate/20261122101500.250.jpg"
    assert parsed({"uri": uri}, {}, camera_pattern=PATTERN).image.ref.key == KEY
    assert parsed({"uri": uri, "camera": "yard"}, {}, camera_pattern=PATTERN).info.camera == "yard"
    assert reason_of({"uri": "gs://lake/gate/x.jpg"}, {}, camera_pattern=PATTERN) is Reason.BAD_TIME
    assert reason_of({"uri": "gs://lake/a.png"}, {}, camera_pattern=PATTERN) is Reason.MISSING_FIELD
    only_camera = r"lake/(?P<camera>\w+)/"
    assert parsed({"uri": uri, "capture_time": TIME}, {}, camera_pattern=only_camera).image.ref.key == KEY


def test_settings_are_checked():
    for options in ({"format": "xml"}, {"camera_pattern": "("}, {"camera_pattern": "(?P<cam>.)"}):
        with pytest.raises(UsageError):
            ParseSettings(**options)
    settings = ParseSettings(camera_pattern=PATTERN)
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("uri", "prefixes", "passes"),
    [
        ("gs://lake/a.jpg", (), True),
        ("/etc/passwd", (), False),
        ("file:///etc/passwd", (), False),
        ("/frames/a.jpg", ("/frames",), True),
        ("file:///frames/a.jpg", ("/frames/",), True),
        ("/frames/../etc/passwd", ("/frames",), False),
        ("file:///frames/%2e%2e/etc/passwd", ("/frames",), False),
        ("/frames2/a.jpg", ("/frames",), False),
        ("gs://lake/a.jpg", ("/frames", "gs://lake"), True),
        ("gs://lake2/a.jpg", ("gs://lake",), False),
        ("gs://lake2/a.jpg", ("gs://",), True),
        ("s3://lake/a.jpg", ("gs://",), False),
        ("/any/a.jpg", ("/",), True),
    ],
)
def test_only_places_that_are_named_are_read_from(uri, prefixes, passes):
    if passes:
        assert readable_uri(uri, prefixes) == uri.removeprefix("file://")
        return
    with pytest.raises(VisionError) as caught:
        readable_uri(uri, prefixes)
    assert caught.value.reason is Reason.FORBIDDEN


def test_a_dead_letter_keeps_the_payload_and_what_is_known():
    data = json.dumps({**NAMED, "uri": "/etc/passwd"}).encode()
    dead = parse_or_fail(message(data, {"x": "y"}), ParseSettings(), "run")
    assert isinstance(dead, DeadLetter)
    failure = dead.failure
    assert (failure.key, failure.uri, failure.run_id) == (KEY, "/etc/passwd", "run")
    assert (failure.stage, failure.reason) == ("message", "forbidden")
    assert dead.data == data
    assert (dead.info.camera, dead.info.capture_sec, dead.info.message_id) == ("gate", SEC, "m1")
    assert dead.info.attributes == {"x": "y"}
    seen = failed_observation(dead)
    assert (seen.camera, seen.kind, seen.reason, seen.capture_sec) == ("gate", "failed", "forbidden", SEC)


def test_a_dead_letter_of_which_nothing_is_known_has_the_message_id():
    dead = parse_or_fail(message(b"{", {}), ParseSettings(), "run")
    assert (dead.failure.key, dead.failure.uri, dead.info.camera) == ("m1", "pubsub:m1", "")
    assert failed_observation(dead) is None
    assert parse_or_fail(message(b"{", {"camera": "gate"}), ParseSettings()).info.camera == "gate"
