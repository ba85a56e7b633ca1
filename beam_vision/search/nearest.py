"""The nearest images in SQL: a table in BigQuery by VECTOR_SEARCH, or a folder's by DuckDB.

:class:`TableSearch` is asked as an :class:`~beam_vision.search.index.Index` is, and answers alike: exactly k
where so many are there, best first, ties in the order of their keys, scores to 7 decimals; which of equally
near images are the last of the k is the engine's choice.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search.base import SCORE_DECIMALS, unit_vectors
from beam_vision.search.index import Found, refuse_other_maker
from beam_vision.search.nearest_facts import DIGESTS, EMBEDDING, Facts, facts_of
from beam_vision.search.nearest_plan import Way, ways
from beam_vision.search.nearest_sql import DIMENSION, QUERIES, VECTOR, statement
from beam_vision.search.sql import INDEX_NOTE, query
from beam_vision.search.where import Condition, parse_where
from beam_vision.types import Neighbor
from beam_vision.warehouse.cost import Bill
from beam_vision.warehouse.names import quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from beam_vision.warehouse.cost import Cost

__all__ = ["Facts", "TableSearch", "facts_of"]

SHOWN = ("key", "uri", "label", "attributes")
MOST_GUESSED_FROM = 200


class TableSearch:
    """A table whose nearest rows are found in SQL.

    Args:
      facts: from :func:`facts_of`.
      max_bytes_billed: of each query that BigQuery runs; 0: no limit.
      tell: called with what the queries cost, before one is run; in silence look-ups are added to the next.
    """

    def __init__(
        self, facts: Facts, *, max_bytes_billed: int = 0, tell: Callable[[str], None] = lambda note: None
    ) -> None:
        self.facts = facts
        self.max_bytes_billed = max_bytes_billed
        self.bill = Bill(tell)
        self._required: tuple[str, str] | None = None
        self._vectors: dict[str, np.ndarray] = {}
        self._counts: dict[str, list[dict[str, Any]]] = {}
        self._seen: list[str] = []  # what BigQuery said of its index, of the last query

    def search(self, vectors: np.ndarray, k: int = 10, *, where: str = "") -> Found:
        """The ``k`` nearest images of each query: exactly k where so many are there, else all of them.

        Args:
          vectors: real ``[D]`` or ``[Q, D]``.
          k: at least 1.
          where: one true-or-false expression in GoogleSQL over the table's columns.

        Raises:
          UsageError: a query is not finite, zero or of another dimension; ``k`` or ``where`` is wrong.
          DigestMismatch: the rows that match were made by several models, or by another than the queries.
        """
        return self._search(vectors, k, where, leave_out=None)

    def search_key(self, key: str, k: int = 10, *, where: str = "", include_self: bool = False) -> Found:
        """The ``k`` nearest images of one that is in the table, itself left out unless asked for.

        Raises:
          UsageError: no such key (one like it is named); ``k`` or ``where`` is wrong.
        """
        if not self.knows(key):
            raise UsageError(f"no image with the key {key!r}{self._did_you_mean(key)}")
        return self._search(self._vectors[key], k, where, leave_out=None if include_self else key)

    def knows(self, key: str) -> bool:
        """Whether the table has a vector for this key."""
        if key not in self._vectors:
            sql = "SELECT embedding FROM images WHERE key = @key LIMIT 1"
            for row in self._rows(sql, {"key": key}):
                if row["embedding"] is not None and len(row["embedding"]):
                    self._vectors[key] = np.asarray(row["embedding"], np.float64)
        return key in self._vectors

    def require_made_by(self, *, model_digest: str, preprocessing_digest: str) -> None:
        """Refuses query vectors of another space; where the table itself doesn't say, when it is searched.

        Raises:
          DigestMismatch: the table's vectors come from another model, or were shown other images.
        """
        self._required = (model_digest, preprocessing_digest)
        if all(self.facts.digests):
            refuse_other_maker(self._required, self.facts.digests)

    def _search(self, vectors: np.ndarray, k: int, where: str, *, leave_out: str | None) -> Found:
        if k < 1:
            raise UsageError(f"k is at least 1, not {k}")
        dimension = self.facts.dimension or np.shape(vectors)[-1]
        queries = unit_vectors(vectors, dimension)
        condition = parse_where(where, self.facts.columns)
        matches = self._counted(condition)
        found, notes = self._found(queries, k + (leave_out is not None), condition, matches)
        kept = [[each for each in query if each.key != leave_out][:k] for query in found]
        ranked = [[replace(each, rank=rank) for rank, each in enumerate(query, 1)] for query in kept]
        there = min(map(len, ranked), default=0)
        if there < k:
            notes.append(f"only {there:,} rows {'match' if condition.sql else 'are there'}: all are given")
        return Found(ranked, [*self.facts.notes, *notes])

    def _found(
        self, queries: np.ndarray, k: int, condition: Condition, matches: int
    ) -> tuple[list[list[Neighbor]], list[str]]:
        """The nearest ``min(k, matches)`` of each query; one that lacks some is asked again another way."""
        found: list[list[Neighbor]] = [[] for _ in queries]
        if not matches or not found:
            return found, []
        planned = ways(
            k,
            rows=max(self.facts.rows, matches),
            matches=matches,
            dimension=queries.shape[1],
            condition=condition,
            index=self.facts.index,
            searchable=self.facts.searchable or self._serves(condition),
            uniform=self.facts.uniform,
        )
        lacking, notes = list(range(len(queries))), []
        for way in planned:
            for number, neighbors in self._asked(way, queries, lacking, k, condition).items():
                found[number] = neighbors
            notes += [f"searched: {way.text}", *self._seen]
            lacking = [number for number in lacking if len(found[number]) < min(k, matches)]
            if not lacking or way.is_exact:
                break
        if not all(found):
            raise UsageError(
                f"none of the {matches:,} rows that match has a vector of {queries.shape[1]} dimensions"
            )
        return found, notes

    def _asked(
        self, way: Way, queries: np.ndarray, numbers: Sequence[int], k: int, condition: Condition
    ) -> dict[int, list[Neighbor]]:
        columns = [name for name in SHOWN if name in self.facts.columns]
        several = len(numbers) > 1
        through = self.facts.base if way.name.startswith("index") else ""
        vector = self.facts.column if through else EMBEDDING
        sql = statement(way, k, condition, columns, several=several, vector=vector)
        parameters: dict[str, Any] = {}
        if not several:
            parameters[VECTOR] = queries[numbers[0]].astype(np.float64).tolist()
        if way.name == "every row compared":
            parameters[DIMENSION] = queries.shape[1]
        relations = {QUERIES: _relation(queries, numbers)} if several else None
        found: dict[int, list[Neighbor]] = {}
        place = through or self.facts.place
        for row in self._rows(sql, parameters, relations, place=place, charge=self.bill.query):
            number = row["query_number"] if several else numbers[0]
            if row["query_distance"] is not None and np.isfinite(row["query_distance"]):
                found.setdefault(number, []).append(_neighbor(row))
        return {
            number: sorted(neighbors, key=lambda each: (-each.score, each.key))
            for number, neighbors in found.items()
        }

    def _counted(self, condition: Condition) -> int:
        """How many rows match; they must all be of one model.

        Raises:
          DigestMismatch: they are not, or not of that which :meth:`require_made_by` named.
        """
        present = [name for name in DIGESTS if name in self.facts.columns]
        if condition.sql not in self._counts:
            columns = ", ".join(map(quoted, present))
            sql = f"SELECT {columns}{', ' if columns else ''}COUNT(*) AS row_count FROM images"
            sql += f" WHERE ({condition.sql})" if condition.sql else ""
            sql += f" GROUP BY {columns}" if columns else ""
            self._counts[condition.sql] = list(self._rows(sql, {}))
        counted = self._counts[condition.sql]
        for name in present:
            self._refuse_several(name, sorted({row[name] or "" for row in counted}))
        if self._required and counted:
            own = [counted[0].get(name) or self.facts.digests[i] for i, name in enumerate(DIGESTS)]
            refuse_other_maker(self._required, (own[0], own[1]))
        return sum(row["row_count"] for row in counted)

    def _refuse_several(self, name: str, digests: list[str]) -> None:
        if len(digests) > 1:
            raise DigestMismatch(
                name.removesuffix("_digest"),
                expected=digests[0] or "(none)",
                found=digests[1] or "(none)",
                remedy=f"vectors of two kinds can't be compared; choose one by --where \"{name} = '...'\"",
            )

    def _did_you_mean(self, key: str) -> str:
        """A key like it, looked for among those that begin or end alike."""
        ends = {"head": key[: max(len(key) // 2, 1)], "tail": key[-max(len(key) // 2, 1) :]}
        sql = (
            "SELECT key FROM images WHERE STARTS_WITH(key, @head) OR ENDS_WITH(key, @tail) "
            f"ORDER BY key LIMIT {MOST_GUESSED_FROM:d}"
        )
        near = [row["key"] for row in self._rows(sql, ends)] if key else []
        best = difflib.get_close_matches(key, near, n=1, cutoff=0.3)
        return f"; did you mean {best[0]!r}?" if best else ""

    def _serves(self, condition: Condition) -> bool:
        """Whether the index of the table behind a view can be used: there, digests are another space's."""
        return bool(self.facts.base) and self.facts.index.usable and not condition.columns & set(DIGESTS)

    def _rows(
        self,
        sql: str,
        parameters: Mapping[str, Any],
        relations: Mapping[str, pa.Table] | None = None,
        *,
        place: str = "",
        charge: Callable[[Cost], None] | None = None,
    ) -> Iterable[dict[str, Any]]:
        with query(
            place or self.facts.place,
            sql,
            parameters,
            relations=relations,
            max_bytes_billed=self.max_bytes_billed,
            charge=charge or self.bill.look_up,
        ) as result:
            self._seen = [note for note in result.notes if note.startswith(INDEX_NOTE)]
            for batch in result.batches:
                for row in batch:
                    yield dict(zip(result.names, row, strict=True))


def _relation(queries: np.ndarray, numbers: Sequence[int]) -> pa.Table:
    import pyarrow as pa

    vectors = pa.array(queries[list(numbers)].astype(np.float64).tolist(), pa.list_(pa.float64()))
    return pa.table({"number": pa.array(numbers, pa.int64()), "embedding": vectors})


def _neighbor(row: Mapping[str, Any]) -> Neighbor:
    score = float(np.clip(1 - row["query_distance"], -1.0, 1.0).round(SCORE_DECIMALS))
    return Neighbor(
        key=row["key"],
        score=score,
        rank=0,
        uri=row.get("uri") or "",
        label=row.get("label"),
        attributes=dict(row.get("attributes") or {}),
    )
