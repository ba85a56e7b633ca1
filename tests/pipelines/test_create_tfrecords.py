"""``create-tfrecords`` from end to end, against plain Python on the same files."""

import csv
import hashlib
import json
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from beam_vision.images import codec
from beam_vision.pipelines import cli
from beam_vision.records.encode import EncodeSettings, pixel_sums, store
from beam_vision.records.example import from_example
from beam_vision.records.manifest import read_manifest
from beam_vision.records.schema import build, from_text
from beam_vision.sinks.failures import read_failures
from beam_vision.testing.images import encode, hostile_files, make_lake, photo, turned
from beam_vision.tfrecord_io import Example, read_records

SMALL_SHARDS = ["--target_shard_bytes", "6000"]


@pytest.fixture
def lake(tmp_path):
    make_lake(tmp_path / "lake", per_class=8)
    return tmp_path / "lake"


@pytest.fixture
def create(lake, tmp_path):
    """``create(*options)``: runs the job into ``out`` and gives its exit code."""

    def run(*options, images=lake, output=tmp_path / "out"):
        argv = ["--images", images, "--output", output, "--summary", tmp_path / "summary.json", *options]
        return cli.main(["create-tfrecords", *map(str, argv)])

    return run


def summary_of(tmp_path):
    return json.loads((tmp_path / "summary.json").read_text())


def dataset_files(folder):
    """Every file of a dataset but the manifest (which names the run), with its bytes."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != "manifest.json"
    }


def records_of(folder):
    """{split: [records]}."""
    found = {}
    for name, split in read_manifest(str(folder)).splits.items():
        found[name] = []
        for shard in split.shards:
            with open(folder / shard.name, "rb") as file:
                found[name] += [from_example(Example.FromString(data)) for data in read_records(file)]
    return found


def keys_of(folder):
    return {split: {record.key for record in records} for split, records in records_of(folder).items()}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def images_in(lake):
    return sorted(path for path in lake.rglob("*") if path.is_file())


def test_the_dataset_is_that_of_plain_python(create, lake, tmp_path):
    assert create(*SMALL_SHARDS) == 0
    out = tmp_path / "out"
    manifest = read_manifest(str(out))
    records = records_of(out)
    assert sum(map(len, records.values())) == 24
    by_key = {record.key: (split, record) for split, found in records.items() for record in found}
    for path in images_in(lake):
        split, record = by_key[str(path)]
        point = int(hashlib.sha256(f"0:{sha256(path)}".encode()).hexdigest()[:16], 16) / 2**64
        assert split == ("train" if point < 0.8 else "validation" if point < 0.9 else "test")
        assert record.labels == (path.parent.name,)
        assert record.label_ids == (["blue", "green", "red"].index(path.parent.name),)
        decoded = codec.decode(path.read_bytes())
        if path.suffix in (".jpg", ".png"):
            assert record.data == path.read_bytes()
        elif path.suffix != ".webp":
            np.testing.assert_array_equal(codec.decode(record.data).pixels, decoded.pixels)
        assert (record.width_px, record.height_px) == (decoded.width_px, decoded.height_px)
    for name, split in manifest.splits.items():
        keys = [record.key for record in records[name]]
        assert split.images == len(keys)
        assert split.classes == {
            label: sum(label in record.labels for record in records[name]) for label in manifest.classes
        }
        sums = [store(Path(key).read_bytes(), EncodeSettings()).pixels for key in keys]
        if sums:
            mean = np.sum([s.sums for s in sums], axis=0) / sum(s.count for s in sums)
            np.testing.assert_allclose(split.mean_rgb, mean)
    assert len(manifest.splits["train"].shards) > 2


def test_the_manifest_and_its_neighbours(create, tmp_path):
    assert create(*SMALL_SHARDS, "--failures", tmp_path / "dead") == 0
    out = tmp_path / "out"
    manifest = read_manifest(str(out))
    for shard in manifest.shards.values():
        assert (shard.bytes, shard.sha256) == ((out / shard.name).stat().st_size, sha256(out / shard.name))
    assert from_text((out / "schema.pbtxt").read_text()) == build(["blue", "green", "red"])
    assert manifest.encode_settings["decode"] == EncodeSettings().decode.to_json()
    assert manifest.encode_digest == EncodeSettings().digest
    expected = {name for shard in manifest.shards for name in (shard, f"{shard}.json")}
    assert {path.name for path in out.iterdir()} == expected | {"manifest.json", "schema.pbtxt"}
    assert (tmp_path / "dead" / "job.json").exists()
    summary = summary_of(tmp_path)
    assert (summary["inputs"], summary["outputs"], summary["failed"]) == (24, 24, 0)
    assert summary["run_id"] == manifest.run_id
    assert summary["digests"] == {"dataset": manifest.dataset_digest, "encode": manifest.encode_digest}


def test_a_messy_lake_is_accounted_for(create, lake, tmp_path):
    expected = Counter()
    for name, (data, reason) in hostile_files().items():
        (lake / "red" / name).write_bytes(data)
        expected[reason.value] += 1
    (lake / "blue" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    expected["not_found"] += 1
    for orientation in range(1, 9):
        (lake / "blue" / f"turned{orientation}.jpg").write_bytes(turned(photo(5, 40, 30), orientation))
    for n in range(5):
        (lake / "red" / f"copy{n}.png").write_bytes(encode(photo(6, 30, 30), "png"))
    (lake / "red" / "notes.txt").write_text("no image")
    assert create(*SMALL_SHARDS) == 0
    summary = summary_of(tmp_path)
    good = 24 + 8 + 5
    assert summary["inputs"] == good + expected.total()
    assert (summary["outputs"], summary["failed"]) == (good, expected.total())
    assert summary["failed_by_reason"] == dict(expected)
    failures = list(read_failures(str(tmp_path / "out" / "failures")))
    assert Counter(failure.reason for failure in failures) == expected
    records = records_of(tmp_path / "out")
    keys = {record.key for found in records.values() for record in found} | {f.key for f in failures}
    assert len(keys) == summary["inputs"]
    for record in (record for found in records.values() for record in found):
        if "turned" in record.key:
            assert (record.width_px, record.height_px) == (40, 30)
            assert codec.read_header(record.data).orientation == 1
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest.inputs == manifest.outputs + manifest.failed
    assert manifest.failed_by_reason == dict(expected)


def test_running_again_gives_the_same_bytes(create, tmp_path):
    assert create(*SMALL_SHARDS) == 0
    before, manifest = dataset_files(tmp_path / "out"), read_manifest(str(tmp_path / "out"))
    assert create(*SMALL_SHARDS, "--threads", 1) == 0
    after = read_manifest(str(tmp_path / "out"))
    assert dataset_files(tmp_path / "out") == before
    assert after.run_id != manifest.run_id
    assert after.dataset_digest == manifest.dataset_digest


def test_resume_keeps_finished_shards(create, lake, tmp_path):
    assert create(*SMALL_SHARDS) == 0

    def written():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tfrecord")}

    before = written()
    lost = max(before)
    images = read_manifest(str(tmp_path / "out")).shards[lost.name].images
    lost.unlink()
    assert create(*SMALL_SHARDS, "--resume") == 0
    summary = summary_of(tmp_path)
    assert (summary["inputs"], summary["outputs"], summary["already_done"]) == (24, images, 24 - images)
    assert {path for path, when in written().items() if when != before[path]} == {lost}
    assert create(*SMALL_SHARDS, "--resume") == 0
    assert summary_of(tmp_path)["already_done"] == 24


def test_resume_with_other_settings_writes_anew(create, tmp_path):
    assert create(*SMALL_SHARDS) == 0
    assert create(*SMALL_SHARDS, "--resume", "--encode", "png") == 0
    assert summary_of(tmp_path)["already_done"] == 0
    assert {r.format for found in records_of(tmp_path / "out").values() for r in found} == {"png"}


def test_a_new_plan_leaves_nothing_of_the_old(create, tmp_path):
    assert create(*SMALL_SHARDS) == 0
    (tmp_path / "out" / "train-00000-of-00001.tfrecord.0123abcd.tmp").touch()
    assert create("--splits", "all=1") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    shard = "all-00000-of-00001.tfrecord"
    assert names == {shard, f"{shard}.json", "manifest.json", "schema.pbtxt", "failures"}


def test_failed_images_are_tried_again_when_asked(create, lake, tmp_path):
    broken = lake / "red" / "0000.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    assert create() == 0
    assert create("--resume") == 0
    assert (summary_of(tmp_path)["already_done"], summary_of(tmp_path)["failed"]) == (23, 1)
    failure = next(read_failures(str(tmp_path / "out" / "failures")))
    assert failure.run_id == summary_of(tmp_path)["run_id"]
    assert create("--resume", "--retry_failed") == 0
    assert 0 < summary_of(tmp_path)["outputs"] < 23
    broken.write_bytes(whole)
    assert create("--resume", "--retry_failed") == 0
    assert summary_of(tmp_path)["failed"] == 0
    create(output=tmp_path / "fresh")
    assert dataset_files(tmp_path / "out") == dataset_files(tmp_path / "fresh")


class TestSplits:
    def test_more_images_never_move_the_old_ones(self, create, lake, tmp_path):
        assert create() == 0
        before = keys_of(tmp_path / "out")
        make_lake(lake, classes=("yellow",), per_class=8, seed=9)
        assert create() == 0
        after = keys_of(tmp_path / "out")
        assert all(before[split] <= after[split] for split in before)
        assert sum(map(len, after.values())) == 32

    def test_fractions_and_seed(self, create, tmp_path):
        assert create("--splits", "learn=0.5,check=0.5") == 0
        first = keys_of(tmp_path / "out")
        assert set(first) == {"learn", "check"}
        assert create("--splits", "learn=0.5,check=0.5", "--split_seed", 1) == 0
        assert keys_of(tmp_path / "out") != first

    def test_groups_stay_together(self, create, lake, tmp_path):
        rows = [
            {"uri": str(path), "label": path.parent.name, "patient": f"p{n % 6}"}
            for n, path in enumerate(images_in(lake))
        ]
        path = write_manifest(tmp_path / "images.csv", rows)
        options = ("--split_by", "group:patient", "--splits", "a=0.5,b=0.5")
        assert create(*options, images=path) == 0
        where = {key: split for split, keys in keys_of(tmp_path / "out").items() for key in keys}
        groups = {}
        for row in rows:
            groups.setdefault(row["patient"], set()).add(where[row["uri"]])
        assert all(len(splits) == 1 for splits in groups.values())
        assert set(where.values()) == {"a", "b"}

    @pytest.mark.parametrize(("column", "by"), [("split", "manifest"), ("fold", "column:fold")])
    def test_as_the_manifest_says_but_copies_go_to_what_is_held_out(self, create, lake, tmp_path, column, by):
        files = images_in(lake)
        splits = {path: ("train", "validation", "test")[n % 3] for n, path in enumerate(files)}
        copy = lake / "blue" / "copy.jpg"
        copy.write_bytes(files[0].read_bytes())
        splits[copy] = "test"
        rows = [{"uri": str(path), "label": "x", column: split} for path, split in splits.items()]
        rows[1][column] = "dev"
        assert create("--split_by", by, images=write_manifest(tmp_path / "images.csv", rows)) == 0
        found = keys_of(tmp_path / "out")
        assert str(files[0]) in found["test"]
        for path, split in splits.items():
            if path not in (files[0], files[1]):
                assert str(path) in found[split]
        assert read_manifest(str(tmp_path / "out")).moved_duplicates == 1
        assert summary_of(tmp_path)["failed_by_reason"] == {"unknown_split": 1}

    def test_copies_never_straddle(self, create, lake, tmp_path):
        for n, path in enumerate(images_in(lake)):
            (lake / "green" / f"again{n}{path.suffix}").write_bytes(path.read_bytes())
        assert create("--split_by", "uri", "--splits", "a=0.4,b=0.3,c=0.3") == 0
        seen = {}
        for split, records in records_of(tmp_path / "out").items():
            for record in records:
                seen.setdefault(record.content_sha256, set()).add(split)
        assert len(seen) == 24
        assert all(len(splits) == 1 for splits in seen.values())
        assert read_manifest(str(tmp_path / "out")).moved_duplicates > 0


class TestOptions:
    @pytest.mark.parametrize("encoding", ["jpeg", "png"])
    def test_encode_and_quality_and_max_side(self, create, tmp_path, encoding):
        assert create("--encode", encoding, "--jpeg_quality", 50, "--max_side", 32) == 0
        settings = EncodeSettings(encode=encoding, jpeg_quality=50, max_side_px=32)
        for record in (record for found in records_of(tmp_path / "out").values() for record in found):
            with open(record.key, "rb") as file:
                assert record.data == store(file.read(), settings).data
            assert max(record.width_px, record.height_px) == 32
        assert read_manifest(str(tmp_path / "out")).encoded_anew == 24

    @pytest.mark.parametrize("as_file", [False, True])
    def test_classes_are_in_the_order_given(self, create, tmp_path, as_file):
        classes = "red,green,blu"
        if as_file:
            (tmp_path / "classes.txt").write_text("red\ngreen\n\nblu\n")
            classes = tmp_path / "classes.txt"
        assert create("--classes", classes) == 0
        assert read_manifest(str(tmp_path / "out")).classes == ["red", "green", "blu"]
        assert summary_of(tmp_path)["failed_by_reason"] == {"unknown_label": 8}
        details = {failure.detail for failure in read_failures(str(tmp_path / "out" / "failures"))}
        assert all("'blu'" in detail for detail in details)
        ids = {r.labels: r.label_ids for found in records_of(tmp_path / "out").values() for r in found}
        assert ids == {("red",): (0,), ("green",): (1,)}

    def test_limit_and_max_pixels(self, create, tmp_path):
        assert create("--limit", 5, "--max_pixels", 64 * 48 - 1) == 0
        summary = summary_of(tmp_path)
        assert (summary["inputs"], summary["failed_by_reason"]) == (5, {"too_large": 1})

    def test_labels_boxes_and_attributes_of_a_manifest(self, create, lake, tmp_path):
        path = images_in(lake)[0]
        boxes = [{"xmin": 0, "ymin": 0, "xmax": 32, "ymax": 24, "label": "nose"}]
        row = {"uri": str(path), "labels": ["b", "a"], "boxes": boxes, "camera": "7"}
        (tmp_path / "images.jsonl").write_text(json.dumps(row) + "\n")
        assert create("--splits", "all=1", images=tmp_path / "images.jsonl") == 0
        (record,) = records_of(tmp_path / "out")["all"]
        assert (record.labels, record.label_ids, record.attributes) == (("b", "a"), (1, 0), {"camera": "7"})
        assert [(b.xmin, b.ymin, b.xmax, b.ymax, b.label) for b in record.boxes] == [(0, 0, 0.5, 0.5, "nose")]
        assert read_manifest(str(tmp_path / "out")).multi_label

    def test_preflight_only_changes_nothing(self, create, tmp_path, capsys):
        assert create("--preflight_only") == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["output_holds"] == "nothing"
        assert plan["splits"] == {"train": 0.8, "validation": 0.1, "test": 0.1}
        assert not (tmp_path / "out").exists()
        assert create() == 0
        capsys.readouterr()
        assert create("--preflight_only") == 0
        assert (
            json.loads(capsys.readouterr().out)["output_holds"]
            == "a finished dataset of 24 images in 3 shards"
        )
        (tmp_path / "out" / "manifest.json").unlink()
        assert create("--preflight_only") == 0
        assert json.loads(capsys.readouterr().out)["output_holds"] == "3 shards of an unfinished dataset"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--splits", "train=0.5"], "--splits"),
        (["--split_by", "hash"], "--split_by"),
        (["--jpeg_quality", "0"], "--jpeg_quality"),
        (["--max_side", "3"], "--max_side"),
        (["--target_shard_bytes", "0"], "--target_shard_bytes"),
        (["--classes", "a,a"], "'a' stands twice"),
        (["--retry_failed"], "--retry_failed goes with --resume"),
        (["--output", "{lake}/blue/out"], "lies within --images"),
        (["--output", "{lake}"], "lies within --images"),
        (["--images", "{lake}/absent"], "does not exist"),
    ],
)
def test_mistakes_end_with_exit_code_2_and_change_nothing(create, lake, tmp_path, capfd, options, said):
    before = images_in(tmp_path)
    assert create(*(option.format(lake=lake) for option in options)) == 2
    assert said in capfd.readouterr().err
    assert images_in(tmp_path) == before


def test_a_folder_with_anything_else_is_refused(create, tmp_path, capfd):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").touch()
    assert create() == 2
    assert "thesis.docx" in capfd.readouterr().err


def test_a_dataset_is_no_source(create, tmp_path, capfd):
    assert create() == 0
    assert create(images=tmp_path / "out", output=tmp_path / "again") == 2
    assert "TFRecord dataset already" in capfd.readouterr().err


def test_when_everything_fails_an_earlier_dataset_stays_and_the_exit_code_is_1(create, lake, tmp_path, capfd):
    assert create() == 0
    before = dataset_files(tmp_path / "out")
    for path in images_in(lake):
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    assert create() == 1
    assert "no image came through" in capfd.readouterr().err
    summary = summary_of(tmp_path)
    assert (summary["inputs"], summary["outputs"], summary["failed"]) == (24, 0, 24)
    assert dataset_files(tmp_path / "out") == before
    assert read_manifest(str(tmp_path / "out")).images == 24


def test_when_nothing_decodes_nothing_is_committed(create, lake, tmp_path):
    for path in images_in(lake):
        path.write_bytes(path.read_bytes()[:100])
    assert create() == 1
    assert summary_of(tmp_path)["failed_by_reason"] == {"truncated": 24}
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_no_images_is_exit_code_1(create, tmp_path, capfd):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    assert create(images=tmp_path / "empty") == 1
    assert "no images came in" in capfd.readouterr().err


def test_max_failure_rate(create, lake):
    (lake / "red" / "broken.jpg").write_bytes(b"x")
    assert create("--max_failure_rate", 0.01) == 1
    assert create("--max_failure_rate", 0.05) == 0


@pytest.mark.slow
def test_a_killed_run_claims_nothing_and_resumes_to_the_same_bytes(warm, create, tmp_path):
    """SIGKILL while shards are being written; the images have boxes, of which one in four is bad."""
    lake = tmp_path / "images.jsonl"
    make_lake(tmp_path / "big", classes=("a", "b"), per_class=24, size=(480, 360), formats=("jpeg",))
    rows = []
    for number, path in enumerate(images_in(tmp_path / "big")):
        box = {"xmin": number, "ymin": 9, "xmax": 500 if number % 4 else 0, "ymax": 99, "label": "thing"}
        rows.append({"uri": str(path), "label": path.parent.name, "boxes": [box]})
    lake.write_text("\n".join(map(json.dumps, rows)))
    options = ["--encode", "png", "--target_shard_bytes", "60000", "--threads", "1"]
    argv = ["create-tfrecords", "--images", str(lake), "--output", str(tmp_path / "out"), *options]
    process = warm.start(["-m", "beam_vision.pipelines.cli", *argv])
    deadline = time.monotonic() + 300
    while len(list((tmp_path / "out").glob("*.tfrecord.json"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out" / "manifest.json").exists()
    finished = sorted(path.name for path in (tmp_path / "out").glob("*.tfrecord"))
    for name in finished:
        with open(tmp_path / "out" / name, "rb") as file:
            assert all(from_example(Example.FromString(data)).key for data in read_records(file)), name
    assert cli.main(["verify-tfrecords", str(tmp_path / "out")]) == 2
    assert create(*options, "--resume", images=lake) == 0
    summary = summary_of(tmp_path)
    assert 0 < summary["already_done"] < 48
    assert summary["inputs"] == summary["outputs"] + summary["already_done"] == 48
    assert create(*options, images=lake, output=tmp_path / "whole") == 0
    assert dataset_files(tmp_path / "out") == dataset_files(tmp_path / "whole")
    resumed, whole = (read_manifest(str(tmp_path / name)) for name in ("out", "whole"))
    assert len(finished) < len(resumed.shards)
    assert (resumed.boxes, resumed.annotations_failed) == (whole.boxes, 12) == ({"thing": 36}, 12)
    failed = [read_failures(str(tmp_path / name / "annotation_failures")) for name in ("out", "whole")]
    assert [f.uri for f in failed[0]] == [f.uri for f in failed[1]]


def test_pixel_sums_are_taken_from_what_is_stored(create, lake, tmp_path):
    assert create("--encode", "png", "--splits", "all=1") == 0
    grids = [pixel_sums(codec.decode(record.data).pixels) for record in records_of(tmp_path / "out")["all"]]
    total = sum(grids[1:], grids[0])
    split = read_manifest(str(tmp_path / "out")).splits["all"]
    np.testing.assert_allclose(split.mean_rgb, total.mean)
    np.testing.assert_allclose(split.std_rgb, total.std)
