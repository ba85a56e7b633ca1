"""Tables of a streaming job, written by hand: two cameras, a minute, a swap, failures, a corrected window."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from beam_vision import stream_table
from beam_vision.stream_types import as_datetime, frame_key, row_id

START = 1_795_000_000.0
RUN = "20261118T110640000000Z"
OLD, NEW = "a" * 64, "b" * 64


def write(folder, table, rows, *, part="part-0"):
    """Writes rows (dicts; what they leave out is null) as a part of a table."""
    schema = stream_table.schema(table)
    place = folder if table == stream_table.PREDICTIONS else folder / table
    place.mkdir(parents=True, exist_ok=True)
    columns = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema}
    pq.write_table(pa.table(columns, schema=schema), place / f"{part}.parquet")


def prediction(camera, offset_sec, *, label="cat", digest=OLD, total_ms=80.0):
    time_sec = START + offset_sec
    stages = dict(zip(stream_table.STAGES, (5.0, 3.0, 20.0, 4.0, 30.0, 18.0, total_ms), strict=True))
    return {
        "row_id": row_id(camera, time_sec, digest),
        "key": frame_key(camera, time_sec),
        "uri": "pubsub:1",
        "prediction": label,
        "score": 0.9,
        "camera": camera,
        "capture_time": as_datetime(time_sec),
        "model_digest": digest,
        "run_id": RUN,
        **{f"{stage}_ms": ms for stage, ms in stages.items()},
    }


def windowed(camera, start, *, pane=0, span=10, **values):
    """A row of counts, health or latency."""
    extra = values.get("class") or values.get("stage") or "all"
    return {
        "row_id": f"{camera}/{start}/{extra}/{pane}",
        "camera": camera,
        "window_start": as_datetime(START + start),
        "window_end": as_datetime(START + start + span),
        "pane": pane,
        "timing": "on_time" if pane == 0 else "late",
        "run_id": RUN,
        **values,
    }


def health(camera, start, *, rows=0, gated=0, duplicates=0, failed=0, pane=0, **values):
    return windowed(
        camera,
        start,
        pane=pane,
        frames=rows,
        rows=rows,
        gated=gated,
        duplicates=duplicates,
        failed=failed,
        **{"gaps": 0, "longest_gap_sec": 0.5, "saved_sec": 0.03 * gated, "skew_sec": 0.02, **values},
    )


def alert(camera, offset_sec, previous, state, detail=""):
    return {
        "row_id": f"{camera}/{offset_sec}",
        "camera": camera,
        "time": as_datetime(START + offset_sec),
        "state": state,
        "previous": previous,
        "detail": detail,
        "run_id": RUN,
    }


def failure(camera, offset_sec, reason, data, *, key=None, detail="what was wrong"):
    return {
        "row_id": f"failed/{camera}/{offset_sec}/{reason}",
        "key": key or f"{camera}/{offset_sec}",
        "uri": "pubsub:2",
        "camera": camera,
        "time": as_datetime(START + offset_sec),
        "stage": "decode",
        "reason": reason,
        "detail": detail,
        "attempt": 1,
        "run_id": RUN,
        "message_id": "17",
        "attributes": [("camera", camera or "")],
        "data": data,
    }


def rollout(offset_sec, version, digest, outcome, reason, *, previous=""):
    return {
        "row_id": f"{version}/{offset_sec}",
        "time": as_datetime(START + offset_sec),
        "model": "/models",
        "version": version,
        "model_digest": digest,
        "previous_digest": previous,
        "outcome": outcome,
        "reason": reason,
        "load_sec": 2.5,
        "run_id": RUN,
    }


def jpeg(seed=1, size=(160, 120)):
    """A picture of coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def write_all(folder, seconds=60, per_second=8):
    """Camera ``moving`` sends all the time; ``freezing`` gates, freezes and sends broken frames."""
    rows, windows, latency, counts = [], [], [], []
    for start in range(0, seconds, 10):
        for camera in ("moving", "freezing"):
            sent = 10 * per_second
            gated = sent * 6 // 10 if camera == "freezing" and start >= 20 else 0
            failed = 4 if camera == "freezing" and start == 30 else 0
            for i in range(sent - gated - failed):
                at = start + i * 10 / (sent - gated - failed)
                label = ("cat", "coffee", "rocket")[int(at // 8) % 3]
                rows.append(
                    prediction(
                        camera, at, label=label, digest=NEW if at >= 32 else OLD, total_ms=60 + i % 40 + start
                    )
                )
            windows.append(
                health(
                    camera,
                    start,
                    rows=sent - gated - failed,
                    gated=gated,
                    failed=failed,
                    brightness=100 + start,
                    sharpness=400.0,
                )
            )
            latency.append(
                windowed(
                    camera, start, stage="total", frames=9, p50_ms=60.0 + start, p95_ms=120.0, p99_ms=300
                )
            )
            own = [row["prediction"] for row in rows if row["camera"] == camera][-(sent - gated - failed) :]
            counts += [
                windowed(camera, start, **{"class": name, "count": own.count(name)}) for name in set(own)
            ]
    write(folder, "predictions", rows)
    write(folder, "health", windows)
    write(folder, "latency", latency)
    write(folder, "counts", counts)
    alerts = [
        alert("freezing", 25, "ok", "frozen", "the same frame for 10 s"),
        alert("freezing", 44, "frozen", "ok"),
        alert("freezing", 50, "ok", "black", "brightness 3"),
    ]
    write(folder, "alerts", alerts)
    cut = jpeg()[: len(jpeg()) // 2]
    broken = [
        failure("freezing", 31, "truncated", cut),
        failure("freezing", 33, "not_an_image", b"HTTP/1.1 503 <b>\r\n"),
        failure("freezing", 35, "too_small", jpeg()),
        failure("freezing", 37, "truncated", cut),
        failure(None, 38, "bad_message", b"{broken", key="4711"),
    ]
    write(folder, "failures", broken)
    rollouts = [
        rollout(0.5, "v1", OLD, "serving", "24 golden images as expected"),
        rollout(22, "v2-cut", "", "refused", "model digests differ: half copied", previous=OLD),
        rollout(32, "v2", NEW, "serving", "24 golden images, 23 right before, 24 now", previous=OLD),
    ]
    write(folder, "rollouts", rollouts)
