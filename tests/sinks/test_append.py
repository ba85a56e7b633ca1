"""The Storage Write API on BigQuery's emulator: pieces, refused rows, lost connections, offsets."""

import datetime

import pyarrow as pa
import pytest
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import types
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import JobError, UsageError
from beam_vision.sinks.append import bounded, time_fault
from beam_vision.stream_table import FAILURES, PREDICTIONS
from beam_vision.stream_types import StreamRow, as_datetime
from beam_vision.warehouse import append
from beam_vision.warehouse.append import Appender
from beam_vision.warehouse.append_wire import REQUEST_BYTES, make_request, split_table
from beam_vision.warehouse.names import TableName
from beam_vision.warehouse.once import ensure_once, once_sql

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("n", pa.string()),  # BigQuery has an INTEGER there: it takes text that is a number
        pa.field("embedding", pa.list_(pa.float64())),
        pa.field("written_at", pa.timestamp("us", tz="UTC")),
    ]
)
NOW = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.timezone.utc)


def rows(count, *, dim=2, bad=(), start=0):
    texts = ["none" if i in bad else str(i) for i in range(start, start + count)]
    return pa.table(
        {
            "row_id": [f"r{i}" for i in range(start, start + count)],
            "n": texts,
            "embedding": [[float(i)] * dim for i in range(start, start + count)],
            "written_at": [NOW] * count,
        },
        schema=SCHEMA,
    )


@pytest.fixture
def table(warehouse):
    """A table, its columns those of SCHEMA but for ``n``."""
    name = warehouse.name("t")
    columns = [
        bigquery.SchemaField("row_id", "STRING", "REQUIRED"),
        bigquery.SchemaField("n", "INTEGER"),
        bigquery.SchemaField("embedding", "FLOAT", "REPEATED"),
        bigquery.SchemaField("written_at", "TIMESTAMP"),
    ]
    warehouse.client.create_table(bigquery.Table(name.path, schema=columns))
    return name


def numbers(warehouse):
    return sorted(row["n"] for row in warehouse.rows(f"SELECT n FROM {warehouse.name('t').sql}"))


@given(sizes=st.lists(st.integers(0, 300), max_size=40), most=st.integers(400, 4_000))
def test_pieces_hold_all_rows_in_order_within_the_limit(sizes, most):
    table = pa.table({"text": ["x" * size for size in sizes]}, schema=pa.schema([("text", pa.string())]))
    pieces = list(split_table(table, most))
    assert [number for piece in pieces for number in piece.numbers] == list(range(len(sizes)))
    if pieces:
        assert pa.Table.from_batches([piece.batch for piece in pieces]).equals(table)
    for piece in pieces:
        assert piece.batch.num_rows == len(piece.numbers) > 0
        assert len(piece.data) <= most or piece.batch.num_rows == 1


def test_a_request_stays_below_ten_megabytes():
    table = rows(3_000, dim=1280)  # 31 MB
    pieces = list(split_table(table))
    assert len(pieces) > 3
    stream = TableName("project-1", "d", "t").resource + "/streams/_default"
    sizes = [len(types.AppendRowsRequest.serialize(make_request(stream, SCHEMA, piece))) for piece in pieces]
    assert REQUEST_BYTES / 2 * 0.9 < max(sizes) < 10_000_000
    assert sum(len(piece.numbers) for piece in pieces) == 3_000


def test_rows_are_stored_when_append_returns(warehouse, table):
    with Appender(table, SCHEMA, request_bytes=2_000) as appender:
        assert appender.append(rows(100)) == {}
        assert numbers(warehouse) == list(range(100))
        assert appender.append(rows(0)) == {}
        assert appender.append(rows(5, start=100)) == {}
    assert numbers(warehouse) == list(range(105))


def test_rows_that_are_refused_are_named_with_the_reason_and_cost_no_other(warehouse, table):
    with Appender(table, SCHEMA, request_bytes=3_000) as appender:
        refused = appender.append(rows(60, bad=(0, 7, 8, 59)))
    assert sorted(refused) == [0, 7, 8, 59]
    assert all("none" in why for why in refused.values())
    assert numbers(warehouse) == [i for i in range(60) if i not in (0, 7, 8, 59)]


def test_a_row_that_fits_no_request_is_refused(warehouse, table):
    large = pa.concat_tables([rows(2), rows(1, dim=2_000, start=2), rows(1, start=3)])
    with Appender(table, SCHEMA, request_bytes=4_000) as appender:
        refused = appender.append(large)
    assert list(refused) == [2]
    assert "of 4,000 at most" in refused[2]
    assert numbers(warehouse) == [0, 1, 3]


def test_a_connection_that_is_lost_is_made_anew(warehouse, table):
    with Appender(table, SCHEMA) as appender:
        appender.append(rows(3))
        appender._connection._call.cancel()  # as when BigQuery closes one that was idle for long
        appender.append(rows(3, start=3))
    assert numbers(warehouse) == list(range(6))


def test_a_table_that_never_comes_is_a_clear_error_in_the_end(warehouse, monkeypatch):
    monkeypatch.setattr(append, "ATTEMPTS", 2)
    with (
        Appender(warehouse.name("nowhere"), SCHEMA) as appender,
        pytest.raises(UsageError, match="not found"),
    ):
        appender.append(rows(1))


def test_a_server_that_is_gone_is_an_error_in_the_end(monkeypatch):
    monkeypatch.setattr(append, "ATTEMPTS", 2)
    monkeypatch.setenv("BIGQUERY_EMULATOR_GRPC", "127.0.0.1:9")
    with (
        Appender(TableName("project-1", "d", "t"), SCHEMA) as appender,
        pytest.raises(JobError, match="can't write to"),
    ):
        appender.append(rows(1))


def answer(code, message="why", *, row_errors=(), storage_code=0):
    status = status_pb2.Status(code=code, message=message)
    if storage_code:
        status.details.add().Pack(types.StorageError.pb(types.StorageError(code=storage_code)))
    return types.AppendRowsResponse(error=status, row_errors=list(row_errors))


def taken(given):
    """What BigQuery's answer makes of a piece of four rows."""
    (piece,) = split_table(rows(4))
    work = append.Work(append.deque())
    append.take(given, piece, work, REQUEST_BYTES)
    return work


def test_what_each_answer_of_bigquery_means():
    """The emulator names no rows; BigQuery does, by ``row_errors``."""
    bad = [types.RowError(index=1, message="bad date"), types.RowError(index=3, message="too long")]
    work = taken(answer(3, row_errors=bad))
    assert work.refused == {1: "bad date", 3: "too long"}
    assert [list(piece.numbers) for piece in work.waiting] == [[0, 2]]
    assert [list(piece.numbers) for piece in taken(answer(3)).waiting] == [[0, 1], [2, 3]]
    for passing in (1, 4, 5, 8, 10, 13, 14):
        work = taken(answer(passing))
        assert len(work.again) == 1
        assert work.error is not None
    with pytest.raises(Exception, match="why"):
        taken(answer(7))
    schema_mismatch = types.StorageError.StorageErrorCode.SCHEMA_MISMATCH_EXTRA_FIELDS
    with pytest.raises(Exception, match="why"):
        taken(answer(3, storage_code=schema_mismatch))
    assert taken(types.AppendRowsResponse()).refused == {}


def test_the_view_shows_the_row_that_was_written_first(warehouse, table):
    late = rows(4).set_column(
        3, SCHEMA.field(3), pa.array([NOW + datetime.timedelta(1)] * 4, SCHEMA.field(3).type)
    )
    with Appender(table, SCHEMA) as appender:
        appender.append(late)
        appender.append(rows(3))
    view = ensure_once(warehouse.client, table)
    found = {row["row_id"]: row["written_at"] for row in warehouse.rows(f"SELECT * FROM {view.sql}")}
    assert found == {"r0": NOW, "r1": NOW, "r2": NOW, "r3": NOW + datetime.timedelta(1)}
    assert ensure_once(warehouse.client, table) == view
    assert "PARTITION BY `row_id`, `capture_time` ORDER" in once_sql(table, "capture_time")


def test_a_table_where_the_view_should_stand_is_not_touched(warehouse, table):
    made = bigquery.Table(table.sibling("once").path, schema=[bigquery.SchemaField("a", "STRING")])
    warehouse.client.create_table(made)
    with pytest.raises(UsageError, match="is a table"):
        ensure_once(warehouse.client, table)


@pytest.mark.parametrize(
    ("years", "is_fine"), [(0, True), (-9.9, True), (-10.1, False), (0.9, True), (1.1, False)]
)
def test_times_that_a_stream_may_have(years, is_fine):
    now_sec = NOW.timestamp()
    row = StreamRow(
        PREDICTIONS, "r", "cam", 0.0, {"capture_time": as_datetime(now_sec + years * 365.25 * 86_400)}
    )
    assert (time_fault(row, now_sec) == "") is is_fine


def test_a_failure_is_cut_so_that_it_fits():
    values = {"data": b"x" * 7_000_000, "detail": "no image", "time": as_datetime(0.0)}
    found = bounded(StreamRow(FAILURES, "r", "cam", 0.0, values), NOW.timestamp()).values
    assert (found["data"], found["time"]) == (None, None)
    assert found["detail"].startswith("no image; its payload of 7,000,000 bytes is left out")
    fine = StreamRow(FAILURES, "r", "cam", 0.0, {"data": b"x", "detail": "no image", "time": NOW})
    assert bounded(fine, NOW.timestamp()) == fine
