"""The forms of a row: Arrow, BigQuery's, Example; and what is found before it is sent."""

import datetime
import decimal
import math

import numpy as np
import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import stream_table, table
from beam_vision.errors import UsageError
from beam_vision.sinks.rows import RowSettings
from beam_vision.tfrecord_io import Example
from beam_vision.warehouse import schema

UTC = datetime.timezone.utc
NOON = datetime.datetime(2026, 11, 22, 12, tzinfo=UTC)
SCHEMAS = {
    "classify": table.schema(predictions=True, embedding_dim=None),
    "embed": table.schema(predictions=False, embedding_dim=3),
    "detect": table.schema(predictions=False, embedding_dim=None, boxes=True),
    "boxes": table.schema(predictions=False, embedding_dim=None, boxes=True, rows="boxes"),
    "tiles": table.schema(predictions=True, embedding_dim=3, rows="tiles"),
    **{f"stream {name}": stream_table.schema(name, embedding_dim=3) for name in stream_table.TABLES},
}

texts = st.text(max_size=8)
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
times = st.datetimes(
    datetime.datetime(1, 1, 2),
    datetime.datetime(9999, 12, 30),
    timezones=st.just(UTC),  # pyarrow's own reach
)
PLAIN = {
    pa.string(): texts,
    pa.binary(): st.binary(max_size=8),
    pa.float32(): float32s,
    pa.float64(): float32s,
    pa.timestamp("us", tz="UTC"): times,
}


def values_of(kind, *, required=False, inner=False):
    """Python values of an Arrow type; null where they may be, but never within a list."""
    if pa.types.is_map(kind):
        return st.dictionaries(texts, texts, max_size=3).map(lambda found: sorted(found.items()))
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        return st.none() | st.lists(values_of(kind.value_type, inner=True), min_size=size, max_size=size)
    if pa.types.is_list(kind):
        return st.lists(values_of(kind.value_type, inner=True), max_size=3)
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({each.name: values_of(each.type, inner=True) for each in kind})
    bits = 8 * kind.byte_width if pa.types.is_integer(kind) else 0
    plain = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if bits else PLAIN[kind]
    return plain if required or inner else st.none() | plain


@st.composite
def tables(draw):
    columns = SCHEMAS[draw(st.sampled_from(sorted(SCHEMAS)))]
    row = st.fixed_dictionaries(
        {each.name: values_of(each.type, required=not each.nullable) for each in columns}
    )
    return pa.Table.from_pylist(draw(st.lists(row, max_size=4)), schema=columns)


@given(tables())
def test_rows_come_back_from_the_warehouse_as_they_were(rows):
    stored = schema.to_warehouse(rows)
    assert stored.column_names == rows.column_names
    for each in stored.schema:
        assert not pa.types.is_map(each.type)
        assert not pa.types.is_fixed_size_list(each.type)
        if pa.types.is_list(each.type):
            assert stored.column(each.name).null_count == 0
    back = schema.from_warehouse(stored, like=rows.schema)
    assert back.schema.equals(rows.schema)
    assert back.to_pylist() == rows.to_pylist()


@given(tables())
def test_rows_come_back_from_examples_as_they_were(rows):
    examples = [schema.example_of(row) for row in rows.to_pylist()]
    assert schema.rows_of_examples(examples, rows.schema).to_pylist() == rows.to_pylist()
    stored = [schema.example_of(row) for row in schema.to_warehouse(rows).to_pylist()]
    assert stored == examples


@given(tables(), st.integers(0, 4))
def test_a_digest_is_of_what_the_row_says_in_any_form_and_place(rows, start):
    digests = schema.row_digests(rows)
    assert schema.row_digests(schema.to_warehouse(rows)) == digests
    assert schema.row_digests(rows.slice(start)) == digests.slice(start)
    assert schema.row_digests(schema.stamped(rows, NOON)) == digests
    other_run = rows
    if "run_id" in rows.column_names:
        place = rows.column_names.index("run_id")
        other_run = rows.set_column(place, "run_id", pa.repeat("another", rows.num_rows))
    assert schema.row_digests(other_run) == digests
    added = rows.append_column("more", pa.nulls(rows.num_rows, pa.string()))
    assert schema.row_digests(added) == digests


def embedded(*vectors, **columns):
    rows = [
        {"key": f"k{number}", "uri": "u", "embedding": vector, "attributes": []}
        for number, vector in enumerate(vectors)
    ]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return pa.Table.from_pylist(rows, schema=table.schema(predictions=False, embedding_dim=2))


def test_whatever_a_row_says_is_in_its_digest():
    base = embedded([1.0, 2.0])
    others = [
        embedded([1.0, 2.0000002]),
        embedded([2.0, 1.0]),
        embedded(None),
        embedded([1.0, 2.0], label=["cat"]),
        embedded([1.0, 2.0], label=[""]),
        embedded([1.0, 2.0], attributes=[[("camera", "a")]]),
        embedded([1.0, 2.0], attributes=[[("a", "camera")]]),
        embedded([1.0, 2.0], model_digest=["m"]),
        embedded([1.0, 2.0], width=[3]),
    ]
    digests = {schema.row_digests(each)[0].as_py() for each in [base, *others]}
    assert len(digests) == 1 + len(others)
    assert all(len(digest) == 32 for digest in digests)


def test_a_row_is_stamped_with_its_digest_and_its_runs_time():
    berlin = datetime.timezone(datetime.timedelta(hours=1))
    rows = schema.stamped(embedded([1.0, 2.0], [3.0, 4.0]), NOON.replace(hour=13, tzinfo=berlin))
    assert rows.schema.equals(schema.batch_schema(table.schema(predictions=False, embedding_dim=2)))
    assert rows.column("written_at").to_pylist() == [NOON, NOON]
    assert schema.stamped(rows, NOON).equals(rows)
    with pytest.raises(ValueError, match="no time zone"):
        schema.stamped(rows, datetime.datetime(2026, 1, 1))


def test_embeddings_come_back_as_float32_of_one_size_where_they_have_one():
    stored = schema.to_warehouse(embedded([1.0, 2.0], None, [3.0, 4.0]))
    assert stored.schema.field("embedding").type == pa.list_(pa.float64())
    assert stored.column("embedding").to_pylist() == [[1.0, 2.0], [], [3.0, 4.0]]
    back = schema.from_warehouse(stored)
    assert back.schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert back.column("embedding").to_pylist() == [[1.0, 2.0], None, [3.0, 4.0]]
    uneven = pa.table({"embedding": pa.array([[1.0], [], [2.0, 3.0]])})
    assert schema.from_warehouse(uneven).to_pydict() == {"embedding": [[1.0], None, [2.0, 3.0]]}
    other = pa.table({"states": pa.array([[1.0], [2.0]]), "embedding_ab12": pa.array([[1.0], [2.0]])})
    assert [each.type for each in schema.from_warehouse(other).schema] == [
        pa.list_(pa.float64()),
        pa.list_(pa.float32(), 1),
    ]


def test_fields_are_bigquerys_form_with_modes_and_descriptions():
    found = {each.name: each for each in schema.fields(schema.batch_schema(SCHEMAS["tiles"]))}
    shown = {name: (each.field_type, each.mode) for name, each in found.items()}
    assert shown == {
        "key": ("STRING", "REQUIRED"),
        "uri": ("STRING", "REQUIRED"),
        "label": ("STRING", "NULLABLE"),
        "image_key": ("STRING", "REQUIRED"),
        **{f"tile_{side}_px": ("INTEGER", "REQUIRED") for side in ("left", "top", "width", "height")},
        "prediction": ("STRING", "NULLABLE"),
        "score": ("FLOAT", "NULLABLE"),
        "predictions": ("RECORD", "REPEATED"),
        "embedding": ("FLOAT", "REPEATED"),
        "width": ("INTEGER", "NULLABLE"),
        "height": ("INTEGER", "NULLABLE"),
        "model_digest": ("STRING", "NULLABLE"),
        "preprocessing_digest": ("STRING", "NULLABLE"),
        "run_id": ("STRING", "NULLABLE"),
        "attributes": ("RECORD", "REPEATED"),
        "row_digest": ("STRING", "REQUIRED"),
        "written_at": ("TIMESTAMP", "REQUIRED"),
    }
    assert [(each.name, each.field_type, each.mode) for each in found["attributes"].fields] == [
        ("key", "STRING", "NULLABLE"),
        ("value", "STRING", "NULLABLE"),
    ]


def described(found, path=""):
    for each in found:
        yield f"{path}{each.name}", each.description
        yield from described(each.fields, f"{path}{each.name}.")


@pytest.mark.parametrize("name", [*SCHEMAS, "failures"])
def test_every_column_of_ours_is_described(name):
    columns = schema.failures_schema() if name == "failures" else schema.batch_schema(SCHEMAS[name])
    without = [path for path, text in described(schema.fields(columns)) if not text]
    assert without == []
    assert max(len(text) for text in schema.DESCRIPTIONS.values()) <= 1024  # BigQuery's limit


def test_a_type_without_a_form_is_refused_by_name():
    with pytest.raises(UsageError, match=r"'b.c' is duration\[s\].*no form in BigQuery"):
        schema.fields(pa.schema([("b", pa.list_(pa.struct([("c", pa.duration("s"))])))]))
    assert isinstance(schema.fields(pa.schema([("a", pa.date32())]))[0], SchemaField)


def test_faults_name_the_row_and_the_reason():
    rows = embedded([1.0, 2.0], [1.0, math.nan], None, [1.0, 2.0], [math.inf, 1.0], label=["a" * 50, *"bcde"])
    assert schema.faults(rows, embedding_dim=2, most_row_bytes=60) == {
        0: "the row has 75 bytes, more than the 60 that BigQuery takes",
        1: "embedding holds a number that is NaN or infinite",
        2: "the embedding has 0 numbers, not 2",
        4: "embedding holds a number that is NaN or infinite",
    }
    assert schema.faults(rows.take([3])) == {}


def test_faults_look_within_lists_and_records():
    found = pa.table(
        {
            "key": pa.array(["a", None, "c", "d", "e", "f"]),
            "names": pa.array([["x"], [], None, ["x", None], [], []]),
            "boxes": pa.array(
                [[{"score": 1.0, "label": None}], [], [], [], [{"score": 0.5}, {"score": -math.inf}], [None]]
            ),
        }
    )
    columns = [pa.field("key", pa.string(), nullable=False), *list(found.schema)[1:]]
    assert schema.faults(strict(found, columns)) == {
        1: "key is null",
        3: "names holds a null",
        4: "boxes.score holds a number that is NaN or infinite",
        5: "boxes holds a null",
    }


def strict(rows, columns):
    return pa.Table.from_arrays([rows.column(each.name) for each in columns], schema=pa.schema(columns))


def test_text_that_is_not_utf8_and_times_beyond_bigquerys_are_faults():
    bad = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")
    )
    micros = pa.array([-62_135_596_800_000_001, 253_402_300_799_999_999], pa.int64())
    rows = pa.table({"key": bad, "time": micros.cast(pa.timestamp("us", tz="UTC"))})
    assert schema.faults(rows) == {0: "time is not within the years 1 to 9999", 1: "key is not UTF-8"}


def test_bytes_of_a_row_are_those_that_bigquery_bills():
    rows = embedded([1.0, 2.0], None, label=["ü", None], attributes=[[("camera", "a")], []])
    key_and_uri = (2 + 2) + (2 + 1)
    expected = [key_and_uri + (2 + 2) + 16 + (2 + 6) + (2 + 1), key_and_uri]
    assert schema.row_bytes(rows).tolist() == expected
    assert schema.row_bytes(schema.to_warehouse(rows)).tolist() == expected
    assert schema.row_bytes(pa.table({"b": pa.array([True, None])})).tolist() == [1, 0]


def test_what_an_example_cant_hold_is_said():
    with pytest.raises(ValueError, match="states holds a null"):
        schema.example_of({"states": ["a", None]})
    with pytest.raises(ValueError, match="holds Decimal"):
        schema.example_of({"n": decimal.Decimal(1)})
    with pytest.raises(ValueError, match="no feature 'key'"):
        schema.rows_of_examples([schema.example_of({"uri": "u"})], SCHEMAS["embed"])
    with pytest.raises(ValueError, match="not a tf"):
        schema.rows_of_examples([b"\xff\xff"], SCHEMAS["embed"])


def test_an_example_has_a_list_for_each_field_of_a_record():
    row = {"key": "ü", "width": 3, "embedding": [0.5, -1.0], "predictions": [{"label": "a", "score": 0.25}]}
    features = Example.FromString(schema.example_of(row)).features.feature
    assert features["key"].bytes_list.value == ["ü".encode()]
    assert features["width"].int64_list.value == [3]
    assert features["embedding"].float_list.value == [0.5, -1.0]
    assert features["predictions/label"].bytes_list.value == [b"a"]
    assert sorted(features) == ["embedding", "key", "predictions/label", "predictions/score", "width"]


def test_settings_of_the_sink_have_a_form():
    settings = RowSettings(task="detect", embedding_dim=None, model_digest="m", preprocessing_digest="p")
    names = [each.name for each in schema.fields(schema.batch_schema(settings.schema()))]
    assert names[-2:] == ["row_digest", "written_at"]
    assert "boxes" in names
