"""A message to the frame that it brings; pure, and the same for a message delivered again."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from beam_vision import storage
from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import Guard
from beam_vision.sources.files import normalise_uri
from beam_vision.stream_types import DeadLetter, Frame, FrameInfo, Message, frame_key
from beam_vision.streaming.capture_time import parse_time
from beam_vision.streaming.content import Content, ParseSettings, Skipped, compiled
from beam_vision.streaming.dead import dead_letter, message_info, message_uri
from beam_vision.streaming.formats import read_content
from beam_vision.types import EncodedImage, Failure, ImageRef

MAX_NAME_CHARS = 200
MAX_URI_CHARS = 4096


def parse(message: Message, settings: ParseSettings) -> Frame | Skipped:
    """The frame that a message brings; its image has no bytes yet where only a URI is given.

    Raises:
      VisionError: ``bad_message``, ``missing_field``, ``bad_time``, ``unsupported_encoding``,
        ``too_many_bytes``, ``empty``, ``forbidden`` (a URI that may not be read). Never anything else.
    """
    content = read_content(message, settings)
    if isinstance(content, Skipped):
        return content
    camera = _camera(content, settings)
    capture_sec = _capture_sec(content, message, settings)
    sequence = content.find(settings.sequence_attribute)
    info = FrameInfo(
        camera=camera,
        capture_sec=capture_sec,
        message_id=message.message_id,
        publish_sec=message.publish_sec,
        pull_sec=message.pull_sec,
        sequence="" if sequence is None else _name(sequence, settings.sequence_attribute),
        attributes=dict(message.attributes),
    )
    uri = _uri(content, message, settings)
    return Frame(info, EncodedImage(ImageRef(key=frame_key(camera, capture_sec), uri=uri), content.data))


def parse_or_fail(
    message: Message, settings: ParseSettings, run_id: str = ""
) -> Frame | Skipped | DeadLetter:
    """As :func:`parse`, with the DeadLetter that stands for the message in place of an error."""
    guard: Guard[Any] = Guard(parse, Stage.MESSAGE, run_id=run_id)
    ref = ImageRef(key=message.message_id, uri=message_uri(message))
    made = guard(ref, message, settings)
    if not isinstance(made, Failure):
        return made
    known = Guard(_what_is_known, Stage.MESSAGE)(ref, message, settings)
    info, uri = (message_info(message), "") if isinstance(known, Failure) else known
    return dead_letter(made, message, Stage.MESSAGE, run_id, info=info, uri=uri)


def _what_is_known(message: Message, settings: ParseSettings) -> tuple[FrameInfo, str]:
    """Of a message that failed: its camera, capture time and URI, as far as they are sound."""
    content = Content(fields=(message.attributes,))
    with contextlib.suppress(VisionError):
        found = read_content(message, settings)
        content = content if isinstance(found, Skipped) else found
    camera, capture_sec, uri = "", 0.0, ""
    with contextlib.suppress(VisionError):
        camera = _camera(content, settings)
    with contextlib.suppress(VisionError):
        capture_sec = _capture_sec(content, message, settings)
    with contextlib.suppress(VisionError):
        uri = _text(content.uri, "uri", MAX_URI_CHARS) if content.uri else ""
    return message_info(message, camera=camera, capture_sec=capture_sec), uri


def _camera(content: Content, settings: ParseSettings) -> str:
    value = content.find(settings.camera_attribute)
    if value is None:
        value = from_uri(content.uri, "camera", settings)
    if value is None:
        raise VisionError(Reason.MISSING_FIELD, _missing(settings.camera_attribute, content, settings))
    return _name(value, settings.camera_attribute)


def _capture_sec(content: Content, message: Message, settings: ParseSettings) -> float:
    value, assume_utc = content.find(settings.time_attribute), False
    if value is None:
        value = content.event_time
    if value is None:
        value, assume_utc = from_uri(content.uri, "time", settings), True
    if value is None and settings.trust_server_time:
        value, assume_utc = content.server_time or message.publish_sec or None, False
    if value is None:
        raise VisionError(Reason.MISSING_FIELD, _missing(settings.time_attribute, content, settings))
    capture_sec = parse_time(value, assume_utc=assume_utc)
    _check_skew(capture_sec, message.publish_sec or message.pull_sec, settings)
    return capture_sec


def _check_skew(capture_sec: float, server_sec: float, settings: ParseSettings) -> None:
    if not (server_sec and settings.max_skew_sec):
        return
    late_sec = server_sec - capture_sec
    if late_sec > settings.max_skew_sec:
        how = f"{late_sec:.0f} s before its message was published; {settings.max_skew_sec:.0f} s are allowed"
    elif -late_sec > settings.max_ahead_sec:
        how = f"{-late_sec:.0f} s after its message was published; {settings.max_ahead_sec:.0f} s are allowed"
    else:
        return
    raise VisionError(Reason.BAD_TIME, f"the frame was taken {how}; set the camera's clock and time zone")


def _uri(content: Content, message: Message, settings: ParseSettings) -> str:
    """Where the image is; checked that it may be read, if it will be."""
    if not content.uri:
        if not content.data:
            raise VisionError(Reason.EMPTY, "the message brings neither an image nor a URI")
        return message_uri(message)
    uri = _text(content.uri, "uri", MAX_URI_CHARS)
    return uri if content.data or settings.trust_uris else readable_uri(uri, settings.uri_prefixes)


def readable_uri(uri: str, prefixes: tuple[str, ...]) -> str:
    """``uri`` as it is opened, if it lies below one of ``prefixes``; with none, if it isn't a local file.

    Raises:
      VisionError: ``bad_message`` for a relative path, ``forbidden``.
    """
    if not storage.is_remote(uri) and not os.path.isabs(storage.local(uri)):
        raise VisionError(Reason.BAD_MESSAGE, f"{uri} is relative; write gs://... or an absolute path")
    found = normalise_uri(uri)
    for prefix in prefixes:
        folder = prefix if prefix.endswith("://") else normalise_uri(prefix).rstrip("/") + "/"
        if found.startswith(folder):
            return found
    if prefixes:
        raise VisionError(Reason.FORBIDDEN, f"{uri} lies in no place that images may be read from")
    if not storage.is_remote(uri):
        raise VisionError(
            Reason.FORBIDDEN, f"{uri} is a local file, and no folder is named that these may be read from"
        )
    return found


def from_uri(uri: str, group: str, settings: ParseSettings) -> str | None:
    """What the settings' pattern finds in a URI as ``camera`` or ``time``, or None."""
    if not (settings.camera_pattern and uri):
        return None
    found = compiled(settings.camera_pattern).search(uri)
    return (found.groupdict().get(group) or None) if found else None


def _missing(name: str, content: Content, settings: ParseSettings) -> str:
    what = f"{name} is neither an attribute nor in the payload"
    if not content.uri:
        return what
    tried = (
        "and the camera pattern finds none in" if settings.camera_pattern else "and there is no pattern for"
    )
    return f"{what}, {tried} the URI {content.uri}"


def _name(value: Any, name: str) -> str:
    """A camera's name or a sequence number as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise VisionError(Reason.BAD_MESSAGE, f"{name} is a {type(value).__name__}, not text")
    text = str(value).strip()
    if not text:
        raise VisionError(Reason.MISSING_FIELD, f"{name} is empty")
    return _text(text, name, MAX_NAME_CHARS)


def _text(text: str, name: str, most_chars: int) -> str:
    """``text``, if it can stand in a table: bounded, no control characters, valid UTF-8."""
    if len(text) > most_chars or not text.isprintable():
        raise VisionError(
            Reason.BAD_MESSAGE,
            f"{name} has {len(text)} characters ({most_chars} are allowed), or some that can't be printed",
        )
    return text
