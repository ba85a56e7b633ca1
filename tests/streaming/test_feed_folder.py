import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.stream_types import iso_time
from beam_vision.streaming.feeds import open_feed
from beam_vision.streaming.feeds.folder import JOURNAL, FolderFeed
from beam_vision.streaming.feeds.journal import Journal, Version
from beam_vision.streaming.feeds.watch import time_in_name

T0 = "2026-11-22T10:15:00.000000Z"
T0_SEC = 1795342500.0


def put(path, data=b"image", *, mtime_sec=None):
    """Writes a file aside and renames it to its place, as cameras should."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}"
    aside.write_bytes(data)
    if mtime_sec is not None:
        os.utime(aside, (mtime_sec, mtime_sec))
    aside.rename(path)
    return path


def pull(feed, number=1000, timeout_sec=5.0):
    end = time.monotonic() + timeout_sec
    received = []
    while len(received) < number and not feed.exhausted and time.monotonic() < end:
        received += feed.pull(1000, 2**20, end - time.monotonic())
    return received


def bodies(received):
    return [json.loads(item.message.data) for item in received]


def files(received):
    return [os.path.basename(body["uri"]) for body in bodies(received)]


def test_each_file_is_a_message_of_its_camera_in_order_of_capture(tmp_path):
    put(tmp_path / "yard" / "2026-11-22T10-15-02.500Z.jpg")
    put(tmp_path / "door" / "2026" / "11" / "cam_20261122_101501.png")
    put(tmp_path / "noname.webp", mtime_sec=T0_SEC)
    with FolderFeed(str(tmp_path), once=True) as feed:
        received = pull(feed)
        assert feed.exhausted
    assert bodies(received) == [
        {"uri": str(tmp_path / "noname.webp"), "camera": tmp_path.name, "capture_time": T0},
        {
            "uri": str(tmp_path / "door" / "2026" / "11" / "cam_20261122_101501.png"),
            "camera": "door",
            "capture_time": iso_time(T0_SEC + 1),
        },
        {
            "uri": str(tmp_path / "yard" / "2026-11-22T10-15-02.500Z.jpg"),
            "camera": "yard",
            "capture_time": iso_time(T0_SEC + 2.5),
        },
    ]
    assert received[0].message.publish_sec == T0_SEC
    assert len({item.message.message_id for item in received}) == 3


def test_what_is_no_image_or_half_written_is_left_out(tmp_path):
    for name in ("a.txt", ".hidden.jpg", "b.jpg.part", "c.jpg.tmp", "Thumbs.db", ".git/d.jpg", "e.jpg"):
        put(tmp_path / "cam" / name)
    with FolderFeed(str(tmp_path), once=True) as feed:
        assert files(pull(feed)) == ["e.jpg"]


def test_new_files_come_as_they_are_renamed_in_and_an_empty_folder_waits(tmp_path):
    with FolderFeed(str(tmp_path), settle_sec=60.0) as feed:
        began = time.monotonic()
        assert feed.pull(10, 1000, 0.2) == []
        assert time.monotonic() - began >= 0.2
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            put(tmp_path / "cam" / name, mtime_sec=T0_SEC)
            assert files(pull(feed, 1)) == [name]
        assert not feed.exhausted


def test_a_file_that_grows_is_taken_once_it_has_stopped_to(tmp_path):
    path = tmp_path / "cam" / "slow.jpg"
    path.parent.mkdir()
    with FolderFeed(str(tmp_path), once=True, settle_sec=0.3) as feed, open(path, "wb") as file:
        for _ in range(5):
            file.write(b"x" * 1000)
            file.flush()
            assert feed.pull(10, 1000, 0.1) == []
            assert not feed.exhausted
        received = pull(feed)
        assert files(received) == ["slow.jpg"]
        assert feed.exhausted
        assert received[0].message.message_id.endswith(str(path.stat().st_mtime_ns))


def test_a_file_renamed_over_another_is_new(tmp_path):
    with FolderFeed(str(tmp_path)) as feed:
        seen = set()
        for second in range(3):
            put(tmp_path / "cam" / "latest.jpg", mtime_sec=T0_SEC + second)
            (body,) = bodies(pull(feed, 1))
            seen.add(body["capture_time"])
        assert seen == {iso_time(T0_SEC + second) for second in range(3)}
        assert feed.pull(10, 1000, 0.2) == []


def test_files_of_a_camera_never_share_a_capture_time(tmp_path):
    for i in range(20):
        put(tmp_path / "cam" / f"copied{i}.jpg", mtime_sec=T0_SEC)
    for name in ("left_20261122T101501Z.jpg", "right_20261122T101501Z.jpg"):
        put(tmp_path / "cam" / name)
    put(tmp_path / "other" / "copied.jpg", mtime_sec=T0_SEC)
    with FolderFeed(str(tmp_path), once=True) as feed:
        found = bodies(pull(feed))
    keys = [(body["camera"], body["capture_time"]) for body in found]
    assert len(set(keys)) == len(keys) == 23
    assert ("other", T0) in keys


def test_bounds_of_a_pull_hold(tmp_path):
    for i in range(10):
        put(tmp_path / "cam" / f"{i}.jpg", mtime_sec=T0_SEC + i)
    with FolderFeed(str(tmp_path), once=True) as feed:
        assert files(feed.pull(3, 2**20, 5)) == ["0.jpg", "1.jpg", "2.jpg"]
        assert feed.waiting == 7
        assert files(feed.pull(10, 1, 5)) == ["3.jpg"]
        feed.stop()
        assert feed.pull(10, 2**20, 5) == []


def test_a_later_run_begins_with_what_was_not_acknowledged(tmp_path):
    lake, state = tmp_path / "lake", str(tmp_path / "state")
    for i in range(6):
        put(lake / "cam" / f"{i}.jpg", mtime_sec=T0_SEC)
    feed = FolderFeed(str(lake), state_dir=state, once=True)
    feed.open()
    first = pull(feed)
    feed.ack([item.token for item in first[:4]] + ["unknown"])
    feed.ack([first[0].token])
    # no close: the process was killed, in the middle of a line
    with open(tmp_path / "state" / JOURNAL, "ab") as file:
        file.write(b'[1, 2, "half')
    with FolderFeed(str(lake), state_dir=state, once=True) as feed:
        again = pull(feed)
        assert bodies(again) == bodies(first[4:])  # capture times too
        assert [item.message.message_id for item in again] == [item.message.message_id for item in first[4:]]
        feed.ack([item.token for item in again])
    put(lake / "cam" / "0.jpg", mtime_sec=T0_SEC + 1)
    with FolderFeed(str(lake), state_dir=state, once=True) as feed:
        assert files(pull(feed)) == ["0.jpg"]


def test_files_that_are_gone_are_forgotten(tmp_path):
    lake, state = tmp_path / "lake", tmp_path / "state"
    with FolderFeed(str(lake := _cameras(lake, 5)), state_dir=str(state)) as feed:
        received = pull(feed, 5)
        os.unlink(lake / "cam" / "0.jpg")
        feed.ack([item.token for item in received])
        os.unlink(lake / "cam" / "1.jpg")
        os.rename(lake / "cam", tmp_path / "away")
        assert feed.pull(1, 1000, 0.3) == []
    journal = Journal(str(state / JOURNAL))
    journal.open()
    journal.close()
    assert len((state / JOURNAL).read_bytes().splitlines()) == 4  # "0.jpg" was gone before it was noted
    with FolderFeed(str(lake), state_dir=str(state)) as feed:
        feed.pull(1, 1000, 0.3)
        os.rename(tmp_path / "away", lake / "cam")
        assert files(pull(feed, 1, timeout_sec=0.3)) == []


def _cameras(lake, number):
    for i in range(number):
        put(lake / "cam" / f"{i}.jpg", mtime_sec=T0_SEC + i)
    return lake


def test_a_journal_stays_as_long_as_what_it_remembers(tmp_path, monkeypatch):
    monkeypatch.setattr("beam_vision.streaming.feeds.journal._SPARE_LINES", 10)
    path = tmp_path / "state" / JOURNAL
    journal = Journal(str(path))
    journal.open()
    for i in range(100):
        journal.add([("/a.jpg", Version(i, 1)), ("/\udcff.jpg", Version(i, 1))])
    journal.close()
    assert len(path.read_bytes().splitlines()) <= 14
    again = Journal(str(path))
    again.open()
    assert again.holds("/\udcff.jpg", Version(99, 1))
    assert not again.holds("/a.jpg", Version(98, 1))
    again.close()


def test_names_that_are_not_utf8_go_as_a_uri(tmp_path):
    from beam_vision import storage

    path = os.fsencode(tmp_path) + b"/cam\xff.jpg"
    with open(path, "wb") as file:
        file.write(b"image")
    with FolderFeed(str(tmp_path), once=True) as feed:
        (body,) = bodies(pull(feed))
    assert storage.read_bytes(body["uri"]) == b"image"


def test_links_to_cameras_are_followed_and_loops_are_not(tmp_path):
    put(tmp_path / "elsewhere" / "a.jpg")
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "cam").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(lake)
    with FolderFeed(str(lake), once=True) as feed:
        assert [(body["camera"], body["uri"]) for body in bodies(pull(feed))] == [
            ("cam", str(lake / "cam" / "a.jpg"))
        ]


def test_a_folder_that_is_not_there_or_goes_away_is_said(tmp_path):
    with pytest.raises(UsageError, match="is not there"):
        open_feed(str(tmp_path / "none"))
    path = put(tmp_path / "file.jpg")
    with pytest.raises(UsageError, match="is not a folder"):
        open_feed(str(path))
    lake = tmp_path / "lake"
    lake.mkdir()
    with open_feed(str(lake)) as feed:
        lake.rmdir()
        with pytest.raises(UsageError, match="can no longer be read"):
            feed.pull(1, 1000, 1)


@pytest.mark.parametrize(
    ("name", "after_sec"),
    [
        ("2026-11-22T10:15:00.123456Z.jpg", 0.123456),
        ("20261122T101500Z.jpg", 0.0),
        ("20261122101500.jpg", 0.0),
        ("cam-7_2026-11-22_10-15-00-250.jpg", 0.25),
        ("cam7 2026-11-22 11.15.00+01:00.jpg", 0.0),
        ("frame_1795342500.5.png", 0.5),
        ("1795342500250", 0.25),
        ("1795342500250000.webp", 0.25),
        ("20261122T101500_frame2.jpg", None),
        ("20261122T1015001234567890.jpg", None),
        ("000000123456.jpg", None),
        ("20261322T101500.jpg", None),
        ("latest.jpg", None),
    ],
)
def test_times_at_the_end_of_names(name, after_sec):
    found = time_in_name(name)
    assert found == (None if after_sec is None else pytest.approx(T0_SEC + after_sec, abs=1e-6))


@given(st.text(max_size=60))
def test_any_name_has_a_time_or_none(name):
    found = time_in_name(name)
    assert found is None or found > 0


@given(st.floats(1e8, 9e9))
def test_a_time_that_we_write_is_found_again(time_sec):
    name = f"camera_{iso_time(time_sec)}.jpg"
    assert time_in_name(name) == pytest.approx(time_sec, abs=1e-6)
