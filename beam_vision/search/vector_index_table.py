"""What a table in BigQuery needs of a vector index, as the table itself tells; and making the index."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from beam_vision.errors import JobError, UsageError
from beam_vision.search.vector_index import Needs
from beam_vision.search.vector_index_state import IndexState, indexes_of
from beam_vision.warehouse import clients, tables
from beam_vision.warehouse.cost import embedding_bytes
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

SAMPLED_ROWS = 100
"""Rows whose vectors are looked at; ``tabledata.list`` gives them free of charge."""
_FIRST_WAIT_SEC = 0.1
_LONGEST_WAIT_SEC = 30.0


def needs_of(
    client: Client,
    name: TableName,
    *,
    column: str,
    filters: Sequence[str] = (),
    storing: Sequence[str] = (),
    batch: int = 1,
) -> Needs:
    """What an index of ``column`` is to serve, from the table's own numbers; nothing is billed.

    Args:
      filters: columns that searches filter on.
      storing: columns that searches select.
      batch: how many query vectors a usual query has.

    Raises:
      UsageError: there is no such table or column, it is a view, the column holds no vectors, vectors of
        several lengths, or anything but ``ARRAY<FLOAT64>``; or ``batch`` is under 1.
    """
    if batch < 1:
        raise UsageError(f"a query has at least 1 vector, not {batch}")
    found = _table(client, name)
    kinds = {each.name: each for each in found.schema}
    _check_columns(name, kinds, column, [*filters, *storing])
    dim, norms = _sampled(client, name, kinds[column])
    rows = rows_of(client, name)
    return Needs(
        rows=rows,
        table_bytes=max(found.bytes, rows * embedding_bytes(dim)),
        dim=dim,
        batch=batch,
        filters=tuple(filters),
        **_partitioning(client, name, found.partition if found.partition in filters else "", kinds),
        least_norm=min(norms),
        greatest_norm=max(norms),
    )


def _table(client: Client, name: TableName) -> tables.Found:
    found = tables.look(client, name)
    if not found.exists:
        made = f"beam-vision predict --task embed --output {name.uri}"
        raise UsageError(f"there is no table {name.uri}; write one by `{made}`")
    if found.is_view:
        raise UsageError(f"{name.uri} is a view, which can't be indexed; name the table behind it")
    return found


def _check_columns(name: TableName, kinds: dict[str, Any], column: str, others: Sequence[str]) -> None:
    unknown = [each for each in others if each not in kinds]
    if unknown:
        raise UsageError(f"{name.uri} has no column {unknown[0]!r}; it has {', '.join(kinds)}")
    if not _holds_vectors(kinds.get(column)):
        such = ", ".join(each for each, field in kinds.items() if _holds_vectors(field))
        raise UsageError(
            f"{name.uri} has no column {column!r} of type ARRAY<FLOAT64>; "
            f"it has {such or 'none such, so it holds no embeddings'}"
        )


def _holds_vectors(field: Any) -> bool:
    return field is not None and field.mode == "REPEATED" and field.field_type in ("FLOAT", "FLOAT64")


def rows_of(client: Client, name: TableName) -> int:
    """How many rows a table has: a query that reads no bytes, and counts what was streamed just now, too.

    Raises:
      UsageError: it may not be read.
    """
    try:
        ((count,),) = (row.values() for row in client.query(f"SELECT COUNT(*) FROM {name.sql}").result())
    except clients.errors() as error:
        raise clients.explain(error, name, "roles/bigquery.dataViewer") from error
    return int(count)


def _sampled(client: Client, name: TableName, column: Any) -> tuple[int, list[float]]:
    """How many numbers the first vectors of a table have, and their lengths in space."""
    try:
        rows = client.list_rows(name.path, selected_fields=[column], max_results=SAMPLED_ROWS)
        vectors = [row[0] for row in rows if row[0]]
    except clients.errors() as error:
        raise clients.explain(error, name, "roles/bigquery.dataViewer") from error
    dims = sorted({len(each) for each in vectors})
    if len(dims) != 1:
        held = f"vectors of {' and '.join(map(str, dims))} numbers" if dims else "no vectors"
        raise UsageError(
            f"{name.uri}: column {column.name!r} holds {held}; an index is of vectors of one length"
        )
    return dims[0], [math.sqrt(math.fsum(x * x for x in each)) for each in vectors]


def _partitioning(client: Client, name: TableName, column: str, kinds: dict[str, Any]) -> dict[str, str]:
    if not column:
        return {}
    unit = clients.retried(lambda: client.get_table(name.path)).time_partitioning.type_
    return {
        "partition_column": column,
        "partition_unit": unit,
        "partition_type": kinds[column].field_type,
    }


def create(client: Client, name: TableName, statement: str) -> None:
    """Runs the statement that makes, rebuilds or drops an index; the work goes on in the background.

    Raises:
      UsageError: BigQuery refuses it.
    """
    try:
        client.query(statement).result()
    except clients.errors() as error:
        raise clients.explain(error, name) from error


def wait_for(
    client: Client,
    name: TableName,
    index: str,
    *,
    wait_sec: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> IndexState:
    """Waits until an index covers its whole table.

    Args:
      wait_sec: how long at most.
      tell: is given a line when there is news.

    Raises:
      JobError: it was disabled, was dropped meanwhile, or isn't complete in time.
    """
    waited_sec, pause_sec, told = 0.0, _FIRST_WAIT_SEC, -1
    while True:
        state = next((each for each in indexes_of(client, name) if each.name == index), None)
        if state is None:
            raise JobError(f"{name.uri} has no vector index {index!r}: was it dropped meanwhile?")
        if "DISABLED" in state.status:
            why = state.disable_reason or "no reason is given"
            raise JobError(f"the vector index {index!r} of {name.uri} is {state.status.lower()}: {why}")
        if state.complete:
            return state
        if state.coverage_percent != told:
            told = state.coverage_percent
            tell(f"the index covers {told} % of the table")
        if waited_sec >= wait_sec:
            raise JobError(
                f"the vector index {index!r} covers {told} % of {name.uri} after {wait_sec:g} s; BigQuery "
                "goes on by itself: see `beam-vision vector-index status`"
            )
        pause_sec = min(pause_sec * 2, _LONGEST_WAIT_SEC, wait_sec - waited_sec)
        sleep(pause_sec)
        waited_sec += pause_sec
