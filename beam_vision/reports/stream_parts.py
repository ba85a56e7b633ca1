"""Parts of the page of a streaming job that are not of one camera's time line: failures, classes, stages."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import stream_table
from beam_vision.reports import stream_tables as tables
from beam_vision.reports.stream_data import Broken, BrokenGroup, ClassCounts, Rollout

if TYPE_CHECKING:
    import pyarrow as pa

MAX_COLUMNS = 16
MAX_CLASSES = 12
EXAMPLES = 3
MAX_EXAMPLE_BYTES = 2_000_000


def rollouts(rows: pa.Table, found: Sequence[Mapping[str, Any]]) -> list[Rollout]:
    """Rollouts, in order of time, with the rows that each model made."""
    made = Counter(rows["model_digest"].to_pylist())
    return [
        Rollout(
            time_sec=row["time"],
            version=row["version"] or "",
            model_digest=row["model_digest"] or "",
            outcome=row["outcome"],
            reason=row["reason"] or "",
            load_sec=row["load_sec"] or 0.0,
            rows=made[row["model_digest"]] if row["outcome"] == "serving" else 0,
        )
        for row in found
    ]


def broken(folder: str, failures: pa.Table) -> list[BrokenGroup]:
    """By reason, the most frequent first; payloads are read of the examples alone."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in failures.to_pylist():
        groups[row["reason"]].append(row)
    chosen = {
        row["row_id"]: row
        for rows in groups.values()
        for row in sorted(rows, key=lambda row: row["time"] or 0)[:EXAMPLES]
    }
    data = _payloads(folder, chosen)
    made: dict[str, list[Broken]] = defaultdict(list)
    for row_id, row in chosen.items():
        said = {name: row[name] or "" for name in ("camera", "key", "stage", "reason", "detail")}
        made[row["reason"]].append(Broken(row["time"] or 0.0, data=data.get(row_id, b""), **said))
    ranked = sorted(groups, key=lambda reason: (-len(groups[reason]), reason))
    return [BrokenGroup(reason, len(groups[reason]), made[reason]) for reason in ranked]


def _payloads(folder: str, chosen: Iterable[str]) -> dict[str, bytes]:
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.array(list(chosen), pa.string())
    rows = tables.read(folder, stream_table.FAILURES, ["data"], ids=ids)
    small = rows.filter(pc.less_equal(pc.binary_length(rows["data"]), MAX_EXAMPLE_BYTES))
    return dict(zip(small["row_id"].to_pylist(), small["data"].to_pylist(), strict=True))


def columns_of(windows: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The windows in order; several joined to one where there are more than :data:`MAX_COLUMNS`."""
    unique = sorted(set(windows))
    step = -(-len(unique) // MAX_COLUMNS) or 1
    groups = [unique[i : i + step] for i in range(0, len(unique), step)]
    return [(group[0][0], group[-1][1]) for group in groups]


def classes_of(
    camera: str, counts: Sequence[Mapping[str, Any]], columns: Sequence[tuple[float, float]]
) -> ClassCounts:
    """What a camera saw, by class (the most frequent first) and column."""
    own = [row for row in counts if row["camera"] == camera]
    totals: Counter[str] = Counter()
    for row in own:
        totals[row["class"]] += row["count"]
    names = [name for name, _ in totals.most_common(MAX_CLASSES)]
    found = [[0] * len(columns) for _ in names]
    starts = [start for start, _ in columns]
    for row in own:
        if row["class"] in names:
            column = int(np.searchsorted(starts, row["window_start"], side="right")) - 1
            found[names.index(row["class"])][column] += row["count"]
    return ClassCounts(camera, names, found, others=len(totals) - len(names))


def stages(rows: pa.Table) -> dict[str, tuple[float, float, float]]:
    """Exact percentiles of milliseconds by stage: p50, p95, p99."""
    found = {}
    for stage in stream_table.STAGES:
        values = rows[f"{stage}_ms"].to_numpy() if f"{stage}_ms" in rows.column_names else np.empty(0)
        values = values[np.isfinite(values)]
        if len(values):
            p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
            found[stage] = (p50, p95, p99)
    return found
