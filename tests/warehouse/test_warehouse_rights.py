"""What would end a run when all its work is done is found out before: rights, filters, what doesn't stay."""

import contextlib
import datetime
import http.server
import json
import logging
import threading

import pytest
from google.cloud import bigquery

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.sinks.rows import RowSettings
from beam_vision.sinks.warehouse_commit import plan_warehouse, try_rights
from beam_vision.warehouse import clients, tables
from beam_vision.warehouse.forms import batch_form, failures_form, stream_form
from beam_vision.warehouse.found import Found, found_in
from beam_vision.warehouse.names import TableName

SETTINGS = RowSettings(task="embed", embedding_dim=2, model_digest="m", preprocessing_digest="p")
RUN = "20250101T000000000000Z"
NAME = TableName("some-project", "lake", "images")


class Refusing(http.server.BaseHTTPRequestHandler):
    """Lets the dataset and the server's ``tables`` be looked at, and nothing be made."""

    def log_message(self, *_):
        pass

    def _send(self, code, value):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        place = self.path.partition("?")[0].rpartition("/")[2]
        if place == "lake":
            reference = {"projectId": "some-project", "datasetId": "lake"}
            return self._send(200, {"kind": "bigquery#dataset", "datasetReference": reference})
        if place in self.server.tables:
            return self._send(200, self.server.tables[place])
        return self._send(404, {"error": {"code": 404, "message": "Not found: Table"}})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        error = {"reason": "accessDenied", "message": "Permission bigquery.tables.create denied"}
        self._send(403, {"error": {"code": 403, "message": error["message"], "errors": [error]}})


@pytest.fixture
def refusing(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.tables = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(clients.EMULATOR_HOST, f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()


def test_who_may_not_make_tables_is_told_before_an_image_is_read(refusing, tmp_path):
    plan = plan_warehouse(NAME, RUN, SETTINGS, staging=str(tmp_path))
    with pytest.raises(UsageError, match=r"lake\.images: refused \(Permission .*roles/bigquery\.dataEditor"):
        try_rights(plan, SETTINGS)


def test_who_may_leaves_nothing_behind(warehouse, tmp_path):
    plan = plan_warehouse(warehouse.name("images"), RUN, SETTINGS, staging=str(tmp_path))
    try_rights(plan, SETTINGS)
    assert warehouse.tables() == []


def found(**facts):
    """What BigQuery's answer about a table means."""
    reference = {"projectId": "p", "datasetId": "d", "tableId": "t"}
    return found_in(bigquery.Table.from_api_repr({"tableReference": reference, **facts}))


def days(**more):
    return {"type": "DAY", "field": "written_at", **more}


def test_a_table_that_wants_a_filter_is_refused_but_to_a_stream_that_only_appends(refusing):
    for form in (batch_form(SETTINGS), failures_form(), stream_form("counts")):
        facts = {"requirePartitionFilter": True, "timePartitioning": days(), "type": "TABLE"}
        table = bigquery.Table(NAME.path, schema=form.fields)
        table.description = form.description
        refusing.tables["images"] = table.to_api_repr() | facts
        refused = form.facts["kind"] != tables.STREAM
        expected = pytest.raises(UsageError, match="require_partition_filter = FALSE")
        with clients.client(NAME.project) as client, expected if refused else contextlib.nullcontext():
            assert tables.check(client, NAME, form).exists


def test_what_does_not_stay_is_said():
    assert found(timePartitioning=days()).kept == Found().kept == ""
    sandbox = found(timePartitioning=days(expirationMs=str(60 * 86_400_000)))
    assert sandbox.kept == "rows are dropped 60 days after written_at"
    moment = datetime.datetime(2027, 1, 2, tzinfo=datetime.timezone.utc)
    expires = found(expirationTime=str(int(moment.timestamp() * 1000)))
    assert expires.kept == "the table is dropped on 2027-01-02"


def test_an_error_within_a_pipeline_is_a_line_without_a_traceback(capsys):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    root = logging.getLogger()
    root.addHandler(handler)

    def run(_):
        error = JobError("no images came in [while running 'WriteTable/Commit']")
        for raised in (error, ValueError("a bug")):
            try:
                raise raised
            except Exception as caught:
                logging.getLogger("apache_beam.runners.common").exception(caught)
        raise error

    try:
        assert jobs.guarded(run, []) == 1
    finally:
        root.removeHandler(handler)
    assert capsys.readouterr().err.splitlines()[-1] == "failed: no images came in"
    assert [str(record.exc_info[1]) for record in records] == ["a bug"]
