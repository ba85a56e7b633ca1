"""The GoogleSQL of one nearest-neighbour search, over ``images`` and, for several queries, ``queries``.

Answers have the columns ``query_number``, ``key``, whatever else was asked for, and ``query_distance``: 1
minus the cosine, to the 7 decimals that a score has; at most k rows a query, ties in the order of their keys.
Values are query parameters; what stands in the text are checked names, whole numbers and a parsed
``--where``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from beam_vision.search.base import SCORE_DECIMALS
from beam_vision.search.nearest_facts import EMBEDDING
from beam_vision.search.nearest_plan import Way
from beam_vision.search.where import NO_CONDITION, Condition
from beam_vision.warehouse.names import quoted

QUERIES = "queries"
"""The relation of several queries: ``number`` INT64, ``embedding`` ARRAY<FLOAT64>."""
VECTOR = "query_vector"
"""The parameter with the vector of one query."""
DIMENSION = "dimension"
"""The parameter with the length of the vectors, where every row is compared."""


def statement(
    way: Way,
    k: int,
    condition: Condition,
    columns: Sequence[str],
    *,
    several: bool,
    vector: str = EMBEDDING,
) -> str:
    """The SELECT for one way.

    Args:
      way: from :func:`~beam_vision.search.nearest_plan.ways`.
      k: how many neighbours a query.
      condition: the filter; may be none.
      columns: the columns of the table to give, ``key`` among them.
      several: whether the queries are the relation ``queries``, else one is the parameter ``query_vector``.
      vector: the column of the table's vectors, for VECTOR_SEARCH.
    """
    if way.name == "every row compared":
        return _compared(k, condition, columns, several)
    filtered_after = way.name == "index, filtered after"
    inner = sorted({*columns, *(condition.columns if filtered_after else ())} - {EMBEDDING})
    before, after = (NO_CONDITION, condition) if filtered_after else (condition, NO_CONDITION)
    options = {"use_brute_force": True} if way.name == "brute force" else {}
    asked = (
        f"(SELECT number, embedding FROM {QUERIES})"
        if several
        else f"(SELECT 0 AS number, @{VECTOR} AS embedding)"
    )
    found = ", ".join(f"base.{quoted(name)} AS {quoted(name)}" for name in inner)
    search = (
        f"SELECT query.number AS query_number, {found}, ROUND(distance, {SCORE_DECIMALS}) AS query_distance\n"
        "FROM VECTOR_SEARCH(\n"
        f"  (SELECT {_names([*inner, vector])} FROM images{_where(before)}),\n"
        f"  '{vector}',\n"
        f"  {asked},\n"
        "  query_column_to_search => 'embedding',\n"
        f"  top_k => {way.fetch:d},\n"
        "  distance_type => 'COSINE',\n"
        f"  options => '{json.dumps(options)}')"
    )
    return _best(search, after, columns, k)


def _compared(k: int, condition: Condition, columns: Sequence[str], several: bool) -> str:
    """Every row with every query; rows of another dimension, and zero vectors, can't be compared."""
    is_true = f" AND ({condition.sql})" if condition.sql else ""
    rows = (
        f"SELECT {_names([*columns, EMBEDDING])} FROM images "
        f"WHERE ARRAY_LENGTH(embedding) = @{DIMENSION} "
        f"AND EXISTS (SELECT 1 FROM UNNEST(embedding) AS number_ WHERE number_ <> 0){is_true}"
    )
    number, vector, joined = "0", f"@{VECTOR}", ""
    if several:
        number, vector, joined = "asked.number", "asked.embedding", f" CROSS JOIN {QUERIES} AS asked"
    given = ", ".join(f"base.{quoted(name)} AS {quoted(name)}" for name in columns)
    pairs = (
        f"SELECT {number} AS query_number, {given}, "
        f"ROUND(COSINE_DISTANCE(base.embedding, {vector}), {SCORE_DECIMALS}) AS query_distance\n"
        f"FROM ({rows}) AS base{joined}"
    )
    if not several:
        return f"{pairs}\nORDER BY query_distance, key LIMIT {k:d}"
    return _best(pairs, NO_CONDITION, columns, k)


def _best(found: str, condition: Condition, columns: Sequence[str], k: int) -> str:
    """The k nearest of each query among the rows of ``found`` for which ``condition`` is true."""
    return (
        f"SELECT query_number, {_names(columns)}, query_distance FROM (\n"
        "SELECT *, ROW_NUMBER() OVER "
        "(PARTITION BY query_number ORDER BY query_distance, key) AS query_place\n"
        f"FROM (\n{found}\n){_where(condition)}\n"
        f")\nWHERE query_place <= {k:d}\nORDER BY query_number, query_place"
    )


def _names(columns: Sequence[str]) -> str:
    return ", ".join(quoted(name) for name in columns)


def _where(condition: Condition) -> str:
    return f" WHERE ({condition.sql})" if condition.sql else ""
