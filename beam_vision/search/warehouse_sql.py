"""One SELECT on BigQuery: our names and shorthands put in place, its cost said, then run."""

from __future__ import annotations

import contextlib
import datetime
import io
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from beam_vision.errors import UsageError
from beam_vision.search import googlesql
from beam_vision.search.sql import INDEX_NOTE, ROWS_AT_ONCE, Result, bound
from beam_vision.search.stream_views import FURTHER, last_word_in_bigquery
from beam_vision.search.vector_index_use import use_of
from beam_vision.warehouse import clients, cost, schema, tables
from beam_vision.warehouse.arrow_form import to_warehouse
from beam_vision.warehouse.forms import STREAM
from beam_vision.warehouse.loads import load_config, to_file
from beam_vision.warehouse.names import TableName, is_bigquery, parse_table
from beam_vision.warehouse.once import ONCE

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import Client
    from google.cloud.bigquery.table import RowIterator

_ROLE = "roles/bigquery.dataViewer"
_RELATION_EXPIRES_SEC = 3600


@dataclass(frozen=True)
class Prepared:
    """A statement that is ready to be run.

    Attributes:
      client: of the project that is billed; open while the block of :func:`prepared` is.
      name: the table.
      sql: what BigQuery gets.
      parameters: those that it uses.
      cost: by a dry run.
      notes: the cost first.
    """

    client: Client
    name: TableName
    sql: str
    parameters: dict[str, Any]
    cost: cost.Cost
    notes: tuple[str, ...]


@contextlib.contextmanager
def on_bigquery(
    place: str,
    statement: str,
    parameters: Mapping[str, Any],
    relations: Mapping[str, pa.Table],
    joins: Mapping[str, str],
    *,
    max_bytes_billed: int = 0,
    tell: Callable[[str], None] = lambda note: None,
    charge: Callable[[cost.Cost], None] | None = None,
) -> Iterator[Result]:
    """As :func:`beam_vision.search.sql.query`, for a table of BigQuery's.

    Raises:
      UsageError: as there; or it would be billed for more than ``max_bytes_billed``.
    """
    with prepared(place, statement, parameters, relations, joins) as ready:
        if charge:
            charge(ready.cost)
        for note in ready.notes[1 if charge else 0 :]:
            tell(note)
        if max_bytes_billed and ready.cost.bytes_billed > max_bytes_billed:
            raise UsageError(
                f"not run: it {ready.cost.text}, and --max_bytes_billed is {max_bytes_billed:,} "
                f"({cost.size(max_bytes_billed)}); read fewer columns or days, or raise it"
            )
        config = cost.job_config(ready.parameters, max_bytes_billed=max_bytes_billed)
        try:
            job = ready.client.query(ready.sql, job_config=config)
            rows = job.result(page_size=ROWS_AT_ONCE)
            used = use_of(job)
            notes = (*ready.notes, f"{INDEX_NOTE}{used.text}") if used.mode else ready.notes
            yield Result([field.name for field in rows.schema], _batches(rows), notes)
        except clients.errors() as error:
            raise _explained(error, ready.name) from error


@contextlib.contextmanager
def prepared(
    place: str,
    statement: str,
    parameters: Mapping[str, Any],
    relations: Mapping[str, pa.Table] | None = None,
    joins: Mapping[str, str] | None = None,
) -> Iterator[Prepared]:
    """Looks at the tables, loads ``relations``, and asks BigQuery what the statement costs; runs nothing.

    Raises:
      UsageError: there is no table, the statement is wrong, or a parameter has no value.
    """
    tree = googlesql.parse(statement)
    used = bound(tree, parameters)
    name = parse_table(place, option="--table")
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(contextlib.closing(clients.client(name.project)))
        names, notes = _names(client, name, joins or {})
        for short, rows in (relations or {}).items():
            names[short] = stack.enter_context(_loaded(client, name, rows))
        in_bigquery = not clients.emulated() and not notes
        sql = googlesql.to_bigquery(statement, names, vector_search=in_bigquery)
        if not tree.find(exp.VectorSearch):
            notes = []
        try:
            price = cost.dry_run(client, sql, used)
        except clients.errors() as error:
            raise _explained(error, name) from error
        yield Prepared(client, name, sql, used, price, (f"BigQuery: {price.text}", *notes))


def _explained(error: Exception, name: TableName) -> UsageError:
    """What isn't found is another table than ``--table``: that one was looked at before."""
    from google.api_core.exceptions import NotFound

    return clients.explain(error, name.project if isinstance(error, NotFound) else name, _ROLE)


def _names(
    client: Client, name: TableName, joins: Mapping[str, str]
) -> tuple[dict[str, TableName | str], list[str]]:
    """What our names of tables stand for; and why VECTOR_SEARCH can't be had, where it can't."""
    found = tables.look(client, name)
    if not found.exists:
        raise UsageError(f"--table {name.uri}: there is no such table; predict or stream writes it")
    names: dict[str, TableName | str] = {"images": name, "failures": name.sibling("failures")}
    notes = [_view_note(name)] if found.is_view else []
    if found.facts.get("kind") == STREAM:
        once = name.sibling(ONCE)
        if tables.look(client, once).exists:
            names["images"] = once
            notes = [_view_note(once)]
        names |= {each: last_word_in_bigquery(each, name.sibling(each)) for each in FURTHER}
    for short, other in joins.items():
        if not is_bigquery(other):
            raise UsageError(
                f"{short} is {other}: a table of BigQuery's can be joined with others there alone"
            )
        names[short] = parse_table(other, option="--join")
    return names, notes


def _view_note(name: TableName) -> str:
    return f"{name.path} is a view, which VECTOR_SEARCH can't search: every row is compared instead"


@contextlib.contextmanager
def _loaded(client: Client, beside: TableName, rows: pa.Table) -> Iterator[TableName]:
    """Rows in a table beside another one, dropped at the end; it expires if nobody lives to do so."""
    from google.cloud import bigquery

    name = beside.sibling(f"query_{uuid.uuid4().hex[:16]}")
    made = bigquery.Table(name.path, schema=schema.fields(rows.schema))
    made.expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(
        seconds=_RELATION_EXPIRES_SEC
    )
    file, config = io.BytesIO(to_file(to_warehouse(rows))), load_config(made.schema)
    try:
        clients.retried(lambda: client.create_table(made, exists_ok=True))
        try:
            client.load_table_from_file(file, name.path, job_config=config).result()
            yield name
        finally:
            clients.retried(lambda: client.delete_table(name.path, not_found_ok=True))
    except clients.errors() as error:
        raise clients.explain(error, name) from error


def _batches(rows: RowIterator) -> Iterator[list[tuple]]:
    """The rows as DuckDB would give them: attributes as one dict."""
    maps = [number for number, field in enumerate(rows.schema) if _is_map(field)]
    plain = (row.values() for row in rows)
    shown = (_with_dicts(row, maps) for row in plain) if maps else plain
    return iter(lambda: list(itertools.islice(shown, ROWS_AT_ONCE)), [])


def _is_map(field: Any) -> bool:
    is_list_of_records = field.mode == "REPEATED" and field.field_type in ("RECORD", "STRUCT")
    return is_list_of_records and [each.name for each in field.fields] == ["key", "value"]


def _with_dicts(row: tuple, maps: list[int]) -> tuple:
    values = list(row)
    for number in maps:
        values[number] = {each["key"]: each["value"] for each in values[number] or ()}
    return tuple(values)
