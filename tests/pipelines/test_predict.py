"""``beam-vision predict`` end to end, against plain Python on the same images."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_vision import metrics, table
from beam_vision.images import codec
from beam_vision.pipelines import cli
from beam_vision.sinks.failures import read_failures
from beam_vision.testing import images, models
from beam_vision.tfrecord_io import Example, write_record

pytestmark = pytest.mark.usefixtures("warm_children")

BROKEN = {"cut.jpg": "truncated", "empty.png": "empty", "text.jpg": "not_an_image"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("models") / "colours"))


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Twelve good images of mixed formats in three classes, and three broken ones."""
    folder = tmp_path_factory.mktemp("lake")
    images.make_lake(folder, per_class=4)
    hostile = images.hostile_files()
    (folder / "red" / "cut.jpg").write_bytes(hostile["cut.jpeg"][0])
    (folder / "red" / "empty.png").write_bytes(b"")
    (folder / "blue" / "text.jpg").write_bytes(b"this is not an image\n")
    return folder


@pytest.fixture
def predict(model, tmp_path):
    """Runs the job on the command line's own way, but for the check of the model in a child process."""

    def run(lake, *more, output=tmp_path / "table", task="classify", model=model):
        argv = ["predict", "--task", task, "--images", str(lake), "--model", model, "--no-check_model"]
        return cli.main([*argv, "--output", str(output), *map(str, more)])

    return run


def rows(folder):
    """What somebody sees who just reads every Parquet file, by key; none may be there twice."""
    found = [
        row for path in sorted(Path(folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    by_key = {row["key"]: row for row in found}
    assert len(by_key) == len(found)
    manifest = table.read_manifest(str(folder))
    assert manifest.rows == len(found)
    assert manifest.inputs == manifest.outputs + manifest.failed + manifest.already_done
    return by_key


def without_run_ids(found):
    return {key: {name: row[name] for name in row if name != "run_id"} for key, row in found.items()}


def run_ids(found):
    return {row["run_id"] for row in found.values()}


def good_files(lake):
    return [path for path in sorted(lake.rglob("*")) if path.is_file() and path.name not in BROKEN]


def expected_of(path):
    """Scores and embedding of one file, with the same decoder and NumPy alone."""
    settings = codec.DecodeSettings(height_px=models.SIDE_PX, width_px=models.SIDE_PX)
    image = codec.decode(path.read_bytes(), settings)
    x = image.pixels[None].astype(np.float32) / 255
    logits = models.scores(x)[0]
    scores = np.exp(logits - logits.max())
    vector = models.embedding(x)[0]
    return image, scores / scores.sum(), vector / np.linalg.norm(vector)


def test_every_row_says_what_plain_python_says(predict, lake, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(models.LABELS))
    summary, measured = tmp_path / "summary.json", tmp_path / "metrics.json"
    told = ("--summary", summary, "--metrics_file", measured)
    assert predict(lake, "--with_embedding", "--class_names", names, "--top_k", 3, *told) == 0
    found = rows(tmp_path / "table")
    assert list(found) == [str(path) for path in good_files(lake)]
    for path in good_files(lake):
        row, (image, scores, vector) = found[str(path)], expected_of(path)
        order = np.argsort(-scores)[:3]
        assert [item["label"] for item in row["predictions"]] == [models.LABELS[i] for i in order]
        np.testing.assert_allclose([item["score"] for item in row["predictions"]], scores[order], atol=1e-5)
        assert (row["prediction"], row["score"]) == tuple(row["predictions"][0].values())
        np.testing.assert_allclose(row["embedding"], vector, atol=1e-5)
        assert (row["uri"], row["label"], row["attributes"]) == (str(path), path.parent.name, [])
        assert (row["width"], row["height"]) == (image.width_px, image.height_px)
    said = json.loads(summary.read_text())
    assert (said["inputs"], said["outputs"], said["failed"]) == (15, 12, 3)
    assert said["failed_by_reason"] == dict.fromkeys(BROKEN.values(), 1)
    assert said["images_per_sec"] > 0
    assert run_ids(found) == {said["run_id"]}
    digests = {(row["model_digest"], row["preprocessing_digest"]) for row in found.values()}
    assert digests == {(said["digests"]["model"], said["digests"]["preprocessing"])}
    failures = {Path(f.key).name: f.reason for f in read_failures(str(tmp_path / "table/failures"))}
    assert failures == BROKEN
    check_metrics(json.loads(measured.read_text()), said, lake)


def check_metrics(measured, said, lake):
    """What the file of metrics says agrees with the summary and with the files."""
    assert (measured["job"], measured["run_id"], measured["runner"]) == (
        "predict",
        said["run_id"],
        "FnApiRunner",
    )
    assert measured["accounts"]["failed_by_reason"] == said["failed_by_reason"]
    counters = {name: one["value"] for name, one in measured["counters"].items()}
    assert {name: counters[name] for name in ("images_listed", "images_inferred", "images_done")} == {
        **{"images_listed": 15, "images_inferred": 12, "images_done": 12}
    }
    assert counters["bytes_read"] == sum(path.stat().st_size for path in good_files(lake)) + sum(
        path.stat().st_size for path in lake.rglob("*") if path.name in BROKEN
    )
    assert measured["distributions"]["batch_size"]["sum"] == 12
    assert measured["stage_sec"] == said["stage_sec"]
    assert 0 <= measured["model_waited_share"] <= 1
    assert measured["rates"]["model_images_per_sec"] > 0
    assert measured["cost"] == {"usd": None, "why": "FnApiRunner doesn't count what is billed"}


def test_embed_writes_vectors_and_no_labels(predict, lake, tmp_path):
    assert predict(lake, task="embed") == 0
    found = rows(tmp_path / "table")
    assert not {"prediction", "score", "predictions"} & set(next(iter(found.values())))
    for path in good_files(lake):
        np.testing.assert_allclose(found[str(path)]["embedding"], expected_of(path)[2], atol=1e-5)
    assert table.read_manifest(str(tmp_path / "table")).embedding_dim == models.EMBEDDING_DIM


def test_a_run_again_replaces_every_row_and_resume_replaces_none(predict, lake, tmp_path):
    assert predict(lake) == 0
    first = rows(tmp_path / "table")
    assert predict(lake) == 0
    again = rows(tmp_path / "table")
    assert without_run_ids(again) == without_run_ids(first)
    assert not run_ids(again) & run_ids(first)
    assert predict(lake, "--resume", "--summary", tmp_path / "summary.json") == 0
    assert rows(tmp_path / "table") == again
    said = json.loads((tmp_path / "summary.json").read_text())
    assert (said["inputs"], said["outputs"], said["already_done"], said["failed"]) == (15, 0, 12, 3)
    assert metrics.TALLY.counts().get(metrics.INFERRED, 0) == 0


def test_limit_takes_the_first_by_key_and_resume_adds_the_rest(predict, lake, tmp_path):
    assert predict(lake, "--limit", 3) == 0
    first = rows(tmp_path / "table")
    everything = sorted(str(path) for path in lake.rglob("*.*"))
    assert set(first) == set(everything[:3]) - {str(lake / "blue" / "text.jpg")}
    assert predict(lake, "--resume") == 0
    found = rows(tmp_path / "table")
    assert {key: found[key] for key in first} == first
    assert len(found) == 12
    assert len(run_ids(found)) == 2


@pytest.mark.parametrize("change", [["--resize", "letterbox"], ["--top_k", "2"]])
def test_resume_makes_rows_of_other_settings_again(predict, lake, tmp_path, capfd, change):
    assert predict(lake) == 0
    first = rows(tmp_path / "table")
    assert predict(lake, "--resume", *change) == 0
    found = rows(tmp_path / "table")
    assert found.keys() == first.keys()
    assert not run_ids(found) & run_ids(first)
    assert "its rows are made again" in capfd.readouterr().err
    assert predict(lake, *change, output=tmp_path / "other") == 0
    assert without_run_ids(rows(tmp_path / "other")) == without_run_ids(found)


def write_small_images(folder, count):
    folder.mkdir()
    for number, rgb in enumerate(np.random.default_rng(0).integers(0, 256, (count, 3), dtype=np.uint8)):
        pixels = np.broadcast_to(rgb, (8, 8, 3))
        (folder / f"{number:04d}.png").write_bytes(images.encode(np.ascontiguousarray(pixels), "png"))


def start_and_kill(warm, lake, model, output):
    """Kills a run, so that nothing of it can tidy up, once its first row is staged; gives what it staged."""
    argv = ["-m", "beam_vision.pipelines.cli", "predict", "--task", "classify"]
    argv += ["--images", str(lake), "--model", model, "--no-check_model", "--output", str(output)]
    child = warm.start([*argv, "--flush_sec", "0"])
    deadline = time.monotonic() + 120
    while not list(output.glob(".staging/*/rows/*.parquet")):
        assert child.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    return [pq.read_table(path).to_pylist() for path in output.glob(".staging/*/rows/*.parquet")]


def test_a_killed_run_is_resumed_and_only_what_it_had_not_written_is_computed_again(
    warm, predict, model, tmp_path
):
    lake, output = tmp_path / "lake", tmp_path / "table"
    write_small_images(lake, 300)
    staged = {row["key"]: row for file in start_and_kill(warm, lake, model, output) for row in file}
    assert 0 < len(staged) < 300
    assert list(output.glob("*.parquet")) == []
    assert table.read_manifest(str(output)) is None

    assert predict(lake, "--resume") == 0
    found = rows(output)
    assert {key: found[key] for key in staged} == staged
    assert metrics.TALLY.counts()[metrics.INFERRED] == 300 - len(staged)
    manifest = table.read_manifest(str(output))
    assert (manifest.inputs, manifest.already_done) == (300, len(staged))
    assert sorted(path.name for path in output.iterdir()) == [
        "failures",
        "manifest.json",
        manifest.parts[0].name,
    ]

    assert predict(lake, output=tmp_path / "uninterrupted") == 0
    assert without_run_ids(found) == without_run_ids(rows(tmp_path / "uninterrupted"))


def test_too_many_failures_end_in_1_with_everything_written(predict, lake, tmp_path, capfd):
    assert predict(lake, "--max_failure_rate", 0.1) == 1
    assert "3 of 15 images failed (20.0%)" in capfd.readouterr().err
    assert len(rows(tmp_path / "table")) == 12
    assert len(list(read_failures(str(tmp_path / "table/failures")))) == 3


def test_nothing_coming_in_or_out_ends_in_1(predict, lake, tmp_path, capfd):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"nothing of an image")
    assert predict(tmp_path / "broken") == 1
    assert "no image came through: all 1 failed" in capfd.readouterr().err
    assert rows(tmp_path / "table") == {}
    (tmp_path / "void").mkdir()
    assert predict(tmp_path / "void", output=tmp_path / "new") == 1
    assert "no images came in" in capfd.readouterr().err


def test_nothing_coming_in_does_not_empty_a_table(predict, lake, tmp_path, capfd):
    assert predict(lake) == 0
    before = rows(tmp_path / "table")
    (tmp_path / "void").mkdir()
    assert predict(tmp_path / "void") == 1
    assert "was left as it is" in capfd.readouterr().err
    assert rows(tmp_path / "table") == before


def test_preflight_says_what_would_be_done_and_does_nothing(predict, lake, tmp_path, capfd):
    assert predict(lake, "--preflight_only", "--with_embedding") == 0
    plan = json.loads(capfd.readouterr().out)
    assert plan["output_holds"] == "no table"
    assert plan["embedding_dim"] == models.EMBEDDING_DIM
    assert plan["images"] == {"format": "folder", "paths": [str(lake)]}
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--output", "bigquery://p.d.t"], "is not a table of BigQuery: 'p' is not a project's id"),
        (["--output", "pubsub://projects/p/topics/t"], "not a destination yet"),
        (["--output", "nowhere://bucket/table"], "no place for a table"),
        (["--images", "/nowhere"], "/nowhere does not exist"),
        (["--model", "/nowhere"], "no model at /nowhere"),
        (["--flush_sec", "-1"], "--flush_sec is -1"),
        (["--top_k", "0"], "--top_k is 0"),
        (["--scores_output", "none"], "has no output 'none'"),
        (["--outputs", "x"], "did you mean --output"),
    ],
)
def test_wrong_arguments_end_in_2_and_are_named(predict, lake, tmp_path, capfd, more, said):
    assert predict(lake, *more) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "table").exists()


def test_folders_that_are_no_place_for_a_table(predict, lake, tmp_path, capfd):
    assert predict(lake, output=lake / "red" / "table") == 2
    assert "lies within --images" in capfd.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert predict(lake, output=tmp_path) == 2
    assert "holds 'notes.txt'" in capfd.readouterr().err
    assert predict(lake, "--failures", tmp_path / "notes.txt") == 2
    assert "is a file; give a folder" in capfd.readouterr().err
    assert predict(lake, "--failures", tmp_path / "table") == 2
    assert "--failures and --output are both" in capfd.readouterr().err


def test_a_second_run_at_the_same_time_is_refused(predict, lake, tmp_path, capfd):
    from beam_vision.sinks.output import hold

    with hold(str(tmp_path / "table")):
        assert predict(lake) == 2
    assert "another run is writing" in capfd.readouterr().err
    assert predict(lake) == 0


def test_a_bucket_as_destination(predict, lake, gcs, tmp_path):
    folder = f"{gcs}/{tmp_path.name}/table"
    assert predict(lake, output=folder) == 0
    assert predict(lake, "--resume", output=folder) == 0
    manifest = table.read_manifest(folder)
    assert (manifest.rows, manifest.already_done, manifest.failed) == (12, 12, 3)
    assert predict(lake, output=folder) == 0
    from beam_vision import storage

    left = [path[len(folder) + 1 :] for path in storage.list_tree(folder)]
    run_id = table.read_manifest(folder).run_id
    assert left == [
        "failures/job.json",
        f"failures/part-{run_id}-00000.jsonl",
        "manifest.json",
        f"part-{run_id}-00000.parquet",
    ]


def test_a_model_that_decodes_for_itself(predict, tmp_path):
    """Flat images, which every decoder and every resize gives alike."""
    write_small_images(tmp_path / "lake", 5)
    model = models.save_image_bytes_model(str(tmp_path / "bytes"))
    assert predict(tmp_path / "lake", model=model, task="embed") == 0
    for key, row in rows(tmp_path / "table").items():
        np.testing.assert_allclose(row["embedding"], expected_of(Path(key))[2], atol=1e-5)


def write_dataset(folder, files):
    """A TFRecord dataset of another's making: two shards, and a record that is damaged."""
    folder.mkdir()
    records = []
    for path in files:
        example = Example()
        feature = example.features.feature
        feature["image/encoded"].bytes_list.value.append(path.read_bytes())
        feature["image/key"].bytes_list.value.append(path.name.encode())
        feature["image/class/text"].bytes_list.value.append(b"colour")
        records.append(example.SerializeToString())
    half = len(records) // 2
    for number, shard in enumerate((records[:half], [b"\xff\xff", *records[half:]])):
        with open(folder / f"train-{number:05d}-of-00002.tfrecord", "wb") as file:
            for record in shard:
                write_record(file, record)


@pytest.mark.parametrize("kind", ["pixels", "tf_example"])
def test_a_tfrecord_dataset(predict, model, tmp_path, kind):
    """Decoded by us, or by a model that takes whole records (through tfx-bsl)."""
    write_small_images(tmp_path / "lake", 5)
    write_dataset(tmp_path / "data", sorted((tmp_path / "lake").iterdir()))
    if kind == "tf_example":
        model = models.save_example_model(str(tmp_path / "examples"))
    again = ["--limit", 3], ["--resume"]
    for more in again:
        assert predict(tmp_path / "data", "--with_embedding", *more, model=model) == 0
    found = rows(tmp_path / "table")
    assert len(run_ids(found)) == 2
    assert sorted(found) == sorted(path.name for path in (tmp_path / "lake").iterdir())
    for key, row in found.items():
        _, scores, vector = expected_of(tmp_path / "lake" / key)
        np.testing.assert_allclose(row["score"], scores.max(), atol=1e-5)
        np.testing.assert_allclose(row["embedding"], vector, atol=1e-5)
        assert row["label"] == "colour"
    failures = list(read_failures(str(tmp_path / "table/failures")))
    assert [failure.reason for failure in failures] == ["bad_record"]
    assert failures[0].key.endswith("00001-of-00002.tfrecord#0")


def test_a_model_of_records_needs_records(predict, lake, tmp_path, capfd):
    model = models.save_example_model(str(tmp_path / "examples"))
    assert predict(lake, model=model) == 2
    assert "takes tf.Examples, of which" in capfd.readouterr().err


def test_the_model_is_tried_in_a_child_process_first(lake, tmp_path, capfd):
    model = models.save_troubled(str(tmp_path / "bad"), "abort")
    argv = ["predict", "--task", "classify", "--images", str(lake), "--model", model]
    assert cli.main([*argv, "--output", str(tmp_path / "table")]) == 2
    assert "fails on generated images: the model killed its process" in capfd.readouterr().err
    assert not (tmp_path / "table").exists()
