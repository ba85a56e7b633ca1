import threading
import time

import pytest

from beam_vision.stream_types import Message
from beam_vision.streaming.feeds.base import Received
from beam_vision.streaming.feeds.inbox import Inbox


def items(*names, size=10):
    return [Received(Message(data=b"x" * size, message_id=name), name) for name in names]


def names(received):
    return [item.token for item in received]


def test_takes_in_order_and_within_bounds():
    inbox = Inbox(100, 10_000)
    inbox.put(items("a", "b", "c", "d", size=10))
    assert names(inbox.take(2, 1000, 0)) == ["a", "b"]
    assert names(inbox.take(10, 15, 0)) == ["c"]
    assert names(inbox.take(10, 5, 0)) == ["d"]  # larger than the bound, but the only way on
    assert inbox.take(10, 1000, 0) == []


def test_waits_for_the_first_and_no_longer():
    inbox = Inbox(100, 10_000)
    threading.Timer(0.1, inbox.put, [items("a")]).start()
    began = time.monotonic()
    assert names(inbox.take(10, 1000, 10.0)) == ["a"]
    assert time.monotonic() - began < 5
    began = time.monotonic()
    assert inbox.take(10, 1000, 0.05) == []
    assert time.monotonic() - began >= 0.05


def test_who_puts_can_wait_for_someone_who_finds_nothing_to_take():
    inbox = Inbox(100, 10_000)
    began = time.monotonic()
    inbox.wait_for_taker(0.05)
    assert time.monotonic() - began >= 0.05  # nobody came
    taken = []
    taker = threading.Thread(target=lambda: taken.extend(inbox.take(10, 1000, 10.0)))
    taker.start()
    began = time.monotonic()
    inbox.wait_for_taker(10.0)
    assert time.monotonic() - began < 5
    inbox.put(items("a", "b"))
    taker.join()
    assert names(taken) == ["a", "b"]
    began = time.monotonic()
    inbox.wait_for_taker(0.05)
    assert time.monotonic() - began >= 0.05  # it has what it wanted


@pytest.mark.parametrize("bounds", [(2, 10_000), (100, 20)])
def test_takes_in_no_more_while_it_is_full_and_goes_on_once_messages_are_settled(bounds):
    inbox = Inbox(*bounds)
    inbox.put(items("a", "b"))
    second = threading.Thread(target=inbox.put, args=[items("c")], daemon=True)
    second.start()
    inbox.take(10, 1000, 0)
    second.join(0.1)
    assert second.is_alive()  # taken is still held
    assert inbox.settle(["a", "a", "unknown"]) == ["a"]
    second.join(5)
    assert names(inbox.take(10, 1000, 1)) == ["c"]
    assert inbox.settle(["a"]) == []
    assert sorted(inbox.held()) == ["b", "c"]


def test_a_message_that_comes_again_is_held_once():
    inbox = Inbox(100, 25)
    inbox.put(items("a"))
    inbox.put(items("a"))
    assert inbox.held() == ["a"]
    inbox.settle(["a"])
    inbox.put(items("b", "c"))
    inbox.settle(["b"])
    assert inbox.put(items("d"))  # bytes were not counted twice, so this doesn't wait


def test_held_tells_the_old_from_the_new():
    inbox = Inbox(100, 1000)
    inbox.put(items("old"))
    time.sleep(0.1)
    inbox.put(items("new"))
    assert inbox.held(0.05) == ["old"]


def test_stop_lets_go_of_what_waits_and_keeps_what_was_taken():
    inbox = Inbox(2, 1000)
    inbox.put(items("a", "b"))
    inbox.take(1, 1000, 0)
    refused = []
    late = threading.Thread(target=lambda: refused.append(inbox.put(items("c"))), daemon=True)
    late.start()
    assert inbox.stop() == ["b"]
    late.join(5)
    assert refused == [False]
    assert inbox.held() == ["a"]
    assert inbox.take(10, 1000, 60) == []


def test_an_error_is_raised_once_all_was_taken():
    inbox = Inbox(2, 1000)
    inbox.put(items("a"))
    inbox.fail(ValueError("gone"))
    assert names(inbox.take(10, 1000, 0)) == ["a"]
    with pytest.raises(ValueError, match="gone"):
        inbox.take(10, 1000, 60)
