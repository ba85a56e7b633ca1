"""SQL over a table: DuckDB in memory, which sees the table's rows and nothing else.

Views: ``images``, the rows, with ``embedding`` as ``FLOAT[D]``; ``failures``, the dead letter beside them; of
a streaming job also ``counts``, ``health``, ``latency``, ``alerts`` and ``rollouts``.
Macros: ``cosine_similarity(a, b)`` of two vectors, and ``embedding_of(key)``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps, storage, table
from beam_vision.errors import UsageError
from beam_vision.search.stream_views import stream_parts, view_of
from beam_vision.types import Failure

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Result:
    """The answer to a query.

    Attributes:
      names: of the columns; one that stands twice gets ``_2`` the second time.
      batches: the rows as tuples of Python values, at most 1,000 at a time, computed as they are read.
    """

    names: list[str]
    batches: Iterator[list[tuple]]


@contextlib.contextmanager
def closed_connection(tables: Mapping[str, Any], *statements: str) -> Iterator[Any]:
    """A DuckDB connection that sees ``tables``, no file and no network.

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
            "SET enable_external_access = false",
            *statements,
            "SET lock_configuration = true",
        ):
            connection.execute(statement)
        yield connection


@contextlib.contextmanager
def query(folder: str, statement: str) -> Iterator[Result]:
    """Runs one SELECT over the table in ``folder``; read the result inside the block.

    Raises:
      UsageError: there is no table; the statement is another kind, several, or wrong. The message names
        the columns there are. It can also come while the batches are read.
    """
    duckdb = deps.need("duckdb")
    with contextlib.ExitStack() as stack:
        parts = _dataset([_local_copy(path, stack) for path in table.part_paths(folder)])
        tables = {"image_parts": parts, "failures": _failures(folder)}
        further = stream_parts(folder)
        for name, paths in further.items():
            tables[f"{name}_parts"] = _dataset([_local_copy(path, stack) for path in paths])
        connection = stack.enter_context(closed_connection(tables))
        try:
            views = [view_of(name, f"{name}_parts") for name in further]
            for definition in [*_definitions(connection, parts.schema), *views]:
                connection.execute(definition)
            connection.execute(_one_select(statement))
            yield Result(
                names=_distinct([column[0] for column in connection.description]),
                batches=iter(lambda: connection.fetchmany(ROWS_AT_ONCE), []),
            )
        except duckdb.Error as error:
            raise UsageError(explained(error, parts.schema.names)) from error


def explained(error: Exception, columns: Sequence[str]) -> str:
    """A DuckDB error on one line, without its drawing of the place, and the columns there are."""
    text = " ".join(str(error).partition("\n\n")[0].split())
    return f"{text} (the table is called images; its columns: {', '.join(columns)})"


def _definitions(connection: Any, schema: pa.Schema) -> list[str]:
    dimension = _dimension(connection, schema)
    if dimension is None:
        return ["CREATE VIEW images AS FROM image_parts"]
    vector = f"FLOAT[{dimension}]"
    return [
        f"CREATE VIEW images AS SELECT * REPLACE (embedding::{vector} AS embedding) FROM image_parts",
        # NaN, as of a zero vector, would sort above every score
        "CREATE MACRO cosine_similarity(one, other) AS "
        f"nullif(array_cosine_similarity(one::{vector}, other::{vector}), 'nan'::FLOAT)",
        "CREATE MACRO embedding_of(wanted_key) AS "
        "(SELECT embedding FROM images WHERE images.key = wanted_key)",
    ]


def _dimension(connection: Any, schema: pa.Schema) -> int | None:
    """The length that all embeddings have; None when there are none, or of several lengths."""
    import pyarrow as pa

    if "embedding" not in schema.names:
        return None
    kind = schema.field("embedding").type
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return None
    counted = "SELECT DISTINCT len(embedding) FROM image_parts WHERE embedding IS NOT NULL LIMIT 2"
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


def _dataset(paths: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    schema = pa.unify_schemas([pq.read_schema(path) for path in paths], promote_options="default")
    return ds.dataset(paths, schema=schema.remove_metadata(), format="parquet")


def _local_copy(path: str, stack: contextlib.ExitStack) -> str:
    """``path``, or where a remote file was copied to until the stack closes."""
    if not storage.is_remote(path):
        return storage.local(path)
    copy = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "part.parquet")
    storage.write_bytes(copy, storage.read_bytes(path))
    return copy


def _failures(folder: str) -> pa.Table:
    """The dead letter beside a table; no rows when there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [field.name for field in dataclasses.fields(Failure)]
    types = {name: pa.int64() if name == "attempt" else pa.string() for name in names}
    inner = storage.join(folder, "failures")
    lines: list[dict[str, Any]] = []
    for name in storage.list_folder(inner):
        if name.endswith(".jsonl"):
            text = storage.read_text(storage.join(inner, name))
            lines += [json.loads(line) for line in text.splitlines() if line.strip()]
        elif name.endswith(".parquet"):  # of a streaming job
            with storage.open_read(storage.join(inner, name)) as file:
                lines += pq.ParquetFile(file).read(columns=names).to_pylist()
    columns = {name: pa.array([line.get(name) for line in lines], types[name]) for name in names}
    return pa.table(columns)
