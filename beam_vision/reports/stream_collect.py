"""From the tables of a streaming job to what its page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from beam_vision import storage, stream_table
from beam_vision.errors import UsageError
from beam_vision.reports import stream_parts as parts
from beam_vision.reports import stream_tables as tables
from beam_vision.reports.stream_data import Alert, CameraStory, Percentiles, Span, StreamStory, Window

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BINS = 240
BINS_SEC = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)
OK_STATE = "ok"


class _Tables(NamedTuple):
    """The tables, read."""

    rows: pa.Table
    health: list[dict[str, Any]]
    latency: list[dict[str, Any]]
    counts: list[dict[str, Any]]
    alerts: list[dict[str, Any]]
    rollouts: list[dict[str, Any]]
    failures: pa.Table


def collect(folder: str) -> StreamStory:
    """Reads the tables in ``folder``.

    Raises:
      UsageError: there are none.
    """
    if not tables.has_tables(folder):
        raise UsageError(f"no tables of a streaming job at {folder}; give the --output of beam-vision stream")
    read = _read(folder)
    times = read.rows["capture_time"].to_numpy()
    start, end = _span(times, read.health)
    bin_sec = bin_of(end - start)
    names = sorted(
        {*read.rows["camera"].unique().to_pylist(), *(row["camera"] for row in read.health + read.alerts)}
    )
    alerts = [
        Alert(row["time"], row["camera"], row["state"], row["previous"] or "", row["detail"] or "")
        for row in read.alerts
    ]
    cameras = [_camera(name, read, alerts, (start, end), bin_sec) for name in names]
    columns = parts.columns_of([(row["window_start"], row["window_end"]) for row in read.counts])
    return StreamStory(
        folder=storage.absolute(folder),
        start_sec=start,
        end_sec=end,
        bin_sec=bin_sec,
        cameras=cameras,
        rows=len(read.rows),
        failed=len(read.failures),
        counted_rows=sum(camera.total("rows") for camera in cameras),
        counted_failed=sum(camera.total("failed") for camera in cameras),
        gated=sum(camera.total("gated") for camera in cameras),
        duplicates=sum(camera.total("duplicates") for camera in cameras),
        alerts=alerts,
        rollouts=parts.rollouts(read.rows, read.rollouts),
        broken=parts.broken(folder, read.failures),
        columns=columns,
        classes=[parts.classes_of(name, read.counts, columns) for name in names],
        stages=parts.stages(read.rows),
        outside=int(((times < start) | (times > end)).sum()),
        runs=sorted({str(run) for run in read.rows["run_id"].unique().to_pylist()}),
    )


def _read(folder: str) -> _Tables:
    window = ("camera", "window_start", "window_end", "pane")
    stages = [f"{stage}_ms" for stage in stream_table.STAGES]
    health = ("rows", "gated", "duplicates", "failed", "gaps", "longest_gap_sec", "skew_sec")
    latency = tables.read(
        folder, stream_table.LATENCY, [*window, "stage", *(f"{p}_ms" for p in ("p50", "p95", "p99"))]
    )
    totals = [row for row in tables.last_panes(latency, "stage") if row["stage"] == "total"]
    return _Tables(
        rows=tables.read(
            folder, stream_table.PREDICTIONS, ["camera", "capture_time", "model_digest", "run_id", *stages]
        ),
        health=tables.last_panes(
            tables.read(
                folder,
                stream_table.HEALTH,
                [*window, *health, "saved_sec", "brightness", "sharpness", "state"],
            )
        ),
        latency=totals,
        counts=tables.last_panes(
            tables.read(folder, stream_table.COUNTS, [*window, "class", "count"]), "class"
        ),
        alerts=_in_time(tables.read(folder, stream_table.ALERTS, _names(stream_table.ALERTS))),
        rollouts=_in_time(tables.read(folder, stream_table.ROLLOUTS, _names(stream_table.ROLLOUTS))),
        failures=tables.read(
            folder, stream_table.FAILURES, ["camera", "time", "key", "stage", "reason", "detail"]
        ),
    )


def _names(name: str) -> list[str]:
    return [field for field in stream_table.schema(name).names if field != "row_id"]


def _in_time(rows: pa.Table) -> list[dict[str, Any]]:
    return sorted(rows.to_pylist(), key=lambda row: row["time"])


def _span(times: np.ndarray, health: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """What the timelines span: all rows and windows, unless a few lie far from all others."""
    if not len(times):
        windows = [row[name] for row in health for name in ("window_start", "window_end")]
        return (min(windows), max(windows)) if windows else (0.0, 1.0)
    low, high = np.percentile(times, (0.5, 99.5))
    near = times[(times >= low - 2 * (high - low) - 60) & (times <= high + 2 * (high - low) + 60)]
    return float(np.floor(near.min())), float(max(np.ceil(near.max()), np.floor(near.min()) + 1))


def bin_of(span_sec: float) -> float:
    """The narrowest of a few round widths at which a span has at most :data:`MAX_BINS` bars."""
    return float(next((width for width in BINS_SEC if span_sec / width <= MAX_BINS), BINS_SEC[-1]))


def _camera(
    name: str, read: _Tables, alerts: Sequence[Alert], span: tuple[float, float], bin_sec: float
) -> CameraStory:
    import pyarrow.compute as pc

    start, end = span
    own = read.rows.filter(pc.equal(read.rows["camera"], name))
    times, total = own["capture_time"].to_numpy(), own["total_ms"].to_numpy()
    bins = max(1, int(np.ceil((end - start) / bin_sec)))
    heights, _ = np.histogram(times, bins=bins, range=(start, start + bins * bin_sec))
    health = [row for row in read.health if row["camera"] == name]
    broken = read.failures.filter(pc.equal(read.failures["camera"], name))
    total = total[np.isfinite(total)]
    return CameraStory(
        name=name,
        rows_by_bin=heights.tolist(),
        windows=[_window(row) for row in health],
        spans=spans_of([alert for alert in alerts if alert.camera == name], health, span),
        failed_at=broken["time"].drop_null().to_pylist(),
        latency=[
            Percentiles(*(row[key] for key in ("window_start", "window_end", "p50_ms", "p95_ms", "p99_ms")))
            for row in read.latency
            if row["camera"] == name
        ],
        p95_ms=float(np.percentile(total, 95)) if len(total) else None,
        gaps=sum(row["gaps"] or 0 for row in health),
        longest_gap_sec=max((row["longest_gap_sec"] or 0.0 for row in health), default=0.0),
        saved_sec=sum(row["saved_sec"] or 0.0 for row in health),
        skew_sec=_mean(row["skew_sec"] for row in health),
        brightness=_range(row["brightness"] for row in health),
        sharpness=_range(row["sharpness"] for row in health),
    )


def _window(row: Mapping[str, Any]) -> Window:
    counts = [row[name] or 0 for name in ("rows", "gated", "duplicates", "failed")]
    return Window(row["window_start"], row["window_end"], *counts)


def spans_of(
    alerts: Sequence[Alert], health: Sequence[Mapping[str, Any]], span: tuple[float, float]
) -> list[Span]:
    """A camera's states from its alerts; without any, the one its windows say, or ``ok``.

    Args:
      alerts: of one camera, in order of time.
      health: its windows, in order of time.
      span: what to cover, start and end.
    """
    start, end = span
    if not alerts:
        states = [row["state"] for row in health if row["state"]]
        return [Span(start, end, states[-1] if states else OK_STATE)]
    found, state = [], alerts[0].previous or OK_STATE
    for alert in alerts:
        at = min(max(alert.time_sec, start), end)
        if at > start:
            found.append(Span(start, at, state))
        start, state = at, alert.state
    return [*found, Span(start, end, state)] if end > start else found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _range(values: Iterable[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None
