"""Nothing is committed unless every image is accounted for and every record read back as it was written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from beam_vision.errors import JobError
from beam_vision.records import commit as commits
from beam_vision.records.commit import Found, commit
from beam_vision.records.encode import EncodeSettings, PixelSums
from beam_vision.records.manifest import read_manifest
from beam_vision.records.observe import FeatureSeen, Observed
from beam_vision.records.plan import DatasetPlan, Job
from beam_vision.records.schema import build
from beam_vision.records.shard import ShardInfo
from beam_vision.records.splits import SplitRule
from beam_vision.types import Failure

PLAN = DatasetPlan({"train": 2, "test": 1}, ["cat", "dog"])


def info(name, split, cats, dogs, **changes):
    shard = ShardInfo(
        name=name,
        split=split,
        plan_digest="p",
        images=cats + dogs,
        bytes=100,
        sha256=name,
        classes={"cat": cats, "dog": dogs},
        unlabelled=0,
        most_labels=1,
        moved=1,
        encoded_anew=2,
        pixels=PixelSums(2, (10, 20, 30), (100, 250, 500)),
    )
    return replace(shard, **changes)


def seen(images, classes, boxes=None):
    features = {
        feature.name: FeatureSeen(images, 1, 1, frozenset({"INT" if feature.type == 2 else "BYTES"}))
        for feature in build([], box_classes=boxes or (), images=False).feature
        if feature.presence.min_fraction
    }
    return Observed(images, features, classes, boxes or {})


@pytest.fixture
def job(tmp_path):
    return Job(
        folder=str(tmp_path),
        rule=SplitRule({"train": 0.5, "test": 0.5}),
        target_shard_bytes=1,
        settings=EncodeSettings(),
        run_id="r7",
    )


@pytest.fixture
def found():
    failure = Failure("k", "u", "decode", "truncated", "d")
    return Found(
        infos=[
            info("train-00000-of-00002.tfrecord", "train", 3, 1, failures=(failure,)),
            info("train-00001-of-00002.tfrecord", "train", 0, 2, kept=True),
            info("test-00000-of-00001.tfrecord", "test", 1, 0, most_labels=2),
        ],
        observed=seen(7, {"cat": 4, "dog": 3}),
        problems=[],
        inputs=9,
        failed_by_reason={"truncated": 1, "not_found": 1},
    )


def test_the_manifest_adds_it_all_up(job, found):
    manifest = commit(job, PLAN, found)
    assert read_manifest(job.folder) == manifest
    assert (manifest.inputs, manifest.outputs, manifest.already_done, manifest.failed) == (9, 5, 2, 2)
    assert manifest.failed_by_reason == {"truncated": 1, "not_found": 1}
    assert (manifest.moved_duplicates, manifest.encoded_anew, manifest.multi_label) == (3, 6, True)
    train = manifest.splits["train"]
    assert (train.images, train.bytes, train.classes) == (6, 200, {"cat": 3, "dog": 3})
    assert train.mean_rgb == [5.0, 10.0, 15.0]
    assert train.std_rgb == [25**0.5, 25**0.5, 25**0.5]
    assert [shard.name for shard in train.shards] == sorted(shard.name for shard in train.shards)
    assert manifest.run_id == "r7"
    assert (manifest.box_classes, manifest.boxes, manifest.annotations_failed) == ([], {}, 0)
    assert not (Path(job.folder) / "label_map.pbtxt").exists()


def test_the_dataset_digest_is_of_the_records(job, found):
    digest = commit(job, PLAN, found).dataset_digest
    assert (
        commit(replace(job, run_id="r8"), PLAN, replace(found, infos=found.infos[::-1])).dataset_digest
        == digest
    )
    other = replace(found, infos=[replace(found.infos[0], sha256="other"), *found.infos[1:]])
    assert commit(job, PLAN, other).dataset_digest != digest


def failed(key, reason):
    return Failure(key, f"boxes.csv:{key}", "annotation", reason, "d")


@pytest.fixture
def with_boxes(found):
    """Shards with boxes, one of them kept from an earlier run."""
    changes = [
        {"boxes": {"ox": 2, "cow": 1}, "most_boxes": 2, "boxes_clipped": 1},
        {"boxes": {"cow": 4}, "most_boxes": 4, "annotation_failures": (failed("b", "bad_box"),)},
        {"annotation_failures": (failed("c", "unknown_category"), failed("a", "bad_box"))},
    ]
    infos = [replace(info, **change) for info, change in zip(found.infos, changes, strict=True)]
    observed = seen(7, {"cat": 4, "dog": 3}, {"ox": 2, "cow": 5})
    return replace(found, infos=infos, observed=observed)


BOX_PLAN = replace(PLAN, box_classes=["cow", "it's", "ox"])


def test_boxes_are_added_up_and_their_failures_written(job, with_boxes, tmp_path):
    manifest = commit(replace(job, attempt=3), BOX_PLAN, with_boxes)
    assert read_manifest(job.folder) == manifest
    assert manifest.box_classes == ["cow", "it's", "ox"]
    assert manifest.boxes == {"cow": 5, "it's": 0, "ox": 2}
    assert manifest.splits["train"].boxes == {"cow": 5, "it's": 0, "ox": 2}
    assert manifest.splits["test"].boxes == {"cow": 0, "it's": 0, "ox": 0}
    assert (manifest.most_boxes, manifest.boxes_clipped) == (4, 1)
    assert (manifest.annotations_failed, manifest.annotations_failed_by_reason) == (
        3,
        {"bad_box": 2, "unknown_category": 1},
    )
    assert (manifest.inputs, manifest.failed) == (9, 2), "annotations are no images"
    lines = (tmp_path / "annotation_failures" / "part-00000.jsonl").read_text().splitlines()
    assert [Failure(**json.loads(line)) for line in lines] == [
        replace(failure, run_id="r7", attempt=3)
        for failure in (failed("a", "bad_box"), failed("b", "bad_box"), failed("c", "unknown_category"))
    ]
    assert (tmp_path / "label_map.pbtxt").read_text() == (
        "item {\n  id: 1\n  name: 'cow'\n}\nitem {\n  id: 2\n  name: 'it\\'s'\n}\n"
        "item {\n  id: 3\n  name: 'ox'\n}\n"
    )


def test_what_an_earlier_run_left_of_boxes_goes(job, found, with_boxes, tmp_path):
    commit(job, BOX_PLAN, with_boxes)
    commit(job, PLAN, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "schema.pbtxt"]


def test_boxes_that_read_back_otherwise_are_not_committed(job, with_boxes):
    observed = replace(with_boxes.observed, boxes={"ox": 2, "cow": 4})
    with pytest.raises(JobError, match="the boxes read back are not those"):
        commit(job, BOX_PLAN, replace(with_boxes, observed=observed))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: replace(f, inputs=10), "10 images came in, 7 were written and 2 failed"),
        (lambda f: replace(f, problems=["a shard is damaged"]), "a shard is damaged"),
        (
            lambda f: replace(f, infos=f.infos[:2], inputs=8),
            "test-00000-of-00001.tfrecord was written 0 times",
        ),
        (lambda f: replace(f, infos=[*f.infos, f.infos[2]], inputs=10), "was written 2 times"),
        (lambda f: replace(f, observed=seen(6, {"cat": 4, "dog": 3})), "7 records were written, 6 read back"),
        (lambda f: replace(f, observed=seen(7, {"cat": 3, "dog": 4})), "the labels read back are not those"),
        (lambda f: replace(f, observed=Observed(7, {}, {"cat": 4, "dog": 3})), "is missing from all records"),
    ],
)
def test_anything_that_does_not_fit_is_not_committed(job, found, tmp_path, change, said):
    with pytest.raises(JobError, match=said):
        commit(job, PLAN, change(found))
    assert list(tmp_path.iterdir()) == []


def test_when_no_image_came_through_nothing_is_written(job, tmp_path):
    empty = [
        info(name, split, 0, 0)
        for name, split in (
            ("train-00000-of-00002.tfrecord", "train"),
            ("train-00001-of-00002.tfrecord", "train"),
            ("test-00000-of-00001.tfrecord", "test"),
        )
    ]
    found = Found(infos=empty, observed=Observed(), problems=[], inputs=3, failed_by_reason={"empty": 3})
    assert commit(job, PLAN, found) is None
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_is_the_last_thing_written(job, found, monkeypatch, tmp_path):
    def stop(path, value):
        raise OSError("killed")

    monkeypatch.setattr(commits.storage, "write_json", stop)
    with pytest.raises(OSError, match="killed"):
        commit(job, PLAN, found)
    assert [path.name for path in tmp_path.iterdir()] == ["schema.pbtxt"]
