"""``build-index --since``: from when on rows are read, and what an index remembers of that."""

from __future__ import annotations

import datetime
from dataclasses import replace

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.search import bundle
from beam_vision.search.bundle import Bundle, IndexManifest
from beam_vision.search.vectors import VectorTable

LAST = "last"


def moment_of(since: str, manifest: IndexManifest, place: str) -> datetime.datetime:
    """The time that ``--since`` names; one without a zone is UTC.

    Raises:
      UsageError: it is no time; or ``last``, and the index doesn't know, or was built of another table.
    """
    if since == LAST:
        if manifest.table != storage.absolute(place):
            raise UsageError(f"--since last: the index is of {manifest.table}, not of {place}; give a time")
        if not manifest.read_to:
            raise UsageError(
                "--since last: the index doesn't say what it has read; give a time, or leave it out"
            )
        since = manifest.read_to
    try:
        moment = datetime.datetime.fromisoformat(since)
    except ValueError as error:
        raise UsageError(
            f"--since {since!r} is neither `last` nor a time such as 2026-05-01 or 2026-05-01T12:00:00+00:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)


def as_read(old: Bundle) -> VectorTable:
    """An index as the table that it was read from; of what it left out it knows only how many there are."""
    facts = old.manifest
    return VectorTable(
        store=old.index.store,
        rows=old.rows,
        model_digest=facts.model_digest,
        preprocessing_digest=facts.preprocessing_digest,
        read_to=facts.read_to,
        skipped={reason: [""] * count for reason, count in facts.skipped.items()},
    )


def remember(manifest: IndexManifest, source: VectorTable, output: str) -> IndexManifest:
    """An index that needs no change, and knows now that it is up to date."""
    if source.read_to == manifest.read_to:
        return manifest
    return bundle.note(output, replace(manifest, read_to=source.read_to))
