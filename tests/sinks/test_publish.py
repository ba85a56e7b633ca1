import base64
import json
import math

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import pubsub as names
from beam_vision.errors import UsageError
from beam_vision.sinks import publish
from beam_vision.sinks.publish import LEFT_OUT, Outgoing, Topic, dead_message, row_message
from beam_vision.sinks.publish_transforms import PublishDeadLetters, PublishRows
from beam_vision.stream_types import DeadLetter, FrameInfo, StreamRow, as_datetime
from beam_vision.types import Failure

T0_SEC = 1795342500.25


def row(camera="cam", number=0, **values):
    return StreamRow(
        "predictions", f"{camera}/{number}", camera, T0_SEC + number, {"number": number, **values}
    )


def dead(data=b"\x00payload", attributes=None, **failure):
    known = {
        "key": "k",
        "uri": "pubsub:1",
        "stage": "message",
        "reason": "bad_time",
        "detail": "why",
        **failure,
    }
    info = FrameInfo(
        "", 0.0, message_id="17", attributes={"camera": "a"} if attributes is None else attributes
    )
    return DeadLetter(Failure(**known), info, data)


def run(elements, transform):
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = pipeline | beam.Create(elements) | transform


def test_a_row_is_json_with_attributes_to_filter_by():
    embedding = np.array([0.1, -1e-9, 3.0], "<f4")
    values = {
        "capture_time": as_datetime(T0_SEC),
        "embedding": embedding.tobytes(),
        "data": b"\xff\x00",
        "score": math.nan,
        "camera_name": "Tür",
        "predictions": [{"label": "a", "score": 0.5}],
        "attributes": {"k": "v"},
        "run_id": "run-1",
        "model_digest": "digest",
    }
    message = row_message(row("Tür", 1, **values))
    body = json.loads(message.data)
    assert np.array_equal(np.array(body.pop("embedding"), np.float32), embedding)
    assert base64.b64decode(body.pop("data")) == b"\xff\x00"
    assert body == {
        "table": "predictions",
        "row_id": "Tür/1",
        "number": 1,
        "capture_time": "2026-11-22T10:15:00.250000Z",
        "score": None,
        "camera_name": "Tür",
        "predictions": [{"label": "a", "score": 0.5}],
        "attributes": {"k": "v"},
        "run_id": "run-1",
        "model_digest": "digest",
    }
    assert message.attributes == {
        "table": "predictions",
        "row_id": "Tür/1",
        "camera": "Tür",
        "time": "2026-11-22T10:15:01.250000Z",
        "run_id": "run-1",
        "model_digest": "digest",
    }
    assert message.ordering_key == ""
    assert row_message(row("Tür"), ordering=True).ordering_key == "Tür"


def test_a_row_too_large_loses_its_largest_column_and_says_so():
    large = row(data=b"x" * 7_000_000, text="y" * 5_000_000, other="kept")
    message = row_message(large)
    body = json.loads(message.data)
    assert (body["data"], body["other"], len(body["text"])) == (None, "kept", 5_000_000)
    assert message.attributes[LEFT_OUT] == "data"


def test_a_dead_letter_is_the_message_as_it_came_and_why():
    message = dead_message(dead(attributes={"camera": "a", "beam_vision_reason": "of an earlier time"}))
    assert message.data == b"\x00payload"
    assert message.attributes == {
        "camera": "a",
        "beam_vision_reason": "bad_time",
        "beam_vision_stage": "message",
        "beam_vision_detail": "why",
        "beam_vision_key": "k",
        "beam_vision_uri": "pubsub:1",
        "beam_vision_message_id": "17",
    }


def test_a_dead_letter_keeps_to_the_limits_and_says_what_it_lost():
    attributes = {f"name{i}": "v" for i in range(120)} | {"goog-x": "v", "long": "v" * 1025, "k" * 257: "v"}
    message = dead_message(dead(b"x" * 9_000_001, attributes, detail="ü" * 900))
    assert message.data == b""
    assert len(message.attributes) == 100
    assert message.attributes["beam_vision_detail"] == "ü" * 512
    assert message.attributes["name0"] == "v"
    kept = sum(name.startswith("name") for name in message.attributes)
    assert message.attributes[LEFT_OUT] == f"data,{123 - kept} attributes"


texts = st.text(st.characters(), max_size=300)  # surrogates too


@given(st.dictionaries(texts, texts, max_size=120), st.binary(max_size=50), texts)
def test_any_dead_letter_can_be_published(attributes, data, detail):
    message = dead_message(dead(data, attributes, detail=detail))
    assert len(message.attributes) <= 100
    for name, value in message.attributes.items():
        assert 0 < len(name.encode()) <= 256
        assert len(value.encode()) <= 1024
    assert message.size_bytes > len(data)


@given(
    st.lists(
        st.builds(
            lambda key, size: Outgoing(b"x" * size, {}, key),
            st.sampled_from("abc") | st.just(""),
            st.integers(0, 40),
        ),
        max_size=40,
    )
)
def test_requests_hold_all_in_order_within_the_limits(messages):
    patch = pytest.MonkeyPatch()
    with patch.context() as limits:
        limits.setattr(publish, "MAX_MESSAGES", 5)
        limits.setattr(publish, "MAX_REQUEST_BYTES", 300)
        groups = publish.requests(messages)
    for group in groups:
        for chunk in group:
            assert 1 <= len(chunk) <= 5
            assert len({item.ordering_key for item in chunk}) == 1
            assert len(chunk) == 1 or sum(item.size_bytes for item in chunk) <= 300
    keys = [group[0][0].ordering_key for group in groups if group[0][0].ordering_key]
    assert len(keys) == len(set(keys))  # else a camera's requests might overtake each other
    sent = [item for group in groups for chunk in group for item in chunk]
    for key in "abc":
        assert [m for m in sent if m.ordering_key == key] == [m for m in messages if m.ordering_key == key]
    assert sorted(map(id, sent)) == sorted(map(id, messages))


def test_rows_are_published_with_the_camera_as_ordering_key(pubsub):
    topic = pubsub.topic("rows")
    ordered = pubsub.subscription(topic, enable_message_ordering=True)
    rows = [row(camera, i, run_id="r") for i in range(30) for camera in ("a", "b")]
    run(rows, PublishRows(names.SCHEME + topic, ordering=True))
    messages = pubsub.take(ordered, 60)
    assert len(messages) == 60
    for camera in ("a", "b"):
        of_camera = [message for message in messages if message.ordering_key == camera]
        assert {message.attributes["camera"] for message in of_camera} == {camera}
        assert sorted(json.loads(message.data)["number"] for message in of_camera) == list(range(30))


def test_requests_of_an_ordering_key_go_in_order(pubsub, monkeypatch):
    monkeypatch.setattr(publish, "MAX_MESSAGES", 2)
    topic = pubsub.topic("rows")
    ordered = pubsub.subscription(topic, enable_message_ordering=True)
    with Topic(topic) as connection:
        connection.publish([Outgoing(b"%02d" % i, {}, "cam" if i % 2 else "door") for i in range(40)])
    messages = pubsub.take(ordered, 40)
    for key, first in (("door", 0), ("cam", 1)):
        assert [m.data for m in messages if m.ordering_key == key] == [
            b"%02d" % i for i in range(first, 40, 2)
        ]


def test_a_bundle_larger_than_a_request_is_published(pubsub):
    topic = pubsub.topic("rows")
    subscription = pubsub.subscription(topic)
    run([row(number=i, blob="x" * 2_000_000) for i in range(6)], PublishRows(topic))
    messages = pubsub.take(subscription, 6)
    assert sorted(json.loads(message.data)["number"] for message in messages) == list(range(6))


def test_dead_letters_are_published(pubsub):
    topic = pubsub.topic("dead")
    subscription = pubsub.subscription(topic)
    run([dead(), dead(b"", {})], PublishDeadLetters(names.SCHEME + topic))
    messages = sorted(pubsub.take(subscription, 2), key=lambda message: message.data)
    assert [message.data for message in messages] == [b"", b"\x00payload"]
    assert messages[1].attributes["camera"] == "a"
    assert messages[1].attributes["beam_vision_reason"] == "bad_time"


def test_a_topic_that_is_not_there_ends_the_run_with_pubsubs_reason(pubsub):
    missing = f"pubsub://projects/{pubsub.project}/topics/missing"
    with Topic(missing) as connection:
        with pytest.raises(UsageError, match="gcloud pubsub topics create missing"):
            connection.check()
        with pytest.raises(UsageError, match=r"not there \(Topic not found\)"):
            connection.publish([Outgoing(b"x")])
    with pytest.raises(Exception, match=r"not there \(Topic not found\)"):
        run([row()], PublishRows(missing))
    with Topic(pubsub.topic("there")) as connection:
        connection.check()


def test_only_topics_can_be_published_to():
    with pytest.raises(UsageError, match="topics are needed"):
        PublishRows("pubsub://projects/p/subscriptions/sub")
    with pytest.raises(UsageError, match="not a name in Pub/Sub"):
        PublishDeadLetters("rows")
