"""Rows into a table of BigQuery's: once in effect, whatever is killed, tried again or changed."""

import http.server
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from warehouse_run import DIGESTS, RUNS, SETTINGS, failure, prediction, run

from beam_vision import storage
from beam_vision.errors import DigestMismatch, JobError
from beam_vision.sinks import parts, warehouse_jobs
from beam_vision.sinks import warehouse_commit as committing
from beam_vision.sinks import warehouse_load as loading
from beam_vision.sinks import warehouse_merge as merging
from beam_vision.sinks.letters import letter_of, read_letter
from beam_vision.sinks.parts import PartTask, Source
from beam_vision.sinks.rows import RowSettings
from beam_vision.sinks.staging import Flush
from beam_vision.sinks.warehouse_transforms import StageWarehouseRows
from beam_vision.table import Part
from beam_vision.types import Box, Prediction
from beam_vision.warehouse import clients, schema, tables
from beam_vision.warehouse.names import TableName

BOXES = RowSettings(task="detect", embedding_dim=None, rows="boxes", **DIGESTS)
TILES = replace(SETTINGS, rows="tiles")
CAT, DOG = Box(1, 2, 5, 6.5, "cat", 0.75), Box(0, 0, 8, 6, "dog", 0.5)
NAME = TableName("some-project", "lake", "images")


def found(warehouse, columns, table="images"):
    sql = f"SELECT {columns} FROM {warehouse.name(table).sql} ORDER BY {columns}"
    return [tuple(row.values()) for row in warehouse.rows(sql)]


def test_ten_thousand_rows_written_twice_are_ten_thousand_rows(warehouse, tmp_path):
    images = [prediction(f"{number:05d}", vector=(number, 1)) for number in range(10_000)]
    name = warehouse.name("images")
    first = run(name, tmp_path, RUNS[0], images)
    assert (first.merged.loaded, first.merged.changed) == (10_000, 10_000)
    again = run(name, tmp_path, RUNS[1], images[::-1])
    assert (again.merged.loaded, again.merged.changed) == (10_000, 0)
    (facts,) = warehouse.rows(
        "SELECT COUNT(*) AS n, COUNT(DISTINCT key) AS keys, MIN(run_id) AS first, MAX(run_id) AS last, "
        f"SUM(v) AS total FROM {name.sql}, UNNEST(embedding) AS v"
    )
    assert facts == {"n": 20_000, "keys": 10_000, "first": RUNS[0], "last": RUNS[0], "total": 50_005_000}
    assert warehouse.count("images") == 10_000


def test_only_what_says_something_else_changes(warehouse, tmp_path):
    name = warehouse.name("images")
    run(name, tmp_path, RUNS[0], [prediction(key) for key in "abc"])
    report = run(name, tmp_path, RUNS[1], [prediction("a"), prediction("b", "dog"), prediction("d")])
    assert (report.merged.loaded, report.merged.changed) == (3, 2)
    expected = [("a", "cat", RUNS[0]), ("b", "dog", RUNS[1]), ("c", "cat", RUNS[0]), ("d", "cat", RUNS[1])]
    assert found(warehouse, "key, label, run_id") == expected


def test_what_killed_runs_staged_and_what_the_table_holds_is_kept(warehouse, tmp_path):
    name = warehouse.name("images")
    run(name, tmp_path, RUNS[0], [prediction("a")])
    plan = committing.plan_warehouse(name, RUNS[1], SETTINGS, staging=str(tmp_path))
    parts.stage(plan.output.staging("rows"), [(prediction("b"),)], SETTINGS, RUNS[1])
    images = [prediction(key, "dog") for key in "abc"]
    report = run(name, tmp_path, RUNS[2], images, resume=True)
    assert (report.inputs, report.outputs, report.already_done) == (3, 1, 2)
    assert found(warehouse, "key, label, run_id") == [
        ("a", "cat", RUNS[0]),
        ("b", "cat", RUNS[1]),
        ("c", "dog", RUNS[2]),
    ]


def staged(warehouse, tmp_path, run_id, images, settings=SETTINGS):
    """A run up to its load, which is done twice, as the emulator forgets a job's id."""
    name = warehouse.name("images")
    file = parts.stage(str(tmp_path / "rows"), [(image,) for image in images], settings, run_id)
    part = loading.write_part(PartTask("p.parquet", (Source(file.path),)), str(tmp_path / "parts"), settings)
    columns = schema.batch_schema(settings.schema())
    into = loading.staging_table(name, run_id)
    tables.ensure(warehouse.client, name, tables.batch_form(settings))
    fields = loading.staging_fields(columns)
    loading.make_staging(warehouse.client, into, fields)
    for _ in range(2):
        path = str(tmp_path / "parts" / "p.parquet")
        loading.load(warehouse.client, name, run_id, [path], location="US", into=into, fields=fields)
    return part, [column for column in columns.names if column != "written_at"]


def test_rows_that_were_loaded_twice_are_merged_once_and_missing_ones_never(warehouse, tmp_path):
    images = [prediction(key) for key in "abc"]
    part, columns = staged(warehouse, tmp_path, RUNS[0], images)
    assert warehouse.count(f"images_staging_{RUNS[0]}") == 6
    arguments = (warehouse.client, warehouse.name("images"), RUNS[0], SETTINGS, columns)
    with pytest.raises(JobError, match=r"4 rows were loaded into .*, which has 3; nothing was merged"):
        merging.merge(*arguments, rows=part.rows + 1, location="US")
    assert warehouse.count("images") == 0
    assert merging.merge(*arguments, rows=part.rows, location="US").changed == 3
    assert merging.merge(*arguments, rows=part.rows, location="US").changed == 0
    assert found(warehouse, "key") == [("a",), ("b",), ("c",)]


def boxed(key, *boxes):
    return Prediction(replace(prediction(key).ref), 8, 6, boxes=boxes, **DIGESTS)


def test_boxes_that_an_image_has_no_more_go(warehouse, tmp_path):
    name = warehouse.name("images")
    before = [boxed("a", CAT, DOG), boxed("b"), boxed("c", CAT), boxed("d", DOG)]
    run(name, tmp_path, RUNS[0], before, settings=BOXES)
    assert len(found(warehouse, "key, box")) == 5
    report = run(name, tmp_path, RUNS[1], before[:2], settings=BOXES)
    assert report.merged.changed == 0
    after = [boxed("a", DOG), boxed("b", CAT), boxed("c")]
    run(name, tmp_path, RUNS[2], after, settings=BOXES)
    assert found(warehouse, "key, box, prediction") == [
        ("a", 0, "dog"),
        ("b", 0, "cat"),
        ("c", None, None),
        ("d", 0, "dog"),
    ]


def tiles_of(key, count):
    for number in range(count):
        place = {"tile_left_px": 4 * number, "tile_top_px": 0, "tile_width_px": 4, "tile_height_px": 4}
        attributes = {"image_key": key} | {name: str(value) for name, value in place.items()}
        ref = replace(prediction(key).ref, key=f"{key}#{number}", attributes=attributes)
        yield replace(prediction(key), ref=ref)


def test_tiles_that_an_image_has_no_more_go(warehouse, tmp_path):
    name = warehouse.name("images")
    run(name, tmp_path, RUNS[0], [tuple(tiles_of("a", 3)), tuple(tiles_of("b", 2))], settings=TILES)
    run(name, tmp_path, RUNS[1], [tuple(tiles_of("a", 2))], settings=TILES)
    assert found(warehouse, "image_key, tile_left_px") == [("a", 0), ("a", 4), ("b", 0), ("b", 4)]
    assert set(committing.done_keys(name, TILES)) == {"a", "b"}


def test_rows_of_another_model_are_refused_with_both_digests(warehouse, tmp_path):
    name = warehouse.name("images")
    run(name, tmp_path, RUNS[0], [prediction("a")])
    other = replace(SETTINGS, model_digest="other")
    with pytest.raises(DigestMismatch, match="expected other, found m;"):
        committing.plan_warehouse(name, RUNS[1], other, staging=str(tmp_path))


def test_a_row_that_is_too_large_fails_alone_and_under_its_key(tmp_path):
    output = committing.plan_output(str(tmp_path), RUNS[0], SETTINGS)
    stage = StageWarehouseRows(output, SETTINGS, Flush(), attempt=2)
    stage.start_bundle()
    large = prediction("large")
    large = replace(large, ref=replace(large.ref, attributes={"note": "x" * schema.MOST_ROW_BYTES}))
    for image in (prediction("a"), large, prediction("b")):
        assert not [file for file in stage.process(image) if isinstance(file, Part)]
    failed, file = (each.value for each in stage.finish_bundle())
    assert file.images == 2
    bad = failed.value
    assert (bad.key, bad.stage, bad.reason, bad.attempt) == ("large", "write", "refused", 2)
    assert "more than the 100,000,000 that BigQuery takes" in bad.detail


def test_failures_of_a_run_replace_those_of_the_same_output_alone(warehouse, tmp_path):
    name, place = warehouse.name("images"), warehouse.uri("images_failures")
    run(name, tmp_path, RUNS[0], [prediction("a")], [failure("x"), failure("x"), failure("y")])
    other = letter_of(place, output="elsewhere", staging=str(tmp_path))
    from beam_vision.sinks import failures as dead_letter

    summary = other.prepare(RUNS[0], [dead_letter.stage(other.folder, RUNS[0], [failure("z")])])
    assert summary == {"total": 1, "by_reason": {"not_found": 1}, "files": [place]}
    other.record(RUNS[0], summary, job="evaluate")
    other.clean(RUNS[0])
    assert [each.key for each in read_letter(place, output=name.uri)] == ["x", "x", "y"]
    run(name, tmp_path, RUNS[1], [prediction("a")], [failure("y")])
    assert found(warehouse, "key, job, output", "images_failures") == [
        ("y", "predict", name.uri),
        ("z", "evaluate", "elsewhere"),
    ]
    run(name, tmp_path, RUNS[2], [prediction("a")])
    assert found(warehouse, "key", "images_failures") == [("z",)]
    assert not [table for table in warehouse.tables() if "staging" in table]


def test_files_in_a_bucket_on_the_way(warehouse, gcs, tmp_path):
    name, staging = warehouse.name("images"), f"{gcs}/{tmp_path.name}"
    for run_id in RUNS[:2]:
        run(name, staging, run_id, [prediction(key) for key in "abc"], [failure("x")])
    assert found(warehouse, "key, run_id") == [(key, RUNS[0]) for key in "abc"]
    assert storage.list_tree(staging) == []


@pytest.mark.parametrize("settings", [SETTINGS, BOXES, TILES], ids=lambda each: each.rows)
def test_the_statement_is_one_merge_that_names_every_column(settings):
    columns = [*schema.batch_schema(settings.schema()).names[:-1]]
    into = loading.staging_table(NAME, RUNS[0])
    (statement,) = sqlglot.parse(merging.merge_sql(NAME, into, settings, columns), read="bigquery")
    assert statement.key == "merge"
    inserts = list(statement.find_all(sqlglot.exp.Insert))
    assert [each.name for each in inserts[0].this.expressions] == [*columns, "written_at"]
    named = {table.name for table in statement.find_all(sqlglot.exp.Table)}
    assert named == {"images", f"images_staging_{RUNS[0]}"}


def test_a_process_that_is_killed_leaves_a_table_that_another_run_makes_whole(warehouse, tmp_path):
    script = Path(__file__).with_name("warehouse_killed.py")
    moments = ["between load and MERGE", "after the MERGE", "cleaning up"]
    command = [sys.executable, str(script), warehouse.project, str(tmp_path), *moments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert ended.returncode == 0, ended.stderr


class Jobs(http.server.ThreadingHTTPServer):
    """BigQuery's way with jobs: an id is taken once (409), and a job may fail after it was accepted.

    Attributes:
      fails: by job id the error that it ends with; others end well.
      begun: the ids that were accepted, in order.
      asked: the configuration of each of these.
      deaf: how many questions after a job's end are still answered by an error that passes.
    """

    def __init__(self, fails):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fails, self.begun, self.asked, self.deaf = fails, [], {}, 0

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def answer(self, job):
        error = self.fails.get(job)
        status = {"state": "DONE", **({"errorResult": error, "errors": [error]} if error else {})}
        reference = {"projectId": "some-project", "jobId": job, "location": "EU"}
        return {
            "kind": "bigquery#job",
            "jobReference": reference,
            "configuration": self.asked.get(job, {"query": {"query": "MERGE", "destinationTable": {}}}),
            "status": status,
            "jobComplete": True,
            "statistics": {"query": {"statementType": "MERGE", "numDmlAffectedRows": "3"}},
        }


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _send(self, code, value):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        job = asked["jobReference"]["jobId"]
        if job in self.server.begun:
            error = {
                "code": 409,
                "message": f"Already Exists: Job {job}",
                "errors": [{"reason": "duplicate"}],
            }
            return self._send(409, {"error": error})
        self.server.begun.append(job)
        self.server.asked[job] = asked["configuration"]
        return self._send(200, self.server.answer(job))

    def do_GET(self):
        job = self.path.partition("?")[0].rpartition("/")[2]
        error = self.server.fails.get(job)
        if "/queries/" in self.path and self.server.deaf:
            self.server.deaf -= 1
            return self._send(504, {"error": {"code": 504, "errors": [{"reason": "timeout"}]}})
        if "/queries/" in self.path and error:
            return self._send(400, {"error": {"code": 400, "message": error["message"], "errors": [error]}})
        return self._send(200, self.server.answer(job))


def finish(server, monkeypatch, begun=()):
    monkeypatch.setenv(clients.EMULATOR_HOST, f"http://127.0.0.1:{server.server_address[1]}")
    server.begun += begun
    client = clients.client("some-project")
    try:
        start = lambda job: client.query("MERGE", job_id=job, location="EU", job_retry=None)  # noqa: E731
        return warehouse_jobs.finish(client, start, "step", location="EU", about=NAME)
    finally:
        client.close()


def test_a_bucket_is_loaded_by_one_job_of_bigquery_itself(monkeypatch):
    """As on BigQuery, where the emulator's way (through this process) isn't taken."""
    monkeypatch.delenv(clients.EMULATOR_HOST, raising=False)
    with Jobs({}) as server:
        client = bigquery.Client(
            "some-project",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": f"http://127.0.0.1:{server.server_address[1]}"},
        )
        uris = [f"gs://lake/parts/part-{number}.parquet" for number in range(3)]
        into = loading.staging_table(NAME, RUNS[0])
        fields = loading.staging_fields(schema.batch_schema(SETTINGS.schema()))
        for _ in range(2):
            loading.load(client, NAME, RUNS[0], uris, location="EU", into=into, fields=fields)
        client.close()
        assert server.begun == [warehouse_jobs.job_id(NAME, RUNS[0], "load-00000")]
        assert list(server.asked.values()) == [
            {
                "load": {
                    "createDisposition": "CREATE_NEVER",
                    "destinationTable": {
                        "projectId": "some-project",
                        "datasetId": "lake",
                        "tableId": into.table,
                    },
                    "parquetOptions": {"enableListInference": True},
                    "schema": {"fields": [field.to_api_repr() for field in fields]},
                    "sourceFormat": "PARQUET",
                    "sourceUris": uris,
                    "writeDisposition": "WRITE_APPEND",
                }
            }
        ]


def test_a_job_that_was_asked_for_before_is_waited_for_and_not_begun_again(monkeypatch):
    with Jobs({}) as server:
        job = finish(server, monkeypatch, begun=["step"])
        assert (job.job_id, job.num_dml_affected_rows) == ("step", 3)
        assert server.begun == ["step"]


def test_a_job_that_failed_for_a_passing_reason_is_begun_under_another_id(monkeypatch):
    conflict = {
        "reason": "invalidQuery",
        "message": "Could not serialize access to table due to concurrent update",
    }
    with Jobs({"step": conflict}) as server:
        assert finish(server, monkeypatch).job_id == "step-2"
        assert server.begun == ["step", "step-2"]


def test_a_job_whose_end_could_not_be_heard_is_waited_for_and_not_begun_again(monkeypatch):
    """A second MERGE beside one that still runs would insert the same rows again."""
    monkeypatch.setattr(warehouse_jobs, "_FIRST_WAIT_SEC", 0.01)
    with Jobs({}) as server:
        server.deaf = 1
        assert finish(server, monkeypatch).job_id == "step"
        assert server.begun == ["step"]
        assert server.deaf == 0


def test_a_job_that_failed_for_a_lasting_reason_is_an_error_in_its_words(monkeypatch):
    error = {"reason": "invalidQuery", "message": "Unrecognized name: kye"}
    with Jobs({"step": error}) as server:
        with pytest.raises(JobError, match=r"table some-project\.lake\.images: .*Unrecognized name: kye"):
            finish(server, monkeypatch)
        assert server.begun == ["step"]


def test_ids_of_jobs_are_of_one_step_of_one_run_into_one_table():
    names = [NAME, NAME._replace(table="other")]
    ids = {warehouse_jobs.job_id(name, run_id, step) for name in names for run_id in RUNS for step in "ab"}
    assert len(ids) == 2 * len(RUNS) * 2
    assert all(len(each) < 1024 and each.replace("-", "").replace("_", "").isalnum() for each in ids)
