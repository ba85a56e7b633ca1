"""What was measured of a table's vector index so far: a row a measure, in ``TABLE_index_history``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from beam_vision.search.vector_index_recall import Measured
from beam_vision.search.vector_index_state import IndexState
from beam_vision.warehouse import clients
from beam_vision.warehouse.cost import job_config
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

HISTORY = "index_history"

_FIELDS = (
    ("measured_at", "TIMESTAMP", "when recall was measured"),
    ("index_name", "STRING", "the vector index"),
    ("index_type", "STRING", "IVF or TREE_AH"),
    ("built_at", "TIMESTAMP", "when the index was last trained"),
    ("coverage_percent", "INT64", "the share of the table's rows that the index knew"),
    ("table_rows", "INT64", "rows of the table"),
    ("drift", "FLOAT64", "how far the data had moved since the index was trained, 0 to 1"),
    ("queries", "INT64", "how many queries were tried"),
    ("k", "INT64", "neighbours a query"),
    ("recall", "FLOAT64", "the share of the true neighbours that the index found, mean over queries"),
    ("worst_recall", "FLOAT64", "the same of the worst query"),
    ("index_sec", "FLOAT64", "seconds that all queries took with the index"),
    ("exact_sec", "FLOAT64", "seconds that all queries took by brute force"),
    ("index_use", "STRING", "whether the index was used: FULLY_USED, PARTIALLY_USED or UNUSED"),
)


def remember(
    client: Client,
    name: TableName,
    index: IndexState,
    measured: Measured,
    *,
    table_rows: int,
    drift: float | None,
) -> TableName:
    """Adds a measure to the table's history; gives the name of the table that holds it.

    Raises:
      UsageError: that table can't be made or written.
    """
    from google.cloud.bigquery import SchemaField, Table

    kept = name.sibling(HISTORY)
    values = {**_values(index, measured), "table_rows": table_rows, "drift": drift}
    known = {key: value for key, value in values.items() if value is not None}
    columns, marks = ", ".join(known), ", ".join(f"@{key}" for key in known)
    statement = f"INSERT INTO {kept.sql} (measured_at, {columns}) VALUES (CURRENT_TIMESTAMP(), {marks})"
    schema = [SchemaField(field, kind, description=text) for field, kind, text in _FIELDS]
    made = Table(kept.path, schema=schema)
    made.description = f"beam-vision: recall of the vector index of {name.path}, as it was measured."
    try:
        client.create_table(made, exists_ok=True)
        client.query(statement, job_config=job_config(known)).result()
    except clients.errors() as error:
        raise clients.explain(error, kept) from error
    return kept


def _values(index: IndexState, measured: Measured) -> dict[str, Any]:
    return {
        "index_name": index.name,
        "index_type": index.kind,
        "built_at": index.last_build,
        "coverage_percent": index.coverage_percent,
        "queries": measured.queries,
        "k": measured.k,
        "recall": measured.recall,
        "worst_recall": measured.worst,
        "index_sec": measured.index_sec,
        "exact_sec": measured.exact_sec,
        "index_use": measured.use.mode,
    }


def history_of(client: Client, name: TableName, index: str, *, most: int = 20) -> list[dict[str, Any]]:
    """The last measures of an index, the newest first; none where none was ever kept.

    Raises:
      UsageError: the history may not be read.
    """
    from google.api_core.exceptions import NotFound

    kept = name.sibling(HISTORY)
    columns = ", ".join(field for field, *_ in _FIELDS)
    statement = (
        f"SELECT {columns} FROM {kept.sql} WHERE index_name = @index ORDER BY measured_at DESC LIMIT {most:d}"
    )
    try:
        client.get_table(kept.path)
        rows = client.query(statement, job_config=job_config({"index": index})).result()
    except NotFound:
        return []
    except clients.errors() as error:
        raise clients.explain(error, kept, "roles/bigquery.dataViewer") from error
    return [dict(row.items()) for row in rows]


def recalls_of(history: Sequence[dict[str, Any]], index: IndexState, k: int) -> list[float]:
    """What recall@k was since the index was last built, the newest first; where it was used at all."""
    return [
        row["recall"]
        for row in history
        if row["built_at"] == index.last_build and row["k"] == k and row["index_use"] == "FULLY_USED"
    ]
