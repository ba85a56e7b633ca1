"""A shard: what is in it, its side-car, and when an earlier run's is kept."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from records_builder import item_of, read, refs_of

from beam_vision.errors import Reason, VisionError
from beam_vision.images import codec
from beam_vision.records import writer as writers
from beam_vision.records.encode import EncodeSettings, PixelSums, store
from beam_vision.records.example import from_example
from beam_vision.records.plan import Job
from beam_vision.records.shard import ShardInfo, ShardPlan, finished
from beam_vision.records.splits import SplitRule
from beam_vision.records.writer import ShardWriter
from beam_vision.tfrecord_io import Example, read_records
from beam_vision.types import Box, BoxFrame, Fault

CLASSES = ["blue", "green", "red"]
NAME = "train-00000-of-00001.tfrecord"


@pytest.fixture
def plan(lake):
    return ShardPlan(NAME, "train", [item_of(ref) for ref in refs_of(lake)], moved=2)


@pytest.fixture
def writer(tmp_path):
    made = []

    def make(read=read, classes=CLASSES, box_classes=(), **changes):
        job = Job(
            folder=str(tmp_path / "out"),
            **{
                "rule": SplitRule({"train": 1.0}),
                "target_shard_bytes": 1,
                "settings": EncodeSettings(),
                "run_id": "r1",
                **changes,
            },
        )
        made.append(ShardWriter(job, classes, box_classes, read=read))
        return made[-1]

    yield make
    for one in made:
        one.close()


def write(writer, plan):
    return writer.write(plan, lambda seconds: None)


def records_in(path):
    with open(path, "rb") as file:
        return [from_example(Example.FromString(data)) for data in read_records(file)]


def test_records_are_those_of_a_plain_loop(writer, plan, tmp_path):
    info = write(writer(), plan)
    records = records_in(tmp_path / "out" / NAME)
    assert [record.key for record in records] == [item.ref.key for item in plan.items]
    pixels = PixelSums()
    for record, item in zip(records, plan.items, strict=True):
        data = Path(item.ref.uri).read_bytes()
        stored = store(data, EncodeSettings())
        assert record.data == stored.data
        assert record.content_sha256 == hashlib.sha256(data).hexdigest()
        assert record.labels == tuple(item.ref.labels)
        assert record.label_ids == tuple(CLASSES.index(label) for label in item.ref.labels)
        assert (record.width_px, record.height_px) == codec.read_header(data).upright_size
        pixels += stored.pixels
    assert info.pixels == pixels
    assert info.images == len(records) == 24
    assert info.classes == {"blue": 8, "green": 8, "red": 8}
    assert info.encoded_anew == sum(not path.uri.endswith((".jpg", ".png")) for path in refs(plan))
    assert (info.moved, info.unlabelled, info.most_labels, info.failures) == (2, 0, 1, ())


def refs(plan):
    return [item.ref for item in plan.items]


def test_the_side_car_says_what_is_in_the_file(writer, plan, tmp_path):
    info = write(writer(), plan)
    data = (tmp_path / "out" / NAME).read_bytes()
    assert (info.bytes, info.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    side_car = json.loads((tmp_path / "out" / f"{NAME}.json").read_text())
    assert ShardInfo.from_json(side_car) == info
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [NAME, f"{NAME}.json"]


def test_the_same_plan_gives_the_same_bytes(writer, plan, tmp_path):
    def files():
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    Path(plan.items[3].ref.uri).write_bytes(b"")
    plan = replace(plan, items=[item_of(ref) for ref in refs(plan)])
    write(writer(threads=1), plan)
    before = files()
    write(writer(threads=5, run_id="r2", attempt=3), plan)
    assert files() == before


def test_labels_attributes_and_boxes(writer, plan, tmp_path):
    several = replace(
        plan.items[0].ref,
        labels=("red", "blue", "red"),
        attributes={"camera": "7"},
        boxes=(Box(0, 0, 8, 6, "x"),),
    )
    none = replace(plan.items[1].ref, labels=())
    info = write(writer(box_classes=["w", "x"]), replace(plan, items=[item_of(several), item_of(none)]))
    first, second = records_in(tmp_path / "out" / NAME)
    assert (first.labels, first.label_ids) == (("red", "blue"), (2, 0))
    assert first.attributes == {"camera": "7"}
    assert [box.label for box in first.boxes] == ["x"]
    assert (first.box_ids, second.box_ids) == ((2,), ())
    assert first.for_detection
    assert second.for_detection
    assert (info.boxes, info.most_boxes, info.boxes_clipped) == ({"x": 1}, 1, 0)
    assert (second.labels, second.label_ids, second.boxes) == ((), (), ())
    assert (info.classes, info.unlabelled, info.most_labels) == ({"red": 1, "blue": 1}, 1, 2)


def test_failures_stand_in_the_side_car_and_the_others_in_the_file(writer, plan, tmp_path):
    broken, absent, changed = (Path(plan.items[n].ref.uri) for n in (2, 5, 9))
    broken.write_bytes(broken.read_bytes()[:300])
    items = [item_of(ref) for ref in refs(plan)]
    changed.write_bytes(changed.read_bytes() + b"\0")

    def read_all_but_one(uri):
        if uri == str(absent):
            raise VisionError(Reason.FORBIDDEN, "no")
        return read(uri)

    info = write(writer(read=read_all_but_one, attempt=2), replace(plan, items=items))
    assert [(f.key, f.stage, f.reason, f.attempt, f.run_id) for f in info.failures] == [
        (plan.items[2].ref.key, "decode", "truncated", 2, "r1"),
        (plan.items[5].ref.key, "read", "forbidden", 2, "r1"),
        (plan.items[9].ref.key, "read", "read_error", 2, "r1"),
    ]
    failed = {failure.key for failure in info.failures}
    assert info.images == 21
    assert {record.key for record in records_in(tmp_path / "out" / NAME)} == {
        item.ref.key for item in items
    } - failed


def annotated(plan):
    """The plan with boxes on its first images: a good one, a cut one, two bad ones, one unknown."""
    boxes = [
        Box(0, 0, 8, 6, "x", area_px=10.0, crowd=True),
        Box(-5, 0, 8, 6, "w"),
        Box(5, 5, 5, 5, "x"),
        Box(0, 0, 1, math.nan, "x"),
        Box(0, 0, 5, 5, "y"),
    ]
    fault = Fault("instances.json: annotation 3", "bad_box", "it has no\nbbox")
    items = list(plan.items)
    items[0] = replace(items[0], ref=replace(items[0].ref, boxes=boxes, faults=(fault,)))
    items[1] = replace(items[1], ref=replace(items[1].ref, boxes=boxes[:2] * 2))
    return replace(plan, items=items)


def test_an_annotation_that_fails_leaves_its_image_and_the_other_boxes(writer, plan, tmp_path):
    plan = annotated(plan)
    info = write(writer(box_classes=["w", "x"], attempt=2), plan)
    key, uri = plan.items[0].ref.key, plan.items[0].ref.uri
    assert (info.images, info.failures) == (24, ())
    assert (info.boxes, info.most_boxes, info.boxes_clipped) == ({"x": 3, "w": 3}, 4, 3)
    assert [(f.key, f.uri, f.stage, f.reason, f.attempt, f.run_id) for f in info.annotation_failures] == [
        (key, "instances.json: annotation 3", "annotation", "bad_box", 2, "r1"),
        (key, f"{uri}: box 3", "annotation", "bad_box", 2, "r1"),
        (key, f"{uri}: box 4", "annotation", "bad_box", 2, "r1"),
        (key, f"{uri}: box 5", "annotation", "unknown_category", 2, "r1"),
    ]
    assert info.annotation_failures[0].detail == "it has no bbox"
    first = records_in(tmp_path / "out" / NAME)[0]
    assert [(box.label, box.crowd) for box in first.boxes] == [("x", True), ("w", False)]
    side_car = json.loads((tmp_path / "out" / f"{NAME}.json").read_text())
    assert {(f["run_id"], f["attempt"]) for f in side_car["annotation_failures"]} == {("", 1)}


def test_a_kept_shard_tells_the_same_of_its_annotations(writer, plan):
    plan = annotated(plan)
    info = write(writer(box_classes=["w", "x"]), plan)
    kept = writer(box_classes=["w", "x"], resume=True, run_id="r2").write_or_keep(plan, lambda seconds: None)
    assert kept.kept
    for f in info.annotation_failures:
        assert replace(f, run_id="") in kept.annotation_failures
    assert kept == replace(info, annotation_failures=kept.annotation_failures)


def test_a_shard_without_images_is_an_empty_file(writer, plan, tmp_path):
    info = write(writer(), replace(plan, items=[]))
    assert (info.images, info.bytes, (tmp_path / "out" / NAME).read_bytes()) == (0, 0, b"")


def test_on_written_is_called_for_each_record(writer, plan):
    seconds = []
    writer().write(plan, seconds.append)
    assert len(seconds) == 24
    assert all(value > 0 for value in seconds)


class TestFinished:
    @pytest.fixture
    def done(self, writer, plan, tmp_path):
        """``done(plan, ...)``: whether the shard, once written, counts as finished."""
        write(writer(), plan)

        def is_finished(plan=plan, settings=None, classes=CLASSES, box_classes=(), **options):
            digest = plan.digest(settings or EncodeSettings(), classes, box_classes)
            return finished(str(tmp_path / "out"), plan, digest, **options)

        return is_finished

    def test_a_finished_shard_is_kept(self, done, plan):
        assert done() is not None
        assert done().kept
        assert done(retry_failed=True)

    def test_another_plan_is_not(self, done, plan):
        assert not done(replace(plan, items=plan.items[1:]))
        assert not done(replace(plan, moved=3))
        assert not done(settings=EncodeSettings(jpeg_quality=90))
        assert not done(classes=["red", "green", "blue"])
        ref = replace(plan.items[0].ref, labels=("red",))
        assert not done(replace(plan, items=[replace(plan.items[0], ref=ref), *plan.items[1:]]))
        assert not done(replace(plan, items=[replace(plan.items[0], sha256="0"), *plan.items[1:]]))
        assert not done(box_classes=["x"])
        assert not done(annotated(plan))
        for change in ({"frame": BoxFrame("stored")}, {"faults": (Fault("a", "bad_box", "b"),)}):
            ref = replace(plan.items[0].ref, **change)
            assert not done(replace(plan, items=[replace(plan.items[0], ref=ref), *plan.items[1:]]))

    def test_another_version_of_the_writer_is_not(self, done, monkeypatch):
        from beam_vision.records import shard

        monkeypatch.setattr(shard, "WRITER_VERSION", 99)
        assert not done()

    @pytest.mark.parametrize(
        "damage", ["flip", "cut", "remove", "no side-car", "bad side-car", "other side-car"]
    )
    def test_a_damaged_one_is_not(self, done, tmp_path, damage):
        path, side_car = tmp_path / "out" / NAME, tmp_path / "out" / f"{NAME}.json"
        data = path.read_bytes()
        if damage == "flip":
            path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
        elif damage == "cut":
            path.write_bytes(data[:-1])
        elif damage == "remove":
            path.unlink()
        elif damage == "no side-car":
            side_car.unlink()
        elif damage == "bad side-car":
            side_car.write_text("{")
        else:
            side_car.write_text("{}")
        assert not done()

    @pytest.mark.parametrize(
        ("reason", "kept", "kept_on_retry"), [("truncated", True, False), ("read_error", False, False)]
    )
    def test_failures_that_may_pass_are_tried_again(self, done, plan, tmp_path, reason, kept, kept_on_retry):
        side_car = tmp_path / "out" / f"{NAME}.json"
        value = json.loads(side_car.read_text())
        failure = {"key": "k", "uri": "u", "stage": "read", "reason": reason, "detail": "d"}
        side_car.write_text(json.dumps({**value, "failures": [failure]}))
        assert bool(done()) is kept
        assert bool(done(retry_failed=True)) is kept_on_retry

    def test_resume_keeps_it_and_writes_nothing(self, done, writer, plan, monkeypatch):
        def refuse(*args):
            raise AssertionError("written again")

        monkeypatch.setattr(writers, "write_record", refuse)
        assert writer(resume=True).write_or_keep(plan, lambda seconds: None).kept
        with pytest.raises(AssertionError, match="written again"):
            writer(resume=False).write_or_keep(plan, lambda seconds: None)


def test_an_error_while_writing_leaves_nothing_that_looks_finished(writer, plan, tmp_path, monkeypatch):
    first = writer()
    write(first, plan)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers, "write_record", full)
    with pytest.raises(OSError, match="No space"):
        write(first, plan)
    assert not (tmp_path / "out" / f"{NAME}.json").exists()
    assert not list((tmp_path / "out").glob("*.tmp"))
