"""``beam-vision redrive``: just what failed, once more."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_vision import metrics, table
from beam_vision.pipelines import cli
from beam_vision.records.manifest import read_manifest
from beam_vision.sinks.failures import read_failures, read_job
from beam_vision.testing import images, models


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("models") / "colours"))


@pytest.fixture
def lake(tmp_path):
    """Four good images and three that are broken."""
    images.make_lake(tmp_path / "lake", classes=("red", "blue"), per_class=2)
    for name in ("a", "b", "c"):
        (tmp_path / "lake" / "red" / f"broken_{name}.png").write_bytes(b"nothing of an image")
    return tmp_path / "lake"


@pytest.fixture
def job(lake, model, tmp_path):
    """Runs ``predict``, or ``redrive`` with the same options."""

    def run(name, *more):
        argv = [name, "--task", "classify", "--images", str(lake), "--model", model, "--no-check_model"]
        return cli.main([*argv, "--output", str(tmp_path / "table"), *map(str, more)])

    return run


def rows(folder):
    found = [row for path in Path(folder).glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len({row["key"] for row in found}) == len(found)
    return {row["key"]: row for row in found}


def repair(path):
    path.write_bytes(images.encode(images.photo(1, 20, 10), "png"))


def test_what_was_repaired_joins_the_table_and_the_rest_stays_in_the_dead_letter(job, lake, tmp_path, capfd):
    failures, summary = tmp_path / "table" / "failures", tmp_path / "summary.json"
    assert job("predict") == 0
    before = rows(tmp_path / "table")
    repair(lake / "red" / "broken_a.png")
    (lake / "red" / "broken_b.png").unlink()

    assert job("redrive", "--failures", failures, "--summary", summary) == 0
    found = rows(tmp_path / "table")
    assert {key: found[key] for key in before} == before
    assert found.keys() - before.keys() == {str(lake / "red" / "broken_a.png")}
    assert metrics.TALLY.counts()[metrics.INFERRED] == 1
    said = json.loads(summary.read_text())
    assert (said["job"], said["inputs"], said["outputs"], said["failed"]) == ("redrive", 3, 1, 2)
    left = {Path(f.key).name: f for f in read_failures(str(failures))}
    assert {name: (f.reason, f.attempt, f.run_id) for name, f in left.items()} == {
        "broken_b.png": ("no_longer_listed", 2, said["run_id"]),
        "broken_c.png": ("not_an_image", 2, said["run_id"]),
    }

    repair(lake / "red" / "broken_b.png")
    repair(lake / "red" / "broken_c.png")
    assert job("redrive", "--failures", failures) == 0
    assert len(rows(tmp_path / "table")) == 7
    assert list(read_failures(str(failures))) == []

    assert job("redrive", "--failures", failures) == 0
    assert "nothing to redrive" in capfd.readouterr().err
    assert len(rows(tmp_path / "table")) == 7
    manifest = table.read_manifest(str(tmp_path / "table"))
    assert (manifest.rows, manifest.inputs, manifest.outputs) == (7, 2, 2)


def test_when_everything_fails_again_it_says_so(job, tmp_path, capfd):
    failures = tmp_path / "table" / "failures"
    assert job("predict") == 0
    assert job("redrive", "--failures", failures) == 1
    assert "all 3 failed" in capfd.readouterr().err
    assert {f.attempt for f in read_failures(str(failures))} == {2}
    assert len(rows(tmp_path / "table")) == 4


def test_failures_in_another_folder_without_a_record_of_the_job(job, lake, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    assert job("predict", "--failures", elsewhere) == 0
    assert not (tmp_path / "table" / "failures").exists()
    (elsewhere / "job.json").unlink()
    repair(lake / "red" / "broken_a.png")
    assert job("redrive", "--failures", elsewhere) == 0
    assert len(rows(tmp_path / "table")) == 5
    assert read_job(str(elsewhere))["job"] == "predict"
    assert len(list(read_failures(str(elsewhere)))) == 2


def test_the_same_image_listed_twice_fails_again_and_its_row_stays(job, lake, model, tmp_path):
    path = lake / "blue" / "0000.jpg"
    listing = tmp_path / "list.csv"
    listing.write_text(f"uri,label\n{path},blue\n{path},red\n")
    argv = ["--task", "embed", "--images", str(listing), "--model", model, "--no-check_model"]
    argv += ["--output", str(tmp_path / "table")]
    assert cli.main(["predict", *argv]) == 0
    before = rows(tmp_path / "table")
    summary = tmp_path / "summary.json"
    failures = ["--failures", str(tmp_path / "table" / "failures")]
    assert cli.main(["redrive", *argv, *failures, "--summary", str(summary)]) == 0
    said = json.loads(summary.read_text())
    assert (said["inputs"], said["already_done"], said["failed_by_reason"]) == (2, 1, {"duplicate_key": 1})
    assert rows(tmp_path / "table") == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--top_k", "2"], "was made with other labels, or another top_k"),
        (["--resize", "letterbox"], "was made with another preprocessing digest"),
        (["--limit", "1"], "--limit doesn't go with redrive"),
        (["--job", "create-tfrecords"], "holds failures of 'predict'"),
    ],
)
def test_options_that_do_not_fit_the_run_that_failed_change_nothing(job, tmp_path, capfd, more, said):
    failures = tmp_path / "table" / "failures"
    assert job("predict") == 0
    before = rows(tmp_path / "table"), list(read_failures(str(failures)))
    assert job("redrive", "--failures", failures, *more) == 2
    assert said in capfd.readouterr().err
    assert (rows(tmp_path / "table"), list(read_failures(str(failures)))) == before


def test_a_dead_letter_that_is_none(job, tmp_path, capfd):
    assert job("redrive", "--failures", tmp_path / "absent") == 2
    assert "no failures at" in capfd.readouterr().err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jsonl").write_text('{"key": 1}\n')
    assert job("redrive", "--failures", tmp_path / "bad") == 2
    assert "a.jsonl line 1" in capfd.readouterr().err
    assert job("redrive", "--failures", tmp_path / "bad" / "a.jsonl") == 2
    assert "give the folder" in capfd.readouterr().err


def test_failures_of_a_dataset_are_redriven_into_it(lake, tmp_path):
    dataset = tmp_path / "dataset"
    argv = ["--images", str(lake), "--output", str(dataset)]
    assert cli.main(["create-tfrecords", *argv]) == 0
    assert read_job(str(dataset / "failures"))["total"] == 3
    repair(lake / "red" / "broken_a.png")
    assert cli.main(["redrive", *argv, "--failures", str(dataset / "failures")]) == 0
    assert [failure.attempt for failure in read_failures(str(dataset / "failures"))] == [2, 2]
    assert read_manifest(str(dataset)).images == 5


def test_preflight_says_how_many_would_be_redriven(job, tmp_path, capfd):
    assert job("predict") == 0
    before = sorted(tmp_path.rglob("*"))
    capfd.readouterr()
    failures = tmp_path / "table" / "failures"
    assert job("redrive", "--failures", failures, "--preflight_only") == 0
    assert json.loads(capfd.readouterr().out)["redrives"] == 3
    assert sorted(tmp_path.rglob("*")) == before
