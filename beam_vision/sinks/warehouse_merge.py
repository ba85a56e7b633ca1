"""The MERGE that puts what a run has loaded into a table of BigQuery's, once in effect.

It finds rows by what they are of and by whom, inserts those that are new, updates those that say something
else, and leaves the rest; so doing it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from beam_vision.errors import JobError
from beam_vision.sinks.rows import RowSettings
from beam_vision.sinks.warehouse_jobs import finish, job_id
from beam_vision.sinks.warehouse_load import staging_table
from beam_vision.warehouse import clients, schema
from beam_vision.warehouse.names import TableName, quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

_GONE = "is_gone"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What one MERGE did to a table.

    Attributes:
      loaded: rows that were staged.
      changed: rows of the table that are not as before.
      inserted, updated, deleted: which of them; None where BigQuery (or its emulator) didn't say.
    """

    loaded: int
    changed: int
    inserted: int | None = None
    updated: int | None = None
    deleted: int | None = None

    @property
    def text(self) -> str:
        """In words."""
        kinds = ("inserted", "updated", "deleted")
        told = [f"{getattr(self, kind):,} {kind}" for kind in kinds if getattr(self, kind) is not None]
        shown = f" ({', '.join(told)})" if told else ""
        return f"{self.loaded:,} rows were loaded; {self.changed:,} rows of the table changed{shown}"


def identity(settings: RowSettings) -> list[str]:
    """The columns that say what a row is of, and by whom it was made."""
    return [*settings.order, "model_digest", "preprocessing_digest"]


def _identity_sql(settings: RowSettings, alias: str) -> list[str]:
    """The same as expressions that are never null: an image without boxes has a null ``box``."""
    columns = [f"{alias}.{quoted(column)}" for column in identity(settings)]
    return [f"IFNULL({column}, -1)" if column.endswith("`box`") else column for column in columns]


def _same(settings: RowSettings, one: str, other: str) -> str:
    both = zip(_identity_sql(settings, one), _identity_sql(settings, other), strict=True)
    return " AND ".join(f"{left} = {right}" for left, right in both)


def count_sql(settings: RowSettings, staged: TableName) -> str:
    """How many rows a staging table has, none twice."""
    one = ", ".join(f"{text} AS c{number}" for number, text in enumerate(_identity_sql(settings, "S")))
    return f"SELECT COUNT(*) AS found FROM (SELECT DISTINCT {one} FROM {staged.sql} AS S)"


def merge_sql(name: TableName, staged: TableName, settings: RowSettings, columns: Sequence[str]) -> str:
    """The MERGE of a staging table into a table.

    Where an image has several rows, those that it had before and has no more go: the source then also has
    these rows of the table, marked.

    Args:
      columns: what rows have, without ``written_at``, which is the time of the MERGE.
    """
    names = [quoted(column) for column in columns]
    partition = ", ".join(_identity_sql(settings, "S"))
    digest, written = quoted(schema.ROW_DIGEST), quoted(schema.WRITTEN_AT)
    source = (
        f"SELECT {', '.join(f'S.{each}' for each in names)}, FALSE AS {_GONE} FROM {staged.sql} AS S\n"
        f"  WHERE TRUE QUALIFY ROW_NUMBER() OVER (PARTITION BY {partition} ORDER BY S.{digest}) = 1"
    )
    several = settings.rows != "images"
    if several:
        image = quoted(settings.image_column)
        source += (
            f"\n  UNION ALL\n  SELECT {', '.join(f'O.{each}' for each in names)}, TRUE FROM {name.sql} AS O\n"
            f"  WHERE O.{image} IN (SELECT {image} FROM {staged.sql})\n"
            f"  AND NOT EXISTS (SELECT 1 FROM {staged.sql} AS S WHERE {_same(settings, 'S', 'O')})"
        )
    updates = ", ".join([*(f"{each} = S.{each}" for each in names), f"{written} = CURRENT_TIMESTAMP()"])
    return (
        f"MERGE {name.sql} AS T\nUSING (\n  {source}\n) AS S\nON {_same(settings, 'T', 'S')}\n"
        + (f"WHEN MATCHED AND S.{_GONE} THEN DELETE\n" if several else "")
        + f"WHEN MATCHED AND T.{digest} IS DISTINCT FROM S.{digest} THEN UPDATE SET {updates}\n"
        f"WHEN NOT MATCHED THEN INSERT ({', '.join([*names, written])})\n"
        f"  VALUES ({', '.join([*(f'S.{each}' for each in names), 'CURRENT_TIMESTAMP()'])})"
    )


def repeated_sql(name: TableName, staged: TableName, settings: RowSettings) -> str:
    """How many of the rows that a staging table has stand in the table more than once."""
    same = ", ".join(f"{text} AS c{number}" for number, text in enumerate(_identity_sql(settings, "T")))
    numbers = ", ".join(str(number + 1) for number in range(len(identity(settings))))
    image = quoted(settings.image_column)
    return (
        f"SELECT COUNT(*) AS found FROM (\n  SELECT {same} FROM {name.sql} AS T\n"
        f"  WHERE T.{image} IN (SELECT {image} FROM {staged.sql})\n"
        f"  GROUP BY {numbers} HAVING COUNT(*) > 1\n)"
    )


def single_sql(name: TableName, settings: RowSettings) -> str:
    """The statement that leaves of rows that stand there twice the one that was written first."""
    written = quoted(schema.WRITTEN_AT)
    return (
        f"DELETE FROM {name.sql} AS T\nWHERE EXISTS (\n  SELECT 1 FROM {name.sql} AS O\n"
        f"  WHERE {_same(settings, 'O', 'T')}\n"
        f"  AND (O.{written} < T.{written} OR O.{written} = T.{written} AND O.`run_id` < T.`run_id`)\n)"
    )


def _make_single(
    client: Client, name: TableName, run_id: str, settings: RowSettings, *, location: str
) -> None:
    """Removes rows that another run has inserted in the same moment.

    BigQuery holds up no MERGE that only inserts (BigQuery, "DML statement conflicts"), so of two runs at once
    each may insert a row that it doesn't see of the other. Whichever ends last sees both.
    """
    staged = staging_table(name, run_id)
    if _count(client, repeated_sql(name, staged, settings), location, name):
        query = partial(_query, client, single_sql(name, settings), location)
        finish(client, query, job_id(name, run_id, "single"), location=location, about=name)


def merge(
    client: Client,
    name: TableName,
    run_id: str,
    settings: RowSettings,
    columns: Sequence[str],
    *,
    rows: int,
    location: str,
) -> Merged:
    """Merges what a run has loaded, once it is seen to be all there.

    Args:
      rows: how many were loaded.

    Raises:
      JobError: the staging table lacks rows, or has others; or BigQuery refused. The table is as before.
    """
    staged = staging_table(name, run_id)
    found = _count(client, count_sql(settings, staged), location, staged)
    if found != rows:
        raise JobError(
            f"{rows:,} rows were loaded into {staged.path}, which has {found:,}; nothing was merged"
        )
    query = partial(_query, client, merge_sql(name, staged, settings, columns), location)
    job = finish(client, query, job_id(name, run_id, "merge"), location=location, about=name)
    _make_single(client, name, run_id, settings, location=location)
    told = job.dml_stats
    return Merged(
        loaded=rows,
        changed=job.num_dml_affected_rows or 0,
        inserted=told and told.inserted_row_count,
        updated=told and told.updated_row_count,
        deleted=told and told.deleted_row_count,
    )


def _count(client: Client, sql: str, location: str, about: TableName) -> int:
    try:
        return clients.retried(lambda: next(iter(client.query(sql, location=location).result()))["found"])
    except clients.errors() as error:
        raise JobError(str(clients.explain(error, about))) from error


def settle(client: Client, name: TableName, run_ids: Sequence[str], *, location: str) -> None:
    """Waits for MERGEs that killed runs have left running: of two at once each might insert the same row."""
    from google.api_core.exceptions import NotFound

    for run_id in run_ids:
        try:
            client.get_job(job_id(name, run_id, "merge"), location=location).result()
        except NotFound:
            continue
        except clients.errors() as error:
            if clients.is_transient(error):
                raise JobError(str(clients.explain(error, name))) from error


def _query(client: Client, sql: str, location: str, job: str) -> Any:
    return client.query(sql, job_id=job, location=location, job_retry=None)
