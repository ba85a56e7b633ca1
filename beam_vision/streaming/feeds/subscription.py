"""Finds the subscription to read: the one that was named, or one made for a topic."""

from __future__ import annotations

import json
import logging
import os
import uuid
from typing import TYPE_CHECKING

from beam_vision import pubsub, storage
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    from google.pubsub_v1 import SubscriberClient
    from google.pubsub_v1.types import Subscription

ROLE = "roles/pubsub.subscriber"
MAKER_ROLE = "roles/pubsub.editor"
STATE_FILE = "subscription.json"

_LOG = logging.getLogger(__name__)
_RPC_SEC = 20.0
_LIFE_SEC = 24 * 3600  # the least that Pub/Sub lets an unused subscription live
_KEEP_SEC = 12 * 3600  # must be less


def find(client: SubscriberClient, asked: pubsub.Name, *, state_dir: str, deadline_sec: int) -> pubsub.Name:
    """The subscription to read for ``asked``, which may be a topic's name.

    Args:
      client: to ask by.
      asked: what the user named.
      state_dir: a local folder in which a topic's subscription is remembered; empty: it is not.
      deadline_sec: the length of its leases, where it is made.

    Raises:
      UsageError: it isn't there, may not be read, or isn't one that can be pulled.
    """
    if asked.kind == "subscriptions":
        check(client, asked)
        return asked
    remembered = _remembered(asked, state_dir)
    if remembered is not None and _is_there(client, remembered):
        _LOG.warning("%s is read on through %s, which an earlier run left", asked.path, remembered.path)
        return remembered
    return _make(client, asked, state_dir, deadline_sec)


def delete(client: SubscriberClient, name: pubsub.Name, state_dir: str) -> None:
    """Deletes a subscription that was made for a topic; where that fails, Pub/Sub does so after a day."""
    try:
        client.delete_subscription(subscription=name.path, retry=None, timeout=_RPC_SEC)
    except pubsub.errors() as error:
        _LOG.warning("could not delete %s; it ends by itself in a day: %s", name.path, error)
    if state_dir:
        storage.delete(os.path.join(state_dir, STATE_FILE))


def check(client: SubscriberClient, name: pubsub.Name) -> None:
    """Finds out whether a subscription can be pulled, or a topic is there, as far as we may look.

    Raises:
      UsageError: as :func:`find`.
    """
    from google.api_core.exceptions import Forbidden

    if name.kind == "topics":
        publisher = pubsub.publisher()
        pubsub.check_topic(publisher, name, MAKER_ROLE)
        publisher.transport.close()
        return
    try:
        found = client.get_subscription(subscription=name.path, timeout=_RPC_SEC)
    except Forbidden:
        return  # who may read may not be allowed to look; reading will tell
    except pubsub.errors() as error:
        raise pubsub.explain(error, name, ROLE) from error
    fault = _fault(found)
    if fault:
        raise UsageError(f"subscription {name.path} {fault}; make one that is pulled")


def _fault(found: Subscription) -> str:
    """Why nothing would come from a subscription, or nothing."""
    if found.detached or found.topic == "_deleted-topic_":
        return "no longer has a topic"
    if found.push_config.push_endpoint:
        return f"pushes its messages to {found.push_config.push_endpoint}"
    return "writes its messages to BigQuery" if found.bigquery_config.table else ""


def _is_there(client: SubscriberClient, name: pubsub.Name) -> bool:
    from google.api_core.exceptions import NotFound

    try:
        client.get_subscription(subscription=name.path, timeout=_RPC_SEC)
    except NotFound:
        return False
    except pubsub.errors() as error:
        raise pubsub.explain(error, name, ROLE) from error
    return True


def _remembered(topic: pubsub.Name, state_dir: str) -> pubsub.Name | None:
    path = os.path.join(state_dir, STATE_FILE)
    if not state_dir or not os.path.exists(path):
        return None
    content = storage.read_json(path)
    return pubsub.parse_name(content["subscription"]) if content["topic"] == topic.path else None


def _make(client: SubscriberClient, topic: pubsub.Name, state_dir: str, deadline_sec: int) -> pubsub.Name:
    name = pubsub.Name(topic.project, "subscriptions", f"beam-vision-{uuid.uuid4().hex[:12]}")
    if state_dir:  # before it is made, so that none is left that nobody knows of
        content = {"topic": topic.path, "subscription": name.path}
        storage.write_bytes(os.path.join(state_dir, STATE_FILE), json.dumps(content).encode())
    request = {
        "name": name.path,
        "topic": topic.path,
        "ack_deadline_seconds": deadline_sec,
        "message_retention_duration": {"seconds": _KEEP_SEC},
        "expiration_policy": {"ttl": {"seconds": _LIFE_SEC}},
    }
    try:
        client.create_subscription(request=request, timeout=_RPC_SEC)
    except pubsub.errors() as error:
        raise pubsub.explain(error, topic, MAKER_ROLE) from error
    _LOG.warning(
        "%s is a topic: it is read through %s, made now. What was published before now is missed, and so is "
        "what comes while no run is on. To miss nothing: gcloud pubsub subscriptions create NAME --topic %s",
        *(topic.path, name.path, topic.path),
    )
    return name
