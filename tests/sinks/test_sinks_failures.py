"""The dead letter: what is written is read back, and each run's replaces the one before."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.sinks import failures as dead_letter
from beam_vision.sinks.staging import Flush
from beam_vision.sinks.transforms import StageFailures, WriteFailures
from beam_vision.testing.pipelines import collect
from beam_vision.types import Failure


def made(number, reason="not_found"):
    return Failure(f"k{number}", f"/lake/k{number}", "read", reason, "it isn't there", 2, "run")


def write(folder, failures, run_id, job="predict"):
    import apache_beam as beam

    found = collect(lambda p: p | beam.Create(failures) | WriteFailures(str(folder), run_id=run_id, job=job))
    assert len(found) == 1
    return found[0]


def test_what_is_written_is_read_back(tmp_path):
    failures = [made(2), made(1, "truncated"), made(3)]
    assert write(tmp_path, failures, "r1") == {
        "total": 3,
        "by_reason": {"not_found": 2, "truncated": 1},
        "files": ["part-r1-00000.jsonl"],
    }
    assert list(dead_letter.read_failures(str(tmp_path))) == sorted(failures, key=lambda f: f.key)
    lines = (tmp_path / "part-r1-00000.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "key": "k1",
        "uri": "/lake/k1",
        "stage": "read",
        "reason": "truncated",
        "detail": "it isn't there",
        "attempt": 2,
        "run_id": "run",
    }
    job = dead_letter.read_job(str(tmp_path))
    assert (job["job"], job["run_id"], job["total"]) == ("predict", "r1", 3)


def test_a_run_replaces_the_failures_of_the_one_before_also_with_none(tmp_path):
    write(tmp_path, [made(1), made(2)], "r1")
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, [made(3)], "r2")
    assert [failure.key for failure in dead_letter.read_failures(str(tmp_path))] == ["k3"]
    assert write(tmp_path, [], "r3") == {"total": 0, "by_reason": {}, "files": []}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", "notes.txt"]


def test_parts_are_closed_once_they_are_large_enough(tmp_path):
    folder = str(tmp_path)
    staged = [dead_letter.stage(folder, "r", [made(number)]) for number in range(5)]
    summary = dead_letter.write_parts(folder, "r", staged, part_bytes=200)
    assert summary["files"] == [f"part-r-0000{number}.jsonl" for number in range(3)]
    assert {failure.key for failure in dead_letter.read_failures(folder)} == {f"k{n}" for n in range(5)}
    assert dead_letter.write_parts(folder, "r", staged, part_bytes=200) == summary


def test_many_failures_are_staged_as_they_come(tmp_path):
    import apache_beam as beam

    flush = Flush(most=4)
    staged = collect(
        lambda p: (
            p
            | beam.Create([made(n) for n in range(10)], reshuffle=False)
            | beam.ParDo(StageFailures(str(tmp_path), "r", flush))
        )
    )
    assert sum(dead_letter.count(staged).values()) == 10
    assert max(sum(item.by_reason.values()) for item in staged) == 4


def test_job_json_says_which_files_count(tmp_path):
    folder = str(tmp_path)
    for number in (1, 2, 3):
        summary = dead_letter.write_parts(
            folder, f"r{number}", [dead_letter.stage(folder, "r", [made(number)])]
        )
        if number < 3:
            dead_letter.record(folder, f"r{number}", summary)
    assert [failure.key for failure in dead_letter.read_failures(folder)] == ["k2"]
    (tmp_path / "part-r2-00000.jsonl").unlink()
    with pytest.raises(UsageError, match=r"lack part-r2-00000\.jsonl"):
        list(dead_letter.read_failures(folder))


def test_a_file_and_a_folder_made_elsewhere_are_read_too(tmp_path):
    line = dead_letter.to_line(made(1)).decode()
    (tmp_path / "a.jsonl").write_text(line + "\n" + dead_letter.to_line(made(2)).decode())
    assert [failure.key for failure in dead_letter.read_failures(str(tmp_path / "a.jsonl"))] == ["k1", "k2"]
    assert [failure.key for failure in dead_letter.read_failures(str(tmp_path))] == ["k1", "k2"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"key": "k", "uri": "u", "stage": "read", "reason": "r"}', "no field 'detail'"),
        ('{"key": 1, "uri": "u", "stage": "read", "reason": "r", "detail": ""}', "'key' is 1"),
        ('{"key": "k", "uri": "u", "stage": "s", "reason": "r", "detail": "", "attempt": "2"}', "'attempt'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = tmp_path / "a.jsonl"
    path.write_text(dead_letter.to_line(made(1)).decode() + line + "\n")
    with pytest.raises(UsageError, match=f"a.jsonl line 2: .*{said}"):
        list(dead_letter.read_failures(str(path)))


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match="no failures at"):
        list(dead_letter.read_failures(str(tmp_path / "absent")))


def test_a_job_json_of_something_else_is_refused(tmp_path):
    (tmp_path / "job.json").write_text('{"kind": "other"}')
    with pytest.raises(UsageError, match=r"is not the job\.json"):
        dead_letter.read_job(str(tmp_path))


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, texts, st.integers(1, 9))
def test_any_failure_fits_on_one_line(key, uri, detail, attempt):
    failure = Failure(key, uri, "read", "not_found", detail, attempt, "run")
    line = dead_letter.to_line(failure)
    assert line.count(b"\n") == 1
    assert dead_letter.from_line(line) == failure
