"""The exact index, in NumPy: the referee of every other, and the one that is always there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from beam_vision.search.base import Hits, Store, VectorIndex

PRODUCTS_AT_ONCE = 32 * 2**20  # float32 products held at once: 128 MiB
ROWS_AT_ONCE = 32 * 1024


class ExactIndex(VectorIndex):
    """Compares a query with every row. Nothing to train, nothing to save but the vectors."""

    backend = "exact"

    def _search(self, queries: np.ndarray, k: int, among: np.ndarray | None) -> Hits:
        ids, scores = search_exact(self.store, queries, k, among=among)
        return Hits(ids, scores, "exact" if among is None else f"exact over the {len(among):,} that match")

    def upsert(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        """See :meth:`~beam_vision.search.base.VectorIndex.upsert`."""
        self.store.upsert(keys, vectors)

    def delete(self, keys: Sequence[str]) -> None:
        """See :meth:`~beam_vision.search.base.VectorIndex.delete`."""
        self.store.delete(keys)

    def save(self, folder: str) -> None:
        """Nothing: the vectors are the index."""


def search_exact(
    store: Store, queries: np.ndarray, k: int, *, among: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The exact ``k`` nearest of ``among`` (or of all rows), at most as many as there are, for unit queries.

    Returns:
      ids, int64 ``[Q, k]``, and scores, float64 ``[Q, k]``.
    """
    rows = np.arange(len(store)) if among is None else among
    ids = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float64)
    at_once = max(1, PRODUCTS_AT_ONCE // max(len(rows), 1))
    for start in range(0, len(queries), at_once):
        block = queries[start : start + at_once]
        for i, near in enumerate(_products(store.vectors, block, among)):
            ids[start + i], scores[start + i] = store.rank(block[i], rows, k, near=near)
    return ids, scores


def _products(vectors: np.ndarray, queries: np.ndarray, among: np.ndarray | None) -> np.ndarray:
    """Float32 ``[Q, rows]``, made block by block so that a subset is never copied whole."""
    count = len(vectors) if among is None else len(among)
    near = np.empty((len(queries), count), np.float32)
    for start in range(0, count, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        near[:, rows] = queries @ vectors[rows if among is None else among[rows]].T
    return near
