"""``beam-vision build-index``: a search index from a table of embeddings, or brought up to date with it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from beam_vision import storage, table
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.build_index_output import JOB, render, summary
from beam_vision.pipelines.options import ReportOptions, make_parser, option, parse
from beam_vision.pipelines.ran import Ran, write_metrics
from beam_vision.warehouse.names import is_bigquery

NAME = JOB
DESCRIPTION = "Builds a search index from a table of embeddings, or brings one up to date with it."
EXAMPLE = "beam-vision build-index --table embedded/ --output index/ --recall_target 0.95"


@dataclass(frozen=True, kw_only=True)
class Options(ReportOptions):
    """What ``build-index`` takes."""

    table: str = option(
        help="the table with the embeddings, as predict writes it: a folder, or "
        "bigquery://PROJECT.DATASET.TABLE",
        metavar="DEST",
    )
    output: str = option(help="folder for the index; one that is there is replaced at once", metavar="INDEX")
    recall_target: float = option(
        None,
        help="share of the true 10 nearest that a search must find (default: 0.95; with --incremental "
        "as built)",
        metavar="SHARE",
    )
    backend: str = option(
        "",
        help="auto: exact under 20,000 rows, scann_ah under 100,000, scann_tree from there (default: auto; "
        "with --incremental as built)",
        choices=("auto", "exact", "scann_ah", "scann_tree"),
    )
    incremental: bool = option(
        False, help="change the index that is there to what the table holds now: add, replace, delete"
    )
    since: str = option(
        "",
        help="as --incremental, but read only rows that were written since: a time (ISO; UTC where it has no "
        "zone), or last: where the index stopped reading. Of all other rows only the keys are read",
        metavar="TIME",
    )
    compact: bool = option(
        False, help="with --incremental or --since, train the index anew even where few rows changed"
    )
    skip_bad_vectors: bool = option(
        False, help="leave out vectors that are missing, zero, not finite or of another dimension"
    )
    shards: str = option(
        "",
        help="build the index in so many shards, each by itself, as a Beam job on as many workers as there "
        "are (it takes Beam's options then, such as --runner), each with memory for one shard; auto: as "
        "--shard_rows asks for (default: one piece, built here; with --incremental as built)",
        metavar="N|auto",
    )
    shard_rows: int = option(2_000_000, help="with --shards auto, about how many rows a shard may have")
    resume: bool = option(
        False, help="with --shards, keep shards of the same rows that an earlier run finished"
    )
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


def is_sharded(options: Options) -> bool:
    """Whether the index is, or will be, one in shards."""
    from beam_vision.search import shards

    return bool(options.shards) or (
        (options.incremental or bool(options.since)) and shards.is_sharded(options.output)
    )


def refuse_own_table(options: Options) -> None:
    """Refuses to write the index where its table is: whoever reads that would take it for the index.

    Raises:
      UsageError: ``--output`` is the table's folder.
    """
    if is_bigquery(options.table):
        return
    place, output = storage.absolute(options.table).rstrip("/"), storage.absolute(options.output).rstrip("/")
    if output == place or (place.endswith(".parquet") and output == place.rpartition("/")[0]):
        raise UsageError(f"--output {options.output} is the folder of the table; give the index another one")


def preflight(options: Options) -> dict[str, Any]:
    """What would be built, from what the table says of itself.

    Raises:
      UsageError: there is no table or, for ``--incremental`` and ``--since``, no index; or the output is the
        folder of something else.
    """
    from beam_vision.search import build, bundle, since

    if is_sharded(options):
        from beam_vision.pipelines.build_index_shards import plan_of

        return plan_of(options).facts
    if options.resume:
        raise UsageError("--resume goes with --shards: an index of one piece is built at once")
    output = bundle.local_folder(options.output)
    there = os.path.exists(storage.join(output, bundle.MANIFEST))
    updates = options.incremental or bool(options.since)
    if options.compact and not updates:
        raise UsageError(
            "--compact goes with --incremental or --since; without them all is built anew anyway"
        )
    if there or updates:
        manifest = bundle.read_manifest(output)
        if options.since:
            since.moment_of(options.since, manifest, options.table)
    facts = table_facts(options.table)
    backend = options.backend or "auto"
    if facts["rows"] and backend == "auto" and not updates:
        backend = build.choose_backend(facts["rows"])
    return {
        "table": options.table,
        **facts,
        "output": output,
        "does": "update" if updates else "replace" if there else "create",
        "backend": backend,
    }


def table_facts(place: str) -> dict[str, Any]:
    """The rows and the dimension of a table, None where it doesn't say; of a folder also its parts.

    Raises:
      UsageError: there is no such table, or it has no embeddings.
    """
    if is_bigquery(place):
        from beam_vision.search.places import Warehouse

        found = Warehouse(place)
        return {"parts": None, "rows": found.rows() or None, "dimension": found.dimension}
    parts, manifest = table.part_paths(place), table.read_manifest(place)
    if manifest is not None and manifest.embedding_dim is None:
        raise UsageError(
            f"the table at {place} has no embeddings; `beam-vision predict --task embed` makes them"
        )
    return {
        "parts": len(parts),
        "rows": manifest.rows if manifest else None,
        "dimension": manifest.embedding_dim if manifest else None,
    }


def run(argv: list[str]) -> int:
    """Builds or updates an index. Exit code 2 when the table, or the index that is there, won't do."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, beam_args = parse(parser, Options, argv)
    refuse_own_table(options)
    if is_sharded(options):
        from beam_vision.pipelines.build_index_shards import build_shards

        return build_shards(options, beam_args)
    if beam_args:
        raise UsageError(f"unknown option {beam_args[0]}: Beam's options go with --shards")
    plan = preflight(options)
    if options.preflight_only:
        return jobs.show_plan(plan)
    from beam_vision.search import build

    start = time.monotonic()
    made: dict[str, Any] = {"skip_bad_vectors": options.skip_bad_vectors, "progress": jobs.say}
    if options.incremental or options.since:
        built = build.update(
            options.table,
            options.output,
            recall_target=options.recall_target,
            backend=options.backend or None,
            since=options.since,
            compact=options.compact,
            **made,
        )
    else:
        target = 0.95 if options.recall_target is None else options.recall_target
        built = build.build(
            options.table, options.output, recall_target=target, backend=options.backend or "auto", **made
        )
    wall_sec = time.monotonic() - start
    told = summary(options.output, built.manifest, wall_sec).to_json()
    if options.summary:
        storage.write_json(options.summary, told)
    write_metrics(options.metrics_file, told, Ran())
    jobs.emit(render(options.output, built, wall_sec))
    return 0
