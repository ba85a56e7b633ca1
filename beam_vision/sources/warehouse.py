"""Images named in BigQuery: a row an image, in a table, a view or what a query gives.

Columns mean what they mean in a manifest (:mod:`~beam_vision.sources.manifest`), but for two things: a column
of vectors is no attribute and isn't read; and of a table that ``predict`` wrote ``uri``, ``label``, ``split``
and ``attributes`` alone are read, for what a model said is no truth about an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure, shorten
from beam_vision.sources.manifest import ref_of_row, text_of
from beam_vision.sources.rows import column_roles
from beam_vision.types import Failure, ImageRef
from beam_vision.warehouse import clients, cost, read
from beam_vision.warehouse.names import TableName, parse_table

if TYPE_CHECKING:
    from google.cloud.bigquery import SchemaField

    from beam_vision.warehouse.read import Snapshot

QUERY = "--query"
_PAIR = {"key", "value"}
_PREDICTED = {"model_digest", "preprocessing_digest", "run_id"}
_TRUTH = ("uri", "labels", "split", "attributes")
_NOT_ONE_EACH = {"box": "boxes", "image_key": "tiles"}
_FLOATS = ("FLOAT", "FLOAT64")
_SHOWN_CHARS = 160


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Which rows are read; found and checked by :func:`find_table` or :func:`find_query`.

    Attributes:
      about: the table's path, or ``query``; begins the key of a bad row.
      project: runs the query, or the reading.
      columns: what is read of each row.
      table: the table; None for a query.
      sql: the query; empty for a table.
      job_id: of the job that runs the query, once: a repetition reads the same result.
      most_bytes: what the query may be billed for; 0: no limit.
      cost: of the query, for people.
    """

    about: str
    project: str
    columns: tuple[str, ...]
    table: TableName | None = None
    sql: str = ""
    job_id: str = ""
    most_bytes: int = 0
    cost: str = ""


def find(images: str, query: str, *, project: str = "", most_bytes: int = 0) -> Rows:
    """:func:`find_query` where there is a query, else :func:`find_table`."""
    if query:
        return find_query(query, project=project, most_bytes=most_bytes)
    return find_table(images, project=project, most_bytes=most_bytes)


def find_table(text: str, *, project: str = "", most_bytes: int = 0) -> Rows:
    """The rows of the table or the view ``bigquery://project.dataset.table``.

    Args:
      text: its name.
      project: reads it and is billed; empty: the table's own.
      most_bytes: what the query that a view needs may be billed for; 0: no limit.

    Raises:
      UsageError: there is no such table, it may not be read, or it has no column for the URI.
    """
    name = parse_table(text, option="--images")
    with contextlib.closing(clients.client(project or name.project)) as client:
        table = read.look_up(client, name)
    columns = wanted_columns(table.schema, f"--images {name.uri}")
    return Rows(
        about=name.path,
        project=project or name.project,
        columns=columns,
        table=name,
        job_id=_new_job_id(),
        most_bytes=most_bytes,
    )


def find_query(sql: str, *, project: str = "", most_bytes: int = 0) -> Rows:
    """The rows that a SELECT gives; it is checked and priced by a dry run, and not run.

    Args:
      sql: GoogleSQL.
      project: runs it and is billed; empty: that of the first table it names, else the account's default.
      most_bytes: what it may be billed for; 0: no limit.

    Raises:
      UsageError: it is wrong, no SELECT, or gives no column for the URI; or no project is known.
    """
    project = project or project_of(sql)
    with contextlib.closing(clients.client(project)) as client:
        try:
            job = clients.retried(lambda: cost.dry_job(client, sql))
        except clients.errors() as error:
            why = clients.explain(error, project, read.ROLE)
            raise UsageError(f"{QUERY}: {why} (--query_project ID runs it in another project)") from error
    if job.statement_type != "SELECT":
        raise UsageError(f"{QUERY} is {job.statement_type or 'no statement'}; it must be one SELECT")
    price = cost.priced(job)
    refuse_dear(price, most_bytes)
    columns = wanted_columns(job.schema or (), QUERY)
    return Rows(
        about=QUERY.lstrip("-"),
        project=project,
        columns=columns,
        sql=sql,
        job_id=_new_job_id(),
        most_bytes=most_bytes,
        cost=price.text,
    )


def refuse_dear(price: cost.Cost, most_bytes: int) -> None:
    """Refuses a query that would be billed for more than ``most_bytes``; 0: no limit.

    Raises:
      UsageError: it would.
    """
    if most_bytes and price.bytes_billed > most_bytes:
        raise UsageError(
            f"{QUERY} {price.text}, more than --max_bytes_billed {most_bytes}; raise that, or read less "
            "(fewer columns, or a condition on the column that the table is partitioned by)"
        )


def project_of(sql: str) -> str:
    """The project of the first table that a query names with one, else the account's default.

    Raises:
      UsageError: there is neither.
    """
    import sqlglot

    try:
        tables = sqlglot.parse_one(sql, read="bigquery").find_all(sqlglot.exp.Table)
        named = next((table.catalog for table in tables if table.catalog), "")
    except sqlglot.errors.SqlglotError:
        named = ""  # BigQuery itself says what is wrong with it
    project = named or os.environ.get("GOOGLE_CLOUD_PROJECT") or _default_project()
    if not project:
        raise UsageError(
            f"{QUERY} names no table with its project, and there is no default; --query_project ID"
        )
    return project


def _default_project() -> str:
    if clients.emulated():
        return ""
    import google.auth

    with contextlib.suppress(google.auth.exceptions.GoogleAuthError):
        return google.auth.default()[1] or ""
    return ""


def wanted_columns(fields: Sequence[SchemaField], place: str) -> tuple[str, ...]:
    """Which columns are read of rows with these ``fields``.

    Raises:
      UsageError: there is none for the URI, or it isn't text; or rows stand for boxes or tiles.
    """
    names = tuple(field.name for field in fields)
    try:
        roles = column_roles(names)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error
    kinds = {field.name: field.field_type for field in fields if field.mode != "REPEATED"}
    uri = next(name for name, role in roles.items() if role == "uri")
    if kinds.get(uri) != "STRING":
        raise UsageError(f"{place}: its column {uri!r} is {kinds.get(uri, 'an ARRAY')}, not STRING")
    vectors = {field.name for field in fields if field.mode == "REPEATED" and field.field_type in _FLOATS}
    if not set(names) >= _PREDICTED:
        return tuple(name for name in names if roles[name] or name not in vectors)
    for column, what in _NOT_ONE_EACH.items():
        if column in names:
            raise UsageError(
                f"{place} has rows of {what}, several an image; "
                "give --query 'SELECT DISTINCT uri, label FROM ...' in its place"
            )
    return tuple(name for name in names if roles[name] in _TRUTH)


def uri_of(rows: Rows) -> str:
    """``bigquery://p.d.t`` of a table; of a query its text."""
    return rows.table.uri if rows.table else rows.sql


def open_snapshot(rows: Rows, *, most_streams: int = read.MOST_STREAMS) -> Snapshot:
    """The rows as they are now; of a query, as they were when it ran, however often this is called.

    Raises:
      UsageError: they can't be read any more.
    """
    with contextlib.closing(clients.client(rows.project)) as client, read.reading() as reader:
        if rows.table is not None:
            return read.snapshot_table(
                client,
                reader,
                rows.table,
                columns=rows.columns,
                most_streams=most_streams,
                most_bytes=rows.most_bytes,
                job_id=rows.job_id,
            )
        return read.snapshot_query(
            client,
            reader,
            rows.sql,
            columns=rows.columns,
            about=QUERY,
            most_streams=most_streams,
            most_bytes=rows.most_bytes,
            job_id=rows.job_id,
        )


def list_rows(rows: Rows, *, root: str = "", boxes_on: str = "auto") -> Iterator[ImageRef | Failure]:
    """The refs of all rows, and a Failure for each bad one, in no order."""
    snapshot = open_snapshot(rows, most_streams=1)
    for stream in snapshot.streams:
        yield from list_stream(rows, snapshot, stream, root=root, boxes_on=boxes_on)


def list_stream(
    rows: Rows, snapshot: Snapshot, stream: str, *, root: str = "", boxes_on: str = "auto"
) -> Iterator[ImageRef | Failure]:
    """The refs of the rows in one stream, and a Failure ``bad_manifest_row`` for each bad one.

    BigQuery's rows have no number, so a bad row is named by what it says: its key is ``p.d.t#DIGEST``.
    """
    with read.reading() as reader:
        for batch in read.read_stream(reader, snapshot, stream):
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield found_in(dict(zip(rows.columns, values, strict=True)), rows, root, boxes_on)


def found_in(
    row: Mapping[str, Any], rows: Rows, root: str = "", boxes_on: str = "auto"
) -> ImageRef | Failure:
    """The ref that a row describes, or its Failure."""
    row = {name: _pairs(value) for name, value in row.items()}
    try:
        _refuse_relative(row, root)
        return ref_of_row(row, root, rows.about, boxes_on)
    except VisionError as error:
        said = json.dumps(row, ensure_ascii=False, default=_shown)
        mark = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        bad = ImageRef(key=f"{rows.about}#{mark}", uri=rows.table.uri if rows.table else rows.about)
        detail = f"{rows.about}: the row {shorten(said, _SHOWN_CHARS)}: {error.detail}"
        return failure(VisionError(error.reason, detail), bad, Stage.SOURCE)


def _refuse_relative(row: Mapping[str, Any], root: str) -> None:
    uri = next(row[name] for name, role in column_roles(tuple(row)).items() if role == "uri")
    if isinstance(uri, str) and uri.strip() and not root:
        path = storage.local(uri)
        if not (storage.is_remote(uri) or os.path.isabs(path)):
            detail = f"its uri {uri!r} is relative; say where it starts by --image_root"
            raise VisionError(Reason.BAD_MANIFEST_ROW, detail)


def _pairs(value: Any) -> Any:
    """``ARRAY<STRUCT<key, value>>`` as pairs, which an attributes' column may be; else the value."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(one, dict) and set(one) == _PAIR for one in value)
    ):
        return [(one["key"], one["value"]) for one in value]
    return value


def _shown(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else text_of(value)


def _new_job_id() -> str:
    return f"beam_vision_images_{uuid.uuid4().hex}"
