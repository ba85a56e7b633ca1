"""What ``build-index`` says in the end: the accounts, and a short table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_vision import storage
from beam_vision.pipelines import job as jobs

if TYPE_CHECKING:
    from beam_vision.search.build import Built
    from beam_vision.search.bundle import IndexManifest
    from beam_vision.search.shards import ShardedManifest

JOB = "build-index"


def summary(output: str, index: IndexManifest | ShardedManifest, wall_sec: float) -> jobs.Summary:
    """The accounts: rows of the table, rows in the index, vectors left out by reason.

    Rows in shards that were kept as they are count as done already.
    """
    left_out = sum(index.skipped.values())
    inputs = index.rows + left_out
    kept = kept_rows(index)
    return jobs.Summary(
        job=JOB,
        run_id=getattr(index, "run_id", "") or jobs.new_run_id(),
        inputs=inputs,
        outputs=index.rows - kept,
        failed=left_out,
        already_done=kept,
        failed_by_reason=index.skipped,
        images_per_sec=round(inputs / max(wall_sec, 1e-9), 1),
        wall_sec=round(wall_sec, 3),
        digests={"model": index.model_digest, "preprocessing": index.preprocessing_digest},
        output=storage.absolute(output),
        notes=index.notes,
    )


def kept_rows(index: IndexManifest | ShardedManifest) -> int:
    """Rows in shards that the run found made."""
    made = set(getattr(index, "made", ()))
    return sum(each.rows for each in getattr(index, "shards", ()) if each.number not in made)


def render(output: str, built: Built, wall_sec: float) -> str:
    """What was built, as a short table."""
    index = built.manifest
    effort = ", ".join(f"{name} {value:,}" for name, value in index.parameters.items() if value)
    changes = f"{built.added:,} added, {built.replaced:,} replaced, {built.deleted:,} deleted"
    if not built.trained:
        changes += ", not trained again"
    rows = [
        ("rows", f"{index.rows:,} of {index.dimension} dimensions ({changes})"),
        ("backend", index.backend + (f" ({effort})" if effort else "")),
        _recall(index, ""),
        ("a query", f"{index.query_ms_median:.2f} ms (median), {index.query_ms_p95:.2f} ms (95 of 100)"),
    ]
    return _table(output, index, rows, wall_sec)


def render_shards(output: str, index: ShardedManifest, wall_sec: float) -> str:
    """What was built, as a short table."""
    count, made = len(index.shards), len(index.made)
    largest = max(each.rows for each in index.shards)
    slowest_ms = max(each.query_ms_median for each in index.shards)
    rows = [
        ("rows", f"{index.rows:,} of {index.dimension} dimensions"),
        (
            "shards",
            f"{count:,} ({made:,} made, {count - made:,} kept as they were), at most {largest:,} rows",
        ),
        ("backend", index.backends),
        _recall(index, " over all shards"),
        ("a query", f"{slowest_ms:.2f} ms in the slowest shard (median)"),
    ]
    return _table(output, index, rows, wall_sec)


def _recall(index: IndexManifest | ShardedManifest, where: str) -> tuple[str, str]:
    return (
        "recall@10",
        f"{index.recall_at_10:.3f}{where} on {index.recall_queries} queries, at least "
        f"{index.recall_target} was asked for",
    )


def _table(
    output: str, index: IndexManifest | ShardedManifest, rows: list[tuple[str, str]], wall_sec: float
) -> str:
    rows = [
        ("index", storage.absolute(output)),
        *rows,
        ("made by", f"model {index.model_digest or '?'}, preprocessing {index.preprocessing_digest or '?'}"),
        ("took", f"{wall_sec:.1f} s"),
        *(("left out", f"{count:,} vectors {reason}") for reason, count in index.skipped.items()),
        *(("note", note) for note in index.notes),
    ]
    return "\n".join(f"{name:<10}  {text}" for name, text in rows)
