"""Rows staged by window and committed, without Beam."""

import logging
import os
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from windows_rows import RUN, T0, alert, ids, read, row

from beam_vision import storage, table
from beam_vision.errors import JobError, UsageError
from beam_vision.sinks import windows, windows_staging
from beam_vision.sinks.output import check_output
from beam_vision.sinks.windows import Windows
from beam_vision.stream_types import StreamRow

WINDOW = "20251122T082700Z"


def journal(settings, name="predictions"):
    return Path(settings.staging(name)) / f"{WINDOW}.rows"


def stage(settings, numbers, **facts):
    rows = [row(number, **facts) for number in numbers]
    windows.stage(settings, "predictions", settings.window(rows[0].time_sec), rows)


@pytest.fixture
def settings(tmp_path):
    return Windows(folder=str(tmp_path / "out"))


def test_windows_are_named_by_their_begin(settings):
    assert settings.window(T0) == settings.window(T0 + 59.999999) == WINDOW
    assert settings.window(T0 + 60) == "20251122T082800Z"
    assert settings.window(-0.5) == "19691231T235900Z"
    assert settings.end_sec(WINDOW) == T0 + 60


@given(st.integers(-(10**9), 4 * 10**9), st.integers(1, 10**6))
def test_a_time_lies_in_its_window(time_sec, window_sec):
    settings = Windows(folder="out", window_sec=window_sec)
    end_sec = settings.end_sec(settings.window(time_sec))
    assert end_sec - window_sec <= time_sec < end_sec
    assert end_sec % window_sec == 0


@pytest.mark.parametrize("window_sec", [0, -1, 0.5])
def test_a_window_has_whole_seconds(window_sec):
    with pytest.raises(UsageError, match="whole number of seconds"):
        Windows(folder="out", window_sec=window_sec)


def test_a_commit_makes_one_part_of_all_that_is_staged(settings):
    stage(settings, [3, 1])
    stage(settings, [2])
    done = windows.commit(settings, "predictions", WINDOW)
    assert [(c.table, c.window, c.rows, c.new_rows) for c in done] == [("predictions", WINDOW, 3, 3)]
    assert os.listdir(settings.folder).count(os.path.basename(done[0].path)) == 1
    assert windows.PART.fullmatch(os.path.basename(done[0].path))
    assert read(settings.folder)["row_id"].to_pylist() == [row(n).row_id for n in (3, 1, 2)]  # by camera
    assert windows.staged_windows(settings) == []
    assert windows.commit(settings, "predictions", WINDOW) == []


def test_a_row_that_comes_again_is_left_out(settings):
    stage(settings, [1, 2, 1])
    stage(settings, [2], delay_sec=30.0)
    assert windows.commit(settings, "predictions", WINDOW)[0][2:4] == (4, 2)
    stage(settings, [2, 3])
    assert windows.commit(settings, "predictions", WINDOW)[0][2:4] == (2, 1)
    stage(settings, [1, 2, 3])
    (nothing_new,) = windows.commit(settings, "predictions", WINDOW)
    assert nothing_new[2:] == (3, 0, "")
    assert ids(settings.folder) == sorted(row(n).row_id for n in (1, 2, 3))
    assert len(table.part_paths(settings.folder)) == 2


def test_tables_and_windows_are_apart(settings):
    stage(settings, [1])
    stage(settings, [61])
    windows.stage(settings, "alerts", WINDOW, [alert()])
    found = windows.staged_windows(settings)
    assert found == [("alerts", WINDOW), ("predictions", WINDOW), ("predictions", "20251122T082800Z")]
    windows.commit(settings, *found[1])
    assert ids(settings.folder) == [row(1).row_id]
    assert windows.staged_windows(settings) == [found[0], found[2]]
    windows.commit(settings, *found[0])
    assert ids(settings.table_folder("alerts")) == [alert().row_id]
    assert ids(settings.folder) == [row(1).row_id]


def test_many_rows_make_several_parts(settings):
    for number in range(10):
        stage(settings, [number, 9])
    done = windows.commit(settings, "predictions", WINDOW, part_bytes=1)
    assert [c.new_rows for c in done] == [2, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    assert ids(settings.folder) == sorted(row(n).row_id for n in range(10))


def test_a_row_that_does_not_fit_the_table_stops_the_job(settings):
    good = alert()
    for values, name in [({"colour": "red"}, "colour"), ({"state": 3}, "state")]:
        bad = StreamRow("alerts", "a", "cam-0", T0, {**good.values, **values})
        with pytest.raises(JobError, match=f"'alerts'.*{name}"):
            windows.stage(settings, "alerts", WINDOW, [bad])
    assert windows.staged_windows(settings) == []


def test_a_block_that_a_crash_tore_is_passed_over(settings, caplog):
    stage(settings, [1])
    whole = journal(settings).read_bytes()
    cuts = [*range(1, 60), len(whole) // 2, len(whole) - 1]
    for cut in cuts:
        journal(settings).write_bytes(whole + whole[:cut])
        stage(settings, [2])
        with caplog.at_level(logging.WARNING):
            found = list(windows_staging.blocks([str(journal(settings))]))
        assert len(found) == 2, cut
        assert f"{cut} bytes" in caplog.text
        caplog.clear()
    windows.commit(settings, "predictions", WINDOW)
    assert ids(settings.folder) == [row(1).row_id, row(2).row_id]


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_byte_that_rots_takes_its_block_alone_with_it(tmp_path_factory, place, value):
    folder = str(tmp_path_factory.mktemp("rot"))
    data = [bytes([n]) * 80 for n in range(3)]
    for block in data:
        windows_staging.append(folder, WINDOW, block, fsync=False)
    path = Path(folder) / f"{WINDOW}.rows"
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)
    found = list(windows_staging.blocks([str(path)]))
    size = len(content) // 3
    assert all(data[n] in found for n in range(3) if n != place // size)
    assert all(block in data for block in found)


def test_an_empty_journal_is_nothing(settings):
    stage(settings, [1])
    journal(settings).write_bytes(b"")
    assert windows.commit(settings, "predictions", WINDOW) == []
    assert windows.staged_windows(settings) == []


def test_rows_staged_while_a_commit_runs_are_not_lost(settings):
    """Two threads stage, a third commits all the while."""
    ended = threading.Event()

    def stage_some(first):
        for number in range(first, first + 60):
            windows.stage(settings, "alerts", WINDOW, [alert(number, time_sec=T0)])

    def commit_all():
        while not ended.is_set():
            windows.commit(settings, "alerts", WINDOW)

    writers = [threading.Thread(target=stage_some, args=(first,)) for first in (0, 60)]
    committer = threading.Thread(target=commit_all)
    for thread in (*writers, committer):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    committer.join()
    windows.commit(settings, "alerts", WINDOW)
    assert ids(settings.table_folder("alerts")) == sorted(alert(n).row_id for n in range(120))


def test_what_was_written_aside_is_removed_when_it_is_old(settings):
    os.makedirs(settings.folder)
    old, young, other = (
        Path(settings.folder) / name
        for name in (
            f"part-{WINDOW}-0123456789abcdef.parquet.01234567.tmp",
            f"part-{WINDOW}-0123456789abcdef.parquet.76543210.tmp",
            "mine.tmp",
        )
    )
    for path in (old, young, other):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 3600))
    os.utime(other, (0, time.time() - 3600))
    windows.remove_aside(settings)
    assert sorted(os.listdir(settings.folder)) == sorted([young.name, other.name])


def test_warming_up_writes_nothing(tmp_path):
    for task, dim in [("classify", None), ("embed", 8), ("detect", None)]:
        windows.warm_up(Windows(folder=str(tmp_path / "out"), task=task, embedding_dim=dim))
    assert os.listdir(tmp_path) == []


def test_a_folder_of_ours_may_be_written_to_again(settings, tmp_path):
    windows.check_folder(settings)
    assert not os.path.exists(settings.folder)
    stage(settings, [1])
    windows.check_folder(settings)
    windows.commit(settings, "predictions", WINDOW)
    windows.check_folder(settings)
    windows.check_folder(Windows(folder=settings.folder, fsync=False))


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"task": "detect"}, r"another task \(classify, now detect\)"),
        ({"embedding_dim": 8}, r"another embedding_dim \(None, now 8\)"),
        ({"window_sec": 30}, r"another window_sec \(60, now 30\)"),
    ],
)
def test_rows_with_other_settings_are_refused(settings, committed, other, message):
    stage(settings, [1])
    if committed:
        windows.commit(settings, "predictions", WINDOW)
    with pytest.raises(UsageError, match=f"{message}.*another folder"):
        windows.check_folder(Windows(folder=settings.folder, **other))


def test_a_side_table_does_not_depend_on_the_task(settings):
    windows.stage(settings, "alerts", WINDOW, [alert()])
    windows.check_folder(Windows(folder=settings.folder, task="detect"))
    with pytest.raises(UsageError, match="alerts with another window_sec"):
        windows.check_folder(Windows(folder=settings.folder, window_sec=10))


def test_columns_of_another_version_are_refused(settings):
    stage(settings, [1])
    (done,) = windows.commit(settings, "predictions", WINDOW)
    old = pq.read_table(done.path).drop_columns(["sequence"])
    pq.write_table(old, done.path)
    with pytest.raises(UsageError, match="columns of another version"):
        windows.check_folder(settings)


def foreign(folder, name, data=b"x"):
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("manifest.json", r"batch run \(manifest.json\).*empty folder"),
        (".staging/20251122T082700000000Z/rows/a.parquet", r"batch run \(.staging/2025"),
        ("lake.parquet", "'lake.parquet', which is not of a streaming job"),
        ("counts/lake.parquet", "'lake.parquet', which is not of a streaming job"),
        ("part-20251122T082700000000Z-00000.parquet", "not of a streaming job"),
        (f"part-{WINDOW}-0123456789abcdef.parquet", "can't be read"),
    ],
)
def test_a_folder_with_something_else_is_refused(settings, name, message):
    foreign(settings.folder, name)
    with pytest.raises(UsageError, match=message):
        windows.check_folder(settings)


def test_files_that_are_no_tables_may_lie_there(settings):
    foreign(settings.folder, "report.html")
    foreign(settings.folder, ".lock")
    foreign(settings.folder, "state/log")
    windows.check_folder(settings)


def test_a_file_and_an_unknown_place_are_refused(tmp_path):
    foreign(tmp_path, "file")
    with pytest.raises(UsageError, match="is a file"):
        windows.check_folder(Windows(folder=str(tmp_path / "file")))
    with pytest.raises(UsageError, match="no place for a table"):
        windows.check_folder(Windows(folder="nowhere://out"))


def test_a_batch_run_leaves_the_folder_alone(settings):
    stage(settings, [1])
    windows.commit(settings, "predictions", WINDOW)
    with pytest.raises(UsageError, match="not of a table of ours"):
        check_output(settings.folder)


def test_readers_see_whole_parts_only(settings):
    stage(settings, [1])
    (done,) = windows.commit(settings, "predictions", WINDOW)
    stage(settings, [2])
    foreign(settings.folder, f"{os.path.basename(done.path)}.01234567.tmp")
    windows.stage(settings, "counts", WINDOW, [StreamRow("counts", "c", "cam-0", T0, {"run_id": RUN})])
    windows.commit(settings, "counts", WINDOW)
    assert table.part_paths(settings.folder) == [done.path]
    assert len(table.part_paths(storage.join(settings.folder, "counts"))) == 1
