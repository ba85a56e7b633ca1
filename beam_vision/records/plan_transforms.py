"""PTransforms that decide where each image goes, from refs and fingerprints alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam

from beam_vision import coders, metrics, storage
from beam_vision.errors import Stage
from beam_vision.failures import FAILED, Guard
from beam_vision.images.annotated import categorised
from beam_vision.records.layout import MANIFEST, shard_count, shard_of
from beam_vision.records.plan import DatasetPlan, Job
from beam_vision.records.shard import Item, fingerprint
from beam_vision.records.splits import SplitRule
from beam_vision.types import Failure, ImageRef

coders.register_row(Item)

_SLOT = Item(ImageRef(key="", uri=""), sha256="", crc32c=0, n_bytes=0)
"""Stands in every shard's group, so that a shard without images is written too."""

Slot = tuple[str, int]
"""A split and the number of a shard in it."""


class FingerprintImages(beam.PTransform):
    """EncodedImages -> :class:`~beam_vision.records.shard.Item`s; the bytes go no further."""

    def expand(self, images: beam.PCollection) -> beam.PCollection:
        """Hashes each file."""
        return images | beam.Map(fingerprint).with_output_types(Item)


class Planned(NamedTuple):
    """``items``: ((split, shard), Item); ``plan``: one DatasetPlan, or none when there is no image."""

    items: beam.PCollection
    plan: beam.PCollection
    failed: beam.PCollection


class PlanShards(beam.PTransform):
    """Items and the refs they came from -> :class:`Planned`.

    Args:
      job: what is asked for.
      classes: the class list, of labels and of boxes; empty: all labels of the refs, sorted, and all
        categories of their boxes, sorted.
    """

    def __init__(self, job: Job, *, classes: Iterable[str] = ()) -> None:
        super().__init__()
        self._job = job
        self._classes = tuple(classes)

    def expand(self, inputs: tuple[beam.PCollection, beam.PCollection]) -> Planned:
        """Only refs and sha256s are grouped, never a file's bytes."""
        items, refs = inputs
        wanted = items | "WantedSplit" >> beam.ParDo(_WantedSplit(self._job)).with_output_types(
            tuple[str, Item], failed=Failure
        ).with_outputs(FAILED, main="good")
        placed = (
            wanted.good
            | "CopiesTogether" >> beam.GroupByKey()
            | "OneSplit" >> beam.FlatMap(_one_split, self._job.rule).with_output_types(tuple[str, Item])
        )
        sizes = (
            placed
            | "Sizes"
            >> beam.MapTuple(lambda split, item: (split, item.n_bytes)).with_output_types(tuple[str, int])
            | "BytesPerSplit" >> beam.CombinePerKey(sum)
        )
        names = (
            refs
            | "Names" >> beam.FlatMap(_names).with_output_types(tuple[bool, str])
            | "Distinct" >> beam.Distinct()
        )
        plan = (
            items.pipeline
            | "Once" >> beam.Create([None])
            | "Plan"
            >> beam.FlatMap(
                _plan, self._job, self._classes, beam.pvalue.AsDict(sizes), beam.pvalue.AsList(names)
            ).with_output_types(DatasetPlan)
        )
        slotted = placed | "Slot" >> beam.Map(_slot, beam.pvalue.AsSingleton(plan)).with_output_types(
            tuple[Slot, Item]
        )
        empty = plan | "AllSlots" >> beam.FlatMap(_all_slots).with_output_types(tuple[Slot, Item])
        return Planned((slotted, empty) | "Items" >> beam.Flatten(), plan, wanted[FAILED])


class _WantedSplit(beam.DoFn):
    def __init__(self, job: Job) -> None:
        rule = job.rule
        self._guard = Guard(rule.wanted, Stage.SOURCE, run_id=job.run_id, attempt=job.attempt)

    def process(self, item: Item) -> Iterator[Any]:
        split = self._guard(item.ref, item.ref, item.sha256)
        if isinstance(split, Failure):
            metrics.count_failure(split.reason)
            yield beam.pvalue.TaggedOutput(FAILED, split)
        else:
            yield item.sha256, item


def _one_split(copies: tuple[str, Iterable[Item]], rule: SplitRule) -> Iterator[tuple[str, Item]]:
    sha256, found = copies
    items = list(found)
    split = rule.resolve({rule.wanted(item.ref, sha256) for item in items})
    return ((split, item) for item in items)


def _names(ref: ImageRef) -> Iterator[tuple[bool, str]]:
    """Its labels, and the categories of its boxes: whether it is one of a box, and its name."""
    yield from ((False, label) for label in ref.labels)
    yield from ((True, name) for name in {box.label for box in categorised(ref).boxes})


def _plan(
    _: None, job: Job, classes: tuple[str, ...], sizes: dict[str, int], names: list[tuple[bool, str]]
) -> Iterator[DatasetPlan]:
    """The plan, unless there is no image. From here on an earlier dataset in the folder is no more."""
    if sizes:
        storage.delete(storage.join(job.folder, MANIFEST))
        shards = {
            split: shard_count(sizes.get(split, 0), job.target_shard_bytes) for split in job.rule.splits
        }
        labels, categories = (
            sorted(name for is_box, name in names if is_box is kind) for kind in (False, True)
        )
        yield DatasetPlan(
            shards,
            classes or tuple(labels),
            classes if classes and categories else tuple(categories),
        )


def _slot(placed: tuple[str, Item], plan: DatasetPlan) -> tuple[Slot, Item]:
    split, item = placed
    return (split, shard_of(item.ref.key, plan.shards[split])), item


def _all_slots(plan: DatasetPlan) -> Iterator[tuple[Slot, Item]]:
    return (((split, index), _SLOT) for split, of in plan.shards.items() for index in range(of))
