"""One shard of an index from its staged rows, and the manifest of all of them."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from beam_vision import deps, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.search import build, bundle, shards, tune
from beam_vision.search.bundle import Bundle, IndexManifest
from beam_vision.search.exact import search_exact
from beam_vision.search.scann_index import ScannIndex
from beam_vision.search.shard_plan import Facts, Piece, Sample, ShardSettings, makers_of
from beam_vision.search.shard_rows import gather
from beam_vision.search.shards import Shard, ShardedManifest
from beam_vision.search.vectors import VectorTable

if TYPE_CHECKING:
    import pyarrow as pa

DIGEST_DIGITS = 16
_LOG = logging.getLogger(__name__)
_ONE_AT_A_TIME = threading.Lock()
"""A process holds one shard at a time, however many threads the runner gives it; and ScaNN's own log is kept
off stderr by means that two threads can't use at once."""


@dataclass(frozen=True)
class BuiltShard:
    """A shard that stands in the index's folder, and how it answers the sample.

    Attributes:
      shard: what the manifest will say of it.
      is_new: whether this run made it; if not it was there, with the same rows.
      exact, found: float64 ``[Q, k]``: the scores of the k nearest of the shard's rows to each row of the
        sample, that row itself left out, by exact search and by the shard's index; best first, -inf where
        there are fewer.
    """

    shard: Shard
    is_new: bool
    exact: np.ndarray
    found: np.ndarray


def build_shard(number: int, pieces: Sequence[Piece], facts: Facts, settings: ShardSettings) -> BuiltShard:
    """Makes one shard of its rows, or finds it made; then asks it for the sample's neighbours.

    Args:
      number: the shard's.
      pieces: all of its rows.
      facts: of the whole table, checked.
      settings: of the build.

    Raises:
      UsageError: a key stands twice.
    """
    with _ONE_AT_A_TIME:
        start = time.monotonic()
        source = gather(sorted(pieces, key=lambda piece: piece.path), facts, settings)
        digest = shard_digest(source, settings)
        name = shards.find_shard(
            settings.output, number, digest, run_id=settings.run_id, any_run=settings.reuse
        )
        built = _kept(number, name, source, facts, settings) if name else None
        if built is None:
            name = _make(number, digest, source, settings)
            del source  # what was published is mapped
            with shards.local_copy(settings.output, name) as folder:
                built = _asked(number, name, bundle.open_bundle(folder), facts, settings)
        took_sec, how = time.monotonic() - start, "made" if built.is_new else "kept"
        _LOG.info("shard %d: %d rows, %s, %.1f s", number, built.shard.rows, how, took_sec)
    return built


def _kept(
    number: int, name: str, source: VectorTable, facts: Facts, settings: ShardSettings
) -> BuiltShard | None:
    """A shard that is there already; None: it is damaged. Its name says what it held when it was written."""
    try:
        with shards.local_copy(settings.output, name) as folder:
            opened = bundle.open_bundle(folder)
            if any(build.differences(opened.index.store, source.store)):
                raise UsageError(f"{name} holds other vectors than its name says")
            return _asked(number, name, opened, facts, settings)
    except UsageError as error:
        _LOG.warning("shard %d is made anew: %s", number, error)
        return None


def _asked(number: int, name: str, opened: Bundle, facts: Facts, settings: ShardSettings) -> BuiltShard:
    assert facts.sample is not None
    is_new = f"-{shards.run_tag(settings.run_id)}-" in name
    return BuiltShard(_entry(number, name, opened.manifest), is_new, *answers(opened, facts.sample))


def _make(number: int, digest: str, source: VectorTable, settings: ShardSettings) -> str:
    """Makes a shard, by changing the earlier one row by row where few of its rows are others; its name."""
    with shards.aside(settings.output) as folder:
        request = build.Request(settings.table, folder, settings.recall_target, settings.backend, _LOG.debug)
        earlier = dict(settings.earlier).get(number)
        with bundle.locked(folder):
            if earlier is None or not _changed(earlier, source, request, settings):
                build.make(source, request)
        storage.delete(storage.join(folder, ".lock"))
        return shards.publish_shard(folder, settings.output, number, digest, settings.run_id)


def _changed(earlier: str, source: VectorTable, request: build.Request, settings: ShardSettings) -> bool:
    with shards.local_copy(settings.output, earlier) as folder:
        try:
            old = bundle.open_bundle(folder)
        except UsageError:  # it is damaged
            return False
        added, replaced, deleted = build.differences(old.index.store, source.store)
        return build.change(old, source, request, [*replaced, *added], deleted) is not None


def _entry(number: int, name: str, manifest: IndexManifest) -> Shard:
    return Shard(
        number=number,
        name=name,
        rows=manifest.rows,
        backend=manifest.backend,
        recall_at_10=manifest.recall_at_10,
        query_ms_median=manifest.query_ms_median,
        notes=manifest.notes,
    )


def shard_digest(source: VectorTable, settings: ShardSettings) -> str:
    """Hexadecimal digits of a shard's rows, all columns and vectors, and of how it is made.

    The columns count as the Parquet file that they become, so the digest is another one when pyarrow writes
    that otherwise; then a shard is made anew that needn't be, and no more.
    """
    scann = metadata.version("scann") if deps.have("scann") else ""
    hashed = hashlib.sha256(settings.digest(scann).encode())
    hashed.update(np.ascontiguousarray(source.store.vectors).data)
    _write_rows(source.rows, _Hashing(hashed))
    return hashed.hexdigest()[:DIGEST_DIGITS]


def _write_rows(rows: pa.Table, to: io.RawIOBase) -> None:
    import pyarrow.parquet as pq

    pq.write_table(rows, to)


class _Hashing(io.RawIOBase):
    """A file that keeps nothing of what is written but its digest."""

    def __init__(self, hashed: hashlib._Hash) -> None:
        super().__init__()
        self._hashed = hashed
        self._at = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Adds to the digest."""
        self._hashed.update(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        """How much was written."""
        return self._at


def answers(opened: Bundle, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """How an index answers the sample: see :class:`BuiltShard`."""
    store, k = opened.index.store, tune.NEIGHBOURS
    own = np.array([store.row_of.get(key, -1) for key in sample.keys], np.int64)
    most = min(k + 1, len(store))
    exact = _without(own, k, *search_exact(store, sample.vectors, most))
    if not isinstance(opened.index, ScannIndex):
        return exact, exact
    hits = opened.index.search(sample.vectors, most)
    return exact, _without(own, k, hits.ids, hits.scores)


def _without(own: np.ndarray, k: int, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The first ``k`` scores of each row of results, without the row ``own``."""
    left = np.where(ids == own[:, None], -np.inf, scores)
    found = np.full((len(left), max(k, left.shape[1])), -np.inf)
    found[:, : left.shape[1]] = -np.sort(-left, axis=1)
    return found[:, :k]


def recall_over(several: Sequence[BuiltShard]) -> float:
    """Recall@10 of searches over all shards against exact search over all shards, 0..1.

    As in :mod:`~beam_vision.search.tune` a result is right when its score is at least that of the last of
    the truth; with a single row there is nothing to find, and the recall is 1.
    """
    exact, found = (
        -np.sort(-np.concatenate([getattr(each, side) for each in several], axis=1), axis=1)
        for side in ("exact", "found")
    )
    exact, found = exact[:, : tune.NEIGHBOURS], found[:, : tune.NEIGHBOURS]
    there = np.isfinite(exact)
    if not there.any():
        return 1.0
    least = np.where(there, exact, np.inf).min(axis=1, keepdims=True)
    return round(float((found >= least)[there].mean()), 4)


def commit(several: Sequence[BuiltShard], facts: Facts, settings: ShardSettings) -> ShardedManifest:
    """Checks that every row is in a shard, then makes these shards the index.

    Raises:
      JobError: rows are unaccounted for; or another build wrote the index meanwhile.
    """
    several = sorted(several, key=lambda each: each.shard.number)
    rows = sum(each.shard.rows for each in several)
    if rows != facts.rows:
        raise JobError(
            f"{facts.rows:,} rows of {settings.table} can be searched, but the shards hold "
            f"{rows:,}; this is a bug, please report it"
        )
    there = shards.read_manifest(settings.output).run_id if shards.is_sharded(settings.output) else ""
    if there not in (settings.replaces, settings.run_id):
        raise JobError(f"another build wrote {settings.output} meanwhile; run this one again")
    makers, recall = makers_of(facts), recall_over(several)
    manifest = ShardedManifest(
        shards=[each.shard for each in several],
        shard_count=settings.shards,
        rows=rows,
        dimension=settings.dimension,
        asked_backend=settings.backend,
        recall_target=settings.recall_target,
        recall_at_10=recall,
        recall_queries=len(facts.sample or ()),
        model_digest=makers["model"],
        preprocessing_digest=makers["preprocessing"],
        table=storage.absolute(settings.table),
        table_run_id=settings.table_run_id,
        run_id=settings.run_id,
        made=[each.shard.number for each in several if each.is_new],
        skipped=facts.bad,
    )
    manifest = replace(manifest, notes=_notes(manifest))
    shards.write_manifest(settings.output, manifest)
    return manifest


def _notes(manifest: ShardedManifest) -> list[str]:
    by_note: dict[str, int] = {}
    for shard in manifest.shards:
        for note in shard.notes:
            by_note[note] = by_note.get(note, 0) + 1
    notes = [f"{count:,} of {len(manifest.shards):,} shards: {note}" for note, count in by_note.items()]
    if manifest.recall_at_10 < manifest.recall_target:
        notes.append(
            f"over all shards recall@10 is {manifest.recall_at_10}, below the {manifest.recall_target} that "
            "each shard was tuned to; build with a higher --recall_target"
        )
    return notes
