"""What BigQuery says of a table's vector index: how much of the table it covers, its age, what it is made of.

A row of ``INFORMATION_SCHEMA.VECTOR_INDEXES`` is read as
cloud.google.com/bigquery/docs/information-schema-vector-indexes has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from beam_vision.warehouse import clients
from beam_vision.warehouse.cost import job_config
from beam_vision.warehouse.names import TableName, quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

REBUILD_DRIFT = 0.3
"""From this drift on a rebuild may help (docs/reference/standard-sql/vectorindex_functions)."""
REBUILD_RECALL_LOSS = 0.05
"""Our own rule: so much recall lost since the best measure of the same build is worth a rebuild."""

_COLUMNS = (
    *("index_name", "index_status", "ddl", "coverage_percentage", "unindexed_row_count"),
    *("creation_time", "last_refresh_time", "last_model_build_time", "disable_reason"),
    *("total_logical_bytes", "total_storage_bytes"),
)
_WHERE = re.compile(r"\bON\s+(?:`[^`]*`|[\w.-]+)\s*\(\s*`?(\w+)`?\s*\)", re.IGNORECASE)
_STORING = re.compile(r"\bSTORING\s*\(([^)]*)\)", re.IGNORECASE)
_PARTITION = re.compile(
    r"\bPARTITION\s+BY\s+(.+?)\s*(?=\bSTORING\b|\bOPTIONS\b|$)", re.IGNORECASE | re.DOTALL
)
_TYPE = re.compile(r"\bindex_type\s*=\s*[\"'](\w+)[\"']", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class IndexState:
    """One vector index.

    Attributes:
      status: ``ACTIVE`` (usable, or on its way to be), ``PENDING DISABLEMENT``, ``TEMPORARILY DISABLED`` or
        ``PERMANENTLY DISABLED``.
      ddl: the statement that would make it.
      coverage_percent: the share of the table's rows that it knows; at 0 no query uses it.
      unindexed_rows: rows that searches compare one by one, because it doesn't know them yet.
      last_refresh: None: it isn't usable yet.
      last_build: when its clusters were last trained.
      disable_reason: BigQuery's own words.
      logical_bytes: what its storage is billed for.
      alteration: of a rebuild: "" for none, ``IN_PROGRESS`` or ``FAILED``.
    """

    name: str
    status: str = "ACTIVE"
    ddl: str = ""
    coverage_percent: int = 0
    unindexed_rows: int = 0
    created: datetime | None = None
    last_refresh: datetime | None = None
    last_build: datetime | None = None
    disable_reason: str = ""
    logical_bytes: int = 0
    storage_bytes: int = 0
    alteration: str = ""
    alteration_percent: int = 0

    @property
    def kind(self) -> str:
        """``IVF`` or ``TREE_AH``; "" where the statement doesn't say."""
        found = _TYPE.search(self.ddl)
        return found[1].upper() if found else ""

    @property
    def column(self) -> str:
        """The column that is indexed."""
        found = _WHERE.search(self.ddl)
        return found[1] if found else ""

    @property
    def storing(self) -> tuple[str, ...]:
        """Columns that a filter may name and still be applied before the search."""
        found = _STORING.search(self.ddl)
        return tuple(each.strip(" `\n\t") for each in found[1].split(",")) if found else ()

    @property
    def partition_by(self) -> str:
        """The expression that the index is partitioned by; "" for none."""
        found = _PARTITION.search(self.ddl)
        return found[1] if found else ""

    @property
    def usable(self) -> bool:
        """Whether searches may use it now."""
        return self.status in ("ACTIVE", "PENDING DISABLEMENT") and self.coverage_percent > 0

    @property
    def complete(self) -> bool:
        """Whether it is usable and knows every row."""
        return self.usable and self.coverage_percent >= 100


def from_row(row: Mapping[str, Any]) -> IndexState:
    """An index from its row in ``INFORMATION_SCHEMA.VECTOR_INDEXES``; what is null there reads as nothing."""
    return IndexState(
        name=row["index_name"],
        status=row.get("index_status") or "",
        ddl=row.get("ddl") or "",
        coverage_percent=int(row.get("coverage_percentage") or 0),
        unindexed_rows=int(row.get("unindexed_row_count") or 0),
        created=row.get("creation_time"),
        last_refresh=row.get("last_refresh_time"),
        last_build=row.get("last_model_build_time"),
        disable_reason=row.get("disable_reason") or "",
        logical_bytes=int(row.get("total_logical_bytes") or 0),
        storage_bytes=int(row.get("total_storage_bytes") or 0),
        alteration=row.get("alteration_status") or "",
        alteration_percent=int(row.get("alteration_percentage") or 0),
    )


def states_sql(name: TableName) -> str:
    """The query for a table's indexes; takes ``@table``."""
    view = f"`{name.project}.{name.dataset}.INFORMATION_SCHEMA.VECTOR_INDEXES`"
    return (
        f"SELECT {', '.join(_COLUMNS)}, last_index_alteration_info.status AS alteration_status, "
        "last_index_alteration_info.new_coverage_percentage AS alteration_percentage "
        f"FROM {view} WHERE table_name = @table ORDER BY index_name"
    )


def indexes_of(client: Client, name: TableName) -> list[IndexState]:
    """The vector indexes of a table; of ``name.project``'s datasets, in the order of their names.

    Raises:
      UsageError: the dataset isn't there, or may not be read.
    """
    try:
        config = job_config({"table": name.table})
        found = list(client.query(states_sql(name), job_config=config).result())
    except clients.errors() as error:
        if clients.emulated():
            return []  # the emulator has neither indexes nor that view
        raise clients.explain(error, name, "roles/bigquery.metadataViewer") from error
    return [from_row(dict(row.items())) for row in found]


def index_of(client: Client, name: TableName, column: str = "embedding") -> IndexState | None:
    """The index of one column of a table, or None."""
    return next((each for each in indexes_of(client, name) if each.column == column), None)


def drift_of(client: Client, name: TableName) -> float | None:
    """How far the table's data has moved since its index was trained: 0 to 1; None where there is no saying.

    Raises:
      UsageError: BigQuery refuses to say.
    """
    statement = f"SELECT * FROM VECTOR_INDEX.STATISTICS(TABLE {name.sql})"
    try:
        rows = [tuple(row.values()) for row in client.query(statement).result()]
    except clients.errors() as error:
        raise clients.explain(error, name) from error
    return None if not rows or rows[0][0] is None else float(rows[0][0])


def rebuild_reason(*, drift: float | None, recalls: Sequence[float] = ()) -> str:
    """Why the index should be rebuilt now; "" where nothing says so.

    Args:
      drift: as :func:`drift_of` gives it.
      recalls: as they were measured since the index was last built, the newest first.
    """
    if drift is not None and drift >= REBUILD_DRIFT:
        return f"the table's data has drifted by {drift:.2f} since it was built ({REBUILD_DRIFT} is a lot)"
    if recalls and recalls[0] < max(recalls) - REBUILD_RECALL_LOSS:
        return f"recall was {max(recalls):.3f} after it was built and is {recalls[0]:.3f} now"
    return ""


def rebuild_sql(name: TableName, index: str) -> str:
    """The statement that trains an index anew in the background, while the old one goes on serving."""
    return f"ALTER VECTOR INDEX IF EXISTS {quoted(index)} ON {name.sql} REBUILD"


def drop_sql(name: TableName, index: str) -> str:
    """The statement that drops an index."""
    return f"DROP VECTOR INDEX {quoted(index)} ON {name.sql}"
