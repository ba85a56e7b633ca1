"""What flows in a streaming job: messages, frames, predictions with their timing, rows.

``Message`` (as delivered) -> ``Frame`` (an image of a camera) -> ``Predicted`` -> ``StreamRow`` (of a table).
A ``DeadLetter`` may stand in the place of any of them, an ``Observation`` says what became of a frame.
Times are seconds since the epoch (UTC), as float, in fields that end in ``_sec``.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Sequence  # noqa: UP035  (Beam reads these hints at run time)

from beam_vision.types import EncodedImage, Failure, Prediction

OBSERVED = "observed"
"""The tag of a transform's observations."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True)
class Message:
    """A Pub/Sub message as it was delivered, or a file that a watched folder took in.

    Attributes:
      data: its payload.
      attributes: its attributes.
      message_id: the server's id; a redelivery has the same one, a message published again another.
      publish_sec: when the server took it.
      pull_sec: when we received it; 0 where the runner doesn't say.
      ordering_key: the publisher's, or empty.
    """

    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)
    message_id: str = ""
    publish_sec: float = 0.0
    pull_sec: float = 0.0
    ordering_key: str = ""


@dataclass(frozen=True)
class FrameInfo:
    """What is known of a frame apart from its image.

    Attributes:
      camera: which camera took it.
      capture_sec: when, by the camera's clock.
      message_id, publish_sec, pull_sec: of the message that brought it.
      sequence: the camera's own count, as text, or empty.
      queued_sec: when it began to wait for a batch; 0 before.
      attributes: the message's attributes, all of them.
    """

    camera: str
    capture_sec: float
    message_id: str = ""
    publish_sec: float = 0.0
    pull_sec: float = 0.0
    sequence: str = ""
    queued_sec: float = 0.0
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """An image of a camera; its ref's key is :func:`frame_key`, its data is empty until it is fetched."""

    info: FrameInfo
    image: EncodedImage


@dataclass(frozen=True)
class Timing:
    """What inference took of one image: when its batch began and ended, and its share in milliseconds."""

    start_sec: float
    decode_ms: float
    infer_ms: float
    end_sec: float


@dataclass(frozen=True)
class Predicted:
    """What a model says of a frame, and how long that took."""

    info: FrameInfo
    prediction: Prediction
    timing: Timing


@dataclass(frozen=True)
class RolloutEvent:
    """A model version was taken into service, or refused.

    Attributes:
      time_sec: when.
      model: the root of versions.
      version: the name of the version's folder.
      model_digest: its digest; empty where it couldn't be read.
      previous_digest: of the model that served before, and serves on where this one was refused.
      outcome: ``serving`` (the first, or swapped in) or ``refused``.
      reason: why it was refused, in one sentence; else what was checked.
      load_sec: how long loading and checking took.
    """

    time_sec: float
    model: str
    version: str
    model_digest: str
    previous_digest: str
    outcome: str
    reason: str
    load_sec: float = 0.0


@dataclass(frozen=True)
class DeadLetter:
    """A message or frame that could not be processed, with its payload, so that no image is lost.

    Attributes:
      failure: why; its key is the frame's, or the message id where camera or time are unknown.
      info: what is known of the frame; camera empty and capture_sec 0 where unknown. ``info.attributes``
        are the message's.
      data: the message's payload, or the image's bytes once they were fetched.
    """

    failure: Failure
    info: FrameInfo
    data: bytes


@dataclass(frozen=True)
class Observation:
    """What became of one frame, for the counts of its camera. About 200 bytes.

    Attributes:
      camera: which.
      capture_sec: when the frame was taken.
      kind: ``frame`` (taken in for inference), ``gated`` (like the one before; inference skipped),
        ``duplicate`` (seen already), ``failed`` (in the dead letter), ``row`` (its prediction is written);
        ``silent`` is of no frame: it says, from time to time, that its camera still sends none.
      labels: of a row: the label of the frame, or of each box.
      state: of a frame: its camera's health state then, see :mod:`beam_vision.streaming.health`.
      reason: of a failure.
      brightness, sharpness: of a frame that was measured, else None.
      skew_sec: of a frame: publish time less capture time; a camera's clock is off by about so much.
      gap_sec: of a frame: how long after the camera's frame before it was taken; 0 where unknown.
      gap: whether that is much longer than this camera's frames are apart.
      saved_sec: of a gated frame: inference time that it would have taken.
      stage_ms: of a row: milliseconds by stage, see :data:`beam_vision.stream_table.STAGES`.
    """

    camera: str
    capture_sec: float
    kind: str
    labels: Sequence[str] = ()
    state: str = ""
    reason: str = ""
    brightness: float | None = None
    sharpness: float | None = None
    skew_sec: float | None = None
    gap_sec: float = 0.0
    gap: bool = False
    saved_sec: float = 0.0
    stage_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamRow:
    """A row of one of the tables of a streaming job; see :mod:`beam_vision.stream_table`.

    Attributes:
      table: which table.
      row_id: writing the same id again changes nothing.
      camera: whose row it is; empty for a row that is nobody's.
      time_sec: decides the window that it belongs to.
      values: column -> value, as pyarrow takes them for the table's schema (times as aware datetimes,
        an embedding as its float32 bytes, lists of structs as lists of dicts).
    """

    table: str
    row_id: str
    camera: str
    time_sec: float
    values: Mapping[str, Any]


def frame_key(camera: str, capture_sec: float) -> str:
    """The key of a frame: ``CAMERA/2026-11-22T10:15:00.123456Z``; the same for a message delivered again."""
    return f"{camera}/{iso_time(capture_sec)}"


def row_id(camera: str, capture_sec: float, model_digest: str) -> str:
    """The id of a prediction's row: camera, capture time to the microsecond, and the model that said it."""
    return f"{frame_key(camera, capture_sec)}/{model_digest}"


def iso_time(time_sec: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC with microseconds."""
    return iso_datetime(as_datetime(time_sec))


def iso_datetime(time: datetime.datetime) -> str:
    """A datetime in UTC as ISO 8601, as :func:`iso_time` writes it."""
    return time.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def as_datetime(time_sec: float) -> datetime.datetime:
    """Seconds since the epoch as an aware datetime in UTC, rounded to the microsecond."""
    return _EPOCH + datetime.timedelta(microseconds=round(time_sec * 1e6))
