"""Rows for Beam's STORAGE_WRITE_API: what of it is Python, up to the bytes that Java would read."""

import datetime

import pytest
from apache_beam.coders import registry
from apache_beam.io.gcp import bigquery_tools
from apache_beam.typehints.row_type import RowTypeConstraint

from beam_vision.sinks.append import Destination, table_names
from beam_vision.sinks.java_transforms import ValuesDoFn, dead_letter
from beam_vision.stream_table import FAILURES, PREDICTIONS
from beam_vision.stream_types import StreamRow, as_datetime
from beam_vision.warehouse.forms import stream_form
from beam_vision.warehouse.names import TableName

NOW_SEC = datetime.datetime.now(datetime.timezone.utc).timestamp()
TO = Destination(names=table_names(TableName("project-1", "d", "t")), embedding_dim=2)
VALUES = {
    PREDICTIONS: {
        **{"key": "cam/1", "uri": "gs://b/1.jpg", "camera": "cam", "capture_time": as_datetime(NOW_SEC)},
        **{"prediction": "red", "score": 0.5, "predictions": [{"label": "red", "score": 0.5}]},
        **{"attributes": {"a": "b"}, "embedding": b"\0\0\x80\x3f\0\0\0\0", "width": 3},
    },
    FAILURES: {"key": "cam/2", "data": b"no image", "attributes": {}, "time": None, "attempt": 1},
}


@pytest.mark.parametrize("table", [PREDICTIONS, FAILURES])
def test_rows_have_the_columns_of_the_table_and_can_be_sent(table):
    row = StreamRow(table, "r1", "cam", NOW_SEC, VALUES[table])
    (values,) = ValuesDoFn(TO, table).process(row)
    assert not list(ValuesDoFn(TO, "counts").process(row))
    form = stream_form(table, embedding_dim=2)
    assert list(values) == [field.name for field in form.fields]
    schema = {"fields": [field.to_api_repr() for field in form.fields]}
    made = bigquery_tools.beam_row_from_dict(dict(values), schema)
    hints = bigquery_tools.get_beam_typehints_from_tableschema(schema)
    coder = registry.get_coder(RowTypeConstraint.from_fields(hints))
    back = coder.decode(coder.encode(made))
    assert (back.row_id, back.key) == ("r1", VALUES[table]["key"])
    if table == PREDICTIONS:
        assert list(back.embedding) == [1.0, 0.0]
        assert [(each.key, each.value) for each in back.attributes] == [("a", "b")]
        assert back.capture_time.micros == round(NOW_SEC * 1e6)


def test_a_row_that_bigquery_refused_is_a_dead_letter_with_its_reason():
    row = StreamRow(PREDICTIONS, "r1", "cam", NOW_SEC, VALUES[PREDICTIONS])
    (values,) = ValuesDoFn(TO, PREDICTIONS).process(row)
    dead = dead_letter({"failed_row": values, "error_message": "too old"}, PREDICTIONS, "run-1")
    assert (dead.failure.key, dead.failure.reason, dead.failure.run_id) == ("cam/1", "refused", "run-1")
    assert dead.failure.detail == "table predictions: too old"
    assert dead.info.capture_sec == pytest.approx(NOW_SEC, abs=1e-5)
    assert dead.info.attributes == {"a": "b"}
    assert b'"prediction":"red"' in dead.data
