"""The formats of messages: which one a message has, and what it says of its frame.

Each ``from_...`` function takes a message apart and checks no more than its form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beam_vision.errors import Reason, VisionError
from beam_vision.sources.files import is_image_name
from beam_vision.stream_types import Message
from beam_vision.streaming.content import Content, ParseSettings, Skipped
from beam_vision.streaming.payload import (
    header,
    is_json_type,
    looks_like_json,
    read_base64,
    read_json,
    read_payload,
)

FINALIZE = "OBJECT_FINALIZE"
CE_STORAGE = "google.cloud.storage.object.v1."
CE_FINALIZED = f"{CE_STORAGE}finalized"
_CE_MEDIA = "application/cloudevents"


def read_content(message: Message, settings: ParseSettings) -> Content | Skipped:
    """What a message says of its frame, or that it brings none.

    Raises:
      VisionError: its form is broken: ``too_many_bytes``, ``unsupported_encoding``, ``bad_message``,
        ``missing_field``.
    """
    data = read_payload(message, settings.max_message_bytes)
    form = settings.format if settings.format != "auto" else find_format(message, data)
    if form == "gcs":
        return from_notification(message, data)
    if form == "cloudevents":
        return from_cloud_event(message, data)
    if form == "bytes":
        return from_bytes(message, data)
    body = read_json(data, header(message.attributes, "content-type"))
    if settings.format == "auto" and "specversion" in body and "type" in body:  # nobody said what it is
        return from_structured_event(message, body)
    return from_json(message, body)


def find_format(message: Message, data: bytes) -> str:
    """``bytes``, ``json``, ``gcs`` or ``cloudevents``, from the attributes and the payload's first byte."""
    attributes = message.attributes
    content_type = header(attributes, "content-type")
    if content_type.startswith(_CE_MEDIA) or "ce-specversion" in attributes:
        return "cloudevents"
    if "eventType" in attributes and "bucketId" in attributes:
        return "gcs"
    if is_json_type(content_type):
        return "json"
    if content_type.startswith("image/"):
        return "bytes"
    return "json" if looks_like_json(data) else "bytes"


def from_bytes(message: Message, data: bytes) -> Content:
    """A payload that is the image; or none, and a URI among the attributes."""
    return Content(fields=(message.attributes,), data=data, uri=message.attributes.get("uri", ""))


def from_json(message: Message, body: Mapping[str, Any]) -> Content:
    """An object with ``uri``, or with base64 in ``image`` or ``data`` (then ``uri`` only names it)."""
    uri = body.get("uri") or ""
    if not isinstance(uri, str):
        raise VisionError(Reason.BAD_MESSAGE, f"uri is a {type(uri).__name__}, not text")
    name = next((name for name in ("image", "data") if body.get(name) is not None), "")
    data = read_base64(body[name], name) if name else b""
    if not (name or uri):
        raise VisionError(Reason.MISSING_FIELD, "the JSON has neither uri nor base64 in image or data")
    return Content(fields=(body, message.attributes), data=data, uri=uri)


def from_notification(message: Message, data: bytes) -> Content | Skipped:
    """A Cloud Storage notification: OBJECT_FINALIZE of what may be an image; others are skipped.

    Camera and time may be custom metadata of the object (``x-goog-meta-camera``) or attributes. The object
    is read by its name: where it has been written again since, that is what is seen.
    """
    attributes = message.attributes
    event = attributes.get("eventType", "")
    if not event:
        raise VisionError(Reason.MISSING_FIELD, "a Cloud Storage notification has an attribute eventType")
    if event != FINALIZE:
        return Skipped("other_event", event)
    body = read_json(data) if looks_like_json(data) else {}  # payloadFormat NONE: there is none
    bucket = attributes.get("bucketId") or body.get("bucket")
    name = attributes.get("objectId") or body.get("name")
    server_time = attributes.get("eventTime") or body.get("timeCreated")
    return _new_object(bucket, name, body, (attributes,), server_time)


def from_cloud_event(message: Message, data: bytes) -> Content | Skipped:
    """A CloudEvent in structured or binary mode, as Pub/Sub's protocol binding says."""
    content_type = header(message.attributes, "content-type")
    if content_type.startswith(_CE_MEDIA):
        if not content_type.startswith(f"{_CE_MEDIA}+json"):
            raise VisionError(Reason.BAD_MESSAGE, f"{content_type[:60]} isn't supported; send one as JSON")
        return from_structured_event(message, read_json(data, content_type))
    event = {key[3:]: value for key, value in message.attributes.items() if key.startswith("ce-")}
    if not event:  # a sender that forgot the content type
        return from_structured_event(message, read_json(data, content_type))
    content_type = content_type or str(event.get("datacontenttype", "")).lower()
    if is_json_type(content_type) or (not content_type and looks_like_json(data)):
        return _from_event(message, event, read_json(data, content_type))
    return _from_event(message, event, data)


def from_structured_event(message: Message, event: Mapping[str, Any]) -> Content | Skipped:
    """A CloudEvent that is one JSON object, its data in ``data`` or ``data_base64``."""
    content_type = str(event.get("datacontenttype") or "application/json").lower()
    packed = event.get("data_base64")
    if packed is not None:
        data = read_base64(packed, "data_base64")
        named = event.get("datacontenttype") is not None
        if is_json_type(content_type) and (named or looks_like_json(data)):
            return _from_event(message, event, read_json(data, content_type))
        return _from_event(message, event, data)
    body = event.get("data")
    if not isinstance(body, dict):
        kind = "missing" if body is None else f"a {type(body).__name__}"
        raise VisionError(
            Reason.BAD_MESSAGE, f"the event's data is {kind}; send an object, or an image in data_base64"
        )
    return _from_event(message, event, body)


def _from_event(
    message: Message, event: Mapping[str, Any], data: bytes | dict[str, Any]
) -> Content | Skipped:
    version = str(event.get("specversion", ""))
    if not version.startswith("1."):
        raise VisionError(Reason.BAD_MESSAGE, f"CloudEvents specversion {version[:20]!r} isn't 1.x")
    kind = str(event.get("type", ""))
    around = (event, message.attributes)
    body = data if isinstance(data, dict) else {}
    if kind.startswith(CE_STORAGE):
        if kind != CE_FINALIZED:
            return Skipped("other_event", kind)
        name = body.get("name") or str(event.get("subject", "")).removeprefix("objects/")
        return _new_object(body.get("bucket") or event.get("bucket"), name, body, around, event.get("time"))
    if isinstance(data, dict):
        content = from_json(message, data)
        return Content(
            fields=(body, *around), data=content.data, uri=content.uri, event_time=event.get("time")
        )
    return Content(fields=around, data=data, event_time=event.get("time"))


def _new_object(
    bucket: Any, name: Any, body: Mapping[str, Any], around: tuple[Mapping[str, Any], ...], server_time: Any
) -> Content | Skipped:
    if not (isinstance(bucket, str) and isinstance(name, str) and bucket and name):
        raise VisionError(Reason.MISSING_FIELD, "the notification names no bucket, or no object")
    uri = f"gs://{bucket}/{name}"
    if name.endswith("/"):
        return Skipped("folder", uri)
    if not is_image_name(name.rpartition("/")[2]):
        return Skipped("no_image_name", uri)
    metadata = body.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    return Content(fields=(known, *around), uri=uri, server_time=server_time)
