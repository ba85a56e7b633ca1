"""Whole jobs whose work is done by two other processes: the same result as in one, to the last row."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_vision import metrics, table
from beam_vision.pipelines import cli
from beam_vision.records.manifest import read_manifest
from beam_vision.sinks.failures import read_failures
from beam_vision.sinks.transforms import WriteTable
from beam_vision.synth import layout
from beam_vision.testing import detectors, images, models
from beam_vision.testing.detections import write_coco
from beam_vision.types import Box


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("models") / "colours"))


def plainly(argv):
    assert cli.main([*map(str, argv)]) == 0


def failures_in(folder):
    return {(failure.key, failure.reason) for failure in read_failures(str(folder))}


def rows(folder):
    """By key, without what names the run; each key once, and all accounts closed."""
    found = [row for path in table.part_paths(str(folder)) for row in pq.read_table(path).to_pylist()]
    by_key = {row["key"]: {name: row[name] for name in row if name != "run_id"} for row in found}
    manifest = table.read_manifest(str(folder))
    assert len(by_key) == len(found) == manifest.rows
    assert manifest.inputs == manifest.outputs + manifest.failed + manifest.already_done
    return by_key


def test_a_dataset_is_the_same_to_the_byte(shared, lake, tmp_path):
    argv = ["create-tfrecords", "--images", lake, "--splits", "train=0.5,test=0.5"]
    argv += ["--target_shard_bytes", "20000"]
    plainly([*argv, "--output", tmp_path / "plain"])
    assert shared([*argv, "--output", tmp_path / "shared"], total=18) == 0
    made, plain = (read_manifest(str(tmp_path / name)) for name in ("shared", "plain"))
    assert (made.inputs, made.outputs, made.failed) == (20, 18, 2)
    assert (made.inputs, made.outputs, made.failed_by_reason) == (
        plain.inputs,
        plain.outputs,
        plain.failed_by_reason,
    )
    assert len(made.shards) >= 4
    assert made.dataset_digest == plain.dataset_digest
    for name in made.shards:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert failures_in(tmp_path / "shared/failures") == failures_in(tmp_path / "plain/failures") != set()


def test_a_dataset_is_verified_there_too(shared, pools, lake, tmp_path, capfd):
    out, report = tmp_path / "data", tmp_path / "report"
    plainly(["create-tfrecords", "--images", lake, "--output", out, "--target_shard_bytes", "20000"])
    argv = ["verify-tfrecords", str(out), "--report", str(report), *pools.beam_args]
    assert cli.main(argv) == 0
    shard = sorted(read_manifest(str(out)).shards)[0]
    damaged = bytearray((out / shard).read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (out / shard).write_bytes(damaged)
    assert cli.main(argv) == 1
    assert shard in "".join(capfd.readouterr())


@pytest.mark.parametrize("task", ["classify", "embed"])
def test_predictions_are_the_same(shared, lake, model, tmp_path, task):
    argv = ["predict", "--task", task, "--images", lake, "--model", model, "--no-check_model"]
    argv += ["--with_embedding"] if task == "classify" else []
    plainly([*argv, "--output", tmp_path / "plain"])
    assert shared([*argv, "--output", tmp_path / "shared"], by=metrics.INFERRED, total=18) == 0
    made = rows(tmp_path / "shared")
    assert len(made) == 18
    assert made == rows(tmp_path / "plain")
    assert failures_in(tmp_path / "shared/failures") == failures_in(tmp_path / "plain/failures") != set()
    assert shared([*argv, "--output", tmp_path / "shared", "--resume"], by=metrics.LISTED) == 0
    assert table.read_manifest(str(tmp_path / "shared")).already_done == 18
    assert rows(tmp_path / "shared") == made


def test_predictions_of_a_dataset(shared, lake, model, tmp_path):
    data = tmp_path / "data"
    plainly(["create-tfrecords", "--images", lake, "--output", data, "--target_shard_bytes", "20000"])
    argv = ["predict", "--task", "embed", "--images", data, "--model", model, "--no-check_model"]
    plainly([*argv, "--output", tmp_path / "plain"])
    assert shared([*argv, "--output", tmp_path / "shared"], by=metrics.INFERRED, total=18) == 0
    assert rows(tmp_path / "shared") == rows(tmp_path / "plain")


def neighbours(index, key, capfd):
    capfd.readouterr()
    argv = ["search", "--index", str(index), "--key", key, "--k", "5", "--output_format", "json"]
    assert cli.main(argv) == 0
    return [(one["key"], one["score"]) for one in json.loads(capfd.readouterr().out)]


def test_a_table_of_several_parts_and_an_index_of_it_in_shards(
    shared, lake, model, tmp_path, capfd, monkeypatch
):
    argv = ["predict", "--task", "embed", "--images", lake, "--model", model, "--no-check_model"]
    plainly([*argv, "--output", tmp_path / "one"])
    monkeypatch.setitem(WriteTable.__init__.__kwdefaults__, "part_bytes", 4000)
    argv += ["--output", tmp_path / "table", "--flush_sec", 0]
    assert shared(argv, by=metrics.INFERRED, total=18) == 0
    parts = [pq.read_table(path)["key"].to_pylist() for path in table.part_paths(str(tmp_path / "table"))]
    assert len(parts) >= 2
    assert all(keys and keys == sorted(keys) for keys in parts)
    assert rows(tmp_path / "table") == rows(tmp_path / "one")
    argv = ["build-index", "--table", tmp_path / "table", "--backend", "exact", "--output"]
    plainly([*argv, tmp_path / "plain"])
    assert shared([*argv, tmp_path / "shards", "--shards", 4], total=18) == 0
    for key in sorted(rows(tmp_path / "table"))[::6]:
        assert neighbours(tmp_path / "shards", key, capfd) == neighbours(tmp_path / "plain", key, capfd)


def test_detections_are_the_same_and_are_evaluated_there_too(shared, tmp_path):
    drawn = {"red": (10, 8, 30, 20), "blue": (64, 30, 128, 64), "green": (100, 2, 120, 12)}
    lake, truth = tmp_path / "lake", {}
    lake.mkdir()
    for number in range(12):
        some = dict(list(drawn.items())[: number % 4])
        truth[f"{number:02d}.png"] = [Box(*map(float, box), label) for label, box in some.items()]
        (lake / f"{number:02d}.png").write_bytes(images.encode(detectors.scene(64, 128, **some), "png"))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(detectors.LABELS))
    model = detectors.save_saved_model(str(tmp_path / "boxes"))
    argv = ["predict", "--task", "detect", "--images", lake, "--model", model, "--no-check_model"]
    argv += ["--class_names", names]
    plainly([*argv, "--output", tmp_path / "plain"])
    assert shared([*argv, "--output", tmp_path / "shared"], total=12) == 0
    made = rows(tmp_path / "shared")
    assert made == rows(tmp_path / "plain")
    assert sorted(len(row["boxes"]) for row in made.values()) == sorted(number % 4 for number in range(12))

    write_coco(str(tmp_path / "truth.json"), truth, size_px=(128, 64))
    argv = ["evaluate", "--task", "detect", "--predictions", tmp_path / "shared", "--image_root", lake]
    argv += ["--truth", tmp_path / "truth.json"]
    plainly([*argv, "--output", tmp_path / "plain-report"])
    assert shared([*argv, "--output", tmp_path / "report"], total=12) == 0
    said, plain = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("report", "plain-report")
    )
    assert said["metrics"]["mAP"] > 0.9
    assert said | {"run_id": ""} == plain | {"run_id": ""}


def test_synthetic_scenes_are_the_same_to_the_byte(shared, tmp_path):
    count = 2 * layout.CHUNK + 1
    for folder, mode, number in (("cutouts/disc", "RGBA", 2), ("backgrounds", "RGB", 2)):
        (tmp_path / folder).mkdir(parents=True)
        for one in range(number):
            Image.new(mode, (40, 30), (40 * one, 90, 200)).save(tmp_path / folder / f"{one}.png")
    argv = ["synth-detection", "--count", count, "--size", "48x32", "--cutouts", tmp_path / "cutouts"]
    argv += ["--backgrounds", tmp_path / "backgrounds", "--output"]
    plainly([*argv, tmp_path / "plain"])
    assert shared([*argv, tmp_path / "shared"], total=count) == 0
    names = [path.relative_to(tmp_path / "plain") for path in tmp_path.glob("plain/images/*")]
    assert len(names) == count
    for name in [*names, "annotations.json"]:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_redrive_does_only_what_failed(shared, lake, model, tmp_path):
    own, out = tmp_path / "lake", tmp_path / "table"
    own.mkdir()
    for number, path in enumerate(sorted((lake / "green").iterdir())):
        (own / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    whole = {path: path.read_bytes() for path in sorted(own.iterdir())[:2]}
    for path in whole:
        path.write_bytes(b"")
    argv = ["--task", "embed", "--images", own, "--model", model, "--no-check_model", "--output", out]
    assert shared(["predict", *argv], total=4) == 0
    before = rows(out)
    for path, data in whole.items():
        path.write_bytes(data)
    assert shared(["redrive", *argv, "--failures", out / "failures"], both=False, total=2) == 0
    assert {Path(key) for key in rows(out).keys() - before.keys()} == set(whole)


def test_what_a_worker_refuses_is_said_in_a_line(pools, model, tmp_path, capfd):
    (tmp_path / "void").mkdir()
    argv = ["predict", "--task", "embed", "--images", str(tmp_path / "void"), "--model", model]
    argv += ["--no-check_model", "--output", str(tmp_path / "table"), *pools.beam_args]
    assert cli.main(argv) == 1
    said = capfd.readouterr().err
    assert "failed: no images came in" in said
    assert "Traceback" not in said
