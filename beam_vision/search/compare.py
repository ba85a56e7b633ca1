"""Several ways of searching held against exact NumPy, on the same queries.

A query is a row of the table, with itself left out of its results. The truth is the exact index's; a result
counts as right when its exact score is at least that of the truth's last, as in
:mod:`~beam_vision.search.tune`: which of two equal scores comes back is no mistake.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from beam_vision.search.base import SCORE_DECIMALS, Store
from beam_vision.search.exact import search_exact
from beam_vision.search.index import Found
from beam_vision.types import Neighbor

TIMED_ALONE = 3
TOLERANCE = 10.0 ** (1 - SCORE_DECIMALS)
"""What the last decimals of a score may differ by: engines sum in other orders."""

Ask = Callable[[np.ndarray, int], Found]
"""Vectors ``[Q, D]`` and k, to what was found."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How one way did.

    Attributes:
      way: its name.
      overlap_at_k: share of the truth's keys that it gave, mean over the queries.
      recall_at_k: share of the truth's neighbours that it found, any of equal scores standing for another.
      worst_score_difference: largest difference between a score it gave and the exact score of that image.
      same_label: share of its neighbours that have their query's label; None where no query has one.
      unknown: results whose key the table doesn't have.
      too_few: queries that got fewer than there are.
      ms_alone: milliseconds of one query by itself, the median of three.
      ms_in_batch: milliseconds a query when all are asked at once.
      how: what the way said of itself.
    """

    way: str
    overlap_at_k: float
    recall_at_k: float
    worst_score_difference: float
    same_label: float | None
    unknown: int
    too_few: int
    ms_alone: float
    ms_in_batch: float
    how: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


class Referee:
    """The exact neighbours of a sample of a table's rows.

    Args:
      store: the table's vectors.
      labels: of each row, None where there is none.
      sample: how many rows to take as queries, the same ones each time.
      k: how many neighbours of each.
    """

    def __init__(self, store: Store, labels: Sequence[str | None], *, sample: int, k: int) -> None:
        count = min(sample, len(store))
        self.rows = np.sort(np.random.default_rng(0).permutation(len(store))[:count])
        self.store, self.labels = store, labels
        self.k = min(k, len(store) - 1)
        self.queries = np.asarray(store.vectors[self.rows])
        ids, scores = search_exact(store, self.queries, min(self.k + 1, len(store)))
        self.truth = [
            [(store.keys[row], score) for row, score in zip(*both, strict=True) if row != own][: self.k]
            for own, *both in zip(self.rows.tolist(), ids.tolist(), scores.tolist(), strict=True)
        ]

    def compare(self, way: str, ask: Ask) -> Compared:
        """Asks all queries at once, then a few alone, and marks the answers."""
        start = time.perf_counter()
        found = ask(self.queries, self.k + 1)
        batch_ms = 1000 * (time.perf_counter() - start) / len(self.rows)
        alone = []
        for query in self.queries[:TIMED_ALONE]:
            start = time.perf_counter()
            ask(query[None], self.k + 1)
            alone.append(1000 * (time.perf_counter() - start))
        return self._marked(way, found, statistics.median(alone), batch_ms)

    def _marked(self, way: str, found: Found, alone_ms: float, batch_ms: float) -> Compared:
        marks = [self._mark(number, neighbors) for number, neighbors in enumerate(found.neighbors)]
        overlaps, right, differences, same, unknown, given = zip(*marks, strict=True)
        labelled = [share for share in same if share is not None]
        return Compared(
            way=way,
            overlap_at_k=round(float(np.mean(overlaps)), 4),
            recall_at_k=round(float(np.mean(right)), 4),
            worst_score_difference=float(f"{max(differences):.1e}"),
            same_label=round(float(np.mean(labelled)), 4) if labelled else None,
            unknown=sum(unknown),
            too_few=sum(count < self.k for count in given),
            ms_alone=round(alone_ms, 3),
            ms_in_batch=round(batch_ms, 3),
            how="; ".join(found.notes),
        )

    def _mark(
        self, number: int, neighbors: Sequence[Neighbor]
    ) -> tuple[float, float, float, float | None, int, int]:
        """Of one query: overlap, recall, worst difference, share of its label, unknown keys, how many."""
        own = self.store.keys[self.rows[number]]
        given = [each for each in neighbors if each.key != own][: self.k]
        known = [each for each in given if each.key in self.store.row_of]
        rows = np.array([self.store.row_of[each.key] for each in known], np.int64)
        exact = self._scores(number, rows)
        differences = [abs(each.score - score) for each, score in zip(known, exact, strict=True)]
        truth = self.truth[number]
        overlap = len({key for key, _ in truth} & {each.key for each in given})
        right = int((exact >= truth[-1][1] - TOLERANCE).sum()) if truth else 0
        label = self.labels[self.rows[number]]
        same = [self.labels[row] == label for row in rows.tolist()]
        return (
            overlap / max(self.k, 1),
            right / max(self.k, 1),
            max(differences, default=0.0),
            float(np.mean(same)) if same and label is not None else None,
            len(given) - len(known),
            len(given),
        )

    def _scores(self, number: int, rows: np.ndarray) -> np.ndarray:
        """The exact scores of ``rows``, in their order."""
        if not len(rows):
            return np.empty(0)
        order, scores = self.store.rank(self.queries[number], rows, len(rows))
        by_row = dict(zip(order.tolist(), scores.tolist(), strict=True))
        return np.array([by_row[row] for row in rows.tolist()])
