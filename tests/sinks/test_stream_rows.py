"""Predictions, dead letters and rollouts -> rows."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from windows_rows import RUN, T0, predicted, row

from beam_vision import stream_table
from beam_vision.errors import Reason, VisionError
from beam_vision.sinks.stream_rows import failure_row, rollout_row, stage_ms, to_row
from beam_vision.sinks.windows_files import to_arrow
from beam_vision.stream_types import DeadLetter, FrameInfo, RolloutEvent, as_datetime
from beam_vision.types import Box, Failure, Label


def stored(row, **settings):
    """A row as it comes back from its table."""
    table = to_arrow([row], stream_table.schema(row.table, **settings))
    table.validate(full=True)
    return table.to_pylist()[0]


def test_a_classification_says_all_that_is_known():
    found = row(4)
    assert (found.table, found.camera, found.time_sec) == ("predictions", "cam-1", T0 + 4)
    assert found.row_id == "cam-1/2025-11-22T08:27:04.000000Z/model-a"
    assert stored(found) == {
        "row_id": found.row_id,
        "key": "cam-1/2025-11-22T08:27:04.000000Z",
        "uri": "pubsub:m4",
        "label": None,
        "prediction": "cat",
        "score": 0.75,
        "predictions": [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}],
        "width": 64,
        "height": 48,
        "model_digest": "model-a",
        "preprocessing_digest": "prep-a",
        "run_id": RUN,
        "attributes": [("site", "north")],
        "camera": "cam-1",
        "capture_time": as_datetime(T0 + 4),
        "sequence": "4",
        "message_id": "m4",
        "publish_time": as_datetime(T0 + 4.25),
        "pull_time": as_datetime(T0 + 4.5),
        "publish_ms": 250,
        "pull_ms": 250,
        "queue_ms": 500,
        "decode_ms": 2,
        "infer_ms": 8,
        "write_ms": 500,
        "total_ms": 2000,
    }


@pytest.mark.parametrize("task", ["classify", "embed", "detect"])
@pytest.mark.parametrize("dim", [None, 4])
def test_a_row_has_the_columns_of_its_task(task, dim):
    found = row(task=task, embedding_dim=dim)
    assert set(found.values) == set(stream_table.schema("predictions", task=task, embedding_dim=dim).names)
    stored(found, task=task, embedding_dim=dim)


def test_boxes_and_embeddings():
    box = Box(1, 2, 30, 40, "cat", 0.5)
    found = stored(row(1, task="detect", boxes=(box,), orientation=6), task="detect")
    assert found["boxes"] == [
        {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40, "label": "cat", "score": 0.5},
    ]
    assert found["exif_orientation"] == 6
    vector = np.array([0.6, 0.8], "<f4")
    found = stored(
        row(task="embed", embedding_dim=2, embedding=vector.tobytes()), task="embed", embedding_dim=2
    )
    assert found["embedding"] == vector.tolist()


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"labels": (Label("cat", math.nan),)}, Reason.NON_FINITE),
        ({"embedding": np.array([1, math.inf, 0], "<f4").tobytes()}, Reason.NON_FINITE),
        ({"embedding": np.ones(2, "<f4").tobytes()}, Reason.BAD_MODEL_OUTPUT),
        ({"embedding": None}, Reason.BAD_MODEL_OUTPUT),
        ({"boxes": (Box(5, 0, 4, 9),)}, Reason.BAD_MODEL_OUTPUT),
    ],
)
def test_what_cannot_stand_in_the_table_is_refused(facts, reason):
    with pytest.raises(VisionError) as error:
        row(embedding_dim=3, **facts)
    assert error.value.reason is reason


def test_times_that_nobody_knows_are_left_out():
    known = predicted()
    unknown = replace(known, info=replace(known.info, publish_sec=0.0, pull_sec=0.0, queued_sec=T0 + 0.75))
    assert stage_ms(unknown, T0 + 2) == {"decode": 2.0, "infer": 8.0, "write": 500.0, "queue": 250.0}
    pulled = replace(known, info=replace(known.info, publish_sec=0.0))
    assert stage_ms(pulled, T0 + 2)["total"] == 2000.0
    found = stored(to_row(unknown, run_id=RUN, now_sec=T0 + 2))
    assert found["publish_time"] is found["pull_time"] is found["publish_ms"] is found["pull_ms"] is None
    assert "queue" not in stage_ms(replace(known, info=replace(unknown.info, queued_sec=0.0)), T0 + 2)


def test_stages_add_up_to_the_total():
    took = stage_ms(predicted(), T0 + 2)
    assert set(took) == set(stream_table.STAGES)
    between = took["publish"] + took["pull"] + took["queue"] + took["write"]
    assert took["total"] == pytest.approx(between + 500)  # the batch itself took from 1.0 s to 1.5 s


def test_the_id_changes_with_the_model_and_not_with_the_delivery():
    again = replace(predicted(3), info=replace(predicted(3).info, message_id="other", pull_sec=T0 + 99))
    assert to_row(again, run_id="run-2", now_sec=T0 + 100).row_id == row(3).row_id
    assert row(3, digest="model-b").row_id != row(3).row_id


def dead_letter(attempt=1, **info):
    info = {"camera": "cam-0", "capture_sec": T0, "publish_sec": T0 + 1, "message_id": "m1", **info}
    failure = Failure("key", "pubsub:m1", "decode", "truncated", "half of it", attempt, RUN)
    return DeadLetter(failure, FrameInfo(**info), b"\xff\xd8half")


def test_a_dead_letter_keeps_its_payload():
    found = failure_row(dead_letter(attributes={"camera": "cam-0"}))
    assert (found.table, found.camera, found.time_sec) == ("failures", "cam-0", T0)
    assert stored(found) == {
        "row_id": "key/decode/m1/1",
        "key": "key",
        "uri": "pubsub:m1",
        "camera": "cam-0",
        "time": as_datetime(T0),
        "stage": "decode",
        "reason": "truncated",
        "detail": "half of it",
        "attempt": 1,
        "run_id": RUN,
        "message_id": "m1",
        "attributes": [("camera", "cam-0")],
        "data": b"\xff\xd8half",
    }
    assert failure_row(dead_letter(attempt=2)).row_id != found.row_id


@pytest.mark.parametrize("capture_sec", [0.0, T0 - 10 * 86_400, T0 + 1e9, 1e300, math.nan])
def test_a_dead_letter_without_a_believable_time_stands_where_it_was_published(capture_sec):
    found = failure_row(dead_letter(capture_sec=capture_sec))
    assert found.time_sec == T0 + 1
    assert stored(found)["time"] == as_datetime(T0 + 1)


def test_a_dead_letter_without_any_other_time_stands_where_it_was_received():
    assert failure_row(dead_letter(capture_sec=0.0, publish_sec=0.0, pull_sec=T0 + 2)).time_sec == T0 + 2


def test_a_rollout():
    event = RolloutEvent(T0, "/models", "v2", "", "model-a", "refused", "half copied", 1.5)
    found = rollout_row(event, run_id=RUN)
    assert found.row_id == rollout_row(event, run_id="another").row_id
    assert stored(found) == {
        "row_id": "v2/refused/2025-11-22T08:27:00.000000Z",
        "time": as_datetime(T0),
        "model": "/models",
        "version": "v2",
        "model_digest": None,
        "previous_digest": "model-a",
        "outcome": "refused",
        "reason": "half copied",
        "load_sec": 1.5,
        "run_id": RUN,
    }


def test_half_of_a_surrogate_pair_does_not_stop_the_job():
    bad = replace(dead_letter(attributes={"na\udcffme": "\ud800"}), data=b"")
    found = stored(failure_row(replace(bad, failure=replace(bad.failure, uri="/in/\udcff.jpg"))))
    assert found["uri"] == "/in/\\udcff.jpg"
    assert found["attributes"] == [("na\\udcffme", "\\ud800")]


def test_predictions_of_one_table_have_one_schema():
    schema = stream_table.schema("predictions", embedding_dim=3)
    rows = [row(n, embedding_dim=3) for n in range(5)]
    assert to_arrow(rows, schema).schema.equals(schema)
    assert pa.types.is_fixed_size_list(schema.field("embedding").type)
