"""``beam-vision stream --backfill`` end to end, against plain Python and against the live run."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from stream_pictures import label_of, picture

from beam_vision.pipelines import cli
from beam_vision.stream_types import iso_time
from beam_vision.testing import models
from beam_vision.testing.dataflow_job import IMAGE

START = 1_700_000_000.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An ONNX model: a process that runs it needs no TensorFlow."""
    return models.save_onnx(str(tmp_path_factory.mktemp("models") / "colours.onnx"))


def capture(i):
    return START + i / 10


def save(folder, i, data, *, camera):
    """Writes a frame to the folder of its camera, named by its time."""
    path = Path(folder) / camera / f"{iso_time(capture(i)).replace(':', '')}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def stream(model, tmp_path):
    """Runs the job as the command line does, but for the check of the model in a child process."""

    def stream(source, *more, output=tmp_path / "out"):
        argv = ["stream", "--task", "classify", "--input", str(source), "--model", model, "--no-check_model"]
        return cli.main([*argv, "--output", str(output), "--window_sec", "5", *map(str, more)])

    return stream


@pytest.fixture
def backfill(stream, tmp_path):
    """Runs a backfill; what it says of it."""

    def backfill(source, *more, code=0, **given):
        path = tmp_path / "summary.json"
        assert stream(source, "--backfill", "--summary", path, *more, **given) == code
        return json.loads(path.read_text())

    return backfill


def table(folder, name=""):
    """The rows that somebody sees who reads every Parquet file, by id; none may be there twice."""
    paths = sorted((Path(folder) / name).glob("*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    by_id = {row["row_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def parts(folder, name=""):
    """The Parquet files of a table, with when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (Path(folder) / name).glob("*.parquet")}


def said(rows, *columns):
    return {row_id: [row[column] for column in columns] for row_id, row in rows.items()}


def test_an_archive_gives_the_rows_of_plain_python_and_again_nothing_new(backfill, tmp_path):
    expected = {}
    order = np.random.default_rng(1).permutation(30)
    for i in map(int, order):
        save(tmp_path / "in", i, picture(i), camera=f"cam{i % 3}")
        expected[f"cam{i % 3}/{iso_time(capture(i))}"] = label_of(picture(i))
    save(tmp_path / "in", 99, b"no image", camera="cam0")
    save(tmp_path / "in", 98, b"", camera="cam1")
    (tmp_path / "in" / "cam2" / "somewhen.jpg").write_bytes(picture(1))
    got = backfill(tmp_path / "in")
    rows = table(tmp_path / "out")
    assert {row["key"]: row["prediction"] for row in rows.values()} == expected
    for row_id, row in rows.items():
        assert row_id == f"{row['key']}/{row['model_digest']}"
        assert row["run_id"] == got["run_id"]
        assert row["publish_time"] is row["pull_time"] is row["publish_ms"] is row["total_ms"] is None
        assert min(row["decode_ms"], row["infer_ms"]) > 0
    reasons = {"not_an_image": 1, "empty": 1, "missing_field": 1}
    assert (got["inputs"], got["outputs"], got["outputs_new"], got["failed"]) == (33, 30, 30, 3)
    assert got["failed_by_reason"] == reasons
    failures = {row["reason"]: row for row in table(tmp_path / "out", "failures").values()}
    assert failures.keys() == reasons.keys()
    assert failures["not_an_image"]["data"] == b"no image"
    assert failures["not_an_image"]["camera"] == "cam0"
    assert failures["missing_field"]["time"] is None, "it isn't known"
    assert "somewhen.jpg" in failures["missing_field"]["uri"]
    counted = {
        (row["camera"], row["class"]): row["count"] for row in table(tmp_path / "out", "counts").values()
    }
    assert counted == Counter((key.split("/")[0], label) for key, label in expected.items())
    # again: nothing is new in any table but that of the models that served
    tables = ("", "counts", "health", "latency", "failures")
    before = [parts(tmp_path / "out", name) for name in tables]
    assert all(before)
    again = backfill(tmp_path / "in")
    assert [parts(tmp_path / "out", name) for name in tables] == before
    assert (again["inputs"], again["outputs"], again["outputs_new"], again["failed"]) == (33, 30, 0, 3)
    assert not list((tmp_path / "out" / ".staging").rglob("*.rows"))


def test_live_and_backfill_say_the_same_and_gate_the_same(stream, backfill, tmp_path):
    """Two cameras; pictures change now and then, one of the cameras pauses, some frames are broken."""
    for i in range(120):
        save(tmp_path / "in", i, picture(i // 12), camera="a")
        if not 40 <= i < 60:
            save(tmp_path / "in", i, picture(i // 7) if i % 25 else b"x", camera="b")
    settings = ("--gate_distance", 2, "--heartbeat_sec", 0.75, "--silent_sec", 1.5, "--frozen_sec", 1)
    live, later = tmp_path / "live", tmp_path / "later"
    assert stream(tmp_path / "in", "--once", "--max_skew_sec", 0, *settings, output=live) == 0
    got = backfill(tmp_path / "in", *settings, output=later)
    columns = ("key", "uri", "camera", "capture_time", "prediction", "width", "attributes")
    assert said(table(later), *columns) == said(table(live), *columns)
    assert got["gated"] > 100
    assert got["gated"] + got["outputs"] + got["failed"] == got["inputs"] == 220
    columns = ("frames", "rows", "gated", "failed", "gaps", "longest_gap_sec")

    def health(folder):
        last = {}
        for row in sorted(table(folder, "health").values(), key=lambda row: row["pane"]):
            last[row["camera"], row["window_start"]] = [row[name] for name in columns]
        return last

    assert health(later) == health(live)
    alerts = [row["state"] for row in table(later, "alerts").values() if row["camera"] == "b"]
    assert "silent" in alerts, "the pause shows in the capture times"
    # over what the live run has written
    before = parts(live)
    assert backfill(tmp_path / "in", *settings, output=live)["outputs_new"] == 0
    assert parts(live) == before


def test_a_manifest_names_camera_and_time_and_repetitions_are_told(backfill, tmp_path):
    lake = tmp_path / "lake"
    lake.mkdir()
    lines = ["uri,cam,taken,shift"]
    for i in reversed(range(10)):
        (lake / f"{i}.jpg").write_bytes(picture(i))
        lines.append(f"{i}.jpg,c{i % 2},{iso_time(capture(i))},night")
    (lake / "copy.jpg").write_bytes(picture(7))
    again = f"c0,{iso_time(capture(0))},night"
    lines += [f"copy.jpg,{again}", f"copy.jpg,{again}", f"0.jpg,{again}"]
    lines += [f"gone.jpg,c0,{iso_time(capture(50))},night", "short,row"]
    (tmp_path / "frames.csv").write_text("\n".join(lines))
    more = ("--camera_attribute", "cam", "--time_attribute", "taken", "--image_root", lake)
    got = backfill(tmp_path / "frames.csv", *more)
    rows = table(tmp_path / "out").values()
    assert {row["key"]: row["prediction"] for row in rows} == {
        f"c{i % 2}/{iso_time(capture(i))}": label_of(picture(i)) for i in range(10)
    }
    assert {dict(row["attributes"])["shift"] for row in rows} == {"night"}
    # the same URI again is no second image; another one of the same camera and time is a repetition
    assert got["failed_by_reason"] == {"bad_manifest_row": 1, "duplicate_key": 2, "not_found": 1}
    assert (got["inputs"], got["outputs"], got["duplicates"]) == (15, 10, 1)
    health = table(tmp_path / "out", "health").values()
    assert sum(row["duplicates"] for row in health) == 1


def test_a_glob_goes_by_the_pattern(stream, backfill, tmp_path, capsys):
    for i in range(6):
        path = tmp_path / "lake" / "2023" / f"gate-{i % 2}_{1000 * capture(i):.0f}_x.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    source = tmp_path / "lake" / "*" / "*.jpg"
    assert stream(source, "--backfill") == 2
    assert "--camera_pattern" in capsys.readouterr().err
    pattern = r"/(?P<camera>gate-\d)_(?P<time>\d+)_x\.jpg$"
    got = backfill(source, "--camera_pattern", pattern)
    assert (got["inputs"], got["outputs"]) == (6, 6)
    assert {row["key"] for row in table(tmp_path / "out").values()} == {
        f"gate-{i % 2}/{iso_time(capture(i))}" for i in range(6)
    }


@pytest.mark.parametrize(
    ("source", "more", "says"),
    [
        ("pubsub://projects/proj/subscriptions/subs", (), "a backfill reads an archive"),
        ("IN", ("--once",), "--once is of live streams"),
        ("IN", ("--run_sec", 3), "--run_sec is of live streams"),
        ("IN", ("--message_format", "gcs"), "--message_format is of live streams"),
        ("IN", ("--output", "pubsub://projects/proj/topics/rows"), "give its folder"),
        ("IN", ("--output", "IN/out"), "lies within --input"),
        ("IN", ("--format", "csv"), "--input"),
        ("IN/nothing", (), "does not exist"),
        ("IN/coco.json", (), "which says no camera and capture time"),
        ("IN", ("--runner", "DaskRunner"), "sinks wrote nothing"),
        ("IN", ("--window_sec", 0), "--window_sec is 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_remedy(stream, tmp_path, capsys, source, more, says):
    save(tmp_path / "in", 1, picture(1), camera="cam")
    coco = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "in" / "coco.json").write_text(json.dumps(coco))
    source, *more = (str(word).replace("IN", str(tmp_path / "in")) for word in (source, *more))
    assert stream(source, "--backfill", *more) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_an_archive_need_the_backfill(stream, tmp_path, capsys):
    assert stream(tmp_path, "--format", "folder") == 2
    assert "goes with --backfill" in capsys.readouterr().err


def test_preflight_reads_nothing_and_says_what_would_be_done(stream, tmp_path, capsys):
    save(tmp_path / "in", 1, picture(1), camera="cam")
    assert stream(tmp_path / "in", "--backfill", "--preflight_only") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["input"] == {"format": "folder", "paths": [str(tmp_path / "in")]}
    assert plan["backfill"]
    assert plan["outputs"] == [str(tmp_path / "out")]
    assert not (tmp_path / "out").exists()


def test_an_archive_of_which_nothing_comes_through_fails_the_run(backfill, tmp_path, capsys):
    save(tmp_path / "in", 1, b"x", camera="cam")
    got = backfill(tmp_path / "in", code=1)
    assert got["failed"] == got["inputs"] == 1
    assert "no image came through: not_an_image 1" in capsys.readouterr().err


def test_on_dataflow_it_is_a_batch_job_in_which_no_images_are_shuffled(stream, tmp_path):
    save(tmp_path / "in", 1, picture(1), camera="cam")
    args = ["--runner=DataflowRunner", "--no_auth", "--dataflow_endpoint=http://localhost"]
    args += [
        "--project=my-project",
        "--region=us-central1",
        "--job_name=backfill",
        f"--sdk_container_image={IMAGE}",
    ]
    args += [f"--{name}_location={tmp_path}/{name}" for name in ("staging", "temp")]
    for name in ("staging", "temp"):
        (tmp_path / name).mkdir()
    code = stream(tmp_path / "in", "--backfill", *args, f"--template_location={tmp_path}/job.json")
    assert code == 0, "it was only written to a file, so there are no accounts"
    assert json.loads((tmp_path / "job.json").read_text())["type"] == "JOB_TYPE_BATCH"
    (path,) = (tmp_path / "staging").rglob("pipeline.pb")
    proto = beam_runner_api_pb2.Pipeline.FromString(path.read_bytes())
    steps = proto.components.transforms.values()
    names = {step.unique_name.split("/")[0] for step in steps}
    assert {"WatchArchive", "BatchFrames", "InferFrames", "CountWindows", "WriteWindows"} <= names
    assert not {"DropRepeats", "FetchFrames", "WatchCameras", "ShowRows"} & names
    shuffles = [step.unique_name for step in steps if step.spec.urn == "beam:transform:group_by_key:v1"]
    assert "WatchArchive/GroupByCamera" in shuffles
    allowed = ("ListImages/", "WatchArchive/GroupBy", "CountWindows/", "WriteWindows/", "WriteAccounts/")
    assert all(name.startswith(allowed) for name in shuffles), shuffles
