"""``beam-vision build-index``: a search index from a table of embeddings, or brought up to date with it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import storage, table
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.warehouse.names import is_bigquery

if TYPE_CHECKING:
    from beam_vision.search.build import Built

NAME = "build-index"
DESCRIPTION = "Builds a search index from a table of embeddings, or brings one up to date with it."
EXAMPLE = "beam-vision build-index --table embedded/ --output index/ --recall_target 0.95"


@dataclass(frozen=True, kw_only=True)
class Options:
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
    summary: str = option("", help="write the end-of-run summary to this file as JSON", metavar="FILE")
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


def preflight(options: Options) -> dict[str, Any]:
    """What would be built, from what the table says of itself.

    Raises:
      UsageError: there is no table or, for ``--incremental`` and ``--since``, no index; or the output is the
        folder of something else.
    """
    from beam_vision.search import build, bundle, since

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
    facts = _facts(options.table)
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


def _facts(place: str) -> dict[str, Any]:
    """The rows and the dimension of a table, None where it doesn't say; of a folder also its parts."""
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
    options, _ = parse(parser, Options, argv, beam=False)
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
    if options.summary:
        storage.write_json(options.summary, summary(options, built, wall_sec).to_json())
    jobs.emit(render(options, built, wall_sec))
    return 0


def summary(options: Options, built: Built, wall_sec: float) -> jobs.Summary:
    """The accounts: rows of the table, rows in the index, vectors left out by reason."""
    index = built.manifest
    left_out = sum(index.skipped.values())
    inputs = index.rows + left_out
    return jobs.Summary(
        job=NAME,
        run_id=jobs.new_run_id(),
        inputs=inputs,
        outputs=index.rows,
        failed=left_out,
        failed_by_reason=index.skipped,
        images_per_sec=round(inputs / max(wall_sec, 1e-9), 1),
        wall_sec=round(wall_sec, 3),
        digests={"model": index.model_digest, "preprocessing": index.preprocessing_digest},
        output=storage.absolute(options.output),
        notes=index.notes,
    )


def render(options: Options, built: Built, wall_sec: float) -> str:
    """What was built, as a short table."""
    index = built.manifest
    effort = ", ".join(f"{name} {value:,}" for name, value in index.parameters.items() if value)
    changes = f"{built.added:,} added, {built.replaced:,} replaced, {built.deleted:,} deleted"
    if not built.trained:
        changes += ", not trained again"
    rows = [
        ("index", storage.absolute(options.output)),
        ("rows", f"{index.rows:,} of {index.dimension} dimensions ({changes})"),
        ("backend", index.backend + (f" ({effort})" if effort else "")),
        (
            "recall@10",
            f"{index.recall_at_10:.3f} on {index.recall_queries} queries, at least "
            f"{index.recall_target} was asked for",
        ),
        ("a query", f"{index.query_ms_median:.2f} ms (median), {index.query_ms_p95:.2f} ms (95 of 100)"),
        ("made by", f"model {index.model_digest or '?'}, preprocessing {index.preprocessing_digest or '?'}"),
        ("took", f"{wall_sec:.1f} s"),
    ]
    rows += [("left out", f"{count:,} vectors {reason}") for reason, count in index.skipped.items()]
    rows += [("note", note) for note in index.notes]
    return "\n".join(f"{name:<10}  {text}" for name, text in rows)
