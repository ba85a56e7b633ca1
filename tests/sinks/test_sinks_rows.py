"""Predictions -> Arrow rows."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import table
from beam_vision.errors import Reason
from beam_vision.sinks.rows import RowSettings, fault, to_table
from beam_vision.types import ImageRef, Label, Prediction

BOTH = RowSettings(task="classify", embedding_dim=3, model_digest="m", preprocessing_digest="p")
EMBED = RowSettings(task="embed", embedding_dim=3, model_digest="m", preprocessing_digest="p")
CLASSIFY = RowSettings(task="classify", embedding_dim=None, model_digest="m", preprocessing_digest="p")


def vector(*numbers):
    return np.array(numbers, "<f4").tobytes()


CAT_OR_DOG = (Label("cat", 0.75), Label("dog", 0.25))


def prediction(key="k", labels=CAT_OR_DOG, embedding=None, **ref):
    embedding = vector(1, 0, 0) if embedding is None else embedding
    return Prediction(ImageRef(key, f"/lake/{key}", **ref), 20, 10, labels, embedding, (), "m", "p")


def test_a_row_says_all_that_the_prediction_says():
    rows = [
        prediction("b", labels=(), embedding=vector(0, 1, 0)),
        prediction("a", labels=list(CAT_OR_DOG), attributes={"z": "ü", "camera": "7"}),
    ]
    found = to_table(rows, BOTH, "run").to_pylist()
    assert [row["key"] for row in found] == ["a", "b"]
    assert found[0] == {
        "key": "a",
        "uri": "/lake/a",
        "label": None,
        "prediction": "cat",
        "score": 0.75,
        "predictions": [{"label": "cat", "score": 0.75}, {"label": "dog", "score": 0.25}],
        "embedding": [1, 0, 0],
        "width": 20,
        "height": 10,
        "model_digest": "m",
        "preprocessing_digest": "p",
        "run_id": "run",
        "attributes": [("camera", "7"), ("z", "ü")],
    }
    assert (found[1]["prediction"], found[1]["score"], found[1]["predictions"]) == (None, None, [])


def test_several_true_labels_and_a_size_that_nobody_knows():
    row = Prediction(ImageRef("k", "u", labels=("a", "b")), 0, 0, (Label("a", 1.0),), vector(1, 0, 0))
    found = to_table([row], BOTH, "run").to_pylist()[0]
    assert (found["label"], found["width"], found["height"]) == ("a|b", None, None)


@pytest.mark.parametrize("settings", [BOTH, EMBED, CLASSIFY])
def test_columns_are_those_of_the_table(settings):
    expected = table.schema(predictions=settings.predictions, embedding_dim=settings.embedding_dim)
    for rows in ([], [prediction()]):
        found = to_table(rows, settings, "run")
        assert found.schema.equals(expected)
        found.validate(full=True)


def test_a_file_remembers_what_made_its_rows():
    file = io.BytesIO()
    pq.write_table(to_table([prediction()], BOTH, "run"), file)
    schema = pq.read_schema(file)
    assert BOTH.made(schema)
    other_model = RowSettings(task="classify", embedding_dim=3, model_digest="n", preprocessing_digest="p")
    assert not other_model.made(schema)
    assert not EMBED.made(schema)
    assert not BOTH.made(table.schema(predictions=True, embedding_dim=3))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (prediction(labels=(Label("cat", float("nan")),)), Reason.NON_FINITE),
        (prediction(embedding=vector(1, np.inf, 0)), Reason.NON_FINITE),
        (prediction(embedding=vector(1, 0)), Reason.BAD_MODEL_OUTPUT),
        (prediction(embedding=b"12345"), Reason.BAD_MODEL_OUTPUT),
        (Prediction(ImageRef("k", "u"), 1, 1), Reason.BAD_MODEL_OUTPUT),
    ],
)
def test_a_row_that_cannot_stand_in_the_table(row, reason):
    assert fault(prediction(), BOTH) is None
    assert fault(row, BOTH).reason is reason


def test_a_table_without_embeddings_asks_for_none():
    assert fault(Prediction(ImageRef("k", "u"), 1, 1, (Label("a", 1.0),)), CLASSIFY) is None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(
    st.lists(
        st.tuples(
            texts,
            st.lists(st.tuples(texts, st.floats(0, 1, width=32)), max_size=3),
            st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3),
            st.dictionaries(texts, texts, max_size=2),
        ),
        max_size=6,
        unique_by=lambda row: row[0],
    )
)
def test_any_rows_come_back_from_parquet_as_they_were(values):
    rows = [
        prediction(key, [Label(*pair) for pair in labels], vector(*numbers), attributes=attributes)
        for key, labels, numbers, attributes in values
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(rows, BOTH, "run"), sink)
    found = {row["key"]: row for row in pq.read_table(pa.BufferReader(sink.getvalue())).to_pylist()}
    assert len(found) == len(values)
    for key, labels, numbers, attributes in values:
        assert [(item["label"], item["score"]) for item in found[key]["predictions"]] == labels
        assert found[key]["embedding"] == numbers
        assert dict(found[key]["attributes"]) == attributes
