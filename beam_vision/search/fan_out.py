"""Searches over an index in shards: every shard is asked, in threads, and the answers are merged.

A score is computed from the two vectors alone, so it is the same in a shard as in one index; ties go by key
here as there. What all shards' exact indexes answer is what one exact index would.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.search import bundle, shards
from beam_vision.search.index import Answer, Found, Index, no_such_key, of_bundle, refuse_other_maker, told
from beam_vision.search.shards import ShardedManifest
from beam_vision.types import Neighbor

_T = TypeVar("_T")
_MATCHES = re.compile(r"the [\d,]+ that match")
_EXACTLY = re.compile(r"\d+ of (\d+) queries exactly")


class ShardedIndex:
    """What :class:`~beam_vision.search.index.Index` is, over several; made by
    :func:`~beam_vision.search.index.open_index`.

    Attributes:
      shards: the index of each shard.
      model_digest, preprocessing_digest: what made the vectors; ``""``: unknown.
      notes: what the opening has to say.
      manifest: the index folder's.
    """

    def __init__(self, opened: Sequence[Index], manifest: ShardedManifest) -> None:
        self.shards = list(opened)
        self.model_digest = manifest.model_digest
        self.preprocessing_digest = manifest.preprocessing_digest
        self.notes = list(dict.fromkeys(note for each in opened for note in each.notes))
        self.manifest = manifest
        threads = min(len(self.shards), os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="shard")

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def backend(self) -> str:
        """The backends of its shards, and how many these are."""
        return f"{self.manifest.backends}, {len(self.shards):,} shards"

    def search(self, vectors: np.ndarray, k: int = 10, *, where: str = "") -> Found:
        """See :meth:`beam_vision.search.index.Index.search`."""
        return self._search(vectors, k, where=where)

    def search_key(self, key: str, k: int = 10, *, where: str = "", include_self: bool = False) -> Found:
        """See :meth:`beam_vision.search.index.Index.search_key`."""
        own = next((each for each in self.shards if each.knows(key)), None)
        if own is None:
            raise no_such_key(key, [known for each in self.shards for known in each.index.store.keys])
        return self._search(own.vector_of(key), k, where=where, leave_out=None if include_self else key)

    def require_made_by(self, *, model_digest: str, preprocessing_digest: str) -> None:
        """See :meth:`beam_vision.search.index.Index.require_made_by`."""
        refuse_other_maker(
            (model_digest, preprocessing_digest), (self.model_digest, self.preprocessing_digest)
        )

    def knows(self, key: str) -> bool:
        """Whether an image has this key."""
        return any(each.knows(key) for each in self.shards)

    def _search(self, vectors: np.ndarray, k: int, *, where: str, leave_out: str | None = None) -> Found:
        answers = self._ask(lambda shard: shard.ask(vectors, k, where=where, leave_out=leave_out))
        there = sum(each.there for each in answers)
        merged = Answer(
            [merge(several, k) for several in zip(*(each.neighbors for each in answers), strict=True)],
            f"{len(answers):,} shards, {how_in_all((each.how for each in answers), there)}",
            there,
        )
        return told(merged, k, where=where, notes=self.notes)

    def _ask(self, question: Callable[[Index], _T]) -> list[_T]:
        """The shards' answers, in their order; the first shard's error is raised when several fail."""
        return list(self._pool.map(question, self.shards))


def merge(several: Sequence[Sequence[Neighbor]], k: int) -> list[Neighbor]:
    """The best ``k`` of several shards' neighbours of one query; scores stay, ranks are given anew."""
    best = sorted(itertools.chain(*several), key=lambda each: (-each.score, each.key))[:k]
    return [replace(each, rank=rank) for rank, each in enumerate(best, 1)]


def how_in_all(hows: Iterable[str], there: int) -> str:
    """The ways that shards took, each once, without what each counted for itself.

    Args:
      hows: of each shard.
      there: how many rows there were to choose from, in all shards.
    """
    plain = (_MATCHES.sub(f"the {there:,} that match", how) for how in hows)
    return "; ".join(dict.fromkeys(_EXACTLY.sub(r"some of \1 queries exactly", how) for how in plain))


def open_sharded(folder: str) -> ShardedIndex:
    """Opens an index in shards; their vectors are mapped into memory.

    Raises:
      UsageError: there is none, or it is not whole, or not local.
    """
    local = bundle.local_folder(folder)
    while True:
        manifest = shards.read_manifest(local)
        try:
            return ShardedIndex([_open(local, each) for each in manifest.shards], manifest)
        except UsageError:
            if shards.read_manifest(local).run_id == manifest.run_id:
                raise
            # it was replaced while we read


def _open(folder: str, shard: shards.Shard) -> Index:
    path = storage.join(folder, shard.name)
    if not storage.exists(storage.join(path, bundle.MANIFEST)):
        raise UsageError(
            f"the index at {folder} lacks {shard.name}, which its manifest lists; build it again"
        )
    opened = of_bundle(bundle.open_bundle(path))
    if len(opened) != shard.rows:
        raise UsageError(f"{path} holds {len(opened):,} rows, not {shard.rows:,}; build the index again")
    return opened
