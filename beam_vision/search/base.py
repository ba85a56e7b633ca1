"""What every index does alike: it holds unit vectors by key, and it ranks candidates exactly.

A score has one definition, whatever found the candidate: the cosine of the two float32 vectors, computed in
float64 row by row and rounded to 7 decimals. So two backends give the same score to the same row,
identical vectors tie exactly, and ties are broken by key.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from beam_vision.errors import UsageError

SCORE_DECIMALS = 7
UNIT_TOLERANCE = 1e-6


class Hits(NamedTuple):
    """What a search found; the first two are ``[Q, k]``, where k is at most the number of rows asked among.

    Attributes:
      ids: int64 row numbers, best first.
      scores: float64 cosines in -1..1, higher is better.
      how: in a few words, the way that was taken.
    """

    ids: np.ndarray
    scores: np.ndarray
    how: str


def unit_vectors(vectors: np.ndarray, dimension: int, *, what: str = "query") -> np.ndarray:
    """``vectors`` (``[D]`` or ``[N, D]``, any real dtype) at length 1, float32 ``[N, D]``.

    Raises:
      UsageError: one is of another dimension, not finite or zero; ``what`` and its number name it.
    """
    given = np.atleast_2d(np.asarray(vectors))
    if given.ndim != 2 or given.dtype.kind not in "fiu":
        raise UsageError(
            f"{what} vectors are numbers of shape [N, {dimension}], not {given.dtype} {given.shape}"
        )
    if given.shape[1] != dimension:
        raise UsageError(f"a {what} vector has {given.shape[1]} dimensions, but the index has {dimension}")
    unit, bad = normalised(given)
    for reason, numbers in bad.items():
        first = ", ".join(map(str, numbers[:5]))
        raise UsageError(
            f"{len(numbers)} of {len(given)} {what} vectors are {reason}: number {first} (from 0)"
        )
    return unit


def normalised(vectors: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """``vectors`` (real ``[N, D]``) at length 1 as float32, and by reason the numbers of those that can't be.

    Lengths are computed in float64 after a division by the largest element, so that neither tiny nor huge
    vectors are lost. A vector of length 1 to float32's precision stays as it is, bit for bit.
    """
    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, initial=0.0)
    finite = np.isfinite(largest)
    bad = {"not finite": np.flatnonzero(~finite), "zero": np.flatnonzero(largest == 0)}
    scale = np.where(finite & (largest > 0), largest, np.nan)[:, None]
    scaled_lengths = np.linalg.norm(wide / scale, axis=1, keepdims=True)
    is_unit = np.abs(scaled_lengths * scale - 1) <= UNIT_TOLERANCE
    unit = np.where(is_unit, wide, wide / scale / scaled_lengths).astype(np.float32)
    return unit, {reason: numbers for reason, numbers in bad.items() if len(numbers)}


class Store:
    """Unit vectors in rows 0..n-1, each with its key.

    A deleted row's place is taken by the last row, as ScaNN does it, so that the rows of a store and of
    a ScaNN searcher stay the same through upserts and deletes.

    Args:
      keys: one a row, none twice.
      vectors: float32 ``[N, D]``, rows of length 1; may be a read-only memory map.
    """

    def __init__(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        if len(keys) != len(vectors):
            raise ValueError(f"{len(keys)} keys for {len(vectors)} vectors")
        self.keys = list(keys)
        self.vectors = vectors
        self.row_of = {key: row for row, key in enumerate(self.keys)}
        if len(self.row_of) != len(self.keys):
            raise ValueError("a key stands twice in the store")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def dimension(self) -> int:
        """The length of each vector."""
        return self.vectors.shape[1]

    def rank(
        self, query: np.ndarray, rows: np.ndarray, k: int, *, near: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best ``min(k, len(rows))`` of ``rows`` for a unit ``query`` ``[D]``, with their scores.

        Args:
          query: a unit vector, float32 ``[D]``.
          rows: row numbers, none twice.
          k: how many.
          near: the rows' float32 products with the query, when they are there already; they only thin out
            the candidates, and what their rounding could have misplaced is scored again.
        """
        if len(rows) > k:
            near = self.vectors[rows] @ query if near is None else near
            cut = np.partition(near, len(near) - k)[len(near) - k]
            rows = rows[near >= cut - self._rounding]
        wide, wide_query = self.vectors[rows].astype(np.float64), query.astype(np.float64)
        lengths = np.sqrt((wide * wide).sum(axis=1) * (wide_query * wide_query).sum())
        scores = np.clip((wide * wide_query).sum(axis=1) / lengths, -1.0, 1.0).round(SCORE_DECIMALS)
        order = sorted(range(len(rows)), key=lambda i: (-scores[i], self.keys[rows[i]]))[:k]
        return rows[order].astype(np.int64), scores[order]

    @property
    def _rounding(self) -> float:
        """What float32 can put between the products of two rows with equal scores.

        A product is off by at most D * 2**-24 whatever the order of summation (Higham, Accuracy and
        Stability of Numerical Algorithms, 3.1), a unit vector's length by UNIT_TOLERANCE, and a score is
        rounded.
        """
        return 2 * (self.dimension * 2.0**-24 + 2 * UNIT_TOLERANCE) + 10.0**-SCORE_DECIMALS

    def upsert(self, keys: Sequence[str], vectors: np.ndarray) -> list[int | None]:
        """Replaces the vectors of keys that are there and appends the others.

        Returns:
          the row that each had, or None.

        Raises:
          UsageError: a key stands twice; a vector is not finite, zero or of another dimension.
        """
        if len(set(keys)) != len(keys):
            raise UsageError("a key stands twice in one upsert")
        vectors = unit_vectors(vectors, self.dimension, what="new")
        if len(vectors) != len(keys):
            raise UsageError(f"{len(keys)} keys for {len(vectors)} vectors")
        old = [self.row_of.get(key) for key in keys]
        added = [i for i, row in enumerate(old) if row is None]
        changed = np.concatenate([self.vectors, vectors[added]])
        for i, row in enumerate(old):
            if row is not None:
                changed[row] = vectors[i]
        for i in added:
            self.row_of[keys[i]] = len(self.keys)
            self.keys.append(keys[i])
        self.vectors = changed
        return old

    def delete(self, keys: Sequence[str]) -> list[int]:
        """Takes keys out, one after the other; gives the row that each had at its turn.

        Raises:
          KeyError: a key isn't there; nothing is deleted then.
        """
        for key in keys:
            if key not in self.row_of:
                raise KeyError(key)
        came_from = np.arange(len(self))
        turns = []
        for key in dict.fromkeys(keys):
            row, last = self.row_of.pop(key), len(self.keys) - 1
            turns.append(row)
            moved = self.keys.pop()
            if row != last:
                self.keys[row] = moved
                self.row_of[moved] = row
                came_from[row] = came_from[last]
        self.vectors = self.vectors[came_from[: len(self.keys)]]
        return turns


class VectorIndex(abc.ABC):
    """An index over a :class:`Store`; exact and ScaNN have this in common.

    Attributes:
      backend: its name, as in an index's manifest.
      store: the vectors and keys; row numbers are the store's.
    """

    backend: str

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def parameters(self) -> dict[str, int]:
        """What it was trained and tuned to; empty for an exact index."""
        return {}

    def search(self, queries: np.ndarray, k: int, *, among: np.ndarray | None = None) -> Hits:
        """The ``k`` nearest rows of each query; all rows when ``k`` is more than there are, never padding.

        Args:
          queries: real ``[Q, D]`` or ``[D]``, of any length but zero.
          k: at least 1.
          among: row numbers to choose from, none twice; None: all.

        Raises:
          UsageError: ``k`` is less than 1, or a query is not finite, zero or of another dimension.
        """
        if k < 1:
            raise UsageError(f"k is at least 1, not {k}")
        unit = unit_vectors(queries, self.store.dimension)
        return self._search(unit, min(k, len(self.store if among is None else among)), among)

    @abc.abstractmethod
    def _search(self, queries: np.ndarray, k: int, among: np.ndarray | None) -> Hits:
        """As :meth:`search`, for unit queries and a ``k`` that is at most the number of rows."""

    @abc.abstractmethod
    def upsert(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        """Adds vectors (``[N, D]``), or replaces those whose key is there.

        Raises:
          UsageError: a key stands twice; a vector is not finite, zero or of another dimension.
        """

    @abc.abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Takes keys out.

        Raises:
          KeyError: a key isn't there; nothing is deleted then.
        """

    @abc.abstractmethod
    def save(self, folder: str) -> None:
        """Writes what the index has beside its store into a local folder."""
