"""The front of the room: build and update an index (:mod:`~beam_vision.search.build`), open one, ask it."""

from __future__ import annotations

import difflib
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search.base import VectorIndex
from beam_vision.search.build import Built, build, update
from beam_vision.search.bundle import Bundle, IndexManifest, local_folder, open_bundle
from beam_vision.search.exact import ExactIndex
from beam_vision.search.filtering import matching_rows
from beam_vision.search.shards import is_sharded
from beam_vision.search.vectors import describe_bad, read_vectors
from beam_vision.types import Neighbor

if TYPE_CHECKING:
    import pyarrow as pa

    from beam_vision.search.fan_out import ShardedIndex

__all__ = ["Built", "Found", "Index", "build", "open_index", "open_table", "update"]


@dataclass(frozen=True)
class Found:
    """Neighbours for each query, best first, and what the searcher should be told."""

    neighbors: list[list[Neighbor]]
    notes: list[str]


class Answer(NamedTuple):
    """What one index answers.

    Attributes:
      neighbors: for each query, best first.
      how: in a few words, the way that was taken.
      there: how many rows there were to find.
    """

    neighbors: list[list[Neighbor]]
    how: str
    there: int


class Index:
    """Vectors that can be asked for neighbours; made by :func:`open_index` or :func:`open_table`.

    Attributes:
      index: the vectors by key, and the way to search them.
      rows: the other columns, row for row.
      model_digest, preprocessing_digest: what made the vectors; ``""``: unknown.
      notes: what the opening has to say.
      manifest: the index folder's; None for a table.
    """

    def __init__(
        self,
        index: VectorIndex,
        rows: pa.Table,
        *,
        model_digest: str,
        preprocessing_digest: str,
        notes: Sequence[str] = (),
        manifest: IndexManifest | None = None,
    ) -> None:
        self.index = index
        self.rows = rows
        self.model_digest = model_digest
        self.preprocessing_digest = preprocessing_digest
        self.notes = list(notes)
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.index.store)

    @property
    def backend(self) -> str:
        """The way it is searched: ``exact``, ``scann_ah`` or ``scann_tree``."""
        return self.index.backend

    def search(self, vectors: np.ndarray, k: int = 10, *, where: str = "") -> Found:
        """The ``k`` nearest images of each query: exactly k where so many are there, else all of them.

        Args:
          vectors: real ``[D]`` or ``[Q, D]``.
          k: at least 1.
          where: a SQL expression over the index's columns; empty: all rows.

        Raises:
          UsageError: a query is not finite, zero or of another dimension; ``k`` or ``where`` is wrong.
        """
        return told(self.ask(vectors, k, where=where), k, where=where, notes=self.notes)

    def search_key(self, key: str, k: int = 10, *, where: str = "", include_self: bool = False) -> Found:
        """The ``k`` nearest images of one that is in the index, itself left out unless asked for.

        Raises:
          UsageError: no such key (the nearest one is named); ``k`` or ``where`` is wrong.
        """
        if not self.knows(key):
            raise no_such_key(key, self.index.store.keys)
        answer = self.ask(self.vector_of(key), k, where=where, leave_out=None if include_self else key)
        return told(answer, k, where=where, notes=self.notes)

    def require_made_by(self, *, model_digest: str, preprocessing_digest: str) -> None:
        """Refuses a query vector that the index's vectors can't be compared with.

        Raises:
          DigestMismatch: it comes from another model, or from an image prepared in another way.
        """
        refuse_other_maker(
            (model_digest, preprocessing_digest), (self.model_digest, self.preprocessing_digest)
        )

    def knows(self, key: str) -> bool:
        """Whether an image has this key."""
        return key in self.index.store.row_of

    def vector_of(self, key: str) -> np.ndarray:
        """The unit vector of an image, float32 ``[D]``.

        Raises:
          KeyError: no image has this key.
        """
        return self.index.store.vectors[self.index.store.row_of[key]]

    def ask(self, vectors: np.ndarray, k: int, *, where: str = "", leave_out: str | None = None) -> Answer:
        """As :meth:`search`; an image with the key ``leave_out`` is not among the results."""
        if k < 1:
            raise UsageError(f"k is at least 1, not {k}")
        own = None if leave_out is None else self.index.store.row_of.get(leave_out)
        among = matching_rows(self.rows, where) if where.strip() else None
        there = len(self) if among is None else len(among)
        if own is not None:
            there -= among is None or bool(np.isin(own, among))
        hits = self.index.search(vectors, k + (own is not None), among=among)
        found = [
            [(row, score) for row, score in zip(*query, strict=True) if row != own][:k]
            for query in zip(hits.ids.tolist(), hits.scores.tolist(), strict=True)
        ]
        return Answer(self._neighbors(found), hits.how, there)

    def _neighbors(self, found: list[list[tuple[int, float]]]) -> list[list[Neighbor]]:
        import pyarrow as pa

        numbers = pa.array([row for query in found for row, _ in query], pa.int64())
        names = [name for name in ("uri", "label", "attributes") if name in self.rows.column_names]
        described = iter(self.rows.select(["key", *names]).take(numbers).to_pylist())
        return [
            [_neighbor(next(described), score, rank) for rank, (_, score) in enumerate(query, 1)]
            for query in found
        ]


def told(answer: Answer, k: int, *, where: str, notes: Sequence[str]) -> Found:
    """An answer with what the searcher should be told: ``notes``, the way it was found, and what it lacks."""
    said = [*notes, f"searched: {answer.how}"]
    if k > answer.there:
        rows = "match" if where.strip() else "are there"
        said.append(f"only {answer.there:,} rows {rows}: all are given")
    return Found(answer.neighbors, said)


def refuse_other_maker(asked: tuple[str, str], own: tuple[str, str]) -> None:
    """Refuses query vectors that a table's can't be compared with.

    Args:
      asked: the digests of the queries' model and of what it was shown.
      own: those of the table.

    Raises:
      DigestMismatch: they are not the same.
    """
    for what, found, expected in zip(("model", "preprocessing"), asked, own, strict=True):
        if found != expected:
            raise DigestMismatch(
                what,
                expected=expected or "(the index doesn't say)",
                found=found or "(the model doesn't say)",
                remedy="search with the model bundle that made the table, or embed the images again",
            )


def _neighbor(row: dict, score: float, rank: int) -> Neighbor:
    return Neighbor(
        key=row["key"],
        score=score,
        rank=rank,
        uri=row.get("uri") or "",
        label=row.get("label"),
        attributes=dict(row.get("attributes") or ()),
    )


def no_such_key(key: str, known: Sequence[str]) -> UsageError:
    """That no image has this key; names the nearest one, looked for among those that begin or end alike."""
    near: set[str] = set()
    for turned in (1, -1):
        ordered = sorted(other[::turned] for other in known)
        at = bisect(ordered, key[::turned])
        near.update(other[::turned] for other in ordered[max(0, at - 25) : at + 25])
    best = difflib.get_close_matches(key, sorted(near), n=1, cutoff=0.3)
    hint = f"; did you mean {best[0]!r}?" if best else f"; there are {len(known):,} others"
    return UsageError(f"no image with the key {key!r}{hint}")


def open_index(folder: str) -> Index | ShardedIndex:
    """Opens an index folder, in one piece or in shards; its vectors are mapped into memory.

    Raises:
      UsageError: there is no index, or it is not whole, or not local.
    """
    from beam_vision.search.fan_out import open_sharded

    return open_sharded(folder) if is_sharded(local_folder(folder)) else of_bundle(open_bundle(folder))


def of_bundle(opened: Bundle) -> Index:
    """An opened index folder of one piece, to be asked."""
    return Index(
        opened.index,
        opened.rows,
        model_digest=opened.manifest.model_digest,
        preprocessing_digest=opened.manifest.preprocessing_digest,
        notes=opened.notes,
        manifest=opened.manifest,
    )


def open_table(folder: str, *, skip_bad_vectors: bool = False) -> Index:
    """Opens a table as an exact index.

    Raises:
      UsageError, DigestMismatch: as :func:`~beam_vision.search.vectors.read_vectors` raises them.
    """
    source = read_vectors(folder, skip_bad_vectors=skip_bad_vectors)
    return Index(
        ExactIndex(source.store),
        source.rows,
        model_digest=source.model_digest,
        preprocessing_digest=source.preprocessing_digest,
        notes=[f"{describe_bad(source.skipped)}; left out"] if source.skipped else [],
    )
