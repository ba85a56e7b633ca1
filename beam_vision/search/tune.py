"""Recall measured against the exact index on held-out queries, and the least effort that reaches a target.

A query is a row of the index with the row itself left out of its results. Both sides are scored by the
same :meth:`~beam_vision.search.base.Store.rank`, so a result counts as right when its score is at least
that of the exact index's last: rounding can't make an item outrank itself, and ties are no mistake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from beam_vision.search.base import VectorIndex
from beam_vision.search.exact import search_exact
from beam_vision.search.scann_index import MOST_FETCHED, TUNED_K, Effort, ScannIndex

QUERIES = 256  # a side: tuned on one sample, measured on another
TIMED_QUERIES = 200
NEIGHBOURS = TUNED_K - 1
MOST_REORDERED = 5_000
GROWTH = 1.4
LEEWAY = 0.25  # of what is above the target: leaves that only just suffice would need very many candidates
SEED = 20_240_607


@dataclass(frozen=True)
class Measured:
    """What an index was found to do.

    Attributes:
      recall: recall@k on queries that it wasn't tuned on, 0..1.
      k: how many neighbours were asked for.
      queries: how many queries that is the mean of.
      query_ms_median: milliseconds for one query alone, k neighbours, in this process.
      query_ms_p95: 95 of 100 are answered within this.
    """

    recall: float
    k: int
    queries: int
    query_ms_median: float
    query_ms_p95: float


class Referee:
    """The exact neighbours of a sample of rows.

    Args:
      index: whose rows to sample; its store is read at once.
      rows: numbers of the rows taken as queries.
    """

    def __init__(self, index: VectorIndex, rows: np.ndarray) -> None:
        self.rows = rows
        self.k = min(NEIGHBOURS, len(index.store) - 1)
        self.queries = np.asarray(index.store.vectors[rows])
        exact = search_exact(index.store, self.queries, self.k + 1)
        _, scores = _without_self(*exact, rows, self.k)
        self.least = scores[:, -1:]

    def recall(self, index: VectorIndex) -> float:
        """The share of the exact neighbours that ``index`` finds."""
        hits = index.search(self.queries, self.k + 1)
        _, scores = _without_self(hits.ids, hits.scores, self.rows, self.k)
        return float((scores >= self.least).mean())


def _without_self(
    ids: np.ndarray, scores: np.ndarray, own: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``k`` of each row of results, ``[Q, k + 1]``, once the query's own row is taken out."""
    keep = ids != own[:, None]
    keep[keep.all(axis=1), -1] = False  # its own row was not found, as where many are identical
    return ids[keep].reshape(-1, k), scores[keep].reshape(-1, k)


def samples(rows: int, each: int = QUERIES) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to tune on and to measure on: disjoint where there are enough rows, always the same."""
    order = np.random.default_rng(SEED).permutation(rows)
    if rows >= 2 * each:
        return order[:each], order[each : 2 * each]
    return order[:each], order[-each:]


def sample_of(rows: Sequence[int]) -> np.ndarray:
    """At most :data:`QUERIES` of ``rows``, always the same."""
    return np.random.default_rng(SEED).permutation(np.asarray(rows, np.int64))[:QUERIES]


def measure(index: VectorIndex) -> Measured:
    """Recall@10 and query times of an index as it is; of a single row there is no recall to measure."""
    if len(index.store) < 2:
        return Measured(1.0, 0, 0, *query_ms(index, np.asarray(index.store.vectors), 1))
    _, rows = samples(len(index.store))
    referee = Referee(index, rows)
    median, p95 = query_ms(index, referee.queries[:TIMED_QUERIES], referee.k)
    recall = referee.recall(index) if isinstance(index, ScannIndex) else 1.0
    return Measured(round(recall, 4), referee.k, len(rows), median, p95)


def query_ms(index: VectorIndex, queries: np.ndarray, k: int) -> tuple[float, float]:
    """Median and 95th percentile of the milliseconds that one query takes alone."""
    index.search(queries[0], k)
    spent = []
    for query in queries:
        start = time.perf_counter()
        index.search(query, k)
        spent.append(1000 * (time.perf_counter() - start))
    median, p95 = np.percentile(spent, [50, 95])
    return round(float(median), 3), round(float(p95), 3)


def tune(
    index: ScannIndex, target: float, *, progress: Callable[[str], None], changed: Sequence[int] = ()
) -> bool:
    """Sets the least effort with which the index reaches ``target`` recall@10; False: none does.

    First the fewest leaves are sought that can reach it, with some leeway, when all candidates are
    reordered, then the fewest candidates. What that gives must hold on the other sample too, or both grow.

    Args:
      index: its effort is set.
      target: recall@10, in 0..1.
      progress: is told what was tried.
      changed: rows that the index was not trained on, on which it must hold as well: they may lie where
        the parts and centres that were learnt fit badly.
    """
    rows = len(index.store)
    tuning, *checking = (Referee(index, sample) for sample in samples(rows))
    if len(changed):
        checking.append(Referee(index, sample_of(changed)))
    reorders = _ladder(TUNED_K, min(MOST_REORDERED, int(rows * MOST_FETCHED)))
    leaves = _ladder(1, index.leaves) if index.leaves else [0]

    def reached(at: tuple[int, int], referee: Referee, goal: float = target) -> bool:
        index.effort = effort = Effort(reorders[at[0]], leaves[at[1]])
        recall = referee.recall(index)
        progress(f"reorder {effort.reorder}, leaves {effort.leaves_to_search}: recall@10 {recall:.3f}")
        return recall >= goal

    most = (len(reorders) - 1, len(leaves) - 1)
    goal = target + LEEWAY * (1 - target)
    leaf_step = _first(len(leaves), lambda step: reached((most[0], step), tuning, goal))
    reorder_step = _first(len(reorders), lambda step: reached((step, leaf_step), tuning))
    at = (reorder_step, leaf_step)
    while not all(reached(at, referee) for referee in checking):
        if at == most:
            return False
        at = (min(at[0] + 1, most[0]), min(at[1] + 1, most[1]))
    return True


def _ladder(least: int, most: int) -> list[int]:
    """``least``, then steps of :data:`GROWTH`, up to ``most``."""
    steps = [min(least, most)]
    while steps[-1] < most:
        steps.append(min(most, max(steps[-1] + 1, round(steps[-1] * GROWTH))))
    return steps


def _first(steps: int, passes: Callable[[int], bool]) -> int:
    """The first of the steps 0..steps-1 that passes, the last when none does, by bisection.

    Args:
      steps: how many.
      passes: whatever follows a pass passes too.
    """
    low, high = 0, steps - 1
    while low < high:
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle + 1
    return high
