"""File names, shard counts, and which folders may be written to."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.records import layout


def test_names():
    assert layout.shard_name("train", 3, 12) == "train-00003-of-00012.tfrecord"
    assert layout.shard_names({"a": 2, "b": 1}) == [
        "a-00000-of-00002.tfrecord",
        "a-00001-of-00002.tfrecord",
        "b-00000-of-00001.tfrecord",
    ]
    assert layout.split_of("my_split-00003-of-00012.tfrecord") == "my_split"
    assert layout.split_of("notes.txt") == ""


@given(st.integers(0, 10**13), st.integers(1, 10**9))
def test_shards_are_as_few_as_reach_the_target(split_bytes, target):
    shards = layout.shard_count(split_bytes, target)
    assert shards * target >= split_bytes
    assert shards == 1 or (shards - 1) * target < split_bytes


@given(st.text(), st.integers(1, 50))
def test_a_shard_depends_on_the_key_alone(key, shards):
    assert layout.shard_of(key, shards) == layout.shard_of(key, shards) in range(shards)


def test_keys_spread_evenly():
    counts = Counter(layout.shard_of(f"gs://lake/{n}.jpg", 7) for n in range(7000))
    assert sorted(counts) == list(range(7))
    assert all(850 < count < 1150 for count in counts.values())


OURS = [
    "manifest.json",
    "schema.pbtxt",
    "label_map.pbtxt",
    "train-00000-of-00001.tfrecord",
    "train-00000-of-00001.tfrecord.json",
    "train-00000-of-00001.tfrecord.0123abcd.tmp",
    "manifest.json.0123abcd.tmp",
]
FOREIGN = ["photo.jpg", "notes.json", "train.tfrecord", "train-0-of-1.tfrecord", "x.0123abcd.tmp", "a.tmp"]


def test_what_is_ours():
    assert all(map(layout.is_ours, OURS))
    assert not any(map(layout.is_ours, FOREIGN))


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_anything_else_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=name):
        layout.check_output(str(tmp_path))


def test_folders_that_may_be_written_to(tmp_path):
    layout.check_output(str(tmp_path / "absent"))
    layout.check_output(str(tmp_path))
    (tmp_path / "failures").mkdir()
    (tmp_path / "annotation_failures").mkdir()
    for name in OURS:
        (tmp_path / name).write_text("{}" if name != "manifest.json" else '{"kind": "beam-vision tfrecords"}')
    layout.check_output(str(tmp_path))
    (tmp_path / "dead").mkdir()
    with pytest.raises(UsageError, match="dead"):
        layout.check_output(str(tmp_path))
    layout.check_output(str(tmp_path), also_allowed=["dead"])


def test_another_kind_of_manifest_and_a_file_are_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"kind": "beam-vision table"}')
    with pytest.raises(UsageError, match="beam-vision table"):
        layout.check_output(str(tmp_path))
    for text in ("", "[]", "{}"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UsageError, match="an unknown kind"):
            layout.check_output(str(tmp_path))
    with pytest.raises(UsageError, match="is a file"):
        layout.check_output(str(tmp_path / "manifest.json"))


def test_orphans_are_removed_and_nothing_else(tmp_path):
    keep = "train-00000-of-00001.tfrecord"
    orphans = [
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord.json",
        "train-00000-of-00001.tfrecord.0123abcd.tmp",
        "manifest.json.0123abcd.tmp",
    ]
    for name in [*orphans, keep, f"{keep}.json", "manifest.json", "schema.pbtxt", "photo.jpg"]:
        (tmp_path / name).touch()
    assert layout.remove_orphans(str(tmp_path), [keep]) == sorted(orphans)
    assert storage.list_folder(str(tmp_path)) == sorted(
        [keep, f"{keep}.json", "manifest.json", "photo.jpg", "schema.pbtxt"]
    )


def test_a_label_map_stays_where_there_are_boxes(tmp_path):
    (tmp_path / "label_map.pbtxt").touch()
    assert layout.remove_orphans(str(tmp_path), [], label_map=True) == []
    assert layout.remove_orphans(str(tmp_path), []) == ["label_map.pbtxt"]


def test_a_foreign_manifest_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text('{"kind": "beam-vision table"}')
    read, found = storage.read_json, []
    monkeypatch.setattr(storage, "read_json", lambda path: found.append(path) or read(path))
    with pytest.raises(UsageError, match="but of beam-vision table"):
        layout.check_output(str(tmp_path))
    assert len(found) == 1
