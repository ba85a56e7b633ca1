"""What messages may look like, and what one says of its frame, before any of it is checked."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_vision.errors import UsageError

FORMATS = ("auto", "bytes", "json", "gcs", "cloudevents")
MAX_MESSAGE_BYTES = 10_000_000
"""Pub/Sub's own limit."""


@dataclass(frozen=True, kw_only=True)
class ParseSettings:
    """How messages are read.

    Attributes:
      format: ``bytes`` (the payload is the image), ``json`` (an object with ``uri``, or with base64 in
        ``image`` or ``data``), ``gcs`` (Cloud Storage notifications), ``cloudevents`` (structured or
        binary, with any of the others inside), or ``auto``: found from each message.
      camera_attribute, time_attribute, sequence_attribute: the names of these, as attributes and in JSON.
      camera_pattern: a regular expression with the named groups ``camera`` and ``time`` (or one of them),
        searched in an image's URI for what nothing else says: ``/(?P<camera>[^/]+)/(?P<time>[^/]+)\\.jpg$``.
        A time without an offset is taken as UTC there.
      uri_prefixes: folders and buckets (``/data/frames``, ``gs://lake``) that images may be read from.
        With none given, any remote URI may be, and no local file: who can publish could read them all.
      trust_uris: images may be read from anywhere: who names them is who runs the job.
      max_message_bytes: a larger payload fails.
      max_skew_sec: a capture time older than this when the message is published fails; 0: any is taken.
      max_ahead_sec: a capture time further in the future than this fails, unless ``max_skew_sec`` is 0.
      trust_server_time: take the time of publishing (of a notification: of the event) where there is no
        capture time.

    Raises:
      UsageError: an unknown format, or a pattern that is no regular expression or has neither group.
    """

    format: str = "auto"
    camera_attribute: str = "camera"
    time_attribute: str = "capture_time"
    sequence_attribute: str = "sequence"
    camera_pattern: str = ""
    uri_prefixes: tuple[str, ...] = ()
    trust_uris: bool = False
    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_skew_sec: float = 86_400.0
    max_ahead_sec: float = 600.0
    trust_server_time: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"message format {self.format!r} is unknown; there are {', '.join(FORMATS)}")
        if not self.camera_pattern:
            return
        try:
            groups = compiled(self.camera_pattern).groupindex
        except re.error as error:
            raise UsageError(f"camera pattern {self.camera_pattern!r}: {error}") from error
        if not {"camera", "time"} & set(groups):
            raise UsageError(
                f"camera pattern {self.camera_pattern!r} has neither (?P<camera>...) nor (?P<time>...)"
            )


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a message says of its frame.

    Attributes:
      fields: where camera, capture time and sequence may stand; the first that has one counts.
      data: the image's bytes; empty where only its URI is given.
      uri: where the image is; empty where it came along without one.
      event_time: when the frame was taken, where ``fields`` don't say: of a camera's own CloudEvent.
      server_time: when a server took the image in; only used where that is asked for.
    """

    fields: tuple[Mapping[str, Any], ...]
    data: bytes = b""
    uri: str = ""
    event_time: Any = None
    server_time: Any = None

    def find(self, name: str) -> Any:
        """The value of a field, or None; also under the name without its underscores, as CloudEvents need."""
        for fields in self.fields:
            for spelled in (name, name.replace("_", "").lower()):
                value = fields.get(spelled)
                if value is not None and value != "":
                    return value
        return None


@dataclass(frozen=True)
class Skipped:
    """A message that brings no image.

    Attributes:
      reason: ``other_event`` (a notification, but of no new object), ``folder`` or ``no_image_name`` (of a
        new object that can't be an image).
      detail: which event or object.
    """

    reason: str
    detail: str


@functools.lru_cache(maxsize=16)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, compiled once."""
    return re.compile(pattern)
