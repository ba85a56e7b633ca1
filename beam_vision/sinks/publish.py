"""Rows and dead letters as Pub/Sub messages, within its limits, and the client that publishes them."""

from __future__ import annotations

import base64
import collections
import datetime
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from beam_vision import pubsub
from beam_vision.errors import JobError
from beam_vision.stream_types import DeadLetter, StreamRow, iso_datetime, iso_time

if TYPE_CHECKING:
    from google.pubsub_v1 import PublisherClient

ROLE = "roles/pubsub.publisher"
PREFIX = "beam_vision_"
LEFT_OUT = f"{PREFIX}left_out"
"""The attribute that names what was left out of a message to keep it within the limits."""

MAX_MESSAGES = 1000
MAX_REQUEST_BYTES = 9_500_000  # 10 MB with all that encodes it
MAX_MESSAGE_BYTES = 9_000_000
MAX_ATTRIBUTES = 100
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 1024
MAX_ORDERING_KEY_BYTES = 1024
"""What Pub/Sub takes: https://cloud.google.com/pubsub/quotas#resource_limits"""

_MESSAGE_BYTES = 64  # what a message takes apart from its contents
_THREADS = 8
_RETRY_SEC = 60.0
_RPC_SEC = 20.0


@dataclass(frozen=True)
class Outgoing:
    """A message to publish."""

    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    ordering_key: str = ""

    @cached_property
    def size_bytes(self) -> int:
        """About what it takes of a request."""
        named = sum(len(key.encode()) + len(value.encode()) + 16 for key, value in self.attributes.items())
        return len(self.data) + named + len(self.ordering_key.encode()) + _MESSAGE_BYTES


def row_message(row: StreamRow, *, ordering: bool = False) -> Outgoing:
    """A row as a message: its columns as a JSON object, and attributes to filter by.

    Times are RFC 3339 in UTC, an embedding is a list of numbers, other bytes are base64, a number that isn't
    finite is null. Attributes: ``table``, ``row_id``, ``camera``, ``time`` and, where the row has them,
    ``run_id`` and ``model_digest``. Columns that make it too large are null, and named in :data:`LEFT_OUT`.

    Args:
      row: of any table.
      ordering: whether the camera is its ordering key.
    """
    values = {name: _plain(name, value) for name, value in row.values.items()}
    data, left_out = _fit({"table": row.table, "row_id": row.row_id, **values})
    attributes = {
        "table": row.table,
        "row_id": row.row_id,
        "camera": row.camera,
        "time": iso_time(row.time_sec),
        **{name: row.values[name] for name in ("run_id", "model_digest") if row.values.get(name)},
        **({LEFT_OUT: ",".join(left_out)} if left_out else {}),
    }
    key = _cut(row.camera, MAX_ORDERING_KEY_BYTES) if ordering else ""
    return Outgoing(data, {name: _cut(value) for name, value in attributes.items()}, key)


def dead_message(dead: DeadLetter) -> Outgoing:
    """A dead letter as a message: payload and attributes as they came, and why it failed.

    Published again as it is, it can be read as the message that it was. Our attributes begin with
    ``beam_vision_``: ``reason``, ``stage``, ``detail``, ``key``, ``uri``, ``message_id``, ``run_id`` and,
    where Pub/Sub would not take all, ``left_out``: ``data`` for the payload, and how many attributes.
    """
    failure, info = dead.failure, dead.info
    ours = {
        "reason": failure.reason,
        "stage": failure.stage,
        "detail": failure.detail,
        "key": failure.key,
        "uri": failure.uri,
        "message_id": info.message_id,
        "run_id": failure.run_id,
    }
    added = {PREFIX + name: _cut(value) for name, value in ours.items() if value}
    theirs = {name: value for name, value in info.attributes.items() if not name.startswith(PREFIX)}
    room = MAX_ATTRIBUTES - len(added) - 1
    kept = [(_cut(name), _cut(value)) for name, value in theirs.items() if _may_stand(name, value)][:room]
    lost = len(theirs) - len(kept)
    is_large = len(dead.data) > MAX_MESSAGE_BYTES
    left_out = [*(["data"] if is_large else []), *([f"{lost} attributes"] if lost else [])]
    if left_out:
        added[LEFT_OUT] = ",".join(left_out)
    return Outgoing(b"" if is_large else dead.data, {**dict(kept), **added})


def requests(messages: Iterable[Outgoing]) -> list[list[list[Outgoing]]]:
    """How messages are sent: groups that may go side by side, each of requests that go one after the other.

    A request holds messages of one ordering key, as Pub/Sub asks, within its limits.
    """
    by_key: dict[str, list[Outgoing]] = collections.defaultdict(list)
    for message in messages:
        by_key[message.ordering_key].append(message)
    unordered = [[chunk] for chunk in _chunks(by_key.pop("", []))]
    return unordered + [list(_chunks(ordered)) for ordered in by_key.values()]


class Topic:
    """Publishes to a topic; what :meth:`publish` returned from is stored by Pub/Sub.

    Args:
      topic: ``pubsub://projects/P/topics/T``.

    Raises:
      UsageError: it is no such name.
    """

    def __init__(self, topic: str) -> None:
        self._name = pubsub.parse_name(topic, kind="topics")
        self._client: PublisherClient | None = None

    def __enter__(self) -> Topic:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Connects.

        Raises:
          UsageError: there are no credentials.
        """
        try:
            self._client = pubsub.publisher()
        except pubsub.errors() as error:
            raise pubsub.explain(error, self._name, ROLE) from error
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="publish")

    def check(self) -> None:
        """Finds out whether the topic is there; where we may not look, publishing will tell.

        Raises:
          UsageError: it isn't; says the remedy.
        """
        assert self._client is not None
        pubsub.check_topic(self._client, self._name, ROLE)

    def publish(self, messages: Iterable[Outgoing]) -> None:
        """Publishes messages, those of an ordering key in order; a passing error is tried again for a minute.

        Raises:
          UsageError: Pub/Sub refuses for good: says why.
          JobError: it can't be reached.
        """
        groups = requests(messages)
        if len(groups) == 1:
            self._send(groups[0])
        else:
            list(self._pool.map(self._send, groups))

    def _send(self, group: Sequence[Sequence[Outgoing]]) -> None:
        from google.api_core.retry import Retry

        assert self._client is not None
        retry = Retry(predicate=_may_pass, initial=0.1, maximum=5.0, timeout=_RETRY_SEC)
        for chunk in group:
            sent = [
                {"data": item.data, "attributes": dict(item.attributes), "ordering_key": item.ordering_key}
                for item in chunk
            ]
            request = {"topic": self._name.path, "messages": sent}
            try:
                self._client.publish(request=request, retry=retry, timeout=_RPC_SEC)
            except pubsub.errors() as error:
                if pubsub.is_permanent(error):
                    raise pubsub.explain(error, self._name, ROLE) from error
                raise JobError(f"can't publish to {self._name.path}: {error}") from error

    def close(self) -> None:
        """Ends the connection. May be called twice."""
        if self._client is not None:
            self._pool.shutdown()
            self._client.transport.close()
            self._client = None


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, pubsub.errors()) and not pubsub.is_permanent(error)


def _chunks(messages: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    chunk: list[Outgoing] = []
    size = 0
    for message in messages:
        if chunk and (len(chunk) == MAX_MESSAGES or size + message.size_bytes > MAX_REQUEST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += message.size_bytes
    if chunk:
        yield chunk


def _plain(name: str, value: Any) -> Any:
    """A value as JSON has it."""
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.datetime):
        return iso_datetime(value.astimezone(datetime.timezone.utc))
    if isinstance(value, bytes):
        return _numbers(value) if name == "embedding" else base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): _plain("", item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain("", item) for item in value]
    return value


def _numbers(embedding: bytes) -> list[float]:
    """float32 numbers as the shortest decimals that give them back."""
    import numpy as np

    return [float(text) for text in np.frombuffer(embedding, "<f4").astype(str)]


def _encode(body: Any) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def _fit(body: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """``body`` as JSON, with its largest values null as far as it takes to fit a message; and their names."""
    left_out: list[str] = []
    data = _encode(body)
    while len(data) > MAX_MESSAGE_BYTES:
        left_out.append(max(body, key=lambda name: len(_encode(body[name]))))
        body = {**body, left_out[-1]: None}
        data = _encode(body)
    return data, left_out


def _may_stand(name: str, value: str) -> bool:
    """Whether Pub/Sub takes an attribute."""
    size = len(name.encode("utf-8", "backslashreplace"))
    fits = len(value.encode("utf-8", "backslashreplace")) <= MAX_VALUE_BYTES
    return 0 < size <= MAX_KEY_BYTES and not name.startswith("goog") and fits


def _cut(text: str, most_bytes: int = MAX_VALUE_BYTES) -> str:
    data = text.encode("utf-8", "backslashreplace")
    return data[:most_bytes].decode("utf-8", "ignore")
