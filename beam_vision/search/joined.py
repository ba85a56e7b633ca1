"""An index finds; a table describes: neighbours with the columns that their rows have by now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from beam_vision.search.index import Found
from beam_vision.search.places import place_of
from beam_vision.search.sql import query
from beam_vision.types import Neighbor

KEYS_AT_ONCE = 10_000
BYTES_AT_ONCE = 4_000_000
"""Of the keys of one query; a request to BigQuery is at most 10 MB, its parameters included."""
_DESCRIBES = ("uri", "label", "attributes")


def joined(
    found: Found,
    place: str,
    *,
    model_digest: str = "",
    preprocessing_digest: str = "",
    max_bytes_billed: int = 0,
    tell: Callable[[str], None] = lambda note: None,
) -> Found:
    """The same neighbours with ``uri``, ``label`` and ``attributes`` as the table has them now.

    Rows are looked up by key; keys go as a query parameter. A neighbour whose row is gone, and a column that
    the table lacks, stay as the index knows them, and a note says so.

    Args:
      found: what an index found.
      place: a folder, or ``bigquery://project.dataset.table``.
      model_digest, preprocessing_digest: the index's, for a table that holds rows of several; empty: any.
      max_bytes_billed: on BigQuery, don't run what would be billed for more; 0: no such limit.
      tell: called with each note before a query is run, such as its cost.

    Raises:
      UsageError: there is no such table, or it can't be asked.
    """
    columns = place_of(place).columns
    described = [name for name in _DESCRIBES if name in columns]
    made = {"model_digest": model_digest, "preprocessing_digest": preprocessing_digest}
    made = {name: digest for name, digest in made.items() if digest and name in columns}
    keys = sorted({each.key for near in found.neighbors for each in near})
    rows: dict[str, dict[str, Any]] = {}
    for some in pieces(keys) if described else ():
        asked = {"keys": some, **made}
        with query(
            place, statement(described, list(made)), asked, max_bytes_billed=max_bytes_billed, tell=tell
        ) as result:
            rows.update(_by_key(result.batches, described))
    gone = len(keys) - len(rows) if described else 0
    notes = [f"{', '.join(described)} as {place} has them now"] if described else []
    if gone:
        notes.append(f"{gone:,} of {len(keys):,} are no longer in {place}: shown as the index knows them")
    neighbors = [[_as_now(each, rows.get(each.key)) for each in near] for near in found.neighbors]
    return Found(neighbors, [*found.notes, *notes])


def pieces(keys: Sequence[str]) -> Iterator[list[str]]:
    """The keys in order, at most :data:`KEYS_AT_ONCE` and about :data:`BYTES_AT_ONCE` at a time."""
    some: list[str] = []
    size_bytes = 0
    for key in keys:
        size_bytes += len(key.encode()) + 20  # and what JSON puts around it
        if some and (len(some) == KEYS_AT_ONCE or size_bytes > BYTES_AT_ONCE):
            yield some
            some, size_bytes = [], len(key.encode()) + 20
        some.append(key)
    if some:
        yield some


def statement(columns: Sequence[str], digests: Sequence[str]) -> str:
    """The query for rows by ``@keys``, of one model where ``digests`` name columns; all names are ours."""
    conditions = ["key IN UNNEST(@keys)", *(f"{name} = @{name}" for name in digests)]
    return f"SELECT key, {', '.join(columns)} FROM images WHERE {' AND '.join(conditions)}"


def _by_key(batches: Iterator[list[tuple]], columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for batch in batches:
        for key, *values in batch:
            yield key, dict(zip(columns, values, strict=True))


def _as_now(neighbor: Neighbor, row: Mapping[str, Any] | None) -> Neighbor:
    if row is None:
        return neighbor
    now = dict(row)
    if "uri" in now:
        now["uri"] = now["uri"] or ""
    if "attributes" in now:
        now["attributes"] = attributes_of(now["attributes"])
    return replace(neighbor, **now)


def attributes_of(value: Any) -> dict[str, str]:
    """A row's attributes: a map from DuckDB, ``key, value`` pairs from BigQuery, or null."""
    if isinstance(value, Mapping):
        return dict(value)
    pairs = ((one["key"], one["value"]) if isinstance(one, Mapping) else one for one in value or ())
    return dict(pairs)
