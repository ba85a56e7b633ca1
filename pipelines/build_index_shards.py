"""``build-index --shards``: the same index in shards, built by a Beam job, on one machine or on many."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.build_index import Options, table_facts
from beam_vision.pipelines.build_index_output import render_shards, summary
from beam_vision.pipelines.ran import write_metrics

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_vision.search.shard_plan import ReadTask, ShardSettings
    from beam_vision.search.shards import ShardedManifest


@dataclass(frozen=True)
class ShardsPlan:
    """What would be done: the settings of the build, what is read, and what a preflight says of both."""

    settings: ShardSettings
    tasks: list[ReadTask]
    facts: dict[str, Any]


def plan_of(options: Options) -> ShardsPlan:
    """The plan of a build.

    Raises:
      UsageError: the table, the options or the index that is there won't do.
    """
    from beam_vision.search import build
    from beam_vision.search.places import place_of
    from beam_vision.search.shard_plan import AUTO, ShardSettings
    from beam_vision.search.shard_rows import dimension_of, plan_reads

    old, known = _old(options), table_facts(options.table)
    as_built = old if options.incremental else None
    target, backend = (as_built.recall_target, as_built.asked_backend) if as_built else (0.95, AUTO)
    request = build.Request(
        options.table,
        options.output,
        target if options.recall_target is None else options.recall_target,
        options.backend or backend,
        jobs.say,
    )
    place, dimension = place_of(options.table), dimension_of(options.table)
    tasks = plan_reads(options.table, dimension)
    changes = options.incremental and not options.compact
    settings = ShardSettings(
        table=options.table,
        output=storage.absolute(options.output),
        run_id=jobs.new_run_id(),
        shards=_shard_count(options, as_built, known["rows"] or sum(task.rows for task in tasks)),
        dimension=_same_dimension(dimension, as_built, options.output),
        recall_target=request.recall_target,
        backend=request.backend,
        skip_bad_vectors=options.skip_bad_vectors,
        reuse=options.resume or changes,
        digests=tuple(sorted(place.digests.items())),
        makers=(as_built.model_digest, as_built.preprocessing_digest) if as_built else None,
        table_run_id=place.run_id,
        earlier=tuple((each.number, each.name) for each in old.shards) if old and changes else (),
        replaces=old.run_id if old else "",
    )
    does = "update" if as_built else "replace" if old else "create"
    return ShardsPlan(settings, tasks, {**known, "does": does, **_facts_of(settings, tasks)})


def _facts_of(settings: ShardSettings, tasks: list[ReadTask]) -> dict[str, Any]:
    return {
        "table": settings.table,
        "dimension": settings.dimension,
        "output": settings.output,
        "shards": settings.shards,
        "keeps_shards_of_the_same_rows": settings.reuse,
        "read_tasks": len(tasks),
        "backend": settings.backend,
        "recall_target": settings.recall_target,
    }


def _same_dimension(found: int, old: ShardedManifest | None, output: str) -> int:
    if old is not None and old.dimension != found:
        raise UsageError(
            f"the index holds vectors of {old.dimension}, the table of {found} dimensions; build {output} "
            "anew, without --incremental"
        )
    return found


def _old(options: Options) -> ShardedManifest | None:
    """The index that is there, None when there is none.

    Raises:
      UsageError: options don't go together; it is no index in shards; or there is none to bring up to date.
    """
    from beam_vision.search import shards

    if options.since:
        raise UsageError(
            f"--since is for an index of one piece; {options.output} is in shards: --incremental reads the "
            "table and builds only the shards whose rows changed"
        )
    if options.compact and (options.resume or not options.incremental):
        raise UsageError("--compact goes with --incremental, not with --resume: it builds all shards anew")
    there = storage.exists(shards.manifest_path(options.output))
    return shards.read_manifest(options.output) if there or options.incremental else None


def _shard_count(options: Options, old: ShardedManifest | None, rows: int) -> int:
    from beam_vision.search.shard_plan import AUTO, choose_shards

    if old is None:
        return choose_shards(options.shards, rows, options.shard_rows)
    if options.shards not in ("", AUTO, str(old.shard_count)):
        raise UsageError(
            f"{options.output} has {old.shard_count} shards, and --incremental keeps that; leave out "
            f"--shards {options.shards}, or --incremental"
        )
    return old.shard_count


def build(pipeline: beam.Pipeline, plan: ShardsPlan) -> None:
    """Adds the job to a pipeline."""
    from beam_vision.search.transforms import BuildShards

    pipeline | "BuildShards" >> BuildShards(plan.tasks, plan.settings)


def build_shards(options: Options, beam_args: list[str]) -> int:
    """Runs the job."""
    from beam_vision.search import bundle, shards

    start = time.monotonic()
    local = not storage.is_remote(options.output)
    with contextlib.ExitStack() as stack:
        if local and not options.preflight_only:
            stack.enter_context(bundle.locked(options.output, check=shards.read_manifest))
        plan = plan_of(options)
        if options.preflight_only:
            return jobs.show_plan(plan.facts)
        jobs.say(f"{plan.settings.shards:,} shards, read in {len(plan.tasks):,} tasks")
        ran = jobs.execute(lambda pipeline: build(pipeline, plan), beam_args)
        if ran.template:
            return jobs.written(ran)
    index = shards.read_manifest(options.output)
    wall_sec = time.monotonic() - start
    told = summary(options.output, index, wall_sec).to_json()
    if options.summary:
        storage.write_json(options.summary, told)
    write_metrics(options.metrics_file, told, ran)
    jobs.emit(render_shards(options.output, index, wall_sec))
    return 0
