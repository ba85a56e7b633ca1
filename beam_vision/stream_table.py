"""The tables of a streaming job: their columns.

A folder of them::

    OUTPUT/part-20261122T101500Z-<digest>.parquet            predictions: of the window that begins then
    OUTPUT/counts/part-..., health/, latency/, alerts/, rollouts/, failures/
    OUTPUT/.staging/<table>/<window>.rows                    written as rows come; gone with the commit

There is no manifest: a part is written aside and renamed, and each row id stands in it once. So
``beam-vision sql`` and ``build-index`` read ``OUTPUT`` as any folder of Parquet files, while a job runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS = "predictions"
COUNTS = "counts"
HEALTH = "health"
LATENCY = "latency"
ALERTS = "alerts"
ROLLOUTS = "rollouts"
FAILURES = "failures"
TABLES = (PREDICTIONS, COUNTS, HEALTH, LATENCY, ALERTS, ROLLOUTS, FAILURES)

STAGES = ("publish", "pull", "queue", "decode", "infer", "write", "total")
"""Where a frame's time goes: capture to publish, publish to pull, pull until its batch begins, decoding it,
its batch's inference, inference until its row is handed to the outputs; capture until then. In milliseconds,
``<stage>_ms`` in a prediction's row. Clocks differ: the first may be negative. A frame of an archive has
neither the first two nor the total."""


def schema(table: str, *, task: str = "classify", embedding_dim: int | None = None) -> pa.Schema:
    """The Arrow schema of a table.

    Args:
      table: one of :data:`TABLES`.
      task: ``classify``, ``embed`` or ``detect``; decides the columns of ``predictions``.
      embedding_dim: the length of the embedding, where predictions have one.
    """
    import pyarrow as pa

    text, real, whole = pa.string(), pa.float64(), pa.int64()
    time = pa.timestamp("us", tz="UTC")
    start = [pa.field("row_id", text, nullable=False)]
    camera = pa.field("camera", text)
    run = pa.field("run_id", text)
    window = [camera, pa.field("window_start", time), pa.field("window_end", time)]
    pane = [pa.field("pane", pa.int32()), pa.field("timing", text), run]
    if table == PREDICTIONS:
        return _predictions(task, embedding_dim)
    columns = {
        COUNTS: [*window, pa.field("class", text), pa.field("count", whole), *pane],
        HEALTH: [
            *window,
            *(pa.field(name, whole) for name in ("frames", "rows", "gated", "duplicates", "failed", "gaps")),
            *(pa.field(name, real) for name in ("rate_per_sec", "longest_gap_sec", "skew_sec")),
            *(pa.field(name, real) for name in ("brightness", "sharpness", "saved_sec")),
            pa.field("state", text),
            pa.field("states", pa.list_(text)),
            *pane,
        ],
        LATENCY: [
            *window,
            pa.field("stage", text),
            pa.field("frames", whole),
            *(pa.field(name, real) for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms")),
            *pane,
        ],
        ALERTS: [
            camera,
            pa.field("time", time),
            *(pa.field(name, text) for name in ("state", "previous", "detail")),
            run,
        ],
        ROLLOUTS: [
            pa.field("time", time),
            *(pa.field(name, text) for name in ("model", "version", "model_digest", "previous_digest")),
            *(pa.field(name, text) for name in ("outcome", "reason")),
            pa.field("load_sec", real),
            run,
        ],
        FAILURES: [
            *(pa.field(name, text) for name in ("key", "uri")),
            camera,
            pa.field("time", time),
            *(pa.field(name, text) for name in ("stage", "reason", "detail")),
            pa.field("attempt", whole),
            *(pa.field(name, text) for name in ("run_id", "message_id")),
            pa.field("attributes", pa.map_(text, text)),
            pa.field("data", pa.binary()),
        ],
    }
    return pa.schema([*start, *columns[table]])


def _predictions(task: str, embedding_dim: int | None) -> pa.Schema:
    import pyarrow as pa

    from beam_vision import table

    batch = table.schema(predictions=task == "classify", embedding_dim=embedding_dim, boxes=task == "detect")
    time = pa.timestamp("us", tz="UTC")
    new = [
        pa.field("camera", pa.string()),
        pa.field("capture_time", time),
        pa.field("sequence", pa.string()),
        pa.field("message_id", pa.string()),
        pa.field("publish_time", time),
        pa.field("pull_time", time),
        *(pa.field(f"{stage}_ms", pa.float64()) for stage in STAGES),
    ]
    return pa.schema([pa.field("row_id", pa.string(), nullable=False), *batch, *new])
