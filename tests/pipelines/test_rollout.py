"""``rollout``: a version is promoted when it may serve, and the way back is always open. And golden images of
``train``."""

import json
import shutil

import numpy as np
import pytest

from beam_vision.images.codec import encode_png
from beam_vision.inference.bundle import read_bundle, set_latest, write_bundle
from beam_vision.inference.golden import pack_golden, read_golden
from beam_vision.inference.serving_history import Entry, read_history, version_before, worse_is_wanted
from beam_vision.pipelines import rollout, train_export
from beam_vision.pipelines.cli import main
from beam_vision.records.example import Record, to_example
from beam_vision.records.manifest import DatasetManifest, Shard, Split
from beam_vision.testing import models
from beam_vision.tfrecord_io import write_record
from beam_vision.training.config import DataConfig, ExportConfig, JobConfig
from beam_vision.training.job import Trained

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "dark": (9, 9, 9)}


def picture(name):
    return encode_png(np.full((8, 8, 3), COLOURS[name], np.uint8))


def bundle(folder, labels=models.LABELS):
    said = {"labels": labels, "scores_output": "scores", "embedding_output": "embedding"}
    write_bundle(str(folder), models.save_saved_model, said)
    pack_golden(str(folder), [picture(name) for name in COLOURS], list(COLOURS))


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """v1 and v2 are the same; v3 is wrong about every image."""
    root = tmp_path_factory.mktemp("versions")
    bundle(root / "v1")
    shutil.copytree(root / "v1", root / "v2")
    bundle(root / "v3", labels=("green", "blue", "dark", "red"))
    return root


@pytest.fixture
def root(tmp_path, versions):
    shutil.copytree(versions, tmp_path / "root")
    return tmp_path / "root"


def call(capsys, *argv):
    code = main(["rollout", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def latest(root):
    return (root / "LATEST").read_text().strip()


def test_the_first_promotion_a_second_and_two_rollbacks(root, capsys):
    where = ["--model", str(root), "--no-check_model"]
    code, out, _ = call(capsys, "status", *where)
    assert (code, "none yet" in out, "v1 (4 golden images)" in out) == (0, True, True)
    assert call(capsys, "promote", "v1", *where)[0] == 0
    code, out, said = call(capsys, "promote", "v2", *where)
    assert (code, latest(root)) == (0, "v2")
    assert "on the 4 golden images of v1 it reaches 100.0% and v1 100.0%" in said
    assert "goes back to v1" in out
    code, out, _ = call(capsys, "rollback", *where, "--output_format", "json")
    found = json.loads(out)
    assert (code, found["latest"], found["before"], latest(root)) == (0, "v1", "", "v1")
    assert found["model_digest"] == read_bundle(str(root / "v1")).model_digest
    assert [(e["action"], e["previous"], e["version"]) for e in found["history"]] == [
        ("promote", "", "v1"),
        ("promote", "v1", "v2"),
        ("rollback", "v2", "v1"),
    ]
    code, _, said = call(capsys, "rollback", *where)
    assert (code, "no history" in said) == (2, True)
    assert worse_is_wanted(read_history(str(root)), "v1")


def test_a_worse_version_is_not_promoted(root, capsys):
    set_latest(str(root), "v1")
    code, _, said = call(capsys, "promote", "v3", "--model", str(root), "--no-check_model")
    assert (code, latest(root)) == (1, "v1")
    assert "v3 was not promoted: on the 4 golden images of v1 it reaches 0.0% and v1 100.0%: worse" in said
    assert read_history(str(root)) == []
    argv = ["promote", "v3", "--model", str(root), "--no-check_model", "--max_drop", "1"]
    assert (call(capsys, *argv)[0], latest(root)) == (0, "v3")
    assert call(capsys, "rollback", "v2", "--model", str(root))[0] == 0
    assert latest(root) == "v2"


def test_a_broken_version_is_not_promoted(root, capsys):
    set_latest(str(root), "v1")
    (root / "v2" / "saved_model.pb").write_bytes(b"x")
    code, _, said = call(capsys, "promote", "v2", "--model", str(root), "--no-check_model")
    assert (code, "digests differ" in said, latest(root)) == (1, True, "v1")


def test_a_pointer_to_nothing_can_be_mended(root, capsys):
    (root / "LATEST").write_text("v0\n")
    assert call(capsys, "promote", "v2", "--model", str(root), "--no-check_model")[0] == 0
    assert latest(root) == "v2"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["promote"], "promote takes the version"),
        (["promote", "v9"], "no version 'v9'; it has v1, v2, v3"),
        (["promote", "v1"], "v1 serves already"),
        (["rollback", "v9"], "no version 'v9'"),
        (["status", "v1"], "takes no version"),
    ],
)
def test_mistakes(root, capsys, argv, said):
    set_latest(str(root), "v1")
    code, _, told = call(capsys, *argv, "--model", str(root))
    assert code == 2
    assert said in told


def test_a_folder_without_versions(tmp_path, capsys):
    code, _, said = call(capsys, "status", "--model", str(tmp_path))
    assert (code, "holds no version" in said) == (2, True)


def test_a_history_that_isnt_one_is_named(root, capsys):
    (root / "rollout.jsonl").write_text('{"what": 1}\n')
    code, _, said = call(capsys, "status", "--model", str(root))
    assert (code, "rollout.jsonl:1" in said) == (2, True)


def entry(action, version, previous=""):
    return Entry(time="t", action=action, version=version, previous=previous)


@pytest.mark.parametrize(
    ("history", "current", "before"),
    [
        ([], "a", ""),
        ([("promote", "a", "")], "a", ""),
        ([("promote", "b", "a")], "b", "a"),
        ([("promote", "b", "a"), ("promote", "c", "b")], "c", "b"),
        ([("promote", "b", "a"), ("promote", "c", "b"), ("rollback", "b", "c")], "b", "a"),
        ([("promote", "b", "a"), ("rollback", "a", "b"), ("promote", "c", "a")], "c", "a"),
        ([("promote", "b", "a")], "by hand", "b"),
        ([("promote", "b", "a"), ("promote", "c", "by hand")], "c", "by hand"),
        ([("promote", "b", "a"), ("rollback", "z", "b")], "z", "b"),
    ],
)
def test_the_version_before(history, current, before):
    assert version_before([entry(*item) for item in history], current) == before


def dataset(folder):
    """A dataset of one shard, its test split with three images of one class and one of another."""
    names = ["red", "red", "red", "blue"]
    folder.mkdir()
    with (folder / "test-00000-of-00001.tfrecord").open("wb") as file:
        for i, name in enumerate(names):
            ids = [models.LABELS.index(name)]
            record = Record(f"k{i}", "u", picture(name), "png", 8, 8, "0" * 64, [name], ids)
            write_record(file, to_example(record))
    shard = Shard("test-00000-of-00001.tfrecord", 4, 1, "0" * 64)
    classes = {"red": 3, "green": 0, "blue": 1, "dark": 0}
    split = Split(4, 1, [shard], classes, 0, [0.0] * 3, [1.0] * 3)
    return DatasetManifest(
        run_id="1",
        dataset_digest="d",
        splits={"test": split},
        classes=list(classes),
        multi_label=False,
        split_settings={},
        encode_settings={},
        encode_digest="e",
        moved_duplicates=0,
        encoded_anew=0,
        inputs=4,
        outputs=4,
        failed=0,
        already_done=0,
    )


def trained(folder, number, evaluation):
    """What a training ended with, as far as packing looks at it."""
    config = JobConfig(data=DataConfig(dataset=str(folder)), export=ExportConfig(golden_images=number))
    return Trained(
        config=config,
        model=None,
        labels=(),
        multi_label=False,
        history=[],
        steps=0,
        best_epoch=0,
        stopped="",
        evaluation=evaluation,
        metrics={},
        facts={},
    )


@pytest.mark.parametrize(("number", "labels"), [(24, ["red"] * 3 + ["blue"]), (2, ["red", "blue"])])
def test_train_packs_images_of_the_test_split(root, tmp_path, number, labels):
    manifest = dataset(tmp_path / "dataset")
    job = trained(tmp_path / "dataset", number, {"split": "test"})
    train_export.pack_images(job, manifest, str(root / "v1"), "test")
    golden = read_golden(str(root / "v1"))
    assert [image.label for image in golden.images] == labels
    assert [image.said.labels[0].label for image in golden.images] == labels


def test_without_a_test_split_nothing_is_packed(root):
    shutil.rmtree(root / "v1" / "golden")
    train_export.pack_images(trained("nowhere", 24, None), None, str(root / "v1"), "train")
    assert read_golden(str(root / "v1")) is None


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit):
        main(["rollout", "--help"])
    assert "promote VERSION" in capsys.readouterr().out


def test_status_as_text_shows_the_history(root):
    set_latest(str(root), "v1")
    found = rollout.status(str(root))
    assert rollout.render(found).splitlines()[-1] == "rollback  needs a VERSION"
