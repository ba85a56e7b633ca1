"""Names in Pub/Sub, clients that honour its emulator, and its errors in words that name the remedy.

Used by feeds, which read, and by sinks, which publish.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from beam_vision.errors import UsageError

if TYPE_CHECKING:
    from google.pubsub_v1 import PublisherClient, SubscriberClient

SCHEME = "pubsub://"
EMULATOR_HOST = "PUBSUB_EMULATOR_HOST"

_NAME = re.compile(r"projects/(?P<project>[^/\s]+)/(?P<kind>topics|subscriptions)/(?P<id>[^/\s]+)")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9._~+%-]{2,254}")
_CHECK_SEC = 20.0
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 4 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 10_000),
]


class Name(NamedTuple):
    """The name of a topic or a subscription; ``kind`` is ``topics`` or ``subscriptions``."""

    project: str
    kind: str
    id: str

    @property
    def path(self) -> str:
        """As Pub/Sub writes it: ``projects/P/topics/T``."""
        return f"projects/{self.project}/{self.kind}/{self.id}"

    @property
    def uri(self) -> str:
        """As our options take it: ``pubsub://projects/P/topics/T``."""
        return SCHEME + self.path


def is_pubsub(text: str) -> bool:
    """Whether ``text`` is meant as the name of something in Pub/Sub."""
    return text.startswith((SCHEME, "projects/"))


def parse_name(text: str, *, kind: str = "") -> Name:
    """The name in ``pubsub://projects/P/topics/T`` or ``.../subscriptions/S``; the scheme may be left out.

    Args:
      text: what the user wrote.
      kind: ``topics`` or ``subscriptions`` where only that will do.

    Raises:
      UsageError: it is no such name.
    """
    form = f"pubsub://projects/PROJECT/{kind or 'topics|subscriptions'}/NAME"
    match = _NAME.fullmatch(text.removeprefix(SCHEME))
    if not match or not is_pubsub(text):
        raise UsageError(f"{text} is not a name in Pub/Sub; write {form}")
    if kind and match["kind"] != kind:
        raise UsageError(f"{text} is one of {match['kind']}, but {kind} are needed here: {form}")
    if not _ID.fullmatch(match["id"]) or match["id"].startswith("goog"):
        raise UsageError(
            f"{text}: {match['id']!r} can't be a name in Pub/Sub: 3 to 255 letters, digits or -._~+%, "
            "a letter first, not beginning with goog"
        )
    return Name(match["project"], match["kind"], match["id"])


def subscriber() -> SubscriberClient:
    """A client that reads; close it by ``client.transport.close()``."""
    from google.pubsub_v1 import SubscriberClient
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

    return SubscriberClient(transport=_transport(SubscriberGrpcTransport))


def publisher() -> PublisherClient:
    """A client that publishes; close it by ``client.transport.close()``."""
    from google.pubsub_v1 import PublisherClient
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

    return PublisherClient(transport=_transport(PublisherGrpcTransport))


def _transport(made_by: Any) -> Any:
    """A gRPC transport, unencrypted and without credentials to the emulator that the environment names."""
    import grpc

    emulator = os.environ.get(EMULATOR_HOST)
    if emulator:
        return made_by(channel=grpc.insecure_channel(emulator, options=_CHANNEL))
    return made_by(channel=made_by.create_channel(options=_CHANNEL))


def emulated() -> bool:
    """Whether the environment names an emulator."""
    return bool(os.environ.get(EMULATOR_HOST))


def errors() -> tuple[type[Exception], ...]:
    """What clients raise when Pub/Sub, or the way to it, fails."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    return GoogleAPIError, GoogleAuthError


def is_permanent(error: BaseException) -> bool:
    """Whether one of :func:`errors` will be the same when tried again."""
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, GoogleAuthError):
        return not error.retryable
    permanent = (
        exceptions.NotFound,
        exceptions.Forbidden,
        exceptions.Unauthorized,
        exceptions.BadRequest,
        exceptions.MethodNotImplemented,
    )
    return isinstance(error, permanent)


def explain(error: BaseException, name: Name, role: str) -> UsageError:
    """What the user can do about an error of Pub/Sub.

    Args:
      error: what its client raised.
      name: what was used.
      role: the role that this use needs, such as ``roles/pubsub.subscriber``.
    """
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    what = f"{name.kind[:-1]} {name.path}"
    reason = " ".join(str(getattr(error, "message", "") or error).split())
    if isinstance(error, exceptions.NotFound):
        create = f"gcloud pubsub {name.kind} create {name.id} --project {name.project}"
        return UsageError(f"{what} is not there ({reason}); create it: {create}")
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return UsageError(f"no permission for {what} ({reason}); the account that runs this needs {role}")
    if isinstance(error, GoogleAuthError):
        return UsageError(
            f"{what}: no valid credentials ({reason}); log in by `gcloud auth application-default login`, "
            f"or set {EMULATOR_HOST} for the emulator"
        )
    return UsageError(f"{what}: {reason}")


def check_topic(client: PublisherClient, name: Name, role: str) -> None:
    """Finds out whether a topic is there; where we may not look, its use will tell.

    Raises:
      UsageError: it isn't, or Pub/Sub can't be asked; says the remedy.
    """
    from google.api_core.exceptions import Forbidden

    try:
        client.get_topic(topic=name.path, timeout=_CHECK_SEC)
    except Forbidden:
        return
    except errors() as error:
        raise explain(error, name, role) from error
