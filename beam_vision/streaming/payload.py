"""A message's payload: its size, its encoding, and the JSON in it."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any

from beam_vision.errors import Reason, VisionError
from beam_vision.stream_types import Message

_UTF8 = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


def header(attributes: Mapping[str, str], name: str) -> str:
    """The value of an attribute that stands for an HTTP header, lower case; ``Content-Type``,
    ``content_type`` and ``contentType`` are one name. Empty when it isn't there."""
    wanted = name.replace("-", "")
    for key, value in attributes.items():
        if key.replace("-", "").replace("_", "").lower() == wanted:
            return value.strip().lower()
    return ""


def read_payload(message: Message, max_bytes: int) -> bytes:
    """A message's payload, unpacked.

    Args:
      message: what was delivered; its attribute ``content-encoding`` may be ``gzip`` or ``identity``.
      max_bytes: how large it may be, packed and unpacked.

    Raises:
      VisionError: ``too_many_bytes``, ``unsupported_encoding``, or ``bad_message`` for broken gzip.
    """
    _check_size(len(message.data), max_bytes, "")
    encoding = header(message.attributes, "content-encoding")
    if encoding in ("", "identity"):
        return message.data
    if encoding not in ("gzip", "x-gzip"):
        raise VisionError(
            Reason.UNSUPPORTED_ENCODING, f"content-encoding is {encoding[:60]!r}; send it as it is, or gzip"
        )
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        data = unpacker.decompress(message.data, max_bytes + 1)
    except zlib.error as error:
        raise VisionError(
            Reason.BAD_MESSAGE, f"the payload is said to be gzip, and isn't: {error}"
        ) from error
    _check_size(len(data), max_bytes, " unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise VisionError(Reason.BAD_MESSAGE, "the gzip payload is cut off, or something follows it")
    return data


def read_json(data: bytes, content_type: str = "") -> dict[str, Any]:
    """The JSON object that ``data`` holds.

    Args:
      data: UTF-8, with or without a byte order mark.
      content_type: its media type, which may name a charset.

    Raises:
      VisionError: ``unsupported_encoding`` for another charset, ``bad_message`` for anything but an object.
    """
    _, _, charset = content_type.partition("charset=")
    charset = charset.partition(";")[0].strip().strip('"')
    if charset not in _UTF8:
        raise VisionError(Reason.UNSUPPORTED_ENCODING, f"the charset is {charset[:60]!r}; JSON is UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VisionError(Reason.UNSUPPORTED_ENCODING, f"the JSON isn't UTF-8: {error.reason}") from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VisionError(Reason.BAD_MESSAGE, f"the payload is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise VisionError(
            Reason.BAD_MESSAGE, f"the JSON is a {type(value).__name__}; send one object for each image"
        )
    return value


def read_base64(value: Any, name: str) -> bytes:
    """The bytes behind base64 text, which may be a ``data:`` URI.

    Raises:
      VisionError: ``bad_message``, or ``unsupported_encoding`` for a ``data:`` URI of another encoding.
    """
    if not isinstance(value, str):
        raise VisionError(Reason.BAD_MESSAGE, f"{name} is a {type(value).__name__}, not base64 text")
    if value.startswith("data:"):
        start, _, value = value.partition(",")
        if not start.endswith(";base64"):
            raise VisionError(Reason.UNSUPPORTED_ENCODING, f"{name} is a data: URI that isn't base64")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise VisionError(Reason.BAD_MESSAGE, f"{name} is no base64: {error}") from error


def is_json_type(content_type: str) -> bool:
    """Whether a media type (lower case, with or without parameters) says JSON."""
    kind = content_type.partition(";")[0].strip()
    return kind.endswith(("/json", "+json"))


def looks_like_json(data: bytes) -> bool:
    """Whether a payload can only be JSON: no image begins with a brace or a bracket."""
    return data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _check_size(size_bytes: int, max_bytes: int, how: str) -> None:
    if size_bytes > max_bytes:
        raise VisionError(
            Reason.TOO_MANY_BYTES,
            f"the payload has more than {max_bytes} bytes{how}; store the image and send its URI",
        )
