"""What must be known of a table before it is searched in SQL."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from beam_vision.errors import UsageError
from beam_vision.search.nearest_plan import NO_INDEX, IndexFacts
from beam_vision.search.places import Folder
from beam_vision.search.vector_index_state import index_of
from beam_vision.warehouse import clients, names, tables
from beam_vision.warehouse.forms import STREAM

EMBEDDING = "embedding"
DIGESTS = ("model_digest", "preprocessing_digest")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What must be known of a table before it is searched.

    Attributes:
      place: a folder, or ``bigquery://project.dataset.table``.
      columns: what it has.
      rows: how many, about; 0: it doesn't say.
      dimension: the length of its vectors; 0: it doesn't say.
      digests: of the model and of what it was shown, as the table states them; ``""``: it doesn't.
      searchable: whether VECTOR_SEARCH takes it.
      uniform: whether it is known that each row has a vector, of that length.
      index: its vector index; or that of ``base``.
      base: where it is a view that migrate-embeddings has made, the table behind it.
      column: of the vectors that the index is of.
      notes: what the looking has to say.
    """

    place: str
    columns: tuple[str, ...]
    rows: int = 0
    dimension: int = 0
    digests: tuple[str, str] = ("", "")
    searchable: bool = False
    uniform: bool = True
    index: IndexFacts = NO_INDEX
    base: str = ""
    column: str = EMBEDDING
    notes: list[str] = field(default_factory=list)


def facts_of(place: str) -> Facts:
    """Looks at a table.

    Raises:
      UsageError: there is none, it has no ``key`` or no ``embedding``, or it may not be read.
    """
    found = _facts_of_bigquery(place) if names.is_bigquery(place) else _facts_of_folder(place)
    missing = [name for name in ("key", "embedding") if name not in found.columns]
    if missing:
        raise UsageError(
            f"{place} has no column {missing[0]!r}, only {', '.join(found.columns)}; "
            "`beam-vision predict --task embed` writes a table that has"
        )
    return found


def _facts_of_bigquery(place: str) -> Facts:
    name = names.parse_table(place, option="--table")
    index, notes = NO_INDEX, []
    with contextlib.closing(clients.client(name.project)) as client:
        found = tables.look(client, name)
        if not found.exists:
            raise UsageError(f"BigQuery: there is no table {name.path}")
        _check_vectors(name, found)
        base, column = _indexed(name, found)
        if base:
            try:
                state = index_of(client, base, column)
                if state is not None:
                    index = IndexFacts(state.kind or "vector", frozenset(state.storing), state.usable)
            except UsageError as error:
                notes.append(f"searched as if there were no vector index: {error}")
    dimension = int(found.facts.get("embedding_dim") or 0)
    return Facts(
        place=place,
        columns=tuple(field.name for field in found.schema),
        rows=found.rows,
        dimension=dimension,
        digests=(found.facts.get("model_digest") or "", found.facts.get("preprocessing_digest") or ""),
        searchable=not found.is_view and found.facts.get("kind") != STREAM,
        uniform=dimension > 0 and not found.is_view,
        index=index,
        base=base.uri if base and found.is_view else "",
        column=column,
        notes=notes,
    )


def _check_vectors(name: names.TableName, found: tables.Found) -> None:
    """Refuses an ``embedding`` that no search takes; that there is one is checked later.

    Raises:
      UsageError: it holds anything but lists of FLOAT64.
    """
    for each in found.schema:
        is_list = each.mode == "REPEATED" and each.field_type in ("FLOAT", "FLOAT64")
        if each.name == EMBEDDING and not is_list:
            held = f"ARRAY<{each.field_type}>" if each.mode == "REPEATED" else each.field_type
            raise UsageError(f"column {EMBEDDING!r} of {name.uri} is {held}, and ARRAY<FLOAT64> is needed")


def _indexed(name: names.TableName, found: tables.Found) -> tuple[names.TableName | None, str]:
    """The table whose vector index serves, and its column: of a view, what its description says."""
    if not found.is_view:
        return name, EMBEDDING
    table, column = found.facts.get("table"), found.facts.get("column")
    if found.facts.get("kind") == STREAM or not isinstance(table, str) or not isinstance(column, str):
        return None, EMBEDDING
    try:
        return names.parse_table(table), column
    except UsageError:
        return None, EMBEDDING


def _facts_of_folder(place: str) -> Facts:
    found = Folder(place)
    model, preprocessing = (found.digests.get(name, "") for name in DIGESTS)
    return Facts(
        place=place,
        columns=tuple(found.columns),
        dimension=found.dimension or 0,
        digests=(model, preprocessing),
        searchable=True,  # as DuckDB runs it, which is quicker than ORDER BY
    )
