"""Views that show each row of a streaming table once, however often it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beam_vision.errors import UsageError
from beam_vision.warehouse import clients
from beam_vision.warehouse.names import TableName, quoted
from beam_vision.warehouse.schema import WRITTEN_AT

if TYPE_CHECKING:
    from google.cloud.bigquery import Client, Table

ONCE = "once"


def once_sql(name: TableName, partition: str = "") -> str:
    """The view's text: of the rows with one ``row_id``, the one that was written first.

    Args:
      name: the table.
      partition: its partitioning column, when rows of one id have one value there. With it a filter on that
        column reads only the days that it names: BigQuery moves a filter past a window function only where
        the function partitions by that column.
    """
    by = ", ".join(quoted(column) for column in ("row_id", partition) if column)
    return (
        f"SELECT * FROM {name.sql} WHERE TRUE\n"
        f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {by} ORDER BY {quoted(WRITTEN_AT)}) = 1"
    )


def ensure_once(client: Client, name: TableName, partition: str = "") -> TableName:
    """Makes the view ``TABLE_once``, or brings it up to date with its table; its name.

    Raises:
      UsageError: BigQuery refuses; a table stands in its place.
    """
    from google.api_core import exceptions
    from google.cloud.bigquery import Table

    view = name.sibling(ONCE)
    wanted = Table(view.path)
    wanted.view_query = once_sql(name, partition)
    wanted.description = f"{name.table}, each row_id once: the row that was written first."
    try:
        try:
            clients.retried(lambda: client.create_table(wanted))
        except exceptions.Conflict:
            found = clients.retried(lambda: client.get_table(view.path))
            if not _is_current(client, found, wanted, name):
                found.view_query, found.description = wanted.view_query, wanted.description
                clients.retried(lambda: client.update_table(found, ["view_query", "description"]))
    except clients.errors() as error:
        raise clients.explain(error, view) from error
    return view


def _is_current(client: Client, found: Table, wanted: Table, name: TableName) -> bool:
    """Whether a view is what it should be; one with ``*`` keeps the columns of the day when it was made."""
    if found.table_type != "VIEW":
        raise UsageError(
            f"{name.sibling(ONCE).path} is a table, but a view of {name.table} has to stand there: copy it "
            "away, or give another table"
        )
    table = clients.retried(lambda: client.get_table(name.path))
    same = [each.name for each in found.schema] == [each.name for each in table.schema]
    return bool(found.view_query == wanted.view_query and same)
