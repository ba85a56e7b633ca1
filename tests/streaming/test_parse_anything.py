import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import VisionError
from beam_vision.stream_types import DeadLetter, Frame, Message, iso_time
from beam_vision.streaming.content import ParseSettings, Skipped
from beam_vision.streaming.parse import parse, parse_or_fail

TIME = "2026-11-22T10:15:00.250Z"
SEC = 1795342500.25
EVENT = {"specversion": "1.0", "type": "com.example.frame", "source": "/cameras", "id": "e1"}
FINALIZED = "google.cloud.storage.object.v1.finalized"


def b64(data):
    return base64.b64encode(data).decode()


def dumped(value):
    return json.dumps(value).encode()


FIELDS = [
    *(
        "camera",
        "capture_time",
        "sequence",
        "uri",
        "image",
        "data",
        "data_base64",
        "bucket",
        "name",
        "metadata",
    ),
    *("specversion", "type", "time", "datacontenttype", "subject", "timeCreated"),
]
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from([TIME, b64(b"jpeg"), "gate", "gs://lake/a.jpg", "/a.jpg", "1.0", "OBJECT_FINALIZE"]),
        st.sampled_from([EVENT["type"], FINALIZED, "image/png"]),
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)
NAMED = {"camera": "gate", "capture_time": TIME}
HEADERS = {
    "content-type": [
        "application/json",
        "application/cloudevents+json",
        "image/png",
        "application/json; charset=x",
    ],
    "content-encoding": ["gzip", "identity", "br"],
    "uri": ["gs://lake/a.jpg", "a.jpg"],
    "eventType": ["OBJECT_FINALIZE", "OBJECT_DELETE"],
    "bucketId": ["lake"],
    "objectId": ["gate/a.jpg", "gate/"],
    "payloadFormat": ["NONE", "JSON_API_V1"],
    "ce-specversion": ["1.0", "0.3"],
    "ce-type": [FINALIZED, EVENT["type"]],
    "ce-time": [TIME],
}
ATTRIBUTES = st.builds(
    lambda named, headers, any_text: {**named, **headers, **any_text},
    st.sampled_from([NAMED, {}, {"camera": "gate"}, {"capture_time": TIME}]),
    st.fixed_dictionaries({}, optional={name: st.sampled_from(some) for name, some in HEADERS.items()})
    | st.just({}),
    st.dictionaries(st.sampled_from(["camera", "capture_time", *HEADERS]), st.text(max_size=8), max_size=1),
)
PAYLOADS = st.one_of(
    st.binary(max_size=64),
    VALUES.map(dumped),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8).map(dumped),
    st.binary(max_size=64).map(gzip.compress),
)
SETTINGS = st.builds(
    ParseSettings,
    format=st.sampled_from(["auto", "bytes", "json", "gcs", "cloudevents"]),
    camera_pattern=st.sampled_from(["", r"/(?P<camera>[^/]+)/(?P<time>[^/]+)\.jpg$"]),
    uri_prefixes=st.sampled_from([(), ("/",), ("gs://lake",)]),
    max_skew_sec=st.sampled_from([0, 86_400]),
    trust_server_time=st.booleans(),
)


@given(PAYLOADS, ATTRIBUTES, SETTINGS)
def test_anything_ends_as_a_frame_a_skip_or_a_named_failure(data, attributes, settings):
    sent = Message(data, attributes, "m1", SEC + 0.5)
    outcome = parse_or_fail(sent, settings)
    if isinstance(outcome, DeadLetter):
        with pytest.raises(VisionError) as caught:  # it raises nothing else
            parse(sent, settings)
        assert outcome.failure.reason == caught.value.reason.value
        assert outcome.data == data
        assert f"{outcome.failure.key}{outcome.failure.uri}".encode()
        return
    assert parse(sent, settings) == outcome
    if isinstance(outcome, Frame):
        ref = outcome.image.ref
        assert ref.key == f"{outcome.info.camera}/{iso_time(outcome.info.capture_sec)}"
        assert outcome.image.data or ref.uri.startswith("/") or "://" in ref.uri
        assert f"{ref.key}{ref.uri}{outcome.info.sequence}".encode()
    else:
        assert isinstance(outcome, Skipped)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30),
    st.integers(10**14, 9 * 10**15),
    st.binary(min_size=1, max_size=40).filter(lambda data: data.lstrip()[:1] not in (b"{", b"[", b"\xef")),
)
def test_every_format_gives_the_same_frame(camera, micros, data):
    structured = {"content-type": "application/cloudevents+json"}
    known = {"camera": camera, "capture_time": str(micros)}
    sent = [
        (data, known),
        (dumped({**known, "image": b64(data)}), {}),
        (
            dumped({**EVENT, **known, "data_base64": b64(data)}),
            structured,
        ),
        (data, {f"ce-{name}": value for name, value in {**EVENT, **known}.items()}),
        (gzip.compress(data), {**known, "content-encoding": "gzip"}),
    ]
    frames = [
        parse(Message(payload, attributes, "m1", micros / 1e6), ParseSettings())
        for payload, attributes in sent
    ]
    assert {identity(frame) for frame in frames} == {
        (f"{camera}/{iso_time(micros / 1e6)}", "pubsub:m1", data)
    }


def identity(frame):
    return frame.image.ref.key, frame.image.ref.uri, frame.image.data
