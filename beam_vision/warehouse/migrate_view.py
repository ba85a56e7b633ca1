"""The view ``TABLE_current``: the images of a table in the space in use, replaced in one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError
from beam_vision.warehouse import clients, forms, read, schema, tables
from beam_vision.warehouse.migrate import EMBEDDING, ROLE, SPACES, Space
from beam_vision.warehouse.names import TableName, quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import Client


def current_view(table: TableName) -> TableName:
    """The view that gives a table's images in the space that is in use."""
    return table.sibling("current")


def view_sql(table: TableName, found: tables.Found, space: Space) -> str:
    """The statement that makes ``TABLE_current`` give the images of a space; the whole switch.

    A view takes no query parameters: what stands in it are names and digests that were checked, and a
    description as a text literal.

    Args:
      table: the table.
      found: what :func:`beam_vision.warehouse.tables.look` says of it.
      space: one of :func:`spaces_of`.
    """
    given = {
        EMBEDDING: quoted(space.column),
        "model_digest": literal(space.model_digest),
        "preprocessing_digest": literal(space.preprocessing_digest),
    }
    others = {schema.ROW_DIGEST, *(found.facts.get(SPACES) or {})}
    names = [each.name for each in found.schema if each.name not in others]
    shown = [f"{given[name]} AS {quoted(name)}" if name in given else quoted(name) for name in names]
    return (
        f"CREATE OR REPLACE VIEW {current_view(table).sql}\n"
        f"OPTIONS (description = {literal(_description(table, found.facts, space))})\n"
        f"AS SELECT {', '.join(shown)}\n"
        f"FROM {table.sql}\n"
        f"WHERE ARRAY_LENGTH({quoted(space.column)}) = {space.embedding_dim:d}"
    )


def _description(table: TableName, facts: Mapping[str, Any], space: Space) -> str:
    """Of the view: the table's facts, with what made the space."""
    about = f"The images of {table.path} in the space of one model; made by beam-vision migrate-embeddings."
    kept = {name: value for name, value in facts.items() if name != SPACES}
    return forms.described(about, {**kept, **space.facts, "table": table.path, "column": space.column})


def switch(client: Client, table: TableName, space: Space) -> str:
    """Makes ``TABLE_current`` give the images of ``space``; gives the statement that did it.

    Raises:
      UsageError: BigQuery refuses; or ``TABLE_current`` is a table.
    """
    view = current_view(table)
    there = tables.look(client, view)
    if there.exists and not there.is_view:
        raise UsageError(f"{view.uri} is a table, not a view of ours; rename it first")
    found = tables.look(client, table)
    sql = view_sql(table, found, space)
    try:
        read.run_once(client, sql)
        if clients.emulated():  # which leaves the description out: bqemulator 1.4
            made = client.get_table(view.path)
            made.description = _description(table, found.facts, space)
            client.update_table(made, ["description"])
    except clients.errors() as error:
        raise clients.explain(error, view, ROLE) from error
    return sql


def literal(text: str) -> str:
    """A text as a literal of GoogleSQL: JSON's escapes are among GoogleSQL's, but for surrogate pairs."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isascii() else f"\\U{ord(char):08x}" for char in escaped)
