"""Rows of a streaming job, for the tests of the sinks that write them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beam_vision import table
from beam_vision.sinks.stream_rows import to_row
from beam_vision.stream_types import FrameInfo, Predicted, StreamRow, Timing, as_datetime, frame_key
from beam_vision.types import ImageRef, Label, Prediction

T0 = 1_763_800_020.0  # begins a window of a minute: 20251122T082700Z
RUN = "run-1"


def predicted(number=0, *, time_sec=None, embedding_dim=None, digest="model-a", **prediction):
    """What a model said of frame ``number``; a frame a second by default, of three cameras in turn."""
    capture_sec = T0 + number if time_sec is None else time_sec
    info = FrameInfo(
        camera=f"cam-{number % 3}",
        capture_sec=capture_sec,
        message_id=f"m{number}",
        publish_sec=capture_sec + 0.25,
        pull_sec=capture_sec + 0.5,
        sequence=str(number),
        attributes={"site": "north"},
    )
    embedding = None
    if embedding_dim is not None:
        rng = np.random.default_rng(number)
        vector = rng.standard_normal(embedding_dim)
        embedding = (vector / np.linalg.norm(vector)).astype("<f4").tobytes()
    facts = {
        "ref": ImageRef(frame_key(info.camera, capture_sec), f"pubsub:m{number}"),
        "width_px": 64,
        "height_px": 48,
        "labels": (Label("cat", 0.75), Label("dog", 0.25)),
        "embedding": embedding,
        "model_digest": digest,
        "preprocessing_digest": "prep-a",
    }
    timing = Timing(capture_sec + 1.0, 2.0, 8.0, capture_sec + 1.5)
    return Predicted(info, Prediction(**{**facts, **prediction}), timing)


def row(number=0, *, task="classify", embedding_dim=None, delay_sec=2.0, **facts):
    """The row of frame ``number``; handed to the outputs ``delay_sec`` after it was taken."""
    found = predicted(number, embedding_dim=embedding_dim, **facts)
    now_sec = found.info.capture_sec + delay_sec
    return to_row(found, run_id=RUN, now_sec=now_sec, task=task, embedding_dim=embedding_dim)


def alert(number=0, *, time_sec=None, camera="cam-0"):
    """An alert's row."""
    time_sec = T0 + number if time_sec is None else time_sec
    name = f"{camera}/alert/{number}"
    values = {
        "row_id": name,
        "camera": camera,
        "time": as_datetime(time_sec),
        "state": "frozen",
        "previous": "ok",
        "detail": "the same frame for 10 s",
        "run_id": RUN,
    }
    return StreamRow("alerts", name, camera, time_sec, values)


def read(folder):
    """All rows of a table, as it reads for anybody."""
    return pa.concat_tables([pq.read_table(path) for path in table.part_paths(folder)])


def ids(folder):
    """The ids of all rows of a table, sorted; one that stands twice is there twice."""
    return sorted(read(folder)["row_id"].to_pylist())
