"""What ``beam-vision train`` refuses before it starts, from manifests of datasets."""

import json

import pytest

from beam_vision.errors import UsageError
from beam_vision.pipelines import train
from beam_vision.records.manifest import DatasetManifest, Split


def dataset(folder, train_classes, *, unlabelled=0, multi_label=False):
    """A dataset's manifest; its shards aren't looked at."""
    labelled = sum(train_classes.values())
    split = Split(labelled + unlabelled, 1, [], train_classes, unlabelled, [0.0] * 3, [1.0] * 3)
    manifest = DatasetManifest(
        run_id="1",
        dataset_digest="d",
        splits={"train": split},
        classes=list(train_classes),
        multi_label=multi_label,
        split_settings={},
        encode_settings={},
        encode_digest="e",
        moved_duplicates=0,
        encoded_anew=0,
        inputs=labelled,
        outputs=labelled,
        failed=0,
        already_done=0,
    )
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return str(folder)


def options(tmp_path, classes, **given):
    made = {name: given.pop(name) for name in ("unlabelled", "multi_label") if name in given}
    folder = dataset(tmp_path / "dataset", classes, **made)
    return train.Options(**{"dataset": folder, "output": str(tmp_path / "model"), **given})


def test_plan(tmp_path):
    plan = train.preflight(options(tmp_path, {"a": 3, "b": 2}, unlabelled=4))
    assert plan["splits"] == {"train": 5}
    assert plan["classes"] == ["a", "b"]


@pytest.mark.parametrize(
    ("classes", "given", "message"),
    [
        ({"a": 5}, {}, r"one class only \(a\)"),
        ({"a": 5, "b": 0}, {}, r"one class only \(a\)"),
        ({}, {"unlabelled": 9}, "no labelled images"),
        ({"a": 1, "b": 1}, {"multi_label": True, "set": ("model.multi_label=false",)}, "several labels"),
        ({"a": 1, "b": 1}, {"image_size": 8}, "at least 16"),
        ({"a": 1, "b": 1}, {"batch_size": 0}, "at least 1"),
        ({"a": 1, "b": 1}, {"output": "gs://bucket/model"}, "local folder"),
    ],
)
def test_refusals(tmp_path, classes, given, message):
    with pytest.raises(UsageError, match=message):
        train.preflight(options(tmp_path, classes, **given))


def test_a_bundle_that_is_there_is_kept(tmp_path):
    (tmp_path / "model").mkdir()
    asked = options(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(UsageError, match="--overwrite"):
        train.preflight(asked)


def test_no_dataset(tmp_path):
    with pytest.raises(UsageError, match="no TFRecord dataset"):
        train.preflight(train.Options(dataset=str(tmp_path), output=str(tmp_path / "model")))
