"""The one MERGE: what two runs at once leave, and the files and the statements that BigQuery gets."""

import io
from concurrent.futures import ThreadPoolExecutor

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot
from google.api_core.exceptions import ServiceUnavailable
from warehouse_run import DIGESTS, RUNS, SETTINGS, prediction, run

from beam_vision.sinks import warehouse_load as loading
from beam_vision.sinks import warehouse_merge as merging
from beam_vision.sinks.rows import RowSettings, to_table
from beam_vision.types import Box, Prediction
from beam_vision.warehouse import clients, loads, schema
from beam_vision.warehouse.append_wire import Connection
from beam_vision.warehouse.names import TableName

BOXES = RowSettings(task="detect", embedding_dim=None, rows="boxes", **DIGESTS)
NAME = TableName("some-project", "lake", "images")


def boxed(key, *corners):
    ref = prediction(key).ref
    boxes = tuple(Box(x, 0, x + 1, 1, "cat", 0.5) for x in corners)
    return Prediction(ref, 8, 6, boxes=boxes, model_digest="m", preprocessing_digest="p")


def as_another_run_inserted_them(warehouse, run_id, keys):
    """BigQuery lets two MERGEs that only insert go on side by side."""
    table = warehouse.name("images").sql
    shown = ", ".join(f"'{key}'" for key in keys)
    day = f"TIMESTAMP '2025-01-{int(run_id[6:8]):02d} 00:00:00+00'"
    columns = f"'{run_id}' AS run_id, {day} AS written_at"
    sql = f"SELECT * REPLACE ({columns}) FROM {table} WHERE run_id = '{RUNS[1]}' AND key IN ({shown})"
    warehouse.client.query(f"INSERT INTO {table} {sql}").result()


@pytest.mark.parametrize("settings", [SETTINGS, BOXES])
def test_rows_of_two_runs_at_once_stand_there_once(warehouse, tmp_path, settings):
    name = warehouse.name("images")
    images = (
        [boxed("a", 1, 2), boxed("b"), boxed("c", 3)] if settings is BOXES else list(map(prediction, "abc"))
    )
    run(name, tmp_path, RUNS[1], images, settings=settings)
    before = warehouse.count("images")
    as_another_run_inserted_them(warehouse, RUNS[0], "ab")
    as_another_run_inserted_them(warehouse, RUNS[2], "b")
    assert warehouse.count("images") > before
    run(name, tmp_path, RUNS[3], images, settings=settings)
    assert warehouse.count("images") == before
    rows = warehouse.rows(f"SELECT key, MAX(run_id) AS run FROM {name.sql} GROUP BY key ORDER BY key")
    assert [tuple(row.values()) for row in rows] == [("a", RUNS[0]), ("b", RUNS[0]), ("c", RUNS[1])]


@pytest.mark.parametrize("settings", [SETTINGS, BOXES])
def test_the_statements_against_two_runs_are_googlesql(settings):
    staged = loading.staging_table(NAME, RUNS[0])
    statements = (merging.repeated_sql(NAME, staged, settings), merging.single_sql(NAME, settings))
    kinds = [type(sqlglot.parse_one(sql, read="bigquery")).__name__ for sql in statements]
    assert kinds == ["Select", "Delete"]


@pytest.mark.parametrize("settings", [SETTINGS, BOXES])
def test_a_file_has_the_modes_of_the_staging_table(settings):
    """BigQuery: "specified as NULLABLE in provided schema which does not match REQUIRED in the file"."""
    image = boxed("a", 1) if settings is BOXES else prediction("a")
    data = loads.to_file(loading.stored(to_table([image], settings, RUNS[0])))
    file = pq.ParquetFile(io.BytesIO(data))
    fields = loading.staging_fields(schema.batch_schema(settings.schema()))
    assert [field.name for field in fields] == file.schema_arrow.names
    for field, column in zip(fields, file.schema_arrow, strict=True):
        assert column.nullable
        assert (field.mode == "REPEATED") == pa.types.is_list(column.type)
        assert field.mode != "REQUIRED"


def test_the_schema_of_a_load_is_said_and_not_guessed():
    fields = loading.staging_fields(schema.batch_schema(SETTINGS.schema()))
    sent = loads.load_config(fields).to_api_repr()["load"]
    assert [each["name"] for each in sent["schema"]["fields"]] == [field.name for field in fields]
    assert sent["parquetOptions"] == {"enableListInference": True}


class Appending(grpc.GenericRpcHandler):
    """Keeps what calls of AppendRows say of themselves, and ends them."""

    def __init__(self):
        self.said = []

    def service(self, handler_call_details):
        self.said.append(dict(handler_call_details.invocation_metadata))
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: iter(()))


def test_a_table_whose_name_is_not_ascii_is_named_in_the_header(monkeypatch):
    """By it BigQuery finds the table's region; gRPC sends no header that isn't ASCII."""
    name, handler = TableName("some-project", "lake", "brücken_橋"), Appending()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    monkeypatch.setenv(clients.EMULATOR_GRPC, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    client = clients.writer()
    try:
        connection = Connection(client, f"{name.resource}/streams/_default")
        with pytest.raises(ServiceUnavailable, match="ended the connection"):
            connection.answer()
        connection.close()
    finally:
        client.transport.close()
        server.stop(None)
    assert handler.said[0]["x-goog-request-params"] == (
        "write_stream=projects/some-project/datasets/lake/tables/br%C3%BCcken_%E6%A9%8B/streams/_default"
    )
