"""Predictions -> a committed table: nothing twice, nothing half done, every image accounted for."""

import json
import pickle
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_vision import metrics, storage, table
from beam_vision.errors import JobError, UsageError
from beam_vision.failures import Outcome
from beam_vision.sinks import output, parts
from beam_vision.sinks.commit import clean, commit, plan_commit
from beam_vision.sinks.failures import read_failures
from beam_vision.sinks.letters import FolderLetter
from beam_vision.sinks.rows import RowSettings
from beam_vision.sinks.staging import Flush
from beam_vision.sinks.transforms import ReadKept, StageFailures, StageRows, WriteTable
from beam_vision.testing.pipelines import collect_with_counters
from beam_vision.types import Failure, ImageRef, Label, Prediction

SETTINGS = RowSettings(task="classify", embedding_dim=2, model_digest="m", preprocessing_digest="p")
OTHER = RowSettings(task="classify", embedding_dim=2, model_digest="n", preprocessing_digest="p")
RUNS = [f"2025010{day}T000000000000Z" for day in range(1, 8)]


def prediction(key, vector=(1, 0), settings=SETTINGS):
    data = np.array(vector, "<f4").tobytes()
    ref = ImageRef(key, f"/lake/{key}", ("cat",))
    return Prediction(ref, 8, 6, (Label("cat", 0.5),), data, (), settings.model_digest, "p")


def failure(key):
    return Failure(key, f"/lake/{key}", "read", "not_found", "it isn't there")


def write(
    folder,
    run_id,
    predictions,
    failed=(),
    *,
    resume=False,
    settings=SETTINGS,
    inputs=None,
    already_done=0,
    flush=None,
    part_bytes=parts.PART_BYTES,
):
    plan = output.plan_output(str(folder), run_id, settings, resume=resume)
    count = len(predictions) + len(failed) + already_done if inputs is None else inputs

    def build(p):
        kept = p | ReadKept(plan, settings)
        good = p | "good" >> beam.Create(predictions, reshuffle=False)
        bad = p | "bad" >> beam.Create(list(failed))
        sink = WriteTable(
            plan,
            settings,
            inputs=p | "inputs" >> beam.Create([count]),
            kept=kept.files,
            already_done=p | "done" >> beam.Create([already_done]),
            failures=f"{folder}/failures",
            job="predict",
            flush=flush,
            part_bytes=part_bytes,
        )
        return Outcome(good, bad) | sink, kept.keys

    (manifests, keys), counters = collect_with_counters(build)
    assert len(manifests) == 1
    assert table.read_manifest(str(folder)) == manifests[0]
    return manifests[0], sorted(keys), counters


def rows(folder):
    """The rows that somebody sees who just reads every Parquet file, by key; none may be there twice."""
    found = [
        row for path in sorted(Path(folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    by_key = {row["key"]: row for row in found}
    assert len(by_key) == len(found)
    return by_key


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_rows_and_failures_are_written_and_accounted_for(tmp_path):
    manifest, _, counters = write(
        tmp_path, RUNS[0], [prediction("b"), prediction("a"), prediction("c", (np.nan, 0))], [failure("x")]
    )
    assert list(rows(tmp_path)) == ["a", "b"]
    assert (manifest.inputs, manifest.outputs, manifest.failed) == (4, 2, 2)
    assert manifest.failed_by_reason == {"non_finite": 1, "not_found": 1}
    assert (manifest.rows, manifest.embedding_dim, manifest.run_id) == (2, 2, RUNS[0])
    assert (counters[metrics.DONE], counters[metrics.FAILED]) == (2, 1)
    bad = next(f for f in read_failures(f"{tmp_path}/failures") if f.key == "c")
    assert (bad.stage, bad.reason, bad.run_id) == ("write", "non_finite", RUNS[0])
    assert files(tmp_path) == [
        "failures/job.json",
        f"failures/part-{RUNS[0]}-00000.jsonl",
        "manifest.json",
        f"part-{RUNS[0]}-00000.parquet",
    ]


def test_a_run_again_replaces_the_rows(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a"), prediction("b")], [failure("x")])
    manifest, keys, _ = write(tmp_path, RUNS[1], [prediction("b"), prediction("c")])
    assert keys == []
    assert {key: row["run_id"] for key, row in rows(tmp_path).items()} == {"b": RUNS[1], "c": RUNS[1]}
    assert manifest.rows == 2
    assert files(tmp_path) == ["failures/job.json", "manifest.json", f"part-{RUNS[1]}-00000.parquet"]


def test_resume_keeps_the_rows_and_says_their_keys(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a"), prediction("b")])
    manifest, keys, _ = write(tmp_path, RUNS[1], [prediction("c")], resume=True, already_done=2)
    assert keys == ["a", "b"]
    assert {key: row["run_id"] for key, row in rows(tmp_path).items()} == {
        "a": RUNS[0],
        "b": RUNS[0],
        "c": RUNS[1],
    }
    assert (manifest.rows, manifest.inputs, manifest.outputs, manifest.already_done) == (3, 3, 1, 2)
    assert len(manifest.parts) == 1


def test_resume_with_nothing_new_leaves_the_parts_alone(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a")])
    manifest, _, _ = write(tmp_path, RUNS[1], [], resume=True, already_done=1)
    assert [part.name for part in manifest.parts] == [f"part-{RUNS[0]}-00000.parquet"]
    assert list(rows(tmp_path)) == ["a"]


def test_resume_makes_rows_of_another_model_again(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a"), prediction("b")])
    plan = output.plan_output(str(tmp_path), RUNS[1], OTHER, resume=True)
    assert plan.differences == ("another model digest (m, now n)",)
    manifest, keys, _ = write(
        tmp_path, RUNS[1], [prediction("a", settings=OTHER)], resume=True, settings=OTHER
    )
    assert keys == []
    assert {key: row["model_digest"] for key, row in rows(tmp_path).items()} == {"a": "n"}
    assert manifest.model_digest == "n"


def test_parts_have_the_size_asked_for_and_large_ones_survive_a_resume(tmp_path):
    first = [prediction(f"a{number:03d}") for number in range(40)]
    manifest, _, _ = write(tmp_path, RUNS[0], first, flush=Flush(most=10), part_bytes=12_000)
    assert [part.rows for part in manifest.parts] == [20, 20]
    assert all(part.bytes == (tmp_path / part.name).stat().st_size for part in manifest.parts)
    later, _, _ = write(tmp_path, RUNS[1], [prediction("b")], resume=True, already_done=40, part_bytes=8_000)
    assert [part.name for part in later.parts[:2]] == [part.name for part in manifest.parts]
    assert len(rows(tmp_path)) == later.rows == 41


def test_no_rows_still_make_a_table_with_columns(tmp_path):
    manifest, _, _ = write(tmp_path, RUNS[0], [], [failure("x")])
    assert (manifest.rows, manifest.inputs, manifest.failed) == (0, 1, 1)
    assert pq.read_table(table.part_paths(str(tmp_path))[0]).schema.names == SETTINGS.schema().names


def test_the_same_key_twice_leaves_one_row(tmp_path):
    manifest, _, _ = write(tmp_path, RUNS[0], [prediction("a"), prediction("a"), prediction("b")])
    assert list(rows(tmp_path)) == ["a", "b"]
    assert manifest.rows == 2


def test_images_that_are_not_accounted_for_are_not_committed(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a")], [failure("x")])
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with pytest.raises(JobError, match="5 images came in, but 1 came out"):
        write(tmp_path, RUNS[1], [prediction("b")], inputs=5)
    assert list(rows(tmp_path)) == ["a"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


# What a run that was killed leaves behind, made by the same functions that a run calls.


def stage(folder, run_id, keys, settings=SETTINGS):
    plan = output.plan_output(str(folder), run_id, settings)
    return parts.stage(
        plan.staging("rows"), [(prediction(key, settings=settings),) for key in keys], settings, run_id
    )


def test_resume_salvages_what_killed_runs_staged(tmp_path):
    stage(tmp_path, RUNS[0], ["a", "b"])
    stage(tmp_path, RUNS[1], ["c"])
    half = tmp_path / ".staging" / RUNS[1] / "rows" / "0123.parquet.12ab34cd.tmp"
    half.write_bytes(b"PAR1 half")
    manifest, keys, _ = write(tmp_path, RUNS[2], [prediction("d")], resume=True, already_done=3)
    assert keys == ["a", "b", "c"]
    assert {key: row["run_id"] for key, row in rows(tmp_path).items()} == {
        "a": RUNS[0],
        "b": RUNS[0],
        "c": RUNS[1],
        "d": RUNS[2],
    }
    assert manifest.rows == 4
    assert not (tmp_path / ".staging").exists()


def test_a_run_without_resume_throws_away_what_killed_runs_staged(tmp_path):
    stage(tmp_path, RUNS[0], ["a", "b"])
    _, keys, _ = write(tmp_path, RUNS[1], [prediction("a")])
    assert keys == []
    assert {key: row["run_id"] for key, row in rows(tmp_path).items()} == {"a": RUNS[1]}
    assert not (tmp_path / ".staging").exists()


def test_resume_leaves_out_what_a_killed_run_of_another_model_staged(tmp_path):
    stage(tmp_path, RUNS[0], ["a"])
    stage(tmp_path, RUNS[1], ["b"], OTHER)
    _, keys, _ = write(tmp_path, RUNS[2], [], resume=True, already_done=1)
    assert keys == ["a"]
    assert list(rows(tmp_path)) == ["a"]


def test_of_a_row_in_the_table_and_staged_too_the_one_in_the_table_stays(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a"), prediction("b")])
    stage(tmp_path, RUNS[1], ["b", "c"])
    stage(tmp_path, RUNS[2], ["c", "d"])
    manifest, _, _ = write(tmp_path, RUNS[3], [], resume=True, already_done=4)
    found = {key: row["run_id"] for key, row in rows(tmp_path).items()}
    assert found == {"a": RUNS[0], "b": RUNS[0], "c": RUNS[1], "d": RUNS[2]}
    assert manifest.rows == 4


def commit_steps(folder, run_id, keys, resume=False):
    """The steps of a run's end, one by one, to be stopped after any of them."""
    plan = output.plan_output(str(folder), run_id, SETTINGS, resume=resume)
    staged = [parts.stage(plan.staging("rows"), [(prediction(key),) for key in keys], SETTINGS, run_id)]
    decided = plan_commit(
        plan, SETTINGS, staged=staged, kept=[], failures=[], inputs=len(keys), already_done=0
    )
    written = [parts.write_part(task, plan.staging("parts"), SETTINGS) for task in decided.tasks]

    def finish():
        return commit(
            plan, SETTINGS, decided, written, letter=FolderLetter(f"{folder}/failures"), job="predict"
        )

    return plan, finish


def test_until_the_commit_nothing_shows_and_doing_the_commit_again_gives_the_same(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a")])
    plan, finish = commit_steps(tmp_path, RUNS[1], ["b", "c"])
    assert list(rows(tmp_path)) == ["a"]
    first = finish()
    assert {path.rpartition("/")[2] for path in table.part_paths(str(tmp_path))} == {
        f"part-{RUNS[1]}-00000.parquet"
    }
    assert finish() == first
    for _ in range(2):
        clean(plan, first, letter=FolderLetter(f"{tmp_path}/failures"))
        assert list(rows(tmp_path)) == ["b", "c"]
    assert not (tmp_path / ".staging").exists()


def test_a_run_killed_between_its_manifest_and_the_cleaning_up_is_cleaned_up_by_the_next(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a")])
    commit_steps(tmp_path, RUNS[1], ["b"])[1]()
    _, keys, _ = write(tmp_path, RUNS[2], [prediction("c")], resume=True, already_done=1)
    assert keys.count("b") >= 1
    assert "a" not in keys
    assert list(rows(tmp_path)) == ["b", "c"]
    assert not (tmp_path / ".staging").exists()


def test_failures_of_the_run_before_count_until_the_manifest_stands(tmp_path, monkeypatch):
    write(tmp_path, RUNS[0], [prediction("a")], [failure("x")])
    _, finish = commit_steps(tmp_path, RUNS[1], ["b", "x"])
    rename = storage.rename

    def killed(source, target):
        if target.endswith("manifest.json"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(storage, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        finish()
    assert table.read_manifest(str(tmp_path)).run_id == RUNS[0]
    assert [failure.key for failure in read_failures(f"{tmp_path}/failures")] == ["x"]
    monkeypatch.undo()
    finish()
    assert list(read_failures(f"{tmp_path}/failures")) == []


def test_a_run_killed_before_its_manifest_leaves_the_table_as_it_was(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a")])
    plan, _ = commit_steps(tmp_path, RUNS[1], ["b"])
    orphan = f"part-{RUNS[1]}-00000.parquet"
    (Path(plan.staging("parts")) / orphan).rename(tmp_path / orphan)
    assert [path.rpartition("/")[2] for path in table.part_paths(str(tmp_path))] == [
        f"part-{RUNS[0]}-00000.parquet"
    ]
    write(tmp_path, RUNS[2], [prediction("c")], resume=True, already_done=2)
    assert list(rows(tmp_path)) == ["a", "b", "c"]


def test_of_two_runs_at_once_the_second_to_commit_changes_nothing(tmp_path):
    _, finish = commit_steps(tmp_path, RUNS[0], ["a"])
    write(tmp_path, RUNS[1], [prediction("b")])
    with pytest.raises(JobError, match=f"run {RUNS[1]} has written"):
        finish()
    assert list(rows(tmp_path)) == ["b"]


def test_one_run_at_a_time_holds_a_folder(tmp_path):
    folder = str(tmp_path / "table")
    with output.hold(folder):
        with pytest.raises(UsageError, match=r"another run is writing to .*process \d+ on "):
            with output.hold(folder):
                pass
        output.plan_output(folder, RUNS[0], SETTINGS)
    with output.hold(folder):
        pass
    assert files(tmp_path) == []


# Where a table may be written.


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"holds 'thesis\.tex'"):
        output.plan_output(str(tmp_path), RUNS[0], SETTINGS)
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "part-00000-of-00001.parquet").write_text("x")
    with pytest.raises(UsageError, match="holds 'part-00000-of-00001"):
        output.plan_output(str(tmp_path), RUNS[0], SETTINGS)


def test_what_somebody_puts_beside_a_table_stays(tmp_path):
    write(tmp_path, RUNS[0], [prediction("a")])
    (tmp_path / "summary.json").write_text("{}")
    write(tmp_path, RUNS[1], [prediction("a")])
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_a_folder_of_another_kind_and_a_file_are_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "beam-vision tfrecords"}))
    with pytest.raises(UsageError, match="manifest of 'beam-vision tfrecords'"):
        output.plan_output(str(tmp_path), RUNS[0], SETTINGS)
    for text, said in (("[]", "manifest of None"), ("x", "no place for a table")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(UsageError, match=said):
            output.plan_output(str(tmp_path), RUNS[0], SETTINGS)
    with pytest.raises(UsageError, match="is a file"):
        output.plan_output(str(tmp_path / "manifest.json"), RUNS[0], SETTINGS)


@pytest.mark.parametrize("folder", ["pubsub://projects/p/topics/t"])
def test_destinations_that_are_not_there_yet(folder):
    with pytest.raises(UsageError, match="not a destination yet"):
        output.plan_output(folder, RUNS[0], SETTINGS)


def test_dofns_travel_to_workers():
    plan = output.OutputPlan(folder="/t", run_id=RUNS[0])
    for fn in (StageRows(plan, SETTINGS, Flush()), StageFailures("/f", RUNS[0])):
        assert type(pickle.loads(pickle.dumps(fn))) is type(fn)
