"""Sources of messages for local runs: a Pub/Sub subscription or topic, a watched folder."""

from __future__ import annotations

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pubsub import is_pubsub
from beam_vision.streaming.feeds.base import Feed, Received

__all__ = ["Feed", "Received", "open_feed"]


def open_feed(
    source: str,
    *,
    state_dir: str = "",
    once: bool = False,
    max_outstanding: int = 2000,
    max_outstanding_bytes: int = 256 * 2**20,
    ack_deadline_sec: int = 60,
) -> Feed:
    """The feed that ``source`` names, not opened yet: a mistake in the name is found here, without a network.

    Args:
      source: ``pubsub://projects/P/subscriptions/S``, ``pubsub://projects/P/topics/T`` or a local folder.
      state_dir: a local folder for what a feed must remember from run to run; empty: it remembers nothing.
      once: a folder's feed ends when all that is there was handed out.
      max_outstanding: of a subscription: receives no more while so many messages are not acknowledged.
      max_outstanding_bytes: or so many bytes of payload.
      ack_deadline_sec: of a subscription: when messages of a killed run come again.

    Raises:
      UsageError: it is neither, or the folder isn't there.
    """
    if is_pubsub(source):
        if once:
            raise UsageError(
                f"{source} has no end, so it can't be read once; leave that out or give a folder"
            )
        from beam_vision.streaming.feeds.pubsub import PubSubFeed

        return PubSubFeed(
            source,
            state_dir=state_dir,
            max_outstanding=max_outstanding,
            max_outstanding_bytes=max_outstanding_bytes,
            ack_deadline_sec=ack_deadline_sec,
        )
    if storage.is_remote(source):
        raise UsageError(
            f"{source} can't be watched; for a bucket, have Cloud Storage notify a Pub/Sub topic "
            "(gcloud storage buckets notifications create) and read a subscription to it"
        )
    from beam_vision.streaming.feeds.folder import FolderFeed

    return FolderFeed(source, state_dir=state_dir, once=once)
