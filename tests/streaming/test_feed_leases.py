"""Acknowledgements while Pub/Sub can't be reached."""

import logging
import socket
import time

from beam_vision import pubsub
from beam_vision.streaming.feeds.inbox import Inbox
from beam_vision.streaming.feeds.leases import LeaseKeeper


def test_an_outage_is_told_once(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "beam_vision.streaming.feeds.leases")
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv(pubsub.EMULATOR_HOST, f"127.0.0.1:{nobody.getsockname()[1]}")
        client = pubsub.subscriber()
        name = pubsub.Name("proj", "subscriptions", "subs")
        keeper = LeaseKeeper(client, name, Inbox(10, 10), deadline_sec=10, max_lease_sec=100)
        keeper.start()
        end = time.monotonic() + 20
        while (
            sum("could not acknowledge" in r.message for r in caplog.records) < 3 and time.monotonic() < end
        ):
            keeper.ack(["token"])
            time.sleep(0.05)
        keeper.close()
        client.transport.close()
    told = [r.levelno for r in caplog.records if "could not acknowledge" in r.message]
    assert len(told) >= 3
    assert told.count(logging.WARNING) == 1
