"""Rows of BigQuery as refs: one snapshot, whose streams are shared out among workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from beam_vision.sources import warehouse
from beam_vision.sources.labels import with_known_labels
from beam_vision.sources.spec import SourceSpec
from beam_vision.warehouse.read import Snapshot

_NOWHERE = SourceSpec("bigquery", ("",))  # so that a DoFn can be made without arguments


class SnapshotRowsDoFn(beam.DoFn):
    """SourceSpec of BigQuery -> (Snapshot, stream) for each stream that its rows are read in.

    A query runs here, once: when this is tried again, the job is found by its id.
    """

    def process(self, spec: SourceSpec) -> Iterator[tuple[Snapshot, str]]:
        """Takes the snapshot."""
        assert spec.rows is not None
        snapshot = warehouse.open_snapshot(spec.rows)
        for stream in snapshot.streams:
            yield snapshot, stream


class ReadRowsDoFn(beam.DoFn):
    """(Snapshot, stream) -> (key, ImageRef or Failure) of each row in it.

    Args:
      spec: the source.
      classes: the known labels; empty: any.
    """

    def __init__(self, spec: SourceSpec = _NOWHERE, *, classes: tuple[str, ...] = ()) -> None:
        self._spec = spec
        self._classes = classes

    def process(self, piece: tuple[Snapshot, str]) -> Iterator[tuple[str, Any]]:
        """Streams the rows."""
        spec, (snapshot, stream) = self._spec, piece
        assert spec.rows is not None
        refs = warehouse.list_stream(
            spec.rows, snapshot, stream, root=spec.image_root, boxes_on=spec.boxes_on
        )
        for found in refs:
            yield found.key, with_known_labels(found, self._classes)
