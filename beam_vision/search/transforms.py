"""PTransforms of this room: an index in shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

import beam_vision.coders  # noqa: F401
from beam_vision import metrics
from beam_vision.search import shard_build, shards
from beam_vision.search.shard_build import BuiltShard
from beam_vision.search.shard_plan import Facts, Piece, ReadTask, ShardSettings, checked, merge_facts
from beam_vision.search.shard_rows import part_rows
from beam_vision.search.shards import ShardedManifest

_PIECES, _FACTS = "pieces", "facts"


class BuildShards(beam.PTransform):
    """PBegin -> exactly one :class:`~beam_vision.search.shards.ShardedManifest`, when it is written.

    Rows go from the table's parts into staged files, shard by shard, and from these into one index each. What
    is shuffled is where they lie, about 200 bytes a shard and task.

    Args:
      tasks: what is read.
      settings: of the build.
    """

    def __init__(self, tasks: Sequence[ReadTask], settings: ShardSettings) -> None:
        super().__init__()
        self._tasks = list(tasks)
        self._settings = settings

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Parts the rows, checks them as a whole, builds each shard, commits, cleans up."""
        parted = (
            begin
            | "Tasks" >> beam.Create(self._tasks, reshuffle=True)
            | "PartRows" >> beam.FlatMap(_part, self._settings).with_outputs(_FACTS, main=_PIECES)
        )
        facts = (
            parted[_FACTS]
            | "MergeFacts" >> beam.CombineGlobally(merge_facts)
            | "CheckRows" >> beam.Map(checked, self._settings)
        )
        built = (
            parted[_PIECES]
            | "ByShard" >> beam.GroupByKey()
            | "ShardsApart" >> beam.Reshuffle()
            | "BuildShard" >> beam.Map(_build, AsSingleton(facts), self._settings)
        )
        return (
            begin
            | "Once" >> beam.Impulse()
            | "Commit" >> beam.Map(_commit, AsList(built), AsSingleton(facts), self._settings)
            | "CommittedOnce" >> beam.Reshuffle()  # a retry may commit again; what is staged must be there
            | "Clean" >> beam.Map(_clean, self._settings)
        )


def _part(task: ReadTask, settings: ShardSettings) -> Iterator[Any]:
    parted = part_rows(task, settings)
    metrics.count(metrics.LISTED, parted.facts.rows + sum(parted.facts.bad.values()))
    yield from parted.pieces
    yield TaggedOutput(_FACTS, parted.facts)


def _build(grouped: tuple[int, Iterable[Piece]], facts: Facts, settings: ShardSettings) -> BuiltShard:
    number, pieces = grouped
    built = shard_build.build_shard(number, list(pieces), facts, settings)
    metrics.count(metrics.DONE, built.shard.rows)
    return built


def _commit(_: bytes, built: list[BuiltShard], facts: Facts, settings: ShardSettings) -> ShardedManifest:
    return shard_build.commit(built, facts, settings)


def _clean(manifest: ShardedManifest, settings: ShardSettings) -> ShardedManifest:
    shards.clean(settings.output, manifest)
    return manifest
