"""SQL over a table: by BigQuery; on Parquet by DuckDB in memory, which sees the table's rows alone.

Statements are GoogleSQL (:mod:`beam_vision.search.googlesql`). Tables: ``images``, the rows; ``failures``,
the dead letter beside them; of a streaming job also ``counts``, ``health``, ``latency``, ``alerts`` and
``rollouts``; and whatever the caller joins.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps, table
from beam_vision.errors import UsageError
from beam_vision.search.parts import dataset, failures
from beam_vision.search.stream_views import FURTHER, stream_parts, view_of
from beam_vision.warehouse.names import is_bigquery, quoted

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlglot import exp

    from beam_vision.warehouse.cost import Cost

ROWS_AT_ONCE = 1000
INDEX_NOTE = "vector index: "
"""How the note begins that says, once a VECTOR_SEARCH has run, whether it used the index."""
DIALECTS = ("googlesql", "duckdb")
RESERVED = ("images", "failures", *FURTHER)
"""Our names of tables, which no joined table may have."""


@dataclass(frozen=True)
class Result:
    """The answer to a query.

    Attributes:
      names: of the columns; one that stands twice gets ``_2`` the second time.
      batches: the rows as tuples of Python values, at most 1,000 at a time, computed as they are read.
      notes: what is worth knowing about how it was run.
    """

    names: list[str]
    batches: Iterator[list[tuple]]
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def closed_connection(tables: Mapping[str, Any], *statements: str) -> Iterator[Any]:
    """A DuckDB connection that sees ``tables``, no file and no network; its days are UTC's, as BigQuery's.

    Args:
      tables: Arrow tables or datasets, by name.
      statements: run before its settings are locked, to make views and macros.
    """
    duckdb = deps.need("duckdb")
    spill = os.path.join(tempfile.gettempdir(), f"beam-vision-duckdb-{os.getpid()}").replace("'", "''")
    with contextlib.closing(duckdb.connect()) as connection:
        for name, value in tables.items():
            connection.register(name, value)
        for statement in (
            f"SET temp_directory = '{spill}'",
            "SET TimeZone = 'UTC'",
            "SET enable_external_access = false",
            *statements,
            "SET lock_configuration = true",
        ):
            connection.execute(statement)
        yield connection


@contextlib.contextmanager
def query(
    place: str,
    statement: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    relations: Mapping[str, pa.Table] | None = None,
    joins: Mapping[str, str] | None = None,
    max_bytes_billed: int = 0,
    dialect: str = "googlesql",
    tell: Callable[[str], None] = lambda note: None,
    charge: Callable[[Cost], None] | None = None,
) -> Iterator[Result]:
    """Runs one SELECT over the table at ``place``; read the result inside the block.

    Args:
      place: a folder, or ``bigquery://project.dataset.table``.
      statement: GoogleSQL, or DuckDB's SQL when ``dialect`` says so (folders only).
      parameters: values of its ``@names``: as :func:`beam_vision.warehouse.cost.parameters_of` takes them.
      relations: further tables by name, such as hundreds of query vectors. On BigQuery they are loaded into
        tables that are dropped at the end (and expire in an hour).
      joins: further tables by name: each a folder, or a table of BigQuery's, as ``place`` is.
      max_bytes_billed: on BigQuery, don't run what would be billed for more; 0: no such limit.
      tell: called with each note before the statement is run; on BigQuery its cost is the first.
      charge: called with the cost on BigQuery before the statement is run, which ``tell`` isn't told then.

    Raises:
      UsageError: there is no table; the statement is another kind, several, or wrong; a parameter has no
        value. The message names the columns there are. It can also come while the batches are read.
    """
    if dialect not in DIALECTS:
        raise UsageError(f"the dialect is one of {', '.join(DIALECTS)}, not {dialect!r}")
    parameters, relations, joins = parameters or {}, relations or {}, joins or {}
    _check_names([*relations, *joins])
    if is_bigquery(place):
        from beam_vision.search.warehouse_sql import on_bigquery

        if dialect != "googlesql":
            raise UsageError(f"BigQuery takes GoogleSQL alone; {dialect} is for tables in folders")
        limits: dict[str, Any] = {"max_bytes_billed": max_bytes_billed, "tell": tell, "charge": charge}
        with on_bigquery(place, statement, parameters, relations, joins, **limits) as result:
            yield result
        return
    with _on_parquet(place, statement, parameters, relations, joins, dialect) as result:
        yield result


def bound(tree: exp.Query, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the parameters that a statement uses.

    Raises:
      UsageError: one has no value, or an empty list, which has no type.
    """
    from beam_vision.search.googlesql import parameters_in

    used = sorted(parameters_in(tree))
    missing = [name for name in used if name not in parameters]
    if missing:
        names = ", ".join(f"@{name}" for name in missing)
        raise UsageError(
            f"the statement uses {names}, which has no value (has: {', '.join(parameters) or 'none'})"
        )
    for name in used:
        if isinstance(parameters[name], list | tuple) and not parameters[name]:
            raise UsageError(
                f"parameter @{name} is an empty list, which has no type; leave its condition out"
            )
    return {name: _plain(parameters[name]) for name in used}


def _plain(value: Any) -> Any:
    """NumPy's arrays and numbers as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _check_names(names: Sequence[str]) -> None:
    lower = [name.lower() for name in names]
    for name in names:
        quoted(name)
        if name.lower() in RESERVED or name.endswith("_parts") or lower.count(name.lower()) > 1:
            raise UsageError(f"{name!r} can't be the name of a joined table: it is taken; choose another")


@contextlib.contextmanager
def _on_parquet(
    folder: str,
    statement: str,
    parameters: Mapping[str, Any],
    relations: Mapping[str, pa.Table],
    joins: Mapping[str, str],
    dialect: str,
) -> Iterator[Result]:
    """Runs a SELECT by DuckDB."""
    duckdb = deps.need("duckdb")
    with contextlib.ExitStack() as stack:
        tables = {f"{name}_parts": rows for name, rows in relations.items()}
        tables["images_parts"] = dataset(table.part_paths(folder), stack)
        for name, other in joins.items():
            if is_bigquery(other):
                raise UsageError(f"{name} is {other}: a table in a folder can be joined with folders alone")
            tables[f"{name}_parts"] = dataset(table.part_paths(other), stack)
        further = stream_parts(folder)
        for name, paths in further.items():
            tables[f"{name}_parts"] = dataset(paths, stack)
        connection = stack.enter_context(closed_connection({**tables, "failures": failures(folder)}))
        columns = tables["images_parts"].schema.names
        try:
            statement, parameters, tree = _compiled(statement, parameters, dialect)
            for name in ("images", *relations, *joins):
                written_at = name == "images" and _needs_written_at(tree, columns)
                for definition in _definitions(connection, name, tables[f"{name}_parts"].schema, written_at):
                    connection.execute(definition)
            for name in further:
                connection.execute(view_of(name, f"{name}_parts"))
            connection.execute(_one_select(statement), dict(parameters))
            yield Result(
                names=_distinct([column[0] for column in connection.description]),
                batches=iter(lambda: connection.fetchmany(ROWS_AT_ONCE), []),
            )
        except (duckdb.Error, _Unreadable) as error:
            raise UsageError(explained(error, columns)) from error


class _Unreadable(Exception):  # noqa: N818  (becomes a UsageError that names the columns)
    """A statement that can't be compiled."""


def _compiled(
    statement: str, parameters: Mapping[str, Any], dialect: str
) -> tuple[str, dict[str, Any], exp.Query | None]:
    """The statement in DuckDB's SQL, the parameters that it uses, and its tree when it was GoogleSQL."""
    if dialect == "duckdb":
        return statement, dict(parameters), None
    from beam_vision.search import googlesql

    try:
        tree = googlesql.parse(statement)
        return googlesql.to_duckdb(statement), bound(tree, parameters), tree
    except UsageError as error:
        raise _Unreadable(str(error)) from error


def explained(error: Exception, columns: Sequence[str]) -> str:
    """A DuckDB error on one line, without its drawing of the place, and the columns there are."""
    text = " ".join(str(error).partition("\n\n")[0].split())
    return f"{text} (the table is called images; its columns: {', '.join(columns)})"


def _definitions(connection: Any, name: str, schema: pa.Schema, written_at: bool) -> Iterator[str]:
    """The statements that make a table's view and, of ``images``, the macros."""
    parts = f'"{name}_parts"'
    dimension = _dimension(connection, parts, schema)
    vector = "DOUBLE[]" if dimension is None else f"FLOAT[{dimension}]"
    typed = "" if dimension is None else f" REPLACE (embedding::{vector} AS embedding)"
    time = f", {_written_at(schema.names)} AS written_at" if written_at else ""
    yield f'CREATE VIEW "{name}" AS SELECT *{typed}{time} FROM {parts}'
    if name != "images":
        return
    cosine = "list_cosine_similarity" if dimension is None else "array_cosine_similarity"
    # NaN, as of a zero vector, would sort above every score
    yield (
        "CREATE MACRO cosine_similarity(one, other) AS "
        f"nullif({cosine}(one::{vector}, other::{vector}), 'nan'::FLOAT)::DOUBLE"
    )
    if dimension is not None:
        yield (
            "CREATE MACRO embedding_of(wanted_key) AS "
            "(SELECT embedding FROM images WHERE images.key = wanted_key)"
        )


def _needs_written_at(tree: exp.Query | None, columns: Sequence[str]) -> bool:
    """Whether a statement reads ``written_at``, which tables in BigQuery have and those in folders don't."""
    from sqlglot import exp

    if tree is None or "written_at" in columns:
        return False
    return any(column.name.lower() == "written_at" for column in tree.find_all(exp.Column))


def _written_at(columns: Sequence[str]) -> str:
    """When a row was written: the time that its run's id is; of a stream, when its frame was pulled."""
    run = (
        "try_strptime(run_id, '%Y%m%dT%H%M%S%fZ')::TIMESTAMPTZ"
        if "run_id" in columns
        else "NULL::TIMESTAMPTZ"
    )
    times = [name for name in ("pull_time", "capture_time") if name in columns]
    return f"coalesce({', '.join([*times, run])})"


def _dimension(connection: Any, parts: str, schema: pa.Schema) -> int | None:
    """The length that all embeddings have; None when there are none, or of several lengths."""
    import pyarrow as pa

    if "embedding" not in schema.names:
        return None
    kind = schema.field("embedding").type
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return None
    counted = f"SELECT DISTINCT len(embedding) FROM {parts} WHERE embedding IS NOT NULL LIMIT 2"
    lengths = connection.execute(counted).fetchall()
    return lengths[0][0] if len(lengths) == 1 else None


def _one_select(statement: str) -> str:
    statements = deps.need("duckdb").extract_statements(statement)
    if len(statements) != 1 or statements[0].type.name != "SELECT":
        kinds = ", ".join(each.type.name for each in statements) or "nothing"
        raise UsageError(f"one SELECT is what can be run here; this is {kinds} (the table is only read)")
    return statement


def _distinct(names: list[str]) -> list[str]:
    """``names`` with ``_2``, ``_3`` ... put to those that stand there already."""
    taken: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.append(candidate)
    return taken
