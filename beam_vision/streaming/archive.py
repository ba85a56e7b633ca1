"""An archive of frames as a stream that is over: its images as messages, a camera's frames in order.

Pure functions. What a frame needs is said by, in this order, the columns of a manifest, the camera pattern
over its URI, and the names of its folder and its file.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.stream_types import DeadLetter, Frame, FrameInfo, Message, iso_time
from beam_vision.streaming.capture_time import time_in_name
from beam_vision.streaming.content import Content, ParseSettings, compiled
from beam_vision.streaming.parse import from_uri
from beam_vision.types import Failure, ImageRef

FORMATS = ("folder", "glob", "csv", "jsonl", "parquet")
"""The sources, as :func:`beam_vision.sources.spec.resolve` names them, whose images may be frames."""


@dataclass(frozen=True, kw_only=True)
class ArchiveSettings:
    """How an archive's images become messages.

    Attributes:
      parse: how these messages are read; see :func:`archive_parsing`.
      root_camera: of a folder of cameras: the camera of images directly in it, its own name. Empty: the
        source is no folder of cameras, and names of folders say nothing.
    """

    parse: ParseSettings
    root_camera: str = ""


class Packed(NamedTuple):
    """A frame without its image, small, on its way to the others of its camera.

    Attributes:
      micros: when it was taken, in microseconds since the epoch.
      uri: where its image is.
      frame: the rest.
    """

    micros: int
    uri: str
    frame: bytes


def archive_parsing(settings: ParseSettings) -> ParseSettings:
    """How messages of an archive are read: they are ours, and may be of any age.

    Where no prefixes are named images may be read from anywhere, as the archive was named by who runs the
    job.
    """
    return replace(settings, format="json", max_skew_sec=0.0, trust_uris=not settings.uri_prefixes)


def check_source(format: str, path: str, settings: ParseSettings) -> None:
    """Whether images of a source can be told apart by camera and time.

    Args:
      format: what was found of the source.
      path: the source, for the message.
      settings: how messages are read.

    Raises:
      UsageError: they can't.
    """
    if format not in FORMATS:
        raise UsageError(
            f"--input {path} is {format}, which says no camera and capture time; give a folder of cameras "
            f"(FOLDER/CAMERA/TIME.jpg), a glob or a manifest, by --format {'|'.join(FORMATS)}"
        )
    pattern = settings.camera_pattern
    if format == "glob" and not (pattern and "camera" in compiled(pattern).groupindex):
        raise UsageError(
            f"--input {path} is a glob, so no folder says which camera an image is of: give "
            r"--camera_pattern, such as '/(?P<camera>[^/]+)/[^/]+$'"
        )


def as_message(ref: ImageRef, settings: ArchiveSettings) -> Message:
    """An image of an archive as a JSON message, with what its attributes don't say of its frame.

    It has no time of publishing or pulling. Its id is the same in every run.
    """
    parse, body = settings.parse, {"uri": ref.uri}
    if _is_open(ref, parse.camera_attribute, "camera", parse) and settings.root_camera:
        body[parse.camera_attribute] = ref.label or settings.root_camera
    if _is_open(ref, parse.time_attribute, "time", parse):
        time_sec = time_in_name(os.path.basename(storage.local(ref.uri)))
        if time_sec is not None:
            body[parse.time_attribute] = iso_time(time_sec)
    return Message(
        data=json.dumps(body).encode(), attributes=dict(ref.attributes), message_id=f"archive:{ref.key}"
    )


def _is_open(ref: ImageRef, attribute: str, group: str, settings: ParseSettings) -> bool:
    """Whether neither the attributes nor the pattern say it."""
    said = Content(fields=(ref.attributes,)).find(attribute)
    return said is None and from_uri(ref.uri, group, settings) is None


def unlisted(failed: Failure) -> DeadLetter:
    """The dead letter of what failed when the archive was listed; its camera and time aren't known."""
    return DeadLetter(failed, FrameInfo(camera="", capture_sec=0.0, message_id=f"archive:{failed.key}"), b"")


def pack(frame: Frame) -> Packed:
    """A frame that has no bytes yet, packed."""
    return Packed(round(frame.info.capture_sec * 1e6), frame.image.ref.uri, pickle.dumps(frame))


def unpack(packed: Packed) -> Frame:
    """The frame."""
    frame: Frame = pickle.loads(packed.frame)
    return frame


def in_order(frames: Iterable[Packed]) -> tuple[list[Packed], list[Packed]]:
    """Frames of one camera, in any order -> those to take in, by capture time, and the repetitions.

    Of frames with the same capture time the first by URI is taken in.
    """
    taken: list[Packed] = []
    repeated: list[Packed] = []
    for frame in sorted(frames):
        same = bool(taken) and taken[-1].micros == frame.micros
        (repeated if same else taken).append(frame)
    return taken, repeated
