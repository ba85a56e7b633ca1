"""The PTransforms: they plan as plain Python does, group nothing large, count what they do, and pickle."""

import os
from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.internal import pickler
from records_builder import item_of, make_dataset, plan_shards, read, refs_of

from beam_vision.records import plan_transforms, schema, verify_transforms, write_transforms
from beam_vision.records.encode import EncodeSettings
from beam_vision.records.manifest import read_manifest
from beam_vision.records.observe import Observed
from beam_vision.records.plan import Job
from beam_vision.records.plan_transforms import FingerprintImages, PlanShards
from beam_vision.records.shard import Item
from beam_vision.records.splits import DEFAULT_SPLITS, SplitRule, parse_splits
from beam_vision.records.write_transforms import ObserveRecords, ReadBack, WriteShards
from beam_vision.testing.pipelines import collect, collect_with_counters
from beam_vision.types import Box, EncodedImage, ImageRef

SPLITS = parse_splits(DEFAULT_SPLITS)


def fingerprints():
    """Refs -> Items; a ref whose file is absent is left out."""
    there = beam.Filter(lambda ref: os.path.exists(ref.uri))
    return there | beam.Map(item_of).with_output_types(Item)


def job_in(folder, by="content", target=4000, **changes):
    return Job(
        folder=str(folder),
        rule=SplitRule(SPLITS, by),
        target_shard_bytes=target,
        settings=EncodeSettings(),
        run_id="r1",
        **changes,
    )


def run_plan(job, refs, classes=()):
    def build(pipeline):
        listed = pipeline | beam.Create(refs).with_output_types(ImageRef)
        planned = (listed | fingerprints(), listed) | PlanShards(job, classes=classes)
        return {"items": planned.items, "plan": planned.plan, "failed": planned.failed}

    return collect(build)


def test_fingerprints(lake):
    refs = refs_of(lake)
    images = [EncodedImage(ref, read(ref.uri)) for ref in refs]
    found = collect(lambda p: {"items": p | beam.Create(images) | FingerprintImages()})["items"]
    assert sorted(found, key=lambda item: item.ref.key) == [item_of(ref) for ref in refs]


@pytest.mark.parametrize("by", ["content", "uri", "group:camera"])
def test_the_plan_is_that_of_plain_python(lake, tmp_path, by):
    """With copies of the same bytes under other names, in other groups."""
    refs = [replace(ref, attributes={"camera": str(n % 7)}) for n, ref in enumerate(refs_of(lake))]
    for n, ref in enumerate(refs[:6]):
        copy = lake / f"copy{n}.jpg"
        copy.write_bytes(read(ref.uri))
        refs.append(ImageRef(copy.name, str(copy), attributes={"camera": f"x{n}"}))
    job = job_in(tmp_path / "out", by)
    counts, plans = plan_shards(job, [item_of(ref) for ref in refs])
    found = run_plan(job, refs)
    (plan,) = found["plan"]
    assert dict(plan.shards) == counts
    assert sum(counts.values()) > 5
    assert plan.classes == ("blue", "green", "red")
    keys = {}
    for slot, item in found["items"]:
        keys.setdefault(slot, set()).add(item.ref.key)
    expected = {
        (p.split, int(p.name.split("-")[1])): {"", *(item.ref.key for item in p.items)} for p in plans
    }
    assert keys == expected
    by_content = {}
    for (split, _), item in found["items"]:
        by_content.setdefault(item.sha256, set()).add(split)
    assert all(len(splits) == 1 for sha256, splits in by_content.items() if sha256)
    if by == "uri":
        moved = [i for (s, _), i in found["items"] if i.sha256 and job.rule.wanted(i.ref, i.sha256) != s]
        assert moved, "the copies straddle no split, so this test shows nothing"


def test_refs_pass_whole(lake, tmp_path):
    """All that a ref holds comes through the shuffles."""
    refs = [
        replace(
            refs_of(lake)[0],
            labels=("a", "b"),
            split="test",
            boxes=(Box(1, 2, 3, 4, "x"),),
            attributes={"k": "v"},
        )
    ]
    items = [item for _, item in run_plan(job_in(tmp_path, "manifest"), refs)["items"] if item.sha256]
    (ref,) = [item.ref for item in items]
    assert (list(ref.labels), ref.split, dict(ref.attributes)) == (["a", "b"], "test", {"k": "v"})
    assert [(b.xmin, b.ymin, b.xmax, b.ymax, b.label) for b in ref.boxes] == [(1, 2, 3, 4, "x")]


def test_images_without_a_split_fail_and_the_others_go_on(lake, tmp_path):
    refs = [replace(ref, split="train" if n else "trian") for n, ref in enumerate(refs_of(lake))]
    found = run_plan(job_in(tmp_path / "out", "manifest"), refs)
    (failure,) = found["failed"]
    assert (failure.key, failure.stage, failure.reason) == (refs[0].key, "source", "unknown_split")
    assert "nearest is 'train'" in failure.detail
    assert sum(bool(item.sha256) for _, item in found["items"]) == 23


def test_the_class_list_may_be_given(lake, tmp_path):
    assert run_plan(job_in(tmp_path), refs_of(lake), ["red", "green", "blue"])["plan"][0].classes == (
        "red",
        "green",
        "blue",
    )


def test_no_image_no_plan_and_an_earlier_dataset_stays(lake, tmp_path):
    make_dataset(tmp_path / "out", refs_of(lake))
    found = run_plan(job_in(tmp_path / "out"), [ImageRef("absent", "absent")])
    assert found == {"plan": [], "items": [], "failed": []}
    assert read_manifest(str(tmp_path / "out")).images == 24


def test_the_plan_ends_an_earlier_dataset(lake, tmp_path):
    make_dataset(tmp_path / "out", refs_of(lake))
    run_plan(job_in(tmp_path / "out"), refs_of(lake))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_only_refs_and_fingerprints_are_grouped(tmp_path):
    """The types of what enters each GroupByKey are rows of a known size, never bytes."""
    pipeline = beam.Pipeline()
    listed = pipeline | beam.Create([ImageRef("k", "u")])
    planned = (listed | fingerprints(), listed) | PlanShards(job_in(tmp_path))
    planned | WriteShards(job_in(tmp_path), read)
    grouped = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def visit_transform(self, node):
            if isinstance(node.transform, beam.GroupByKey):
                grouped.append((node.full_label, node.inputs[0].element_type))

    pipeline.visit(Visitor())
    ours = {
        label: str(kind) for label, kind in grouped if "CopiesTogether" in label or "ItemsOfShard" in label
    }
    assert len(ours) == 2
    for kind in ours.values():
        assert Item.__name__ in kind
    assert isinstance(beam.coders.registry.get_coder(Item), beam.coders.RowCoder)


def test_shards_are_written_counted_and_read_back(lake, tmp_path):
    refs = refs_of(lake)
    broken = lake / "red" / "0000.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    job = job_in(tmp_path / "out")

    def build(pipeline):
        listed = pipeline | beam.Create(refs)
        written = (listed | fingerprints(), listed) | PlanShards(job) | WriteShards(job, read)
        records, problems = written.good | ReadBack(job.folder)
        observed = records | ObserveRecords(schema.for_reading())
        return {"infos": written.good, "failed": written.failed, "observed": observed, "problems": problems}

    found, counters = collect_with_counters(build)
    assert sum(info.images for info in found["infos"]) == 23
    assert [(f.key, f.reason, f.run_id) for f in found["failed"]] == [("red/0000.jpg", "truncated", "r1")]
    assert found["problems"] == []
    (observed,) = found["observed"]
    assert observed.records == 23
    assert observed.classes == {"blue": 8, "green": 8, "red": 7}
    assert "image/encoded" not in observed.features
    assert counters["images_done"] == counters["images_decoded"] == 23
    assert counters["images_failed_truncated"] == counters["images_failed"] == 1
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(name for info in found["infos"] for name in (info.name, f"{info.name}.json"))


def test_a_record_that_reads_back_damaged_is_a_problem(lake, tmp_path):
    make_dataset(tmp_path, refs_of(lake))
    shard = max(read_manifest(str(tmp_path)).shards.values(), key=lambda shard: shard.images)
    data = bytearray((tmp_path / shard.name).read_bytes())
    data[30] ^= 1
    (tmp_path / shard.name).write_bytes(data)
    found = collect(
        lambda p: dict(zip("rp", p | beam.Create([shard]) | ReadBack(str(tmp_path)), strict=True))
    )
    assert found == {"r": [], "p": [f"{shard.name}: record 0 at byte 0: the checksum of its data is wrong"]}


def test_no_records_are_observed_as_none():
    found = collect(
        lambda p: {"o": p | beam.Create([], reshuffle=False).with_output_types(bytes) | ObserveRecords()}
    )
    assert found["o"] == [Observed()]


def test_every_dofn_and_transform_pickles(lake, tmp_path):
    make_dataset(tmp_path / "out", refs_of(lake)[:3])
    manifest = read_manifest(str(tmp_path / "out"))
    job = job_in(tmp_path)
    for one in (
        FingerprintImages(),
        PlanShards(job),
        WriteShards(job, read),
        ReadBack("out"),
        ObserveRecords(),
        plan_transforms._WantedSplit(job),
        write_transforms._WriteShard(job, read),
        verify_transforms._CheckShard("out", manifest, True),
        verify_transforms.VerifyDataset("out", manifest, report="r"),
    ):
        assert type(pickler.loads(pickler.dumps(one))) is type(one)
