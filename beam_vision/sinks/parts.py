"""Files of rows: staged small ones, and the parts of a table that are made from them."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from beam_vision import storage
from beam_vision.digest import content_digest
from beam_vision.sinks.rows import RowSettings, to_table
from beam_vision.table import Part, to_parquet
from beam_vision.types import Prediction

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 128 * 2**20


@dataclass(frozen=True)
class RowFile:
    """A whole Parquet file of rows.

    All rows of an image are in one file.

    Attributes:
      path: where it is.
      rows: how many it holds.
      images: of how many images they are.
      size_bytes: how large it is.
      key_hashes: the first 8 bytes of blake2b of each image's key.
      is_part: whether it is a part of the table already, and not a staged file.
    """

    path: str
    rows: int
    images: int
    size_bytes: int
    key_hashes: bytes
    is_part: bool = False


@dataclass(frozen=True)
class Source:
    """A file that goes into a part, but for the rows with the indices ``without``."""

    path: str
    without: tuple[int, ...] = ()


@dataclass(frozen=True)
class PartTask:
    """A part to write: its file name and what goes into it."""

    name: str
    sources: tuple[Source, ...]


def hash_keys(keys: Iterable[str]) -> bytes:
    """8 bytes for each key, the same on every machine."""
    return b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)


def stage(folder: str, images: Sequence[Sequence[Prediction]], settings: RowSettings, run_id: str) -> RowFile:
    """Writes the rows of images to one Parquet file in ``folder``, named by its content.

    Args:
      images: for each image what its rows are made of. Of an image that comes twice the first stays; it
        counts twice in ``images``, as it came in twice.
    """
    first: dict[str, Sequence[Prediction]] = {}
    for rows in images:
        first.setdefault(settings.image_key(rows[0]), rows)
    table = to_table([row for rows in first.values() for row in rows], settings, run_id)
    data = to_parquet(table)
    path = storage.join(folder, f"{content_digest(data)[:32]}.parquet")
    storage.write_bytes(path, data)
    return RowFile(path, table.num_rows, len(images), len(data), hash_keys(sorted(first)))


def read_kept(path: str, settings: RowSettings, *, is_part: bool) -> tuple[RowFile, list[str]] | None:
    """A file of an earlier run with the keys of its images; None when its rows were made with other
    settings."""
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        size_bytes = file.seek(0, os.SEEK_END)
        parquet = pq.ParquetFile(file)
        if not settings.made(parquet.schema_arrow):
            return None
        column = parquet.read(columns=[settings.image_column])[settings.image_column]
    keys = sorted(set(column.to_pylist()))
    return RowFile(path, len(column), len(keys), size_bytes, hash_keys(keys), is_part), keys


def find_repeated(files: Sequence[RowFile], settings: RowSettings) -> dict[str, tuple[int, ...]]:
    """Rows of images that an earlier file has, as ``{path: row indices}``; the earlier file wins.

    Hashes (8 bytes an image) find the candidates, in memory; then only their files' keys are read and
    compared.
    """
    if not files:
        return {}
    hashes = [np.frombuffer(file.key_hashes, "<u8") for file in files]
    distinct, counts = np.unique(np.concatenate(hashes), return_counts=True)
    twice = distinct[counts > 1]
    seen: set[str] = set()
    repeated: dict[str, tuple[int, ...]] = {}
    for file, found in zip(files, hashes, strict=True):
        if not np.isin(found, twice).any():
            continue
        keys = _image_keys(file.path, settings)
        rows = tuple(row for row, key in enumerate(keys) if key in seen)
        if rows:
            repeated[file.path] = rows
        images = sorted(set(keys))
        candidates = np.isin(np.frombuffer(hash_keys(images), "<u8"), twice)
        seen.update(itertools.compress(images, candidates))
    return repeated


def _image_keys(path: str, settings: RowSettings) -> list[str]:
    """The key of the image that each row is of."""
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        return pq.read_table(file, columns=[settings.image_column])[settings.image_column].to_pylist()


def plan_parts(
    files: Sequence[RowFile],
    repeated: dict[str, tuple[int, ...]],
    *,
    run_id: str,
    part_bytes: int = PART_BYTES,
) -> tuple[list[PartTask], list[Part]]:
    """Which parts to write, and which parts of the table stay as they are.

    A part that is at least half as large as asked for stays; smaller ones are written again together with
    the staged files, so that many small runs don't leave many small parts. A table without rows gets one
    part without rows, so that readers find its columns.
    """
    stay: list[RowFile] = []
    groups: list[list[RowFile]] = []
    room = 0
    for file in files:
        if file.is_part and file.size_bytes >= part_bytes // 2 and file.path not in repeated:
            stay.append(file)
        elif len(repeated.get(file.path, ())) < file.rows:
            if file.size_bytes > room or not groups:
                groups.append([])
                room = part_bytes
            groups[-1].append(file)
            room -= file.size_bytes
    alone = [g for g in groups if len(g) == 1 and g[0].is_part and g[0].path not in repeated]
    stay += [group[0] for group in alone]
    groups = [group for group in groups if group not in alone]
    if not groups and not stay:
        groups.append([])
    tasks = []
    for number, group in enumerate(groups):
        sources = tuple(Source(file.path, repeated.get(file.path, ())) for file in group)
        tasks.append(PartTask(f"part-{run_id}-{number:05d}.parquet", sources))
    return tasks, [
        Part(file.path.rpartition("/")[2], file.rows, file.size_bytes, file.images) for file in stay
    ]


def write_part(task: PartTask, folder: str, settings: RowSettings) -> Part:
    """Writes one part, rows in the table's order, into ``folder``. Doing it again gives the same file."""
    whole = part_rows(task, settings)
    data = to_parquet(whole)
    storage.write_bytes(storage.join(folder, task.name), data)
    return Part(task.name, whole.num_rows, len(data), count_images(whole, settings))


def part_rows(task: PartTask, settings: RowSettings) -> pa.Table:
    """The rows of one part, in the table's order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = settings.schema()
    tables = [schema.empty_table()]
    for source in task.sources:
        with storage.open_read(source.path) as file:
            table = pq.read_table(file)
        keep = np.setdiff1d(np.arange(table.num_rows), source.without)
        tables.append((table if not source.without else table.take(keep)).cast(schema))
    return pa.concat_tables(tables).sort_by([(name, "ascending") for name in settings.order])


def count_images(rows: pa.Table, settings: RowSettings) -> int:
    """Of how many images rows are."""
    import pyarrow.compute as pc

    return pc.count_distinct(rows[settings.image_column]).as_py()
