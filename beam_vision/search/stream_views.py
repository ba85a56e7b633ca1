"""The further tables of a streaming job as views: of each window the last word alone."""

from __future__ import annotations

from beam_vision import storage
from beam_vision.stream_table import ALERTS, COUNTS, HEALTH, LATENCY, ROLLOUTS
from beam_vision.warehouse.names import TableName, quoted

_ONE_OF: dict[str, tuple[str, ...]] = {
    COUNTS: ("camera", "window_start", "class"),
    HEALTH: ("camera", "window_start"),
    LATENCY: ("camera", "window_start", "stage"),
    ALERTS: (),
    ROLLOUTS: (),
}
"""The tables, and the columns by which later panes of a window correct earlier ones."""
FURTHER = tuple(_ONE_OF)
"""The further tables."""


def stream_parts(folder: str) -> dict[str, list[str]]:
    """The Parquet files of each further table that is there, by its name."""
    found = {}
    for name in _ONE_OF:
        inner = storage.join(folder, name)
        files = [file for file in storage.list_folder(inner) if file.endswith(".parquet")]
        if files:
            found[name] = [storage.join(inner, file) for file in files]
    return found


def view_of(name: str, source: str) -> str:
    """The statement that makes a table's view of its parts; counts, health and latency without old panes."""
    columns = ", ".join(f'"{column}"' for column in _ONE_OF[name])
    last = f" QUALIFY row_number() OVER (PARTITION BY {columns} ORDER BY pane DESC) = 1" if columns else ""
    return f"CREATE VIEW {name} AS SELECT * FROM {source}{last}"


def last_word_in_bigquery(name: str, source: TableName) -> str:
    """A SELECT in brackets over a table of BigQuery's: each row once, and without old panes."""
    columns = ", ".join(quoted(column) for column in _ONE_OF[name] or ("row_id",))
    order = f"{quoted('pane')} DESC" if _ONE_OF[name] else quoted("written_at")
    return (
        f"(SELECT * FROM {source.sql} WHERE TRUE "
        f"QUALIFY ROW_NUMBER() OVER (PARTITION BY {columns} ORDER BY {order}) = 1)"
    )
