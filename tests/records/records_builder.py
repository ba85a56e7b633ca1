"""Makes a dataset without Beam: the same steps in a row."""

import hashlib
from pathlib import Path

import google_crc32c

from beam_vision.records import schema
from beam_vision.records.commit import Found, commit
from beam_vision.records.encode import EncodeSettings
from beam_vision.records.layout import shard_count, shard_name, shard_of
from beam_vision.records.observe import Observed, merge, observe
from beam_vision.records.plan import DatasetPlan, Job
from beam_vision.records.shard import Item, ShardPlan
from beam_vision.records.splits import DEFAULT_SPLITS, SplitRule, parse_splits
from beam_vision.records.writer import ShardWriter
from beam_vision.tfrecord_io import read_records
from beam_vision.types import ImageRef


def read(uri):
    return Path(uri).read_bytes()


def refs_of(lake):
    """Refs of a folder of class folders, by plain Python; keys don't depend on where the folder lies."""
    files = sorted(path for path in Path(lake).rglob("*") if path.is_file())
    return [
        ImageRef(key=str(path.relative_to(lake)), uri=str(path), labels=(path.parent.name,)) for path in files
    ]


def item_of(ref):
    data = read(ref.uri)
    return Item(ref, hashlib.sha256(data).hexdigest(), google_crc32c.value(data), len(data))


def plan_shards(job, items):
    """The plans of all shards, by plain Python."""
    copies = {}
    for item in items:
        copies.setdefault(item.sha256, []).append(item)
    placed = [
        (job.rule.resolve({job.rule.wanted(i.ref, i.sha256) for i in same}), item)
        for same in copies.values()
        for item in same
    ]
    found = []
    counts = {}
    for split in job.rule.splits:
        own = sorted((item for where, item in placed if where == split), key=lambda item: item.ref.key)
        of = counts[split] = shard_count(sum(item.n_bytes for item in own), job.target_shard_bytes)
        for index in range(of):
            inside = [item for item in own if shard_of(item.ref.key, of) == index]
            found.append(ShardPlan(shard_name(split, index, of), split, inside))
    return counts, found


def observe_files(folder, names):
    """What TFXIO's decoder sees in the shards."""
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    decoder = ExamplesToRecordBatchDecoder(schema.for_reading().SerializeToString())
    parts = []
    for name in names:
        with open(Path(folder) / name, "rb") as file:
            records = list(read_records(file))
        if records:
            parts.append(observe(decoder.DecodeBatch(records)))
    return merge(parts) if parts else Observed()


def make_dataset(folder, refs, **changes):
    """A committed dataset in ``folder``; gives its manifest."""
    settings = {"rule": SplitRule(parse_splits(DEFAULT_SPLITS)), "target_shard_bytes": 6000, "run_id": "r1"}
    job = Job(folder=str(folder), **{"settings": EncodeSettings(), **settings, **changes})
    counts, plans = plan_shards(job, [item_of(ref) for ref in refs])
    classes = sorted({label for ref in refs for label in ref.labels})
    box_classes = sorted({box.label for ref in refs for box in ref.boxes if box.label})
    writer = ShardWriter(job, classes, box_classes, read=read)
    infos = [writer.write(plan, lambda seconds: None) for plan in plans]
    writer.close()
    failures = {}
    for info in infos:
        for failure in info.failures:
            failures[failure.reason] = failures.get(failure.reason, 0) + 1
    observed = observe_files(folder, [plan.name for plan in plans])
    found = Found(infos=infos, observed=observed, problems=[], inputs=len(refs), failed_by_reason=failures)
    return commit(job, DatasetPlan(counts, classes, box_classes), found)
