"""The ScaNN index: proposes candidates by asymmetric hashing, which are then ranked by exact cosines.

The one user of :func:`beam_vision.deps.scann`. ScaNN itself keeps only the hashed vectors; the exact
reordering reads the store's, so nothing is held or saved twice, and a result is never padding: ScaNN fills
up with row 0 and NaN when it finds too few, which is dropped here and made up for by a wider search.

Built without docids: ScaNN would pickle them into its folder, and reading a pickle runs what is in it. Rows
are the ids, and :class:`~beam_vision.search.base.Store` keeps the keys in step with ScaNN's rows.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.search.base import Hits, Store, VectorIndex
from beam_vision.search.exact import search_exact

FEWEST_ROWS = 16  # asymmetric hashing learns 16 centres a block
EXACT_MATCHES = 20_000  # up to so many rows, comparing with each is quick
MOST_FETCHED = 0.25  # of all rows; past that an exact search costs no more
TUNED_K = 11  # ten neighbours, and the row itself where a query is one of the rows
TREE, HASH = "scann_tree", "scann_ah"
FOLDER = "scann"
TRAINING_ROWS = 100_000


@dataclass(frozen=True)
class Effort:
    """How hard a search for :data:`TUNED_K` neighbours tries; more gives more recall and costs more time.

    Attributes:
      reorder: candidates whose exact cosine is computed.
      leaves_to_search: parts of the tree that are looked into; 0 where there is no tree.
    """

    reorder: int
    leaves_to_search: int = 0


class ScannIndex(VectorIndex):
    """Asymmetric hashing, with a tree of parts above it or not.

    Args:
      store: the vectors and keys.
      searcher: ScaNN's searcher over the same rows.
      leaves: parts of the tree; 0: no tree.
      effort: see :class:`Effort`; tuned by :mod:`beam_vision.search.tune`.
    """

    def __init__(self, store: Store, searcher: Any, *, leaves: int, effort: Effort) -> None:
        super().__init__(store)
        self.backend = TREE if leaves else HASH
        self.searcher = searcher
        self.leaves = leaves
        self.effort = effort

    @property
    def parameters(self) -> dict[str, int]:
        """What :func:`load` needs, and what a search was tuned to."""
        return {"leaves": self.leaves, **asdict(self.effort)}

    def _search(self, queries: np.ndarray, k: int, among: np.ndarray | None) -> Hits:
        """Few rows to choose from are compared one by one; for many the search is widened, in candidates and
        in leaves, until each query has k of them. A query for which that would take more than a
        quarter of all rows is answered exactly.
        """
        rows, matches = len(self.store), len(self.store if among is None else among)
        if among is not None and matches <= EXACT_MATCHES:
            ids, scores = search_exact(self.store, queries, k, among=among)
            return Hits(ids, scores, f"exact over the {matches:,} that match")
        ids = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float64)
        allowed = None if among is None else np.bincount(among, minlength=rows).astype(bool)
        pending = np.arange(len(queries))
        widened = max(1.0, k / TUNED_K) * rows / max(matches, 1)
        while len(pending) and (fetch := math.ceil(self.effort.reorder * widened)) <= rows * MOST_FETCHED:
            leaves = min(self.leaves, math.ceil(self.effort.leaves_to_search * widened))
            short = []
            for query, found in zip(pending, self._candidates(queries[pending], fetch, leaves), strict=True):
                found = found if allowed is None else found[allowed[found]]
                if len(found) < k:
                    short.append(query)
                else:
                    ids[query], scores[query] = self.store.rank(queries[query], found, k)
            pending = np.array(short, np.int64)
            widened *= 2
        if len(pending):
            ids[pending], scores[pending] = search_exact(self.store, queries[pending], k, among=among)
        return Hits(
            ids, scores, self._how(len(queries), len(pending), matches if among is not None else None)
        )

    def _how(self, queries: int, exactly: int, matches: int | None) -> str:
        over = "" if matches is None else f", over the {matches:,} that match"
        if exactly == queries:
            return f"exact{over}"
        return f"{self.backend}{over}" + (f"; {exactly} of {queries} queries exactly" if exactly else "")

    def _candidates(self, queries: np.ndarray, count: int, leaves: int) -> list[np.ndarray]:
        """For each query the rows that ScaNN proposes, at most ``count``, without its padding."""
        rows, near = self.searcher.search_batched(
            queries, final_num_neighbors=count, leaves_to_search=leaves or None
        )
        return [found[~np.isnan(score)] for found, score in zip(rows, near, strict=True)]

    def upsert(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        """See :meth:`~beam_vision.search.base.VectorIndex.upsert`; new rows go to the leaves there are."""
        if len(keys):
            came_from = self.store.upsert(keys, vectors)
            changed = self.store.vectors[[self.store.row_of[key] for key in keys]]
            self.searcher.searcher.upsert(came_from, changed, 1)

    def delete(self, keys: Sequence[str]) -> None:
        """See :meth:`~beam_vision.search.base.VectorIndex.delete`."""
        if len(keys):
            self.searcher.searcher.delete(self.store.delete(keys))

    def save(self, folder: str) -> None:
        """Writes ScaNN's files into ``folder/scann``; they name each other by relative paths."""
        inner = os.path.join(folder, FOLDER)
        os.makedirs(inner, exist_ok=True)
        self.searcher.serialize(inner, relative_path=True)


def train(store: Store, *, tree: bool) -> ScannIndex:
    """Trains ScaNN over the store's vectors, with an effort that is only a start for tuning.

    Args:
      store: at least :data:`FEWEST_ROWS` vectors.
      tree: whether to part the rows into about sqrt(N) leaves.

    Raises:
      UsageError: ScaNN isn't installed, there are too few rows, or one is not finite.
    """
    scann = deps.scann()
    if scann is None:
        raise UsageError(
            "ScaNN is not installed: pip install 'scann>=1.4.2,<1.5' (Linux only), or --backend exact"
        )
    if len(store) < FEWEST_ROWS:
        raise UsageError(f"ScaNN needs at least {FEWEST_ROWS} rows, and there are {len(store)}")
    if not np.isfinite(store.vectors.sum(dtype=np.float64)):
        raise UsageError("a vector is not finite, and ScaNN would abort the process")
    leaves = round(math.sqrt(len(store))) if tree else 0
    builder = scann.scann_ops_pybind.builder(np.ascontiguousarray(store.vectors), TUNED_K, "dot_product")
    sample = min(len(store), TRAINING_ROWS)
    if tree:
        builder = builder.tree(leaves, max(1, leaves // 10), training_sample_size=sample)
    builder = builder.score_ah(
        min(2, store.dimension), anisotropic_quantization_threshold=0.2, training_sample_size=sample
    )
    with quiet_native_log():
        searcher = builder.build()
    effort = Effort(reorder=100, leaves_to_search=max(1, leaves // 10) if tree else 0)
    return ScannIndex(store, searcher, leaves=leaves, effort=effort)


def load(folder: str, store: Store, parameters: dict[str, int]) -> ScannIndex:
    """Reads what :meth:`ScannIndex.save` wrote.

    Raises:
      UsageError: the files are not whole, or not of this store, or hold a pickle (which is never read).
    """
    scann = deps.scann()
    if scann is None:
        raise UsageError("ScaNN is not installed: pip install 'scann>=1.4.2,<1.5' (Linux only)")
    inner = os.path.join(folder, FOLDER)
    if not os.path.isfile(os.path.join(inner, "scann_assets.pbtxt")) or any(
        name.endswith(".pkl") for name in os.listdir(inner)
    ):
        raise UsageError(f"{inner} is not a ScaNN folder that beam-vision wrote; build the index again")
    try:
        with quiet_native_log():
            searcher = scann.scann_ops_pybind.load_searcher(inner, assets_backcompat_shim=False)
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"ScaNN can't read {inner}: {error}; build the index again") from error
    if searcher.size() != len(store):
        raise UsageError(f"{inner} holds {searcher.size()} rows, the index {len(store)}; build it again")
    effort = Effort(parameters["reorder"], parameters["leaves_to_search"])
    return ScannIndex(store, searcher, leaves=parameters["leaves"], effort=effort)


@contextlib.contextmanager
def quiet_native_log() -> Iterator[None]:
    """Keeps ScaNN's C++ log lines off stderr while the block runs; shows them when it raises."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as aside:
        kept = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
