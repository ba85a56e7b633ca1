"""``beam-vision stream`` end to end, against plain Python on the same frames."""

import base64
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from stream_pictures import label_of, picture

from beam_vision import measured, metrics
from beam_vision.pipelines import cli, stream
from beam_vision.pipelines.options import make_parser, parse
from beam_vision.pipelines.ran import Ran
from beam_vision.pipelines.stream_graph import build
from beam_vision.stream_types import Message, iso_time
from beam_vision.streaming import camera
from beam_vision.streaming.local.runner import LocalStreamRunner
from beam_vision.testing import models
from beam_vision.testing.feeds import ListFeed

NOW = 0.0  # when a test's first frame was taken


@pytest.fixture(autouse=True)
def beginning(monkeypatch):
    """Each test's first frame was taken half a minute ago."""
    monkeypatch.setattr(sys.modules[__name__], "NOW", time.time() - 30)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An ONNX model: a process that runs it needs no TensorFlow."""
    return models.save_onnx(str(tmp_path_factory.mktemp("models") / "colours.onnx"))


def capture(i):
    """When frame i was taken: ten a second, the first half a minute before the test began."""
    return NOW + i / 10


def frame(i, *, camera="", seed=None):
    """Message i as (payload, attributes); cameras take turns."""
    data = picture(i if seed is None else seed)
    return data, {"camera": camera or f"cam{i % 3}", "capture_time": iso_time(capture(i)), "sequence": str(i)}


@pytest.fixture
def run(model, tmp_path):
    """Runs the job on the command line's own way, but for the check of the model in a child process."""

    def run(source, *more, output=tmp_path / "out", task="classify"):
        argv = ["stream", "--task", task, "--input", str(source), "--model", model, "--no-check_model"]
        return cli.main([*argv, "--output", str(output), "--window_sec", "5", *map(str, more)])

    return run


def table(folder, name=""):
    """The rows that somebody sees who reads every Parquet file; no id may be there twice."""
    found = [
        row
        for path in sorted((Path(folder) / name).glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    ids = [row["row_id"] for row in found]
    assert len(set(ids)) == len(ids)
    return found


def last_panes(rows, *names):
    """Of the rows that a window had one after the other, the last."""
    last = {}
    for row in sorted(rows, key=lambda row: row["pane"]):
        last[tuple(row[name] for name in ("camera", "window_start", *names))] = row
    return list(last.values())


def rows_when(folder, number, *, timeout_sec=60):
    """The predictions, once there are so many."""
    end = time.monotonic() + timeout_sec
    while len(table(folder)) < number and time.monotonic() < end:
        time.sleep(0.1)
    return table(folder)


def drain_when(happened, *, timeout_sec=60):
    """Sends this process SIGTERM once something has happened, from another thread."""

    def watch():
        end = time.monotonic() + timeout_sec
        while not happened() and time.monotonic() < end:
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def handled():
    """How many messages came to an end in this process."""
    counts = metrics.TALLY.counts()
    names = (metrics.DONE, metrics.FAILED, metrics.GATED, metrics.DUPLICATES, metrics.MESSAGES_SKIPPED)
    return sum(counts.get(name, 0) for name in names)


def test_a_folder_of_frames_gives_the_rows_that_plain_python_gives(run, tmp_path):
    expected = {}
    for i in range(24):
        camera, name = f"cam{i % 3}", iso_time(capture(i)).replace(":", "")
        path = tmp_path / "in" / camera / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
        expected[f"{camera}/{iso_time(capture(i))}"] = label_of(picture(i))
    (tmp_path / "in" / "cam0" / "20261122T000000Z.jpg").write_bytes(b"no image")
    summary = tmp_path / "summary.json"
    skew = ("--max_skew_sec", 0)
    assert run(tmp_path / "in", "--once", "--summary", summary, *skew) == 0
    assert {row["key"]: row["prediction"] for row in table(tmp_path / "out")} == expected
    (failure,) = table(tmp_path / "out", "failures")
    assert (failure["reason"], failure["data"], failure["camera"]) == ("not_an_image", b"no image", "cam0")
    said = json.loads(summary.read_text())
    assert (said["inputs"], said["outputs"], said["failed"]) == (25, 24, 1)
    counted = Counter()
    for row in last_panes(table(tmp_path / "out", "counts"), "class"):
        counted[row["camera"], row["class"]] += row["count"]
    assert counted == Counter((key.split("/")[0], label) for key, label in expected.items())
    # again: nothing new is there, so nothing changes
    assert run(tmp_path / "in", "--once", *skew) == 0
    assert len(table(tmp_path / "out")) == 24


def test_every_kind_of_message_from_pubsub(run, tmp_path, pubsub):
    topic = pubsub.topic("frames")
    subscription = pubsub.subscription(topic)
    rows_topic, dead_topic = pubsub.topic("rows"), pubsub.topic("dead")
    rows_sub, dead_sub = pubsub.subscription(rows_topic), pubsub.subscription(dead_topic)
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "one.jpg").write_bytes(picture(1))
    said = {"camera": "cam1", "capture_time": iso_time(capture(1)), "uri": str(lake / "one.jpg")}
    inline = {"camera": "cam2", "capture_time": capture(2), "image": base64.b64encode(picture(2)).decode()}
    event = {
        **{
            "specversion": "1.0",
            "id": "e",
            "source": "cams",
            "type": "frame",
            "datacontenttype": "image/jpeg",
        },
        **{"camera": "cam3", "capturetime": iso_time(capture(3))},
        "data_base64": base64.b64encode(picture(3)).decode(),
    }
    deleted = {"bucket": "b", "name": "x.jpg", "eventType": "OBJECT_DELETE", "payloadFormat": "JSON_API_V1"}
    good = [frame(0), (json.dumps(said).encode(), {}), (json.dumps(inline).encode(), {})]
    good.append((json.dumps(event).encode(), {"content-type": "application/cloudevents+json"}))
    gone = {**said, "capture_time": iso_time(capture(9)), "uri": str(lake / "gone.jpg")}
    bad = {
        "missing_field": (picture(5), {"camera": "cam0"}),
        "bad_time": (picture(5), {"camera": "cam0", "capture_time": "half past nine"}),
        "bad_message": (b'{"camera": "cam0", ', {}),
        "not_found": (json.dumps(gone).encode(), {}),
        "truncated": (picture(6)[:300], {"camera": "cam0", "capture_time": iso_time(capture(6))}),
    }
    pubsub.publish(topic, [*good, *bad.values(), (b"{}", {**deleted, "objectId": "x.jpg", "bucketId": "b"})])
    thread = drain_when(lambda: handled() == len(good) + len(bad) + 1)
    output = f"{tmp_path / 'out'},pubsub://{rows_topic}"
    more = ("--failures", f"pubsub://{dead_topic}", "--uri_prefixes", lake)
    assert run(f"pubsub://{subscription}", *more, output=output) == 0
    thread.join()
    by_camera = {row["camera"]: row for row in table(tmp_path / "out")}
    assert {name: row["prediction"] for name, row in by_camera.items()} == {
        f"cam{i}": label_of(picture(i)) for i in range(4)
    }
    for row in by_camera.values():
        assert row["total_ms"] == pytest.approx(
            sum(row[f"{s}_ms"] for s in ("publish", "pull", "queue", "decode", "infer", "write")), abs=1
        )
        assert row["model_digest"]
        assert row["row_id"] == f"{row['key']}/{row['model_digest']}"
    assert {row["reason"]: row["data"] for row in table(tmp_path / "out", "failures")} | {
        "not_found": b""
    } == {reason: data for reason, (data, _) in bad.items()} | {"not_found": b""}
    dead = {message.attributes["beam_vision_reason"]: message for message in pubsub.take(dead_sub, len(bad))}
    assert {reason: message.data for reason, message in dead.items() if reason != "not_found"} == {
        reason: data for reason, (data, _) in bad.items() if reason != "not_found"
    }
    assert json.loads(dead["not_found"].data)["uri"] == gone["uri"]
    published = pubsub.take(rows_sub, 100, timeout_sec=2)
    predictions = [m for m in published if m.attributes["table"] == "predictions"]
    assert {m.attributes["row_id"] for m in predictions} == {row["row_id"] for row in by_camera.values()}
    assert {m.ordering_key for m in predictions} == set(by_camera)
    assert pubsub.take(subscription, 1, timeout_sec=1) == [], "all was acknowledged"


def run_list(messages, model, folder, *more):
    """Runs the graph over messages in memory, in this process."""
    argv = ["--task", "classify", "--input", "pubsub://projects/proj/subscriptions/subs", "--model", model]
    argv += ["--output", str(folder), "--no-check_model", "--model_poll_sec", "0", *map(str, more)]
    options, _ = parse(
        make_parser("stream", stream.Options, description="", example=""), stream.Options, argv
    )
    plan, feed = stream.prepare(options, "run-1", local=True), ListFeed(messages)
    pipeline = beam.Pipeline(runner=LocalStreamRunner(feed, stream.state_folder(options)))
    build(pipeline, options, plan)
    metrics.TALLY.clear()
    pipeline.run()
    return feed, stream.summarise(options, plan, Ran(measured=measured.from_tally()), 1.0)


def message(i, *, copy=0, **made):
    data, attributes = frame(i, **made)
    return Message(data, attributes, f"m{i}-{copy}", publish_sec=capture(i), pull_sec=capture(i))


@pytest.mark.slow
def test_ten_thousand_messages_each_delivered_twice_are_ten_thousand_rows(model, tmp_path):
    """Half of the second copies are redelivered under the same id, half were published again."""
    n = 10_000
    data = [picture(i) for i in range(16)]

    def made(i, copy):
        attributes = {"camera": f"cam{i % 7}", "capture_time": iso_time(capture(i) - n / 10)}
        name = f"m{i}" if copy == 0 or i % 2 else f"again{i}"
        return Message(data[i % 16], attributes, name, publish_sec=capture(i) - n / 10)

    messages = [made(i, copy) for copy in (0, 1) for i in range(n)]
    random.Random(1).shuffle(messages)
    feed, summary = run_list(messages, model, tmp_path / "out")
    assert len(feed.acked) == 2 * n
    rows = table(tmp_path / "out")
    assert len(rows) == n
    expected = [label_of(item) for item in data]
    by_key = {row["key"]: row["prediction"] for row in rows}
    assert by_key == {f"cam{i % 7}/{iso_time(capture(i) - n / 10)}": expected[i % 16] for i in range(n)}
    assert (summary["inputs"], summary["outputs"], summary["duplicates"]) == (n + n // 2, n, n // 2)
    counted = last_panes(table(tmp_path / "out", "counts"), "class")
    assert sum(row["count"] for row in counted) == n
    health = last_panes(table(tmp_path / "out", "health"))
    assert (sum(r["frames"] for r in health), sum(r["duplicates"] for r in health)) == (n, n // 2)


def test_frames_like_the_last_are_gated_and_counted(model, tmp_path):
    messages = [message(i, camera="a", seed=i // 10) for i in range(60)]
    _, summary = run_list(messages, model, tmp_path / "out", "--gate_distance", 2, "--heartbeat_sec", 0.45)
    # of ten like frames, a tenth of a second apart: the first, and one each half second
    assert (summary["inputs"], summary["outputs"], summary["gated"]) == (60, 12, 48)
    assert len(table(tmp_path / "out")) == 12
    assert sum(row["gated"] for row in last_panes(table(tmp_path / "out", "health"))) == 48


def test_in_is_out_and_failed_and_gated_and_duplicate_and_skipped(model, tmp_path):
    messages = [message(i) for i in range(30)] + [message(3, copy=1)]
    messages += [Message(b"no image", frame(40)[1], "b1"), Message(b"", {}, "b2"), Message(b"{}", {}, "b3")]
    _, said = run_list(messages, model, tmp_path / "out")
    ends = ("outputs", "failed", "gated", "duplicates", "skipped")
    assert said["inputs"] == len(messages) == sum(said[name] for name in ends)
    assert [said[name] for name in ends] == [30, 3, 0, 1, 0]
    assert len(table(tmp_path / "out", "failures")) == 3


def test_a_frame_at_which_our_own_code_fails_is_a_failure_and_costs_no_other(model, tmp_path, monkeypatch):
    take = camera.take

    def stumbles(before, info, *rest, **named):
        if info.sequence == "7":
            raise ZeroDivisionError("seven")
        return take(before, info, *rest, **named)

    monkeypatch.setattr(camera, "take", stumbles)
    _, said = run_list([message(i) for i in range(20)], model, tmp_path / "out")
    assert (said["inputs"], said["outputs"], said["failed"]) == (20, 19, 1)
    (failure,) = table(tmp_path / "out", "failures")
    assert (failure["reason"], failure["data"]) == ("unexpected", picture(7))
    assert "seven" in failure["detail"]


def test_detections_and_embeddings_have_rows_too(run, tmp_path):
    path = tmp_path / "in" / "cam" / "x.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(picture(0))
    assert run(tmp_path / "in", "--once", task="embed") == 0
    (row,) = table(tmp_path / "out")
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-6)
    # the folder is a table for the other jobs
    assert cli.main(["sql", "SELECT count(*) AS n FROM images", "--table", str(tmp_path / "out")]) == 0


KILLS = 20


@pytest.mark.slow
def test_killed_at_twenty_random_moments_every_message_has_its_row(model, tmp_path, pubsub, warm):
    topic = pubsub.topic("frames")
    subscription = pubsub.subscription(topic, ack_deadline_seconds=10)
    n, draw = 600, random.Random(4)
    argv = ["-m", "beam_vision.pipelines.cli", "stream", "--task", "classify", "--model", model]
    argv += ["--input", f"pubsub://{subscription}", "--output", str(tmp_path / "out")]
    argv += ["--no-check_model", "--window_sec", "2", "--lease_sec", "10"]
    with open(tmp_path / "log", "ab") as log:
        for kill in range(KILLS):
            pubsub.publish(topic, [frame(i) for i in range(kill * n // KILLS, (kill + 1) * n // KILLS)])
            job = warm.start(argv, stdout=log, stderr=log)
            time.sleep(draw.uniform(0.2, 2.5))
            job.kill()
            job.wait(30)
        job = warm.start(argv, stdout=log, stderr=log)
        rows_when(tmp_path / "out", n, timeout_sec=90)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 0, (tmp_path / "log").read_text()[-3000:]
    rows = table(tmp_path / "out")
    assert {row["key"] for row in rows} == {f"cam{i % 3}/{iso_time(capture(i))}" for i in range(n)}
    counted = Counter()
    for row in last_panes(table(tmp_path / "out", "counts"), "class"):
        counted[row["camera"], row["class"]] += row["count"]
    assert counted == Counter((f"cam{i % 3}", label_of(picture(i))) for i in range(n))
    assert pubsub.take(subscription, 1, timeout_sec=1) == []


@pytest.mark.parametrize(
    ("runner", "why"),
    [
        ("DirectRunner", "a kill loses messages"),
        ("FnApiRunner", "read nothing"),
        ("FlinkRunner", "doesn't know that step"),
    ],
)
def test_runners_that_lose_messages_are_refused(run, capsys, runner, why):
    assert run("pubsub://projects/proj/subscriptions/subs", "--runner", runner) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--window_sec", "0"], "--window_sec is 0"),
        (["--gate_distance", "65"], "in 0..64"),
        (["--output", "pubsub://projects/proj/topics/rows"], "what fails would be lost"),
        (["--failures", "/tmp/x"], "must be pubsub://"),
        (["--tile", "64"], "goes with --task detect"),
        (["--output", "bigquery://p.d.t"], "is not a table of BigQuery"),
        (["--output", "mongodb://host/t"], "rows go to a folder"),
    ],
)
def test_options_that_cannot_be_are_clear_errors(run, capsys, more, says):
    assert run("pubsub://projects/proj/subscriptions/subs", *more) == 2
    assert says in capsys.readouterr().err


def test_preflight_reads_nothing_and_says_what_would_be_done(run, tmp_path, capsys):
    assert run("pubsub://projects/proj/subscriptions/subs", "--preflight_only") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["outputs"] == [str(tmp_path / "out")]
    assert plan["state"] == str(tmp_path / "out" / ".state")
    assert not (tmp_path / "out").exists()
