"""Staged files -> parts: nothing twice, sorted, of the size asked for."""

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.sinks import parts
from beam_vision.sinks.parts import RowFile
from beam_vision.sinks.rows import RowSettings
from beam_vision.types import ImageRef, Prediction

SETTINGS = RowSettings(task="embed", embedding_dim=2, model_digest="m", preprocessing_digest="p")


def rows(keys, width=1):
    vector = np.array([1, 0], "<f4").tobytes()
    return [(Prediction(ImageRef(key, f"/{key}"), width, 1, embedding=vector),) for key in keys]


def stage(folder, keys, run_id="run", width=1):
    return parts.stage(str(folder), rows(keys, width), SETTINGS, run_id)


def keys_in(path):
    return pq.read_table(path)["key"].to_pylist()


def test_a_staged_file_is_named_by_its_content_so_a_retry_changes_nothing(tmp_path):
    first = stage(tmp_path, ["b", "a"])
    assert stage(tmp_path, ["a", "b"]) == first
    assert keys_in(first.path) == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == [first.path.rpartition("/")[2]]
    assert (first.rows, first.images, first.size_bytes) == (2, 2, (tmp_path / first.path).stat().st_size)


def test_what_was_staged_reads_back_as_it_was_described(tmp_path):
    staged = stage(tmp_path, ["b", "a", "ü"])
    assert parts.read_kept(staged.path, SETTINGS, is_part=False) == (staged, ["a", "b", "ü"])
    other = RowSettings(task="embed", embedding_dim=2, model_digest="n", preprocessing_digest="p")
    assert parts.read_kept(staged.path, other, is_part=False) is None


def test_of_rows_with_one_key_the_first_stays(tmp_path):
    files = [
        stage(tmp_path / "1", ["a", "b"]),
        stage(tmp_path / "2", ["b", "c"], width=2),
        stage(tmp_path / "3", ["d"]),
        stage(tmp_path / "4", ["b", "c"], width=4),
    ]
    repeated = parts.find_repeated(files, SETTINGS)
    assert repeated == {files[1].path: (0,), files[3].path: (0, 1)}
    tasks, stay = parts.plan_parts(files, repeated, run_id="r")
    assert stay == []
    part = parts.write_part(tasks[0], str(tmp_path / "out"), SETTINGS)
    found = pq.read_table(tmp_path / "out" / part.name)
    assert found["key"].to_pylist() == ["a", "b", "c", "d"]
    assert found["width"].to_pylist() == [1, 1, 2, 1]
    assert part.rows == 4


def test_a_collision_of_hashes_is_not_a_repetition(tmp_path):
    one, other = stage(tmp_path, ["a"]), stage(tmp_path, ["b"])
    collided = RowFile(other.path, 1, 1, other.size_bytes, one.key_hashes)
    assert parts.find_repeated([one, collided], SETTINGS) == {}


@given(st.lists(st.lists(st.integers(0, 12), max_size=6, unique=True), max_size=5))
def test_repeated_rows_are_those_that_a_plain_loop_finds(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("staged")
    files, expected, seen = [], {}, set()
    for number, keys in enumerate(drawn):
        texts = sorted(f"k{key:02d}" for key in keys)
        files.append(stage(folder / str(number), texts))
        twice = tuple(row for row, key in enumerate(texts) if key in seen)
        seen |= set(texts)
        if twice:
            expected[files[-1].path] = twice
    assert parts.find_repeated(files, SETTINGS) == expected


def file(name, size_bytes, is_part=False, rows=1):
    return RowFile(f"/t/{name}", rows, rows, size_bytes, bytes(8 * rows), is_part)


def test_files_are_gathered_into_parts_of_the_size_asked_for():
    files = [file(str(n), 40) for n in range(5)]
    tasks, stay = parts.plan_parts(files, {}, run_id="r", part_bytes=100)
    assert [task.name for task in tasks] == [f"part-r-0000{n}.parquet" for n in range(3)]
    assert [[source.path for source in task.sources] for task in tasks] == [
        ["/t/0", "/t/1"],
        ["/t/2", "/t/3"],
        ["/t/4"],
    ]
    assert stay == []


def test_large_parts_stay_and_small_ones_are_written_again():
    files = [file("large", 60, is_part=True), file("small", 10, is_part=True), file("new", 10)]
    tasks, stay = parts.plan_parts(files, {}, run_id="r", part_bytes=100)
    assert [part.name for part in stay] == ["large"]
    assert [[source.path for source in task.sources] for task in tasks] == [["/t/small", "/t/new"]]


def test_a_small_part_with_nothing_to_join_stays():
    tasks, stay = parts.plan_parts([file("small", 10, is_part=True)], {}, run_id="r", part_bytes=100)
    assert (tasks, [part.name for part in stay]) == ([], ["small"])


def test_a_file_with_nothing_but_repeated_rows_goes_nowhere():
    files = [file("part", 60, is_part=True), file("again", 10, rows=2)]
    tasks, stay = parts.plan_parts(files, {"/t/again": (0, 1)}, run_id="r", part_bytes=100)
    assert (tasks, [part.name for part in stay]) == ([], ["part"])


def test_a_table_without_rows_has_one_part_with_its_columns(tmp_path):
    tasks, stay = parts.plan_parts([], {}, run_id="r")
    assert stay == []
    part = parts.write_part(tasks[0], str(tmp_path), SETTINGS)
    assert part.rows == 0
    assert pq.read_schema(tmp_path / part.name).names == SETTINGS.schema().names


def test_writing_a_part_again_gives_the_same_bytes(tmp_path):
    files = [stage(tmp_path / "1", ["c", "a"]), stage(tmp_path / "2", ["b"])]
    tasks, _ = parts.plan_parts(files, {}, run_id="r")
    parts.write_part(tasks[0], str(tmp_path / "x"), SETTINGS)
    parts.write_part(tasks[0], str(tmp_path / "y"), SETTINGS)
    written = (tmp_path / "x" / tasks[0].name).read_bytes()
    assert written == (tmp_path / "y" / tasks[0].name).read_bytes()
    assert SETTINGS.made(pq.read_schema(tmp_path / "x" / tasks[0].name))
