"""Reading BigQuery: tables, views and queries on the emulator; streams on a server that breaks them off."""

import contextlib
import datetime
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pyarrow as pa
import pytest

from beam_vision.errors import JobError, UsageError
from beam_vision.warehouse import clients, read
from beam_vision.warehouse.parallel import in_parallel
from beam_vision.warehouse.run_once import run_once

SERVICE = "/google.cloud.bigquery.storage.v1.BigQueryRead"


@pytest.fixture
def lake(warehouse):
    """A table of three rows, with what BigQuery has no null of."""
    warehouse.client.query(
        f"CREATE TABLE {warehouse.name('lake').sql} (key STRING, n INT64, taken TIMESTAMP, "
        "embedding ARRAY<FLOAT64>, attributes ARRAY<STRUCT<key STRING, value STRING>>)"
    ).result()
    warehouse.client.query(
        f"INSERT INTO {warehouse.name('lake').sql} VALUES "
        "('a', 1, TIMESTAMP '2026-05-01 00:00:00+00:00', [0.5, 1.5], [STRUCT('k' AS key, 'v' AS value)]), "
        "('b', 2, TIMESTAMP '2026-05-02 00:00:00.000001+00:00', [2.0, 3.0], []), "
        "('it\\'s', NULL, NULL, [], [])"
    ).result()
    return warehouse


def rows_of(batches):
    return sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: row["key"])


def test_a_table_and_a_view_of_it_give_the_same_rows(lake):
    lake.client.query(
        f"CREATE VIEW {lake.name('seen').sql} AS SELECT * FROM {lake.name('lake').sql}"
    ).result()
    found = rows_of(read.read_rows(lake.name("lake")))
    assert [row["key"] for row in found] == ["a", "b", "it's"]
    assert found[0]["embedding"] == [0.5, 1.5]
    assert found[0]["attributes"] == [{"key": "k", "value": "v"}]
    assert found[2] == {"key": "it's", "n": None, "taken": None, "embedding": [], "attributes": []}
    assert rows_of(read.read_rows(lake.name("seen"))) == found
    assert read.row_count(lake.name("lake")) == read.row_count(lake.name("seen")) == 3


def test_columns_come_as_asked_and_only_rows_since(lake):
    since = datetime.datetime(2026, 5, 2, 2, 0, 0, 1, datetime.timezone(datetime.timedelta(hours=2)))
    where = f"taken >= {read.timestamp(since)}"
    (batch,) = read.read_rows(lake.name("lake"), columns=["n", "key"], where=where)
    assert batch.schema.names == ["n", "key"]
    assert batch.to_pylist() == [{"n": 2, "key": "b"}]
    later = since + datetime.timedelta(microseconds=1)
    assert not list(read.read_rows(lake.name("lake"), where=f"taken >= {read.timestamp(later)}"))


def test_columns_are_found_however_they_are_written(lake):
    """``KEY`` is ``key`` to BigQuery; rows are the same from a table, a view of it and its own columns."""
    for kind, sql in (("TABLE", "capitals"), ("VIEW", "capitals_seen")):
        lake.client.query(
            f"CREATE {kind} {lake.name(sql).sql} AS SELECT key AS KEY, n AS N FROM {lake.name('lake').sql}"
        ).result()
        found = rows_of(read.read_rows(lake.name(sql), columns=["n", "key"]))
        assert found == [{"n": 1, "key": "a"}, {"n": 2, "key": "b"}, {"n": None, "key": "it's"}]
        assert next(read.read_rows(lake.name(sql))).schema.names == ["KEY", "N"]


def test_what_cannot_be_read_is_said_before_a_row_is(lake):
    with pytest.raises(UsageError, match=rf"{lake.project}\.lake\.nowhere: not found"):
        next(read.read_rows(lake.name("nowhere")))
    with pytest.raises(UsageError, match="no column 'colour', only key, n, taken"):
        next(read.read_rows(lake.name("lake"), columns=["key", "colour"]))
    with pytest.raises(UsageError, match="not found"):
        read.row_count(lake.name("nowhere"))


def test_a_query_runs_once_under_its_id(lake):
    name = lake.name("lake").sql
    with read.reading() as reader:

        def snapshot(job_id):
            return read.snapshot_query(
                lake.client,
                reader,
                f"SELECT key, n FROM {name} WHERE n >= @least",
                {"least": 1},
                job_id=job_id,
            )

        def keys(found):
            return [row["key"] for row in rows_of(read.read_stream(reader, found, found.streams[0]))]

        first = snapshot("once")
        lake.client.query(f"INSERT INTO {name} VALUES ('c', 3, NULL, [], [])").result()
        assert keys(first) == keys(snapshot("once")) == ["a", "b"]
        assert keys(snapshot("another")) == ["a", "b", "c"]
        with pytest.raises(UsageError, match=f"project {lake.project}: .*nothing"):
            read.snapshot_query(lake.client, reader, f"SELECT nothing FROM {name}")


class Abroad(BaseHTTPRequestHandler):
    """BigQuery's REST API where a job is done already, in Europe: found there alone, and its id is taken."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append("dry run" if body["configuration"].get("dryRun") else "insert")
        if self.server.asked[-1] == "insert":
            self.answer(409, {"error": {"code": 409, "message": "Already Exists: Job", "errors": []}})
        else:
            self.answer(200, self.job("dry"))

    def do_GET(self):
        path, _, settings = self.path.partition("?")
        if "location=europe-west4" not in settings:
            self.server.asked.append("nowhere")
            self.answer(404, {"error": {"code": 404, "message": "Not found: Job", "errors": []}})
        elif "/queries/" in path:
            self.answer(200, {**self.job("once_0"), "jobComplete": True, "totalRows": "0", "schema": {}})
        else:
            self.server.asked.append("found")
            self.answer(200, self.job(path.rpartition("/")[2]))

    def job(self, name):
        return {
            "jobReference": {"projectId": "my-project", "jobId": name, "location": "europe-west4"},
            "configuration": {"jobType": "QUERY", "query": {"query": "SELECT 1"}},
            "status": {"state": "DONE"},
        }

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_a_job_that_ran_is_found_wherever_it_ran(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Abroad) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(clients.EMULATOR_HOST, f"http://127.0.0.1:{server.server_port}")
        with contextlib.closing(clients.client("my-project")) as client:
            job = run_once(client, "SELECT 1", job_id="once")
        server.shutdown()
    assert (job.job_id, job.location) == ("once_0", "europe-west4")
    assert server.asked == ["nowhere", "insert", "dry run", "found"]


def test_a_result_is_read_from_the_table_that_bigquery_keeps_it_in(lake, monkeypatch):
    monkeypatch.setattr(clients, "emulated", lambda: False)  # the emulator names such a table for this alone
    sql = f"CREATE TABLE {lake.name('kept').sql} AS SELECT key, n FROM {lake.name('lake').sql}"
    with read.reading() as reader:
        found = read.snapshot_query(lake.client, reader, sql, columns=["n", "key"], about=lake.name("seen"))
        (batch,) = read.read_stream(reader, found, found.streams[0])
    assert (found.about, found.job) == (lake.name("seen").path, "")
    assert batch.schema.names == ["n", "key"]
    assert sorted(batch.column("key").to_pylist()) == ["a", "b", "it's"]


def test_many_streams_are_read_together(warehouse):
    rows = 40_000  # over 1 MB, below which there is one stream
    warehouse.client.query(
        f"CREATE TABLE {warehouse.name('wide').sql} AS "
        "SELECT n, CAST(n AS STRING) AS key, [1.0, 2.0] AS embedding "
        f"FROM UNNEST(GENERATE_ARRAY(1, {rows})) AS n"
    ).result()
    with read.reading() as reader:
        found = read.snapshot_table(warehouse.client, reader, warehouse.name("wide"), most_streams=4)
    assert len(found.streams) == 4
    numbers = [n for batch in read.read_rows(warehouse.name("wide")) for n in batch.column("n").to_pylist()]
    assert sorted(numbers) == list(range(1, rows + 1))


class Breaking(grpc.GenericRpcHandler):
    """A Storage Read API of 100 numbers in batches of 7, which keeps to offsets, and breaks off as told."""

    def __init__(self, *breaks):
        self.breaks = list(breaks)  # of each call: after how many batches, with which status
        self.offsets = []

    def service(self, details):
        assert details.method == f"{SERVICE}/ReadRows"
        return grpc.unary_stream_rpc_method_handler(self.read)

    def read(self, data, context):
        from google.cloud.bigquery_storage_v1 import types

        offset = types.ReadRowsRequest.deserialize(data).offset
        self.offsets.append(offset)
        batches, status = self.breaks.pop(0) if self.breaks else (None, None)
        numbers = pa.record_batch({"n": pa.array(np.arange(offset, 100))})
        for count, start in enumerate(range(0, len(numbers), 7)):
            if count == batches:
                context.abort(status, "broken off")
            part = numbers.slice(start, 7)
            yield types.ReadRowsResponse.serialize(
                types.ReadRowsResponse(
                    row_count=len(part),
                    arrow_record_batch={"serialized_record_batch": part.serialize().to_pybytes()},
                )
            )


@contextlib.contextmanager
def numbers_read(monkeypatch, handler):
    """The numbers that come, and the waits in between."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.add_generic_rpc_handlers((handler,))
        server.start()
        monkeypatch.setenv(clients.EMULATOR_GRPC, f"127.0.0.1:{port}")
        schema = pa.schema([pa.field("n", pa.int64())]).serialize().to_pybytes()
        snapshot, waits = read.Snapshot("p.d.t", ("n",), schema, ("s",)), []
        with read.reading() as reader:
            batches = read.read_stream(reader, snapshot, "s", sleep=waits.append)
            yield (n for batch in batches for n in batch.column("n").to_pylist()), waits
        server.stop(None).wait()


def test_a_stream_goes_on_where_it_broke_off(monkeypatch):
    gone = grpc.StatusCode.UNAVAILABLE
    server = Breaking((3, gone), (0, gone), (0, grpc.StatusCode.INTERNAL), (5, gone))
    with numbers_read(monkeypatch, server) as (numbers, waits):
        assert list(numbers) == list(range(100))
    assert server.offsets == [0, 21, 21, 21, 56]
    assert len(waits) == 4
    assert waits[2] > waits[0] / 2 > 0  # they grow while no row comes


def test_a_stream_that_goes_on_breaking_off_ends(monkeypatch):
    server = Breaking((1, grpc.StatusCode.UNAVAILABLE), *[(0, grpc.StatusCode.UNAVAILABLE)] * 20)
    with (
        numbers_read(monkeypatch, server) as (numbers, waits),
        pytest.raises(JobError, match=r"reading p\.d\.t broke off at row 7 .*run it again"),
    ):
        list(numbers)
    assert len(server.offsets) == read.ATTEMPTS == len(waits) + 1


def test_what_no_retry_mends_ends_at_once(monkeypatch):
    server = Breaking((0, grpc.StatusCode.PERMISSION_DENIED))
    with numbers_read(monkeypatch, server) as (numbers, waits), pytest.raises(JobError, match="broken off"):
        list(numbers)
    assert not waits


def test_parallel_gives_all_and_stops_with_the_reader():
    assert sorted(in_parallel([lambda i=i: iter([i, i + 10]) for i in range(5)], 3)) == [
        *range(5),
        *range(10, 15),
    ]
    assert list(in_parallel([], 3)) == []
    opened = []

    def endless(number):
        opened.append(number)
        while True:
            yield number

    before = threading.active_count()
    stream = in_parallel([lambda i=i: endless(i) for i in range(9)], 2)
    assert [next(stream) for _ in range(100)]
    stream.close()
    assert sorted(opened) == [0, 1]
    for _ in range(100):
        if threading.active_count() <= before:
            break
        threading.Event().wait(0.05)
    assert threading.active_count() <= before


def test_parallel_raises_what_a_source_raises():
    def broken():
        yield 1
        raise JobError("the second")

    with pytest.raises(JobError, match="the second"):
        list(in_parallel([broken, lambda: iter(range(1000))], 2, waiting=1))
