"""What a streaming job says -> rows of its tables.

The values are those of :func:`beam_vision.stream_table.schema`; the id of a row is the same however often
its message is delivered.
"""

from __future__ import annotations

from typing import Any

from beam_vision.errors import VisionError
from beam_vision.sinks.rows import RowSettings, fault
from beam_vision.stream_table import FAILURES, PREDICTIONS, ROLLOUTS, STAGES
from beam_vision.stream_types import (
    DeadLetter,
    FrameInfo,
    Predicted,
    RolloutEvent,
    StreamRow,
    as_datetime,
    iso_time,
    row_id,
)
from beam_vision.types import Box, Prediction

DAY_SEC = 86_400.0


def to_row(
    predicted: Predicted,
    *,
    run_id: str,
    now_sec: float,
    task: str = "classify",
    embedding_dim: int | None = None,
) -> StreamRow:
    """The row of a prediction.

    Args:
      predicted: what the model said of a frame.
      run_id: this run.
      now_sec: the time at which the row is handed to the outputs.
      task: ``classify``, ``embed`` or ``detect``; decides the columns.
      embedding_dim: the length of the embedding, where rows have one.

    Raises:
      VisionError: a number isn't finite, a box is inside out, the embedding is missing or of another length.
    """
    info, prediction = predicted.info, predicted.prediction
    error = row_fault(prediction, task=task, embedding_dim=embedding_dim)
    if error is not None:
        raise error
    name = row_id(info.camera, info.capture_sec, prediction.model_digest)
    values: dict[str, Any] = {"row_id": name, **_of_frame(info), **_of_image(prediction), "run_id": run_id}
    if task == "classify":
        values |= _of_labels(prediction)
    elif task == "detect":
        values["boxes"] = [_box(box) for box in prediction.boxes]
        values["exif_orientation"] = prediction.orientation if prediction.width_px else None
    if embedding_dim is not None:
        values["embedding"] = prediction.embedding
    took = stage_ms(predicted, now_sec)
    values |= {f"{stage}_ms": took.get(stage) for stage in STAGES}
    return StreamRow(PREDICTIONS, name, info.camera, info.capture_sec, values)


def row_fault(prediction: Prediction, *, task: str, embedding_dim: int | None) -> VisionError | None:
    """Why a prediction can't stand in the table, or None."""
    settings = RowSettings(task=task, embedding_dim=embedding_dim, model_digest="", preprocessing_digest="")
    return fault(prediction, settings)


def stage_ms(predicted: Predicted, now_sec: float) -> dict[str, float]:
    """Where a frame's time went until ``now_sec``: milliseconds by stage.

    See :data:`~beam_vision.stream_table.STAGES`; a stage whose begin or end isn't known is left out, and the
    total of a frame that was never under way: it comes from an archive.
    """
    info, timing = predicted.info, predicted.timing
    took = {"decode": timing.decode_ms, "infer": timing.infer_ms, "write": (now_sec - timing.end_sec) * 1e3}
    if info.publish_sec:
        took["publish"] = (info.publish_sec - info.capture_sec) * 1e3
    if info.publish_sec and info.pull_sec:
        took["pull"] = (info.pull_sec - info.publish_sec) * 1e3
    waits_since = info.pull_sec or info.queued_sec
    if waits_since:
        took["queue"] = (timing.start_sec - waits_since) * 1e3
    if info.publish_sec or info.pull_sec:
        took["total"] = (now_sec - info.capture_sec) * 1e3
    return took


def failure_row(dead: DeadLetter) -> StreamRow:
    """The row of a dead letter, its payload with it.

    It stands at its capture time; where that isn't known, or is further than a day off the time when it was
    published, at the latter; where neither is known, as for a file of an archive without a time, it has no
    time, and lies in the first window of 1970. A message that fails again after a redelivery is the same row.
    """
    failure, info = dead.failure, dead.info
    name = "/".join((failure.key, failure.stage, info.message_id, str(failure.attempt)))
    time_sec = _failed_sec(info)
    values = {
        "row_id": name,
        "key": failure.key,
        "uri": failure.uri,
        "camera": info.camera or None,
        "time": as_datetime(time_sec) if time_sec else None,
        "stage": failure.stage,
        "reason": failure.reason,
        "detail": failure.detail,
        "attempt": failure.attempt,
        "run_id": failure.run_id,
        "message_id": info.message_id or None,
        "attributes": dict(info.attributes),
        "data": dead.data,
    }
    return StreamRow(FAILURES, name, info.camera, time_sec, values)


def rollout_row(event: RolloutEvent, *, run_id: str = "") -> StreamRow:
    """The row of a model's coming into service, or of its refusal; it is no camera's."""
    name = "/".join((event.version, event.outcome, iso_time(event.time_sec)))
    values = {
        "row_id": name,
        "time": as_datetime(event.time_sec),
        "model": event.model,
        "version": event.version,
        "model_digest": event.model_digest or None,
        "previous_digest": event.previous_digest or None,
        "outcome": event.outcome,
        "reason": event.reason,
        "load_sec": event.load_sec,
        "run_id": run_id,
    }
    return StreamRow(ROLLOUTS, name, "", event.time_sec, values)


def _failed_sec(info: FrameInfo) -> float:
    off_sec = abs(info.capture_sec - info.publish_sec)
    if info.publish_sec and not off_sec <= DAY_SEC:  # also where it is NaN
        return info.publish_sec
    return info.capture_sec or info.pull_sec


def _of_frame(info: FrameInfo) -> dict[str, Any]:
    return {
        "camera": info.camera,
        "capture_time": as_datetime(info.capture_sec),
        "sequence": info.sequence or None,
        "message_id": info.message_id or None,
        "publish_time": as_datetime(info.publish_sec) if info.publish_sec else None,
        "pull_time": as_datetime(info.pull_sec) if info.pull_sec else None,
        "attributes": dict(info.attributes),
    }


def _of_image(prediction: Prediction) -> dict[str, Any]:
    return {
        "key": prediction.ref.key,
        "uri": prediction.ref.uri,
        "label": prediction.ref.label,
        "width": prediction.width_px or None,
        "height": prediction.height_px or None,
        "model_digest": prediction.model_digest,
        "preprocessing_digest": prediction.preprocessing_digest,
    }


def _of_labels(prediction: Prediction) -> dict[str, Any]:
    top = prediction.labels[0] if prediction.labels else None
    return {
        "prediction": top and top.label,
        "score": top and top.score,
        "predictions": [{"label": label.label, "score": label.score} for label in prediction.labels],
    }


def _box(box: Box) -> dict[str, Any]:
    return {name: getattr(box, name) for name in ("xmin", "ymin", "xmax", "ymax", "label", "score")}
