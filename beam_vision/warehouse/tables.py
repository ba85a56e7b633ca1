"""A table in BigQuery: what is there, whether a job may write into it, and making it.

Nothing here changes or removes a row.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.warehouse import clients
from beam_vision.warehouse.columns import compare, merged, sql_type
from beam_vision.warehouse.forms import (
    STREAM,
    Form,
    batch_form,
    described,
    facts_in,
    failures_form,
    metrics_form,
    stream_form,
)
from beam_vision.warehouse.found import Found, found_in
from beam_vision.warehouse.names import TableName, quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import Client, Table

__all__ = [
    "Form",
    "Found",
    "batch_form",
    "change",
    "check",
    "described",
    "ensure",
    "facts_in",
    "failures_form",
    "look",
    "metrics_form",
    "stream_form",
]

_DIGESTS = ("model_digest", "preprocessing_digest", "options_digest")
_ADD = "--add_columns"
_TRIES = 5


def look(client: Client, name: TableName) -> Found:
    """What is at ``name``; ``Found(exists=False)`` where the dataset has no such table.

    Raises:
      UsageError: there is no such dataset, or we may not look; with the remedy.
    """
    table = _get(client, name)
    return Found() if table is None else found_in(table)


def _get(client: Client, name: TableName) -> Table | None:
    from google.api_core.exceptions import NotFound

    try:
        return clients.retried(lambda: client.get_table(name.path))
    except NotFound:
        _require_dataset(client, name)
        return None
    except clients.errors() as error:
        raise clients.explain(error, name) from error


def _require_dataset(client: Client, name: TableName) -> None:
    from google.api_core.exceptions import NotFound

    dataset = f"{name.project}.{name.dataset}"
    try:
        clients.retried(lambda: client.get_dataset(dataset))
    except NotFound as error:
        raise UsageError(
            f"{name.uri}: there is no dataset {dataset}; make it where your images are, such as: "
            f"bq --location=EU mk --dataset {name.project}:{name.dataset}"
        ) from error
    except clients.errors() as error:
        raise clients.explain(error, name) from error


def check(client: Client, name: TableName, form: Form, *, add_columns: bool = False) -> Found:
    """Whether a job may write rows of ``form`` into the table, before the job starts. Changes nothing.

    A table that isn't there is fine: :func:`ensure` makes it.

    Args:
      client: of the project that runs the jobs.
      name: of the table.
      form: what the rows are.
      add_columns: columns that it lacks will be added.

    Raises:
      UsageError: it is a view; a column has another type or mode, or is missing; its rows are of another
        kind.
      DigestMismatch: its rows were made by another model, or with other settings.
    """
    return _checked(look(client, name), name, form, add_columns=add_columns)


def _checked(found: Found, name: TableName, form: Form, *, add_columns: bool) -> Found:
    if not found.exists:
        return found
    if found.is_view:
        raise UsageError(
            f"{name.uri} is a view or an external table, which can't be written to; name a table"
        )
    if found.needs_filter and form.facts["kind"] != STREAM:  # a stream only appends
        raise UsageError(
            f"{name.uri} takes no statement without a filter on {found.partition}, and rows are found by "
            "their keys; ALTER TABLE ... SET OPTIONS (require_partition_filter = FALSE), or write into "
            "another table"
        )
    _refuse_other_facts(found, name, form)
    problems, missing = compare(form.fields, found.schema)
    if problems:
        shown = "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")
        raise UsageError(
            f"{name.uri} has other columns than this job writes: {shown}; write into another table"
        )
    if missing and not add_columns:
        raise UsageError(
            f"{name.uri} lacks the columns {', '.join(missing)}; add them by {_ADD}, or write into another "
            "table"
        )
    return replace(found, missing=tuple(missing), notes=tuple(_layout_notes(found, form)))


def _refuse_other_facts(found: Found, name: TableName, form: Form) -> None:
    if not found.facts:
        if found.rows:
            line = described("", form.facts).strip()
            raise UsageError(
                f"{name.uri} has {found.rows:,} rows, and its description doesn't say what made them; write "
                f"into another table, or, where you know that they are of this kind, add to its description "
                f"the line {line}"
            )
        return
    for fact, wanted in form.facts.items():
        was = found.facts.get(fact)
        if was == wanted:
            continue
        if fact in _DIGESTS:
            raise DigestMismatch(
                f"{name.uri} holds rows of another run's settings: {fact.removesuffix('_digest')}",
                expected=str(wanted or "(none)"),
                found=str(was or "(none)"),
                remedy="write into another table, and compare or switch by `beam-vision migrate-embeddings`",
            )
        raise UsageError(
            f"{name.uri} holds rows of another kind: its {fact} is {_shown(was)}, this job's is "
            f"{_shown(wanted)}; write into another table"
        )


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def _layout_notes(found: Found, form: Form) -> Iterable[str]:
    if found.kept:
        yield f"{found.kept}, as the table or its dataset says"
    if form.partition != found.partition:
        yield (
            f"the table is partitioned by {found.partition or 'nothing'}, not by the days of "
            f"{form.partition}: queries of some days read more than they would"
        )
    if found.clustering[: len(form.clustering)] != form.clustering:
        yield (
            f"the table is clustered by {', '.join(found.clustering) or 'nothing'}, not by "
            f"{', '.join(form.clustering)}: look-ups by key read more than they would"
        )


def ensure(
    client: Client,
    name: TableName,
    form: Form,
    *,
    add_columns: bool = False,
    expires_sec: float | None = None,
) -> Found:
    """Makes the table, or checks the one that is there, and adds columns that it lacks when allowed.

    Two that make the same table at once both get it.

    Args:
      client, name, form, add_columns: as for :func:`check`.
      expires_sec: BigQuery drops a table that is made now after so long; None: never.

    Raises:
      UsageError: as :func:`check` does, or BigQuery refuses.
      DigestMismatch: as :func:`check` does.
    """
    from google.api_core.exceptions import Conflict, PreconditionFailed

    for attempt in range(_TRIES):
        table = _get(client, name)
        found = Found() if table is None else _checked(found_in(table), name, form, add_columns=add_columns)
        try:
            if table is None:
                return _made(client, _table(name, form, expires_sec))
            if not found.missing and found.facts:
                return found
            return _brought_up(client, table, form, found)
        except (Conflict, PreconditionFailed) as error:  # somebody else was quicker: look again
            if attempt == _TRIES - 1:
                raise clients.explain(error, name) from error
        except clients.errors() as error:
            raise clients.explain(error, name) from error
    raise AssertionError("the last attempt returns or raises")


def _made(client: Client, table: Table) -> Found:
    return found_in(clients.retried(lambda: client.create_table(table)))


def _table(name: TableName, form: Form, expires_sec: float | None) -> Table:
    from google.cloud import bigquery

    table = bigquery.Table(name.path, schema=list(form.fields))
    table.description = form.description
    if form.partition:
        table.time_partitioning = bigquery.TimePartitioning(field=form.partition)
    if form.clustering:
        table.clustering_fields = list(form.clustering)
    if expires_sec is not None:
        now = datetime.datetime.now(datetime.timezone.utc)
        table.expires = now + datetime.timedelta(seconds=expires_sec)
    return table


def _brought_up(client: Client, table: Table, form: Form, found: Found) -> Found:
    """Adds the missing columns; writes the facts into an empty table's description that has none.

    The table's etag goes with it, so that BigQuery refuses when the table has changed since.
    """
    changed = []
    if found.missing:
        table.schema = merged(form.fields, table.schema)
        changed.append("schema")
    if not found.facts:
        table.description = "\n".join(filter(None, (table.description, form.description)))
        changed.append("description")
    made = found_in(update(client, table, changed))
    return replace(made, missing=found.missing, notes=found.notes)


def change(client: Client, name: TableName, edit: Callable[[Table], Sequence[str]]) -> None:
    """Reads a table's facts, edits them, writes them back; again when somebody else was quicker.

    Args:
      edit: changes the ``schema`` or the ``description`` of what it is given, and says which; nothing is
        written when it says none.

    Raises:
      UsageError: BigQuery refuses.
    """
    from google.api_core.exceptions import PreconditionFailed

    for attempt in range(_TRIES):
        try:
            table = clients.retried(lambda: client.get_table(name.path))
            changed = edit(table)
            if changed:
                update(client, table, changed)
            return
        except PreconditionFailed as error:
            if attempt == _TRIES - 1:
                raise clients.explain(error, name) from error
        except clients.errors() as error:
            raise clients.explain(error, name) from error


def update(client: Client, table: Table, changed: Sequence[str]) -> Table:
    """Changes a table's ``schema`` (columns added, by :func:`~beam_vision.warehouse.columns.merged`) or
    ``description``, if nobody has changed the table since it was read.

    Raises:
      PreconditionFailed: somebody has.
      GoogleAPIError: BigQuery refuses.
    """
    if "schema" in changed and clients.emulated():
        # bqemulator 1.4 would change what it says of the table, and not the table
        there = {each.name for each in client.get_table(table.reference).schema}
        path = f"`{table.project}.{table.dataset_id}.{table.table_id}`"
        for each in table.schema:
            if each.name not in there:
                added = f"{quoted(each.name)} {sql_type(each)}"
                client.query(f"ALTER TABLE {path} ADD COLUMN IF NOT EXISTS {added}").result()
    return clients.retried(lambda: client.update_table(table, list(changed)))
