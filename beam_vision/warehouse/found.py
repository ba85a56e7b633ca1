"""What BigQuery says of a table that is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from beam_vision.warehouse.forms import facts_in

if TYPE_CHECKING:
    from google.cloud.bigquery import SchemaField, Table


@dataclass(frozen=True)
class Found:
    """What is at a name.

    Attributes:
      exists: whether anything is.
      is_view: whether it is a view, or anything else than a plain table: nothing can be written to it.
      rows, bytes: as BigQuery counts them, without rows that are still in a streaming buffer.
      schema: its columns.
      facts: what its description says of its rows; empty where it wasn't made by us.
      missing: columns (``a.b`` within a RECORD) that it lacks and that can be added, or that
        :func:`beam_vision.warehouse.tables.ensure` has just added.
      partition: the column of its partitions by day; ``""``: none.
      clustering: the columns that it is clustered by.
      location: of its dataset.
      needs_filter: whether BigQuery refuses statements that don't say which partitions they are of.
      kept: how long BigQuery keeps rows, or the table, in words; ``""``: for good.
      notes: what people should know, such as other partitions than we would have made.
    """

    exists: bool = False
    is_view: bool = False
    rows: int = 0
    bytes: int = 0
    schema: list[SchemaField] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    partition: str = ""
    clustering: tuple[str, ...] = ()
    location: str = ""
    needs_filter: bool = False
    kept: str = ""
    notes: tuple[str, ...] = ()


def found_in(table: Table) -> Found:
    """What a client says of a table."""
    days = table.time_partitioning
    return Found(
        exists=True,
        is_view=(table.table_type or "TABLE") != "TABLE",
        rows=table.num_rows or 0,
        bytes=table.num_bytes or 0,
        schema=list(table.schema),
        facts=facts_in(table.description),
        partition=(days.field or "_PARTITIONTIME") if days else "",
        clustering=tuple(table.clustering_fields or ()),
        location=table.location or "",
        needs_filter=bool(table.require_partition_filter),
        kept=_kept(table),
    )


def _kept(table: Table) -> str:
    days = table.time_partitioning
    if days and days.expiration_ms:
        return f"rows are dropped {days.expiration_ms / 86_400_000:g} days after {days.field or 'their load'}"
    return f"the table is dropped on {table.expires:%Y-%m-%d}" if table.expires else ""
