"""A table of detections in BigQuery -> what it says of each image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from beam_vision import table
from beam_vision.errors import UsageError
from beam_vision.evaluation.detected import (
    Detected,
    DetectionTable,
    columns_of,
    detected_in,
    require_columns,
    require_task,
)
from beam_vision.warehouse import clients, read, tables
from beam_vision.warehouse.names import parse_table


def check_table(place: str) -> DetectionTable:
    """Finds a table, or a view, of detections.

    Args:
      place: ``bigquery://project.dataset.table``.

    Raises:
      UsageError: there is none, or it is a table of something else.
    """
    name = parse_table(place, option="--predictions")
    with contextlib.closing(clients.client(name.project)) as client:
        found = tables.look(client, name)
    if not found.exists:
        raise UsageError(f"--predictions {name.uri}: there is no such table; `beam-vision predict` makes it")
    facts = found.facts
    if facts:
        require_task(str(facts.get("task")), name.uri)
    require_columns([each.name for each in found.schema], name.uri)
    manifest = table.TableManifest(
        parts=[],
        rows=read.row_count(name),
        run_id="",
        task="detect",
        model_digest=str(facts.get("model_digest") or ""),
        preprocessing_digest=str(facts.get("preprocessing_digest") or ""),
        row_kind=str(facts.get("row_kind") or "images"),
    )
    return DetectionTable(name.uri, (name.uri,), manifest)


def open_streams(place: str) -> Iterator[tuple[read.Snapshot, str]]:
    """The table as it is now, in streams that several workers can read."""
    name = parse_table(place, option="--predictions")
    with contextlib.closing(clients.client(name.project)) as client, read.reading() as reader:
        known = [each.name for each in read.look_up(client, name).schema]
        snapshot = read.snapshot_table(client, reader, name, columns=columns_of(known))
    yield from ((snapshot, stream) for stream in snapshot.streams)


def read_detected(part: tuple[read.Snapshot, str]) -> Iterator[Detected]:
    """The images of one of :func:`open_streams`.

    Raises:
      JobError: reading broke off.
    """
    with read.reading() as reader:
        yield from detected_in(read.read_stream(reader, *part))
