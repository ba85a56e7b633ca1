"""What is known of a vector index, as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from beam_vision.search.vector_index_state import IndexState
from beam_vision.warehouse import cost


def described(index: IndexState) -> list[tuple[str, str]]:
    """A name and a text for each thing that is known of an index."""
    late = f", {index.unindexed_rows:,} rows not yet in it" if index.unindexed_rows else ""
    price = cost.money(cost.storage_usd(index.logical_bytes))
    rows = [
        ("index", f"{index.name}: {index.kind} of {index.column}"),
        ("status", index.status.lower() + (f": {index.disable_reason}" if index.disable_reason else "")),
        ("coverage", f"{index.coverage_percent} % of the table{late}"),
        ("refreshed", time_text(index.last_refresh) or "never: it is not usable yet"),
        ("built", time_text(index.last_build) or "not yet"),
        ("stores", ", ".join(index.storing) or "no columns: filters come after the search"),
        ("storage", f"{cost.size(index.logical_bytes)}, {price} a month"),
    ]
    if index.partition_by:
        rows.append(("partitions", index.partition_by))
    if index.alteration:
        rows.append(("rebuilding", f"{index.alteration.lower()}, {index.alteration_percent} % done"))
    return rows


def past(row: Mapping[str, Any]) -> str:
    """A row of its history as a line."""
    found = f"recall@{row['k']} {row['recall']:.3f} (worst {row['worst_recall']:.3f})"
    return f"{time_text(row['measured_at'])}: {found} of {row['queries']} queries, {row['table_rows']:,} rows"


def time_text(value: datetime | None) -> str:
    """A time to the minute; "" for none."""
    return value.strftime("%Y-%m-%d %H:%M UTC") if value else ""
