"""Dead letters: what stands for a message or a frame that could not be processed.

Pure functions; each step that can fail sends what they make sideways under
:data:`beam_vision.failures.FAILED`, and the observation of it under
:data:`beam_vision.stream_types.OBSERVED`.
"""

from __future__ import annotations

import dataclasses
import json

from beam_vision.errors import Stage
from beam_vision.failures import failure
from beam_vision.stream_types import DeadLetter, Frame, FrameInfo, Message, Observation, frame_key, iso_time
from beam_vision.types import Failure, ImageRef

FAILED_BEFORE = "beam_vision_reason"
"""An attribute that dead letters get when they are published; see :mod:`beam_vision.sinks.publish`."""


def dead_letter(
    error: BaseException | Failure,
    source: Message | Frame,
    stage: Stage,
    run_id: str = "",
    *,
    info: FrameInfo | None = None,
    uri: str = "",
) -> DeadLetter:
    """The DeadLetter that stands for ``source`` because of ``error``.

    Args:
      error: what was raised, or the Failure that was made of it.
      source: a message keeps its payload, a frame its image's bytes; a frame that has none yet is written
        as the JSON message that would bring it again.
      stage: where this happened.
      run_id: stands in the failure.
      info: of a message: what was found out about its frame before it failed.
      uri: of a message: where its image is, if it says so.
    """
    if isinstance(source, Frame):
        ref, known = source.image.ref, source.info
        data = source.image.data or _as_message(source)
    else:
        known = info or message_info(source)
        placed = known.camera and known.capture_sec
        key = frame_key(known.camera, known.capture_sec) if placed else source.message_id
        ref = ImageRef(key=key, uri=uri or message_uri(source))
        data = source.data
    if isinstance(error, Failure):
        made = dataclasses.replace(error, key=ref.key, uri=ref.uri)
    else:
        made = failure(error, ref, stage, run_id=run_id)
    return DeadLetter(failure=made, info=known, data=data)


def failed_observation(dead: DeadLetter) -> Observation | None:
    """The observation of a failed frame, for the counts of its camera; None where the camera isn't known.

    Where the capture time isn't known it counts at the time when it was published.
    """
    info = dead.info
    if not info.camera:
        return None
    time_sec = info.capture_sec or info.publish_sec or info.pull_sec
    return Observation(camera=info.camera, capture_sec=time_sec, kind="failed", reason=dead.failure.reason)


def message_info(message: Message, *, camera: str = "", capture_sec: float = 0.0) -> FrameInfo:
    """What a message itself says of its frame, and what else is known of it."""
    return FrameInfo(
        camera=camera,
        capture_sec=capture_sec,
        message_id=message.message_id,
        publish_sec=message.publish_sec,
        pull_sec=message.pull_sec,
        attributes=dict(message.attributes),
    )


def message_uri(message: Message) -> str:
    """The URI of an image that came inside a message."""
    return f"pubsub:{message.message_id}"


def _as_message(frame: Frame) -> bytes:
    info = frame.info
    body = {"camera": info.camera, "capture_time": iso_time(info.capture_sec), "uri": frame.image.ref.uri}
    if info.sequence:
        body["sequence"] = info.sequence
    return json.dumps(body).encode()
