"""How an index is parted into shards, and what passes between the steps that make them. No I/O.

A row's shard follows from its key alone, so a row that changes stays in its shard, and the same key can't be
in two. Vectors cross from step to step in files; what is described here is small.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from beam_vision.digest import settings_digest
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search import tune
from beam_vision.search.vectors import SHOWN_KEYS, describe_counts, one_digest

if TYPE_CHECKING:
    from beam_vision.warehouse.read import Snapshot

AUTO = "auto"
MOST_SHARDS = 10_000
SHARD_ROWS = 2_000_000
TASK_BYTES = 256 * 2**20
"""Of vectors that one task reads; a row group of a Parquet file is never parted."""
HASH_BYTES = 8


@dataclass(frozen=True)
class ReadTask:
    """A part of the table that is read at a time: row groups of a Parquet file, or a stream of BigQuery's.

    Attributes:
      place: as the user named it; for messages.
      path, row_groups: of a Parquet file; ``rows`` is how many rows it says these have.
      snapshot, stream: of BigQuery.
    """

    place: str
    path: str = ""
    row_groups: tuple[int, ...] = ()
    rows: int = 0
    snapshot: Snapshot | None = None
    stream: str = ""


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """What all steps of one build know.

    Attributes:
      table: where the rows come from, as the user named it.
      output: the index folder, local or remote.
      run_id: of this build; ids sort by time.
      shards: how many; some may stay empty.
      dimension: of the vectors.
      recall_target, backend: as for :func:`beam_vision.search.build.build`; a shard's own rows choose its
        backend where that is ``auto``.
      skip_bad_vectors: leave bad vectors out instead of refusing the table.
      reuse: keep shards that are there, whole, with the same rows, backend and target.
      digests: of a folder that says of itself what made its rows, by ``model_digest`` and
        ``preprocessing_digest``; used where the rows don't.
      makers: the digests of the model and the preprocessing that the rows must have; None: any.
      table_run_id: of the table's last run; ``""``: unknown.
      earlier: names of shards, by number, of the index that is brought up to date; one of which few rows
        changed is changed row by row.
      replaces: the ``run_id`` of the index that was there; ``""``: none.
    """

    table: str
    output: str
    run_id: str
    shards: int
    dimension: int
    recall_target: float = 0.95
    backend: str = AUTO
    skip_bad_vectors: bool = False
    reuse: bool = False
    digests: tuple[tuple[str, str], ...] = ()
    makers: tuple[str, str] | None = None
    table_run_id: str = ""
    earlier: tuple[tuple[int, str], ...] = ()
    replaces: str = ""

    def digest(self, scann_version: str) -> str:
        """Of all that makes the same rows another shard; ``scann_version`` is empty where there is none."""
        return settings_digest([self.recall_target, self.backend, scann_version])


@dataclass(frozen=True)
class Piece:
    """Rows of one shard in a staged file: batches of it, by their numbers."""

    path: str
    batches: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class Sample:
    """Rows of the whole table that every shard is asked for, to measure recall: those with the least hashes.

    Attributes:
      hashes: uint64 ``[Q]``, ascending.
      keys: of the rows.
      vectors: float32 ``[Q, D]``, unit length.
    """

    hashes: np.ndarray
    keys: tuple[str, ...]
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Facts:
    """What the readers of a table's parts found, or all of them together.

    Attributes:
      rows: with a vector that can be searched.
      bad: how many were left out, by reason.
      bad_keys: the first few of these.
      models, preprocessings: digests of what made the rows.
      schema: the columns but the embedding, serialized by Arrow; None: no rows.
      sample: see :class:`Sample`; None: no rows.
    """

    rows: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    bad_keys: dict[str, list[str]] = field(default_factory=dict)
    models: frozenset[str] = frozenset()
    preprocessings: frozenset[str] = frozenset()
    schema: bytes | None = None
    sample: Sample | None = None


def choose_shards(asked: str, rows: int | None, shard_rows: int) -> int:
    """How many shards: a number as it was asked for, or for ``auto`` what keeps them below ``shard_rows``.

    Raises:
      UsageError: it is no number in 1..10,000; or ``auto``, and nobody knows how many rows there are.
    """
    if shard_rows < 1:
        raise UsageError(f"--shard_rows is at least 1, not {shard_rows}")
    if asked == AUTO:
        if not rows:
            raise UsageError("--shards auto: the table doesn't say how many rows it has; give a number")
        found = math.ceil(rows / shard_rows)
        if found > MOST_SHARDS:
            raise UsageError(
                f"--shards auto: {rows:,} rows would be {found:,} shards of {shard_rows:,}, and "
                f"{MOST_SHARDS:,} is the most; raise --shard_rows"
            )
        return found
    if not asked.isdecimal() or not 1 <= int(asked) <= MOST_SHARDS:
        raise UsageError(f"--shards is a number in 1..{MOST_SHARDS:,} or auto, not {asked!r}")
    return int(asked)


def group_rows(sizes: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """Numbers of row groups, in order, ``most`` rows or fewer together; a larger one is alone.

    Args:
      sizes: the rows of each group.
      most: at least 1.
    """
    some: list[int] = []
    rows = 0
    for number, size in enumerate(sizes):
        if some and rows + size > most:
            yield tuple(some)
            some, rows = [], 0
        some.append(number)
        rows += size
    if some:
        yield tuple(some)


def key_hashes(keys: Sequence[str]) -> np.ndarray:
    """The first 8 bytes of each key's sha256, big end first, uint64 ``[N]``; modulo the shards it is
    :func:`beam_vision.digest.bucket`."""
    raw = b"".join(hashlib.sha256(key.encode()).digest()[:HASH_BYTES] for key in keys)
    return np.frombuffer(raw, ">u8").astype(np.uint64)


def shards_of(hashes: np.ndarray, shards: int) -> np.ndarray:
    """The shard of each key, int64 ``[N]`` in 0..shards-1."""
    return (hashes % np.uint64(shards)).astype(np.int64)


def sample_of(hashes: np.ndarray, keys: Sequence[str], vectors: np.ndarray) -> Sample:
    """The rows with the least hashes, at most :data:`beam_vision.search.tune.QUERIES`."""
    order = np.argsort(hashes, kind="stable")[: tune.QUERIES]
    return Sample(hashes[order], tuple(keys[row] for row in order), np.array(vectors[order], np.float32))


def merge_facts(several: Iterable[Facts]) -> Facts:
    """Facts of parts as those of the whole; in any order and grouping it comes to the same."""
    return functools.reduce(_merged, several, Facts())


def _merged(one: Facts, other: Facts) -> Facts:
    reasons = sorted(one.bad.keys() | other.bad.keys())
    keys = {reason: [*one.bad_keys.get(reason, ()), *other.bad_keys.get(reason, ())] for reason in reasons}
    return Facts(
        rows=one.rows + other.rows,
        bad={reason: one.bad.get(reason, 0) + other.bad.get(reason, 0) for reason in reasons},
        bad_keys={reason: sorted(known)[:SHOWN_KEYS] for reason, known in keys.items()},
        models=one.models | other.models,
        preprocessings=one.preprocessings | other.preprocessings,
        schema=_unified(one.schema, other.schema),
        sample=_sampled(one.sample, other.sample),
    )


def _unified(one: bytes | None, other: bytes | None) -> bytes | None:
    import pyarrow as pa

    if one is None or other is None or one == other:
        return one or other
    both = [pa.ipc.read_schema(pa.py_buffer(each)) for each in sorted((one, other))]
    return pa.unify_schemas(both, promote_options="default").serialize().to_pybytes()


def _sampled(one: Sample | None, other: Sample | None) -> Sample | None:
    if one is None or other is None:
        return one or other
    return sample_of(
        np.concatenate([one.hashes, other.hashes]),
        [*one.keys, *other.keys],
        np.concatenate([one.vectors, other.vectors]),
    )


def checked(facts: Facts, settings: ShardSettings) -> Facts:
    """The facts of a table that can be searched.

    Raises:
      UsageError: no row has a vector, or some are bad and may not be left out.
      DigestMismatch: the rows were made by several models, or by another than ``settings.makers``.
    """
    if facts.bad and not settings.skip_bad_vectors:
        said = describe_counts(facts.bad, facts.bad_keys)
        raise UsageError(f"{said}; leave them out with --skip_bad_vectors")
    if not facts.rows:
        raise UsageError(f"the table at {settings.table} has no row with a vector")
    for number, (what, found) in enumerate(makers_of(facts).items()):
        if settings.makers is not None and found != settings.makers[number]:
            raise DigestMismatch(
                what,
                expected=settings.makers[number] or "(none)",
                found=found or "(none)",
                remedy=f"build {settings.output} anew, without --incremental",
            )
    return facts


def makers_of(facts: Facts) -> dict[str, str]:
    """The digests of the one model and the one preprocessing that made the rows.

    Raises:
      DigestMismatch: there are several.
    """
    found = {"model": facts.models, "preprocessing": facts.preprocessings}
    return {what: one_digest(digests, what) for what, digests in found.items()}
