"""The steps of a build in shards one after the other, without a runner."""

from __future__ import annotations

from typing import Any

from beam_vision.search import shard_build, shards
from beam_vision.search.shard_plan import Facts, Piece, ShardSettings, checked, merge_facts
from beam_vision.search.shard_rows import dimension_of, part_rows, plan_reads
from beam_vision.search.shards import ShardedManifest


def settings_for(table: str, output: str, **options: Any) -> ShardSettings:
    """Settings of a build; ``run_id`` and ``shards`` have defaults here."""
    given: dict[str, Any] = {"run_id": "20260101T000000000000Z", "shards": 4} | options
    return ShardSettings(table=table, output=output, dimension=dimension_of(table), **given)


def parted(settings: ShardSettings) -> tuple[dict[int, list[Piece]], Facts]:
    """The pieces of each shard, and the facts of the table, checked."""
    several = [part_rows(task, settings) for task in plan_reads(settings.table, settings.dimension)]
    pieces: dict[int, list[Piece]] = {}
    for one in several:
        for number, piece in one.pieces:
            pieces.setdefault(number, []).append(piece)
    return pieces, checked(merge_facts(one.facts for one in several), settings)


def build_in_shards(settings: ShardSettings) -> ShardedManifest:
    """Builds an index in shards, and cleans up."""
    pieces, facts = parted(settings)
    built = [shard_build.build_shard(number, some, facts, settings) for number, some in pieces.items()]
    manifest = shard_build.commit(built, facts, settings)
    shards.clean(settings.output, manifest)
    return manifest
