"""``WriteWindows`` on Beam's own runners, and who reads what it wrote."""

import json
import os
import random
import time
from dataclasses import asdict

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_stream as streams
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from windows_rows import T0, alert, ids, row

from beam_vision import storage, table
from beam_vision.pipelines.cli import main
from beam_vision.sinks import windows
from beam_vision.sinks.stream_rows import failure_row
from beam_vision.sinks.windows import Windows
from beam_vision.sinks.windows_transforms import WriteWindows
from beam_vision.stream_types import DeadLetter, FrameInfo
from beam_vision.testing.pipelines import collect
from beam_vision.types import Failure

WINDOW = "20251122T082700Z"


def write(folder, rows, **options):
    """Writes rows in batch; what was committed, sorted."""
    return sorted(collect(lambda p: p | beam.Create(rows) | WriteWindows(folder, **options)))


def test_a_batch_run_makes_one_part_a_window_and_table(tmp_path):
    folder = str(tmp_path / "out")
    rows = [row(n) for n in range(0, 180, 10)] + [alert(n) for n in (5, 7)]
    done = write(folder, rows + rows)
    assert [(c.table, c.window[9:13], c.rows, c.new_rows) for c in done] == [
        ("alerts", "0827", 4, 2),
        ("predictions", "0827", 12, 6),
        ("predictions", "0828", 12, 6),
        ("predictions", "0829", 12, 6),
    ]
    assert ids(folder) == sorted(row(n).row_id for n in range(0, 180, 10))
    assert ids(f"{folder}/alerts") == [alert(5).row_id, alert(7).row_id]
    assert windows.staged_windows(Windows(folder=folder)) == []


def test_running_again_adds_what_is_new(tmp_path):
    folder = str(tmp_path / "out")
    write(folder, [row(n) for n in range(0, 100, 10)])
    done = write(folder, [row(n, delay_sec=9.0) for n in range(0, 120, 5)])
    assert [(c.rows, c.new_rows) for c in done] == [(12, 6), (12, 8)]
    assert ids(folder) == sorted(row(n).row_id for n in range(0, 120, 5))


def test_what_a_killed_run_has_staged_is_committed(tmp_path):
    settings = Windows(folder=str(tmp_path / "out"))
    windows.stage(settings, "predictions", WINDOW, [row(1), row(2)])
    windows.stage(settings, "alerts", WINDOW, [alert()])
    done = write(settings.folder, [row(2), row(3)])
    assert [(c.table, c.rows, c.new_rows) for c in done] == [("alerts", 1, 1), ("predictions", 4, 3)]
    assert ids(settings.folder) == sorted(row(n).row_id for n in (1, 2, 3))


def test_gathered_rows_are_the_same_rows(tmp_path):
    folder = str(tmp_path / "out")
    done = write(folder, [row(n) for n in range(90)] * 2, gather_sec=5.0)
    assert [(c.rows, c.new_rows) for c in done] == [(120, 60), (60, 30)]
    assert ids(folder) == sorted(row(n).row_id for n in range(90))


def test_rows_in_windows_of_their_own_and_large_bundles(tmp_path, monkeypatch):
    monkeypatch.setattr("beam_vision.sinks.windows_transforms.STAGE_ROWS", 7)
    folder = str(tmp_path / "out")

    def build(p):
        rows = p | beam.Create([TimestampedValue(row(n), T0 + n) for n in range(50)])
        return rows | beam.Map(lambda r: r) | beam.WindowInto(FixedWindows(10)) | WriteWindows(folder)

    assert [c.new_rows for c in collect(build)] == [50]
    assert len(ids(folder)) == 50


def test_a_row_that_does_not_fit_stops_the_pipeline(tmp_path):
    with pytest.raises(Exception, match="no column boxes, exif_orientation"):
        write(str(tmp_path / "out"), [row(task="detect")])


def streamed(events, folder, **options):
    """Plays a TestStream; what was committed, with the time at which it was, in order."""

    def build(p):
        committed = p | events | WriteWindows(folder, **options)
        return committed | beam.Map(lambda c, t=beam.DoFn.TimestampParam: (float(t), c))

    return _run_stream(build)


class _Keep(beam.DoFn):
    kept: list = []  # noqa: RUF012  (FnApiRunner's workers are threads of this process)

    def process(self, element):
        _Keep.kept.append(element)


def _run_stream(build):
    _Keep.kept.clear()
    with beam.Pipeline(runner=BundleBasedDirectRunner(), options=PipelineOptions(["--streaming"])) as p:
        _ = build(p) | beam.ParDo(_Keep())
    return list(_Keep.kept)


def elements(stream, rows):
    return stream.add_elements([TimestampedValue(each, each.time_sec) for each in rows])


def test_a_window_is_committed_when_the_watermark_passes_its_end(tmp_path):
    """Windows of tomorrow, so that the wall clock says of none that it is late."""
    base = (time.time() // 60) * 60 + 86_400
    rows = [row(n, time_sec=base + 10 * n) for n in range(12)]
    stream = streams.TestStream().advance_watermark_to(base)
    stream = elements(stream, rows[:4])
    stream = elements(stream, rows[2:7]).advance_watermark_to(base + 59)
    stream = elements(stream, rows[:1]).advance_watermark_to(base + 61)
    stream = elements(stream, rows[6:12]).advance_watermark_to_infinity()
    folder = str(tmp_path / "out")
    done = streamed(stream, folder)
    assert [(at - base, c.rows, c.new_rows) for at, c in done] == [
        (pytest.approx(60), 9, 6),
        (pytest.approx(120), 7, 6),
    ]
    assert ids(folder) == sorted(each.row_id for each in rows)


def test_late_rows_are_gathered_before_they_are_committed(tmp_path):
    """Bundles of a window that is past by the wall clock: one part for all that come within ten seconds."""
    now = int(time.time())
    base = now // 60 * 60 - 600
    rows = [row(n, time_sec=base + n) for n in range(4)]
    stream = streams.TestStream().advance_processing_time(now).advance_watermark_to(base + 300)
    for each in rows[:3]:
        stream = elements(stream, [each])
    stream = elements(stream.advance_processing_time(30), rows[3:])
    folder = str(tmp_path / "out")
    done = streamed(stream.advance_watermark_to_infinity(), folder, commit_late_sec=10.0)
    assert [(c.rows, c.new_rows) for _, c in done] == [(3, 3), (1, 1)]
    assert len(table.part_paths(folder)) == 2
    assert ids(folder) == sorted(each.row_id for each in rows)


def test_two_thousand_rows_each_delivered_twice(tmp_path):
    """Shuffled over five windows of tomorrow, in bundles, with the watermark moving on all the while: what
    comes again late finds its row in a part that is committed already."""
    base = (time.time() // 60) * 60 + 86_400
    rng = random.Random(3)
    rows = [row(n, time_sec=base + n * 0.15) for n in range(2_000)]
    again = [(n * 0.15 + rng.random() * 90, each) for n, each in enumerate(rows)]
    order = sorted([(each.time_sec - base, each) for each in rows] + again, key=lambda item: item[0])
    stream = streams.TestStream().advance_watermark_to(base)
    for at in range(0, len(order), 200):
        stream = elements(stream, [each for _, each in order[at : at + 200]])
        stream = stream.advance_watermark_to(base + 1 + int(order[at][0]))
    folder = str(tmp_path / "out")
    done = streamed(stream.advance_watermark_to_infinity(), folder, fsync=False)
    assert sum(c.rows for _, c in done) == 4_000
    assert sum(c.new_rows for _, c in done) == 2_000
    assert len(done) > 5
    assert ids(folder) == sorted(each.row_id for each in rows)


def test_on_cloud_storage(gcs):
    folder = storage.join(gcs, "windows-sink")
    settings = Windows(folder=folder)
    windows.stage(settings, "predictions", WINDOW, [row(1)])
    windows.stage(settings, "predictions", WINDOW, [row(2)])
    windows.check_folder(settings)
    done = write(folder, [row(n) for n in (2, 3, 61)] + [alert()])
    assert [(c.table, c.window[9:13], c.rows, c.new_rows) for c in done] == [
        ("alerts", "0827", 1, 1),
        ("predictions", "0827", 4, 3),
        ("predictions", "0828", 1, 1),
    ]
    write(folder, [row(n) for n in (1, 4)])
    windows.check_folder(settings)
    parts = table.part_paths(folder)
    assert len(parts) == 3
    found = [path for path in storage.list_tree(folder) if path not in parts]
    assert [os.path.dirname(path) for path in found] == [f"{folder}/alerts"]


@pytest.fixture
def running(tmp_path):
    """The folder of a job that is running: some windows committed, one staged, a part half written."""
    settings = Windows(folder=str(tmp_path / "out"), task="embed", embedding_dim=8)
    for number in range(0, 240, 3):
        window = settings.window(T0 + number)
        windows.stage(settings, "predictions", window, [row(number, task="embed", embedding_dim=8)])
    for name, window in windows.staged_windows(settings)[:3]:
        windows.commit(settings, name, window)
    (tmp_path / "out" / f"part-{WINDOW}-0123456789abcdef.parquet.01234567.tmp").write_bytes(b"half")
    return settings


def test_sql_while_the_job_runs(running, capsys):
    query = "SELECT camera, count(*) AS frames, max(total_ms) AS worst FROM images GROUP BY camera"
    assert main(["sql", query, "--table", running.folder, "--output_format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"camera": "cam-0", "frames": 60, "worst": 2000}]


def test_sql_sees_the_failures(running, capsys):
    failure = Failure("cam-0/frame", "pubsub:m1", "decode", "truncated", "half of it", 1, "run-1")
    dead = DeadLetter(failure, FrameInfo("cam-0", T0, "m1"), b"half")
    write(running.folder, [failure_row(dead)] * 2, task="embed", embedding_dim=8)
    assert main(["sql", "FROM failures", "--table", running.folder, "--output_format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [asdict(failure)]


def test_search_and_index_while_the_job_runs(running, tmp_path, capsys):
    key = row(30).values["key"]
    index = str(tmp_path / "index")
    assert main(["build-index", "--table", running.folder, "--output", index]) == 0
    capsys.readouterr()
    for source in (["--table", running.folder], ["--index", index]):
        assert main(["search", *source, "--key", key, "--k", "3", "--output_format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found) == 3
