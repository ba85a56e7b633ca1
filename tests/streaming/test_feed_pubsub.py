import logging
import time

import pytest
from tcp_line import Line

from beam_vision import pubsub as names
from beam_vision.errors import UsageError
from beam_vision.stream_types import Message
from beam_vision.streaming.feeds import Received, open_feed
from beam_vision.streaming.feeds.inbox import Inbox
from beam_vision.streaming.feeds.leases import LeaseKeeper
from beam_vision.streaming.feeds.pubsub import PubSubFeed


@pytest.fixture(params=["stream", "polls"], autouse=True)
def way(request, monkeypatch):
    """Each test reads both ways: the emulator's own would be polls."""
    if "pubsub" in request.fixturenames:
        request.getfixturevalue("pubsub")
        monkeypatch.setattr(names, "emulated", lambda: request.param == "polls")
    elif request.param == "polls":
        pytest.skip("reads nothing")


def pull(feed, number, *, timeout_sec=20.0):
    """Pulls until there are ``number``, or the time is over."""
    end = time.monotonic() + timeout_sec
    received = []
    while len(received) < number and time.monotonic() < end:
        received += feed.pull(1000, 2**30, end - time.monotonic())
    return received


def payloads(received):
    return sorted(item.message.data for item in received)


def test_messages_arrive_whole_and_acknowledged_ones_do_not_come_again(pubsub):
    topic = pubsub.topic()
    source = names.SCHEME + pubsub.subscription(topic)
    before = time.time()
    ids = pubsub.publish(topic, [(b"\x00\xff", {"camera": "a", "empty": ""}), b"two"], ordering_key="a")
    with open_feed(source) as feed:
        received = pull(feed, 2)
        feed.ack([item.token for item in received])
    messages = {item.message.data: item.message for item in received}
    first = messages[b"\x00\xff"]
    assert dict(first.attributes) == {"camera": "a", "empty": ""}
    assert first.ordering_key == "a"
    assert {first.message_id, messages[b"two"].message_id} == set(ids)
    assert before - 5 < first.publish_sec <= first.pull_sec <= time.time()
    with open_feed(source) as feed:
        assert pull(feed, 1, timeout_sec=0.5) == []


def test_a_close_gives_back_what_was_not_acknowledged(pubsub):
    topic = pubsub.topic()
    source = names.SCHEME + pubsub.subscription(topic)
    ids = pubsub.publish(topic, [b"%d" % i for i in range(20)])
    with open_feed(source) as feed:
        received = pull(feed, 20)
        feed.ack([item.token for item in received if item.message.message_id in ids[:5]])
    with open_feed(source) as feed:
        assert {item.message.message_id for item in pull(feed, 15, timeout_sec=8)} == set(ids[5:])


def test_a_stop_gives_back_what_was_not_handed_out_and_still_acknowledges_the_rest(pubsub):
    topic = pubsub.topic()
    source = names.SCHEME + pubsub.subscription(topic)
    ids = pubsub.publish(topic, [b"%d" % i for i in range(20)])
    first, second = open_feed(source), open_feed(source)
    first.open()
    handed_out = first.pull(7, 2**30, 20)
    assert 1 <= len(handed_out) <= 7
    first.stop()
    assert first.pull(10, 2**30, 60) == []
    taken = {item.message.message_id for item in handed_out}
    with second:
        others = pull(second, 20 - len(taken), timeout_sec=8)
        assert {item.message.message_id for item in others} == set(ids) - taken
        first.ack([item.token for item in handed_out])
        first.close()
        first.close()
        assert pull(second, 1, timeout_sec=0.5) == []


def test_leases_are_extended_while_messages_are_worked_on(pubsub):
    topic = pubsub.topic()
    subscription = pubsub.subscription(topic)
    pubsub.publish(topic, [b"slow"])
    client, inbox = names.subscriber(), Inbox(10, 1000)
    name = names.parse_name(subscription)
    short_sec = 1  # feeds ask for 10 s at least, as Pub/Sub does of subscriptions
    keeper = LeaseKeeper(client, name, inbox, deadline_sec=short_sec, max_lease_sec=60.0)
    token = client.pull(subscription=subscription, max_messages=1).received_messages[0].ack_id
    client.modify_ack_deadline(subscription=subscription, ack_ids=[token], ack_deadline_seconds=short_sec)
    inbox.put([Received(Message(b"slow"), token)])
    keeper.start()
    assert pubsub.take(subscription, 1, timeout_sec=2.5 * short_sec) == []
    keeper.close()
    assert [message.data for message in pubsub.take(subscription, 1)] == [b"slow"]
    client.transport.close()


def test_a_message_that_is_held_too_long_is_given_up(pubsub, caplog):
    topic = pubsub.topic()
    subscription = pubsub.subscription(topic)
    pubsub.publish(topic, [b"stuck"])
    feed = PubSubFeed(names.SCHEME + subscription, max_lease_sec=0.2)
    with feed:
        received = pull(feed, 1)
        end = time.monotonic() + 10
        while "given up" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
        assert "1 messages were held for 0.2 s and given up" in caplog.text
        feed.ack([received[0].token])  # is passed over


def test_messages_of_an_ordering_key_do_not_wait_for_each_others_acknowledgement(pubsub):
    topic = pubsub.topic()
    source = names.SCHEME + pubsub.subscription(topic, enable_message_ordering=True)
    sent = [b"%02d" % i for i in range(30)]
    pubsub.publish(topic, sent, ordering_key="camera")
    with open_feed(source) as feed:
        assert [item.message.data for item in pull(feed, 30)] == sent


def test_receives_no_more_while_much_is_out(pubsub):
    topic = pubsub.topic()
    source = names.SCHEME + pubsub.subscription(topic)
    pubsub.publish(topic, [b"x"] * 350)
    with open_feed(source, max_outstanding=100) as feed:
        first = pull(feed, 350, timeout_sec=1.0)
        assert len(first) < 350
        end = time.monotonic() + 20
        while len(first) < 350 and time.monotonic() < end:
            feed.ack([item.token for item in first])
            first += pull(feed, 1, timeout_sec=1.0)
        feed.ack([item.token for item in first])
        assert len({item.message.message_id for item in first}) == 350


def test_goes_on_when_the_server_was_away(pubsub, monkeypatch):
    topic = pubsub.topic()
    subscription = pubsub.subscription(topic)
    line = Line(pubsub.host)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", line.host)
    with open_feed(names.SCHEME + subscription) as feed:
        pubsub.publish(topic, [b"before"])
        feed.ack([item.token for item in pull(feed, 1)])
        line.cut()
        assert feed.pull(10, 2**30, 1.0) == []
        line.mend()
        end, received = time.monotonic() + 30, []
        while not received and time.monotonic() < end:
            pubsub.publish(topic, [b"after"])
            received = feed.pull(10, 2**30, 0.5)
    assert set(payloads(received)) == {b"after"}
    line.cut()


def test_a_subscription_that_is_deleted_while_it_is_read_ends_the_run(pubsub):
    subscription = pubsub.subscription(pubsub.topic())
    with open_feed(names.SCHEME + subscription) as feed:
        feed.pull(1, 1, 0.2)
        pubsub.delete_subscription(subscription)
        with pytest.raises(UsageError, match=r"is not there.*gcloud pubsub subscriptions create"):
            pull(feed, 1, timeout_sec=20)


def test_a_topic_is_read_through_a_subscription_of_its_own(pubsub, caplog):
    topic = pubsub.topic()
    pubsub.publish(topic, [b"before"])
    with caplog.at_level(logging.WARNING), open_feed(names.SCHEME + topic) as feed:
        assert "published before now is missed" in caplog.text
        pubsub.publish(topic, [b"after"])
        received = pull(feed, 1)
        assert payloads(received) == [b"after"]
        assert len(pubsub.subscriptions()) == 1
        feed.ack([item.token for item in received])
    assert pubsub.subscriptions() == []


def test_a_topics_subscription_outlives_a_run_that_failed(pubsub, tmp_path):
    topic = pubsub.topic()
    with open_feed(names.SCHEME + topic, state_dir=str(tmp_path)) as feed:
        pubsub.publish(topic, [b"lost?"])
        assert payloads(pull(feed, 1)) == [b"lost?"]  # and no acknowledgement
    pubsub.publish(topic, [b"between"])
    with open_feed(names.SCHEME + topic, state_dir=str(tmp_path)) as feed:
        received = pull(feed, 2)
        assert payloads(received) == [b"between", b"lost?"]
        feed.ack([item.token for item in received])
    assert pubsub.subscriptions() == []
    with open_feed(names.SCHEME + topic, state_dir=str(tmp_path)):
        assert len(pubsub.subscriptions()) == 1


@pytest.mark.parametrize("kind", ["subscriptions", "topics"])
def test_what_is_not_there_is_said_with_the_remedy(pubsub, kind):
    source = f"pubsub://projects/{pubsub.project}/{kind}/missing"
    for look in (open_feed(source).check, open_feed(source).open):
        with pytest.raises(UsageError, match=f"gcloud pubsub {kind} create missing"):
            look()


def test_a_check_leaves_nothing_behind(pubsub):
    topic = pubsub.topic()
    open_feed(topic).check()
    assert pubsub.subscriptions() == []
    open_feed(pubsub.subscription(topic)).check()


def test_a_subscription_that_pushes_is_refused(pubsub):
    pushing = pubsub.subscription(pubsub.topic(), push_config={"push_endpoint": "http://127.0.0.1:9/push"})
    for look in (open_feed(pushing).check, open_feed(pushing).open):
        with pytest.raises(UsageError, match="pushes its messages"):
            look()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pubsub://projects/p/snapshots/s", "write pubsub://projects/PROJECT"),
        ("pubsub://projects/p/subscriptions/", "write pubsub://projects/PROJECT"),
        ("pubsub://projects/p/subscriptions/ab", "3 to 255"),
        ("pubsub://projects/p/topics/google", "not beginning with goog"),
        ("projects/p/topics", "write pubsub://projects/PROJECT"),
        ("gs://lake/frames", "notifications create"),
    ],
)
def test_names_are_checked_before_anything_is_opened(source, message):
    with pytest.raises(UsageError, match=message):
        open_feed(source)


def test_pubsub_has_no_end_and_leases_have_bounds():
    source = "pubsub://projects/p/subscriptions/sub"
    with pytest.raises(UsageError, match="no end"):
        open_feed(source, once=True)
    with pytest.raises(UsageError, match="10 to 600"):
        PubSubFeed(source, ack_deadline_sec=5)
    assert names.parse_name(source) == names.parse_name(source.removeprefix("pubsub://"))
    assert names.parse_name(source).uri == source
    with pytest.raises(UsageError, match="topics are needed"):
        names.parse_name(source, kind="topics")
