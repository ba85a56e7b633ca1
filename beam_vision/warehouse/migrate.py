"""A table's images in the space of another model: a second column of embeddings, and a view that switches.

The table stays as it is; ``embedding_<digest>`` holds the vectors of the other table's rows with the same
keys. The view ``TABLE_current`` gives one of the columns as ``embedding``, with the digests that it was made
by; whoever queries the view changes space when the view is replaced, in one statement.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError
from beam_vision.warehouse import clients, columns, forms, read, tables
from beam_vision.warehouse.cost import Cost, dry_run
from beam_vision.warehouse.names import TableName, quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import Client, SchemaField, Table

EMBEDDING = "embedding"
SPACES = "spaces"
"""The fact of a table that says what made each further column of embeddings."""
ROLE = "roles/bigquery.dataEditor"

_DIGEST = re.compile(r"[\w.:/+-]{0,200}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Vectors that can be compared with each other.

    Attributes:
      column: of the table that holds them.
      model_digest, preprocessing_digest: what made them.
      embedding_dim: their length.
    """

    column: str
    model_digest: str
    preprocessing_digest: str
    embedding_dim: int

    @property
    def facts(self) -> dict[str, Any]:
        """What a description says of them."""
        return {
            "model_digest": self.model_digest,
            "preprocessing_digest": self.preprocessing_digest,
            "embedding_dim": self.embedding_dim,
        }


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What was found and checked.

    Attributes:
      table: whose images are brought to another space.
      source: the table with the same keys, embedded by another model.
      old, new: the spaces; ``new.column`` may not be there yet.
    """

    table: TableName
    source: TableName
    old: Space
    new: Space


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a table is in a space.

    Attributes:
      rows: of the table that have an ``embedding``.
      covered: of them, those that have one of the other space too.
      example: the key of one that hasn't; ``""``: all have.
    """

    rows: int
    covered: int
    example: str = ""

    @property
    def share(self) -> float:
        """``covered / rows``; 0 for an empty table."""
        return self.covered / self.rows if self.rows else 0.0


def plan(client: Client, table: TableName, source: TableName) -> Migration:
    """Looks at both tables. Changes nothing.

    Raises:
      UsageError: one isn't a table of embeddings of images that ``predict`` made, or both are of one space.
    """
    old = space_of(client, table)
    new = space_of(client, source)
    made_by = (new.model_digest, new.preprocessing_digest)
    if made_by == (old.model_digest, old.preprocessing_digest):
        raise UsageError(
            f"{table.uri} and {source.uri} are both of model {old.model_digest} and preprocessing "
            f"{old.preprocessing_digest}: there is nothing to migrate"
        )
    column = f"{EMBEDDING}_{settings_digest(list(made_by))[:8]}"
    return Migration(table=table, source=source, old=old, new=replace(new, column=column))


def space_of(client: Client, table: TableName) -> Space:
    """The space of a table's own ``embedding``.

    Raises:
      UsageError: there is no such table, or it isn't of embeddings of images.
    """
    found = tables.look(client, table)
    if not found.exists:
        raise UsageError(f"{table.uri}: there is no such table; `beam-vision predict --output` makes it")
    if found.is_view:
        raise UsageError(f"{table.uri} is a view; name the table that it reads")
    return _space(found.facts, EMBEDDING, table)


def spaces_of(client: Client, table: TableName) -> list[Space]:
    """Every space that a table has a column of, its own first.

    Raises:
      UsageError: as :func:`space_of`.
    """
    found = tables.look(client, table)
    own = space_of(client, table)
    names = {each.name for each in found.schema}
    further = found.facts.get(SPACES) or {}
    return [
        own,
        *(_space(found.facts | further[name], name, table) for name in sorted(further) if name in names),
    ]


def _space(facts: Mapping[str, Any], column: str, table: TableName) -> Space:
    dimension = facts.get("embedding_dim")
    if (
        facts.get("kind") != forms.BATCH
        or facts.get("row_kind") != "images"
        or not isinstance(dimension, int)
    ):
        raise UsageError(
            f"{table.uri} is not a table of embeddings with a row an image; `beam-vision predict --task "
            "embed` makes one"
        )
    digests = {name: str(facts.get(f"{name}_digest") or "") for name in ("model", "preprocessing")}
    for name, digest in digests.items():
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{table.uri}: its description has the {name} digest {digest!r}, which is none")
    return Space(
        column=column,
        model_digest=digests["model"],
        preprocessing_digest=digests["preprocessing"],
        embedding_dim=dimension,
    )


def add_column(client: Client, migration: Migration) -> None:
    """Adds the new space's column, and says in the table's description what made it; again changes nothing.

    Raises:
      UsageError: BigQuery refuses.
    """
    new = migration.new

    def edit(table: Table) -> list[str]:
        facts = forms.facts_in(table.description)
        if any(each.name == new.column for each in table.schema) and new.column in facts.get(SPACES, {}):
            return []
        table.schema = columns.merged([_field(new)], table.schema)
        facts[SPACES] = {**facts.get(SPACES, {}), new.column: new.facts}
        table.description = forms.redescribed(table.description, facts)
        return ["schema", "description"]

    tables.change(client, migration.table, edit)


def _field(space: Space) -> SchemaField:
    from google.cloud.bigquery import SchemaField

    said = f"The embedding by model {space.model_digest}, preprocessing {space.preprocessing_digest}."
    return SchemaField(space.column, "FLOAT", "REPEATED", description=said)


def merge_sql(migration: Migration) -> str:
    """The statement that brings the vectors over; run again it changes nothing. Takes ``@dim``.

    Arrays can't be compared in GoogleSQL; their JSON can.
    """
    column = quoted(migration.new.column)
    return (
        f"MERGE {migration.table.sql} AS t\n"
        f"USING (\n  SELECT key, embedding FROM {migration.source.sql}\n"
        "  WHERE ARRAY_LENGTH(embedding) = @dim\n) AS s\n"
        "ON t.key = s.key\n"
        f"WHEN MATCHED AND IFNULL(TO_JSON_STRING(t.{column}), '') != TO_JSON_STRING(s.embedding) THEN\n"
        f"  UPDATE SET {column} = s.embedding"
    )


def price(client: Client, migration: Migration) -> Cost:
    """What :func:`merge` will be billed for at most; the column must be there.

    Raises:
      UsageError: BigQuery refuses.
    """
    try:
        return dry_run(client, merge_sql(migration), {"dim": migration.new.embedding_dim})
    except clients.errors() as error:
        raise clients.explain(error, migration.table, ROLE) from error


def merge(client: Client, migration: Migration, *, max_bytes_billed: int = 0) -> int:
    """Brings the vectors of the source over; gives how many rows changed.

    Raises:
      UsageError: BigQuery refuses; such as for tables of two locations, or a key that the source has twice.
    """
    values = {"dim": migration.new.embedding_dim}
    try:
        job = read.run_once(client, merge_sql(migration), values, most_bytes=max_bytes_billed)
    except clients.errors() as error:
        raise clients.explain(error, migration.table, ROLE) from error
    return job.num_dml_affected_rows or 0


def coverage(client: Client, migration: Migration) -> Coverage:
    """How many of the table's images are in both spaces.

    Raises:
      UsageError: BigQuery refuses.
    """
    length = f"IFNULL(ARRAY_LENGTH({quoted(migration.new.column)}), 0)"
    sql = (
        f"SELECT COUNT(*) AS n, COUNTIF({length} = @new) AS covered,\n"
        f"  MIN(IF({length} = @new, NULL, key)) AS example\n"
        f"FROM {migration.table.sql} WHERE ARRAY_LENGTH(embedding) = @old"
    )
    values = {"new": migration.new.embedding_dim, "old": migration.old.embedding_dim}
    try:
        (row,) = read.run_once(client, sql, values).result()
    except clients.errors() as error:
        raise clients.explain(error, migration.table, ROLE) from error
    return Coverage(rows=row["n"], covered=row["covered"], example=row["example"] or "")
