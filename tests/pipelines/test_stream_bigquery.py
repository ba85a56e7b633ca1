"""``beam-vision stream`` into BigQuery's emulator, against the same run into Parquet."""

import contextlib
import json
import time
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import BadRequest
from google.cloud import bigquery
from stream_pictures import label_of, picture

from beam_vision import measured, metrics
from beam_vision.errors import UsageError
from beam_vision.pipelines import cli, stream
from beam_vision.pipelines.options import make_parser, parse
from beam_vision.pipelines.ran import Ran
from beam_vision.pipelines.stream_graph import build
from beam_vision.pipelines.stream_tables import make_tables
from beam_vision.sinks import merge_windows, warehouse_load
from beam_vision.sinks.append import table_names
from beam_vision.sinks.java_transforms import check_java
from beam_vision.sinks.windows import Windows, commit, stage
from beam_vision.stream_types import Message, StreamRow, iso_time
from beam_vision.streaming.local.runner import LocalStreamRunner
from beam_vision.testing import models
from beam_vision.testing.feeds import ListFeed
from beam_vision.warehouse import tables
from beam_vision.warehouse.forms import stream_schema


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An ONNX model: a process that runs it needs no TensorFlow."""
    return models.save_onnx(str(tmp_path_factory.mktemp("models") / "colours.onnx"))


START = time.time() - 30


def capture(i):
    """When frame i was taken."""
    return START + i / 10


def save(folder, i, data, *, camera):
    """Writes a frame to the folder of its camera, named by its time."""
    path = Path(folder) / camera / f"{iso_time(capture(i)).replace(':', '')}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def run(model, tmp_path):
    """Runs the job as the command line does, but for the check of the model in a child process."""

    def run(source, *more, output, task="classify", code=0):
        argv = ["stream", "--task", task, "--input", str(source), "--model", model, "--no-check_model"]
        summary = tmp_path / "summary.json"
        argv += ["--output", str(output), "--window_sec", "5", "--summary", str(summary)]
        assert cli.main([*argv, *map(str, more)]) == code
        return json.loads(summary.read_text()) if summary.exists() else {}

    return run


def in_parquet(folder, table):
    paths = sorted((Path(folder) / ("" if table == "predictions" else table)).glob("*.parquet"))
    return {row["row_id"]: row for path in paths for row in pq.read_table(path).to_pylist()}


def in_bigquery(warehouse, name, *, once=True):
    found = warehouse.rows(f"SELECT * FROM {(name.sibling('once') if once else name).sql}")
    return {row["row_id"]: row for row in found}


def as_stored(row):
    """A row of a Parquet file as BigQuery gives it."""
    named = {key: row[key] or [] for key in ("predictions", "states", "boxes", "embedding") if key in row}
    maps = (
        {"attributes": [{"key": k, "value": v} for k, v in row["attributes"]]} if "attributes" in row else {}
    )
    return {**row, **named, **maps}


def test_a_folder_of_frames_is_the_same_in_bigquery_as_in_parquet(run, warehouse, tmp_path):
    for i in range(24):
        save(tmp_path / "in", i, picture(i), camera=f"cam{i % 3}")
    (tmp_path / "in" / "cam0" / "20261122T000000Z.jpg").write_bytes(b"no image")
    output = f"{tmp_path / 'out'},{warehouse.uri('live')}"
    said = run(tmp_path / "in", "--once", "--max_skew_sec", 0, output=output)
    assert (said["inputs"], said["outputs"], said["failed"], said["refused"]) == (25, 24, 1, 0)
    for table, name in table_names(warehouse.name("live")).items():
        files, stored = in_parquet(tmp_path / "out", table), in_bigquery(warehouse, name)
        assert stored.keys() == files.keys(), table
        for row_id, row in files.items():
            assert stored[row_id].pop("written_at").timestamp() == pytest.approx(time.time(), abs=60)
            assert stored[row_id] == as_stored(row), table
    assert len(in_parquet(tmp_path / "out", "predictions")) == 24
    (failure,) = in_bigquery(warehouse, warehouse.name("live_failures")).values()
    assert (failure["reason"], failure["data"]) == ("not_an_image", b"no image")
    # again: nothing new is there
    run(tmp_path / "in", "--once", "--max_skew_sec", 0, output=output)
    assert warehouse.count("live") == 24


def run_list(messages, model, output, *more):
    """Runs the graph over messages in memory, in this process."""
    argv = ["--task", "classify", "--input", "pubsub://projects/proj/subscriptions/subs", "--model", model]
    argv += ["--output", output, "--no-check_model", "--model_poll_sec", "0", *map(str, more)]
    options, _ = parse(
        make_parser("stream", stream.Options, description="", example=""), stream.Options, argv
    )
    plan, feed = stream.prepare(options, "run-1", local=True), ListFeed(messages)
    make_tables(options, plan)
    pipeline = beam.Pipeline(runner=LocalStreamRunner(feed, stream.state_folder(options)))
    build(pipeline, options, plan)
    metrics.TALLY.clear()
    pipeline.run()
    return stream.summarise(options, plan, Ran(measured=measured.from_tally()), 1.0)


def message(i, at=None):
    at = capture(i) if at is None else at
    attributes = {"camera": f"cam{i % 3}", "capture_time": iso_time(at), "sequence": str(i)}
    return Message(picture(i), attributes, f"m{i}", publish_sec=capture(i), pull_sec=capture(i))


def test_rows_that_are_written_twice_stand_once_in_the_view(model, warehouse, tmp_path):
    messages = [message(i) for i in range(20)]
    for state in ("one", "two"):  # a state that is lost makes a run take all messages in again
        run_list(messages, model, warehouse.uri("live"), "--state", tmp_path / state)
    assert warehouse.count("live") == 40
    once = in_bigquery(warehouse, warehouse.name("live"))
    assert len(warehouse.rows(f"SELECT * FROM {warehouse.name('live_once').sql}")) == len(once) == 20
    assert {row["key"]: row["prediction"] for row in once.values()} == {
        f"cam{i % 3}/{iso_time(capture(i))}": label_of(picture(i)) for i in range(20)
    }
    first = {}
    for row in warehouse.rows(f"SELECT row_id, written_at FROM {warehouse.name('live').sql}"):
        first[row["row_id"]] = min(row["written_at"], first.get(row["row_id"], row["written_at"]))
    assert {row_id: row["written_at"] for row_id, row in once.items()} == first


def test_what_bigquery_refuses_is_a_failure_with_its_row_and_costs_no_other(model, warehouse, tmp_path):
    old = START - 20 * 365 * 86_400
    messages = [message(i) for i in range(6)] + [message(7, at=old)]
    output = f"{warehouse.uri('live')},{tmp_path / 'out'}"
    said = run_list(messages, model, output, "--max_skew_sec", 0)
    assert said["outputs"] == 7
    assert warehouse.count("live") == 6
    refused = [r for r in in_bigquery(warehouse, warehouse.name("live_failures")).values() if r["uri"]]
    (failure,) = [row for row in refused if row["key"] == f"cam1/{iso_time(old)}"]
    assert (failure["stage"], failure["reason"], failure["time"]) == ("write", "refused", None)
    assert "more than 10 years old" in failure["detail"]
    assert json.loads(failure["data"])["prediction"] == label_of(picture(7))
    assert len(in_parquet(tmp_path / "out", "predictions")) == 7, "the folder takes it"
    kept = [row for row in in_parquet(tmp_path / "out", "failures").values() if row["key"] == failure["key"]]
    assert [row["reason"] for row in kept] == ["refused"]


def test_a_backfill_adds_what_isnt_there_after_a_live_run(run, warehouse, tmp_path):
    for i in range(12):
        save(tmp_path / "in", i, picture(i), camera=f"cam{i % 3}")
    output = f"{warehouse.uri('t')},{tmp_path / 'out'}"
    run(tmp_path / "in", "--once", "--max_skew_sec", 0, output=output)
    for i in range(12, 30):
        save(tmp_path / "in", i, picture(i), camera=f"cam{i % 3}")
    staging = ("--staging", tmp_path / "staging")
    said = run(tmp_path / "in", "--backfill", *staging, output=warehouse.uri("t"))
    assert (said["inputs"], said["outputs"], said["outputs_new"]) == (30, 30, 18)
    assert warehouse.count("t") == 30
    stored = in_bigquery(warehouse, warehouse.name("t"), once=False)
    assert {row["key"]: row["prediction"] for row in stored.values()} == {
        f"cam{i % 3}/{iso_time(capture(i))}": label_of(picture(i)) for i in range(30)
    }
    assert not list((tmp_path / "staging").iterdir())
    assert not [name for name in warehouse.tables() if "staging" in name]


@pytest.mark.parametrize("killed_after", ["files", "load", "merge"])
def test_killed_at_any_step_the_next_merge_gives_the_same_table(warehouse, tmp_path, killed_after):
    """What a kill leaves: staged parts, a loaded table beside ours, one that is merged and not dropped."""
    settings = Windows(folder=str(tmp_path / "parts"), window_sec=5)
    made = [StreamRow("counts", f"r{i}", "cam", capture(i), {"count": i, "camera": "cam"}) for i in range(60)]
    for window in sorted({settings.window(row.time_sec) for row in made}):
        stage(settings, "counts", window, [row for row in made if settings.window(row.time_sec) == window])
        commit(settings, "counts", window)
    name, client = warehouse.name("t_counts"), warehouse.client
    location = tables.ensure(client, name, tables.stream_form("counts")).location
    paths = list(merge_windows.write_loads(settings, "counts"))
    if killed_after != "files":
        staged = warehouse_load.staging_table(name, "killed")
        columns = stream_schema("counts")
        fields = warehouse_load.staging_fields(columns)
        warehouse_load.make_staging(client, staged, fields)
        warehouse_load.load(client, name, "killed", paths, location=location, into=staged, fields=fields)
        if killed_after == "merge":
            plain = [column for column in columns.names if column != "written_at"]
            client.query(merge_windows.merge_sql(name, staged, plain)).result()
    new = merge_windows.merge_windows(client, settings, {"counts": name}, "next", location=location)
    assert new == {"counts": 0 if killed_after == "merge" else 60}
    assert warehouse.count("t_counts") == 60
    stored = in_bigquery(warehouse, name, once=False)
    assert {row_id: row["count"] for row_id, row in stored.items()} == {f"r{i}": i for i in range(60)}


def rows_so_far(warehouse, table):
    """How many rows a table has while a job writes; the emulator refuses what comes at the same time."""
    with contextlib.suppress(BadRequest):
        return warehouse.count(table)
    return 0


def test_killed_and_started_again_the_view_has_every_frame_once(model, warehouse, tmp_path, warm):
    for i in range(40):
        save(tmp_path / "in", i, picture(i), camera=f"cam{i % 3}")
    argv = ["-m", "beam_vision.pipelines.cli", "stream", "--task", "classify", "--model", model]
    argv += ["--input", str(tmp_path / "in"), "--output", warehouse.uri("live"), "--no-check_model"]
    argv += ["--state", str(tmp_path / "state"), "--max_skew_sec", "0", "--window_sec", "5"]
    with open(tmp_path / "log", "ab") as log:
        job = warm.start(argv, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while "live_once" not in warehouse.tables() and time.monotonic() < end:
            time.sleep(0.02)
        while not rows_so_far(warehouse, "live") and job.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        job.kill()  # rows are stored by now, and few if any acknowledged
        job.wait(30)
        again = warm.start([*argv, "--once"], stdout=log, stderr=log)
        assert again.wait(90) == 0, (tmp_path / "log").read_text()[-2000:]
    once = warehouse.rows(f"SELECT * FROM {warehouse.name('live_once').sql}")
    assert sorted(row["key"] for row in once) == sorted(
        f"cam{i % 3}/{iso_time(capture(i))}" for i in range(40)
    )
    assert warehouse.count("live") >= 40


def test_failures_go_to_a_table_of_their_own_too(model, warehouse, tmp_path):
    bad = Message(b"no image", message(1).attributes, "bad", publish_sec=capture(1), pull_sec=capture(1))
    more = ("--failures", warehouse.uri("dead"))
    run_list([message(0), bad], model, str(tmp_path / "out"), *more)
    (failure,) = in_bigquery(warehouse, warehouse.name("dead")).values()
    assert (failure["reason"], failure["data"], failure["message_id"]) == ("not_an_image", b"no image", "bad")
    assert warehouse.tables() == ["dead", "dead_once"]


def test_what_cannot_be_is_a_clear_error_before_the_model_loads(
    run, warehouse, tmp_path, capsys, monkeypatch
):
    def refused(*more, output=None):
        given = ("--state", tmp_path / "state", "--model", tmp_path / "no such model")
        run(tmp_path, *more, *given, output=output or warehouse.uri("t"), code=2)
        return capsys.readouterr().err

    assert "no dataset" in refused(output=f"bigquery://{warehouse.project}.nowhere.t")
    view = bigquery.Table(warehouse.name("v").path)
    view.view_query = "SELECT 1 AS a"
    warehouse.client.create_table(view)
    assert "is a view" in refused(output=warehouse.uri("v"))
    assert "is for Dataflow" in refused("--write_method", "storage_write_api")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="install Java"):
        check_java()


def test_a_table_of_another_task_is_refused(run, warehouse, tmp_path, capsys):
    tables.ensure(warehouse.client, warehouse.name("t"), tables.stream_form("predictions", task="detect"))
    run(tmp_path, "--once", "--state", tmp_path / "state", output=warehouse.uri("t"), code=2)
    assert "another kind" in capsys.readouterr().err
    assert warehouse.tables() == ["t"]
