"""Reads the embeddings of a table into one array, and refuses what no search could use, by key."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search.base import Store, normalised
from beam_vision.search.places import EMBEDDING, Place, Warehouse, place_of
from beam_vision.warehouse.names import is_bigquery, parse_table

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_KEYS = 5
LEFT_OUT = "left out before, and not read again"


@dataclass(frozen=True)
class VectorTable:
    """What a table holds for a search.

    Attributes:
      store: keys and unit vectors.
      rows: the other columns, row for row as in the store, ``key`` first.
      model_digest: of the model that made all of the vectors; ``""`` when the table doesn't say.
      preprocessing_digest: of what that model was shown.
      run_id: the table's last run; ``""`` when it has no manifest.
      read_to: rows that were written by then are here, see :attr:`~beam_vision.search.places.Place.read_to`.
      skipped: keys of vectors that were left out, by reason.
    """

    store: Store
    rows: pa.Table
    model_digest: str = ""
    preprocessing_digest: str = ""
    run_id: str = ""
    read_to: str = ""
    skipped: dict[str, list[str]] = field(default_factory=dict)


def silent(line: str) -> None:
    """A progress line that nobody reads."""


def read_vectors(
    where: str, *, skip_bad_vectors: bool = False, progress: Callable[[str], None] = silent
) -> VectorTable:
    """Reads a table batch by batch into one float32 array, each vector at length 1.

    Args:
      where: a table folder, one Parquet file, or a table or view of BigQuery, whose rows are then sorted by
        key; with ``key`` and ``embedding`` (a list of numbers).
      skip_bad_vectors: leave out vectors that are missing, of another dimension, not finite or zero.
      progress: is told what is read.

    Raises:
      UsageError: there is no such table; it has no rows or not the columns; a key is missing or stands
        twice; a vector is bad and ``skip_bad_vectors`` isn't set.
      DigestMismatch: the rows were made by more than one model, or from differently prepared images.
    """
    place = place_of(where)
    count = place.rows()
    progress(f"reading {count:,} rows of {where}" if count else f"reading {where}")
    found, _ = _read(place, None, count, skip_bad_vectors)
    if found is None:
        raise UsageError(f"the table at {where} has no row with a vector")
    return found


def read_changes(
    where: str,
    since: datetime.datetime,
    old: VectorTable,
    *,
    skip_bad_vectors: bool = False,
    progress: Callable[[str], None] = silent,
) -> VectorTable:
    """What :func:`read_vectors` would give, where ``old`` is what was read before.

    Only rows that were written ``since`` are read whole; of all others just the keys, to find those that are
    gone. Where one of these is not in ``old``, and wasn't left out there either, all is read after all.

    Raises:
      UsageError, DigestMismatch: as :func:`read_vectors`; or nothing says when rows were written.
    """
    import pyarrow as pa

    place = place_of(where)
    progress(f"reading what was written to {where} since {since.isoformat()}")
    there = set(place.keys())  # first, so that no row that is read whole seems to be gone
    new, bad = _read(place, since, 0, skip_bad_vectors, dimension=old.store.dimension)
    there.difference_update(new.store.keys if new else (), *bad.values())
    unread = sorted(there - old.store.row_of.keys())
    if len(unread) > sum(map(len, old.skipped.values())):
        progress(f"{len(unread):,} keys are new, though their rows are older: reading all rows")
        return read_vectors(where, skip_bad_vectors=skip_bad_vectors, progress=progress)
    bad |= {LEFT_OUT: unread} if unread else {}
    kept = [row for row, key in enumerate(old.store.keys) if key in there]
    if not kept and new is None:
        raise UsageError(f"the table at {where} has no row with a vector")
    rows = old.rows.take(pa.array(kept, pa.int64()))
    vectors, keys = old.store.vectors[kept], [old.store.keys[row] for row in kept]
    if new is not None:
        rows = pa.concat_tables([rows, new.rows], promote_options="default")
        vectors, keys = np.concatenate([vectors, new.store.vectors]), keys + new.store.keys
    order = np.argsort(np.array(keys, object), kind="stable")
    _reorder(vectors, order)
    return VectorTable(
        store=Store([keys[row] for row in order], vectors),
        rows=rows.take(pa.array(order)),
        model_digest=_one_digest(rows, "model", place),
        preprocessing_digest=_one_digest(rows, "preprocessing", place),
        run_id=place.run_id,
        read_to=max(place.read_to, old.read_to),
        skipped=bad,
    )


def _read(
    place: Place,
    since: datetime.datetime | None,
    count: int,
    skip_bad_vectors: bool,
    *,
    dimension: int | None = None,
) -> tuple[VectorTable | None, dict[str, list[str]]]:
    """The rows of a place (None: it has none with a vector), and the keys of bad ones by reason."""
    import pyarrow as pa

    reader = RowReader(count, dimension or place.dimension)
    for batch in place.batches(since):
        reader.add(batch)
    if reader.bad and not skip_bad_vectors:
        raise UsageError(f"{describe_bad(reader.bad)}; leave them out with --skip_bad_vectors")
    if not reader.kept:
        return None, reader.bad
    rows, vectors = pa.concat_tables(reader.kept, promote_options="default"), reader.vectors[: reader.at]
    keys = rows.column("key").to_pylist()
    refuse_twice(keys, place.text)
    if isinstance(place, Warehouse):
        order = np.argsort(np.array(keys, object), kind="stable")
        rows, keys = rows.take(pa.array(order)), [keys[row] for row in order]
        _reorder(vectors, order)
    found = VectorTable(
        store=Store(keys, vectors),
        rows=rows,
        model_digest=_one_digest(rows, "model", place),
        preprocessing_digest=_one_digest(rows, "preprocessing", place),
        run_id=place.run_id,
        read_to=place.read_to,
        skipped=reader.bad,
    )
    return found, reader.bad


def _reorder(vectors: np.ndarray, order: np.ndarray) -> None:
    """Puts rows into another order where they are, a few columns at a time: there may be no room for two."""
    for start in range(0, vectors.shape[1], 64):
        part = vectors[:, start : start + 64]
        part[...] = part[order]


def describe_bad(bad: Mapping[str, Sequence[str]]) -> str:
    """How many vectors are bad, and for each reason the first few keys."""
    return describe_counts({reason: len(keys) for reason, keys in bad.items()}, bad)


def describe_counts(counts: Mapping[str, int], keys: Mapping[str, Sequence[str]]) -> str:
    """As :func:`describe_bad`, where only some of the keys are known."""
    parts = []
    for reason, count in counts.items():
        shown = keys[reason][:SHOWN_KEYS]
        parts.append(f"{count:,} {reason} ({', '.join(shown)}{', ...' if count > len(shown) else ''})")
    return f"{sum(counts.values()):,} vectors can't be searched: {'; '.join(parts)}"


class RowReader:
    """Fills one array, which grows when there are more than ``count`` rows.

    Where the table doesn't state the dimension, it is what most of the first vectors have.
    """

    def __init__(self, count: int, dimension: int | None) -> None:
        self.count = count
        self.dimension = dimension
        self.vectors = np.empty((0, 0), np.float32)
        self.kept: list[pa.Table] = []
        self.bad: dict[str, list[str]] = {}
        self.at = 0

    def add(self, batch: pa.Table) -> None:
        """Takes over the good rows of a batch, and the keys of the bad ones."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = batch.column(EMBEDDING).combine_chunks()
        lengths = np.asarray(pc.fill_null(pc.list_value_length(column), -1))
        if not self.dimension and (lengths > 0).any():
            self.dimension = int(np.bincount(lengths[lengths > 0]).argmax())
        fits = (lengths == self.dimension) & (lengths > 0)
        flat = column.filter(pa.array(fits)).flatten().to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            unit, bad = normalised(flat.reshape(-1, self.dimension or 1).astype(np.float32))
        keys = np.array(batch.column("key").to_pylist(), object)
        self._note("missing", keys[lengths < 0])
        self._note(f"not of {self.dimension} dimensions", keys[(lengths >= 0) & ~fits])
        good = np.flatnonzero(fits)
        usable = np.ones(len(good), bool)
        for reason, numbers in bad.items():
            self._note(reason, keys[good[numbers]])
            usable[numbers] = False
        self._append(unit[usable])
        if usable.any():
            self.kept.append(batch.drop_columns([EMBEDDING]).take(pa.array(good[usable])))

    def _append(self, unit: np.ndarray) -> None:
        if not len(unit):
            return
        end = self.at + len(unit)
        if end > len(self.vectors):
            grown = np.empty((max(self.count, end, 3 * len(self.vectors) // 2), unit.shape[1]), np.float32)
            if self.at:
                grown[: self.at] = self.vectors[: self.at]
            self.vectors = grown
        self.vectors[self.at : end] = unit
        self.at = end

    def _note(self, reason: str, keys: np.ndarray) -> None:
        if len(keys):
            self.bad.setdefault(reason, []).extend(keys.tolist())


def refuse_twice(keys: Sequence[str], place: str, *, are_all: bool = True) -> None:
    """Refuses keys that stand more than once in the table at ``place``.

    Args:
      keys: of the table, or of a part that has all rows of each of them.
      place: the table; for the message.
      are_all: whether these are all of the table's keys.

    Raises:
      UsageError: some do; the first few are named.
    """
    if len(set(keys)) == len(keys):
        return
    twice = [key for key, number in Counter(keys).items() if number > 1]
    shown = ", ".join(twice[:SHOWN_KEYS]) + (", ..." if len(twice) > SHOWN_KEYS else "")
    once = ""
    if is_bigquery(place):
        view = parse_table(place, option="--table").sibling("once").uri
        once = f"; of a stream's table read the view that has each row once: {view}"
    number = f"{len(twice):,}" if are_all else f"at least {len(twice):,}"
    raise UsageError(f"{number} keys stand more than once in the table at {place}: {shown}{once}")


def _one_digest(rows: pa.Table, what: str, place: Place) -> str:
    """The digest that all rows have; the place's where there is no such column."""
    column = f"{what}_digest"
    if column not in rows.column_names:
        return place.digests.get(column, "")
    return one_digest({digest or "" for digest in rows.column(column).unique().to_pylist()}, what)


def one_digest(found: Collection[str], what: str) -> str:
    """The only one of the digests of what made a table's rows.

    Raises:
      DigestMismatch: there are several.
    """
    first, *others = sorted(found)
    if others:
        raise DigestMismatch(
            what,
            expected=first or "(none)",
            found=others[0] or "(none)",
            remedy="vectors of two kinds can't be compared; embed all images with one model",
        )
    return first
