"""Reads the embeddings of a table into one array, and refuses what no search could use, by key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from beam_vision import storage, table
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search.base import Store, normalised

if TYPE_CHECKING:
    import pyarrow as pa

EMBEDDING = "embedding"
ROWS_AT_ONCE = 4096
SHOWN_KEYS = 5


@dataclass(frozen=True)
class VectorTable:
    """What a table holds for a search.

    Attributes:
      store: keys and unit vectors.
      rows: the other columns, row for row as in the store, ``key`` first.
      model_digest: of the model that made all of the vectors; ``""`` when the table doesn't say.
      preprocessing_digest: of what that model was shown.
      run_id: the table's last run; ``""`` when it has no manifest.
      skipped: keys of vectors that were left out, by reason.
    """

    store: Store
    rows: pa.Table
    model_digest: str = ""
    preprocessing_digest: str = ""
    run_id: str = ""
    skipped: dict[str, list[str]] = field(default_factory=dict)


def silent(line: str) -> None:
    """A progress line that nobody reads."""


def read_vectors(
    folder: str, *, skip_bad_vectors: bool = False, progress: Callable[[str], None] = silent
) -> VectorTable:
    """Reads a table batch by batch into one float32 array, each vector at length 1.

    Args:
      folder: a table folder, or one Parquet file, with ``key`` and ``embedding`` (a list of numbers).
      skip_bad_vectors: leave out vectors that are missing, of another dimension, not finite or zero.
      progress: is told what is read.

    Raises:
      UsageError: there is no such table; it has no rows or not the columns; a key is missing or stands
        twice; a vector is bad and ``skip_bad_vectors`` isn't set.
      DigestMismatch: the rows were made by more than one model, or from differently prepared images.
    """
    import pyarrow as pa

    manifest = table.read_manifest(folder)
    paths = table.part_paths(folder)
    count = sum(_row_count(path) for path in paths)
    reader = _Reader(count, manifest.embedding_dim if manifest else None)
    progress(f"reading {count:,} rows of {folder}")
    for batch in _batches(paths):
        reader.add(batch)
    if reader.bad and not skip_bad_vectors:
        raise UsageError(f"{describe_bad(reader.bad)}; leave them out with --skip_bad_vectors")
    if not reader.kept:
        raise UsageError(f"the table at {folder} has no row with a vector")
    rows = pa.concat_tables(reader.kept, promote_options="default")
    keys = rows.column("key").to_pylist()
    _refuse_twice(keys, folder)
    return VectorTable(
        store=Store(keys, reader.vectors[: len(keys)]),
        rows=rows,
        model_digest=_one_digest(rows, "model", manifest),
        preprocessing_digest=_one_digest(rows, "preprocessing", manifest),
        run_id=manifest.run_id if manifest else "",
        skipped=reader.bad,
    )


def describe_bad(bad: dict[str, list[str]]) -> str:
    """How many vectors are bad, and for each reason the first few keys."""
    parts = []
    for reason, keys in bad.items():
        more = ", ..." if len(keys) > SHOWN_KEYS else ""
        parts.append(f"{len(keys):,} {reason} ({', '.join(keys[:SHOWN_KEYS])}{more})")
    return f"{sum(map(len, bad.values())):,} vectors can't be searched: {'; '.join(parts)}"


class _Reader:
    """Fills one array, which is made once its size is known.

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
        if not len(self.vectors) and self.dimension:
            self.vectors = np.empty((self.count, self.dimension), np.float32)
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
        self.vectors[self.at : self.at + usable.sum()] = unit[usable]
        self.at += int(usable.sum())
        if usable.any():
            self.kept.append(batch.drop_columns([EMBEDDING]).take(pa.array(good[usable])))

    def _note(self, reason: str, keys: np.ndarray) -> None:
        if len(keys):
            self.bad.setdefault(reason, []).extend(keys.tolist())


def _row_count(path: str) -> int:
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        return pq.ParquetFile(file).metadata.num_rows


def _batches(paths: list[str]) -> Iterator[pa.Table]:
    """The table in pieces, with ``key`` as text and the first column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in paths:
        with storage.open_read(path) as file:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            missing = [name for name in ("key", EMBEDDING) if name not in names]
            if missing:
                raise UsageError(
                    f"{path} has no column {missing[0]!r}, only {', '.join(names)}; "
                    "`beam-vision predict --task embed` writes a table that has"
                )
            _refuse_no_vectors(parquet.schema_arrow.field(EMBEDDING).type, path)
            for record_batch in parquet.iter_batches(batch_size=ROWS_AT_ONCE):
                batch = pa.table(record_batch)
                keys = batch.column("key").cast(pa.string())
                if keys.null_count:
                    raise UsageError(f"{keys.null_count} rows of {path} have no key")
                yield batch.drop_columns(["key"]).add_column(0, "key", keys)


def _refuse_no_vectors(kind: pa.DataType, path: str) -> None:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise UsageError(f"column {EMBEDDING!r} of {path} holds {kind}, not lists of numbers")


def _refuse_twice(keys: list[str], folder: str) -> None:
    if len(set(keys)) == len(keys):
        return
    twice = [key for key, number in Counter(keys).items() if number > 1]
    shown = ", ".join(twice[:SHOWN_KEYS]) + (", ..." if len(twice) > SHOWN_KEYS else "")
    raise UsageError(f"{len(twice):,} keys stand more than once in the table at {folder}: {shown}")


def _one_digest(rows: pa.Table, what: str, manifest: table.TableManifest | None) -> str:
    """The digest that all rows have; the manifest's where there is no such column."""
    column = f"{what}_digest"
    if column not in rows.column_names:
        return getattr(manifest, column, "")
    found = sorted(digest or "" for digest in rows.column(column).unique().to_pylist())
    if len(found) > 1:
        raise DigestMismatch(
            what,
            expected=found[0] or "(none)",
            found=found[1] or "(none)",
            remedy="vectors of two kinds can't be compared; embed all images with one model",
        )
    return found[0]
