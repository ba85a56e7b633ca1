"""Rows by window: staged as they come, committed as one Parquet part when the window has ended.

A row belongs to the window of its time, so it belongs to the same one whenever it comes again. A commit
takes all that is staged for a window, whoever staged it, leaves out the rows that the window's parts hold
already, and removes what it took only once the new part is in place. So a process may be killed between any
two steps, and the next commit still gives each row once. Parts are never changed or removed: whoever reads
the table meanwhile sees whole rows.
"""

from __future__ import annotations

import datetime
import functools
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from beam_vision import storage
from beam_vision.digest import content_digest
from beam_vision.errors import UsageError
from beam_vision.sinks import windows_files as files
from beam_vision.sinks import windows_staging as staging
from beam_vision.sinks.parts import PART_BYTES
from beam_vision.stream_table import PREDICTIONS, TABLES
from beam_vision.stream_types import StreamRow, as_datetime
from beam_vision.table import MANIFEST, to_parquet

if TYPE_CHECKING:
    import pyarrow as pa

STAGING = ".staging"
PART = re.compile(r"part-(\d{8}T\d{6}Z)-[0-9a-f]{16}\.parquet")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where rows go, and what they have in common.

    Attributes:
      folder: the folder of the tables, see :mod:`beam_vision.stream_table`.
      window_sec: how long a window is, in whole seconds; windows are aligned to the epoch.
      task: ``classify``, ``embed`` or ``detect``; decides the columns of predictions.
      embedding_dim: the length of the embedding, where predictions have one.
      fsync: whether a row that counts as written would outlast a power cut, and not only the process.
    """

    folder: str
    window_sec: int = 60
    task: str = "classify"
    embedding_dim: int | None = None
    fsync: bool = True

    def __post_init__(self) -> None:
        if self.window_sec < 1 or self.window_sec != int(self.window_sec):
            raise UsageError(f"a window has a whole number of seconds, at least 1, not {self.window_sec}")

    def window(self, time_sec: float) -> str:
        """The window that a time lies in: when it begins, as ``20261122T101500Z``."""
        return _name(math.floor(time_sec / self.window_sec) * self.window_sec)

    def end_sec(self, window: str) -> float:
        """When a window ends."""
        begins = datetime.datetime.strptime(window, _TIME).replace(tzinfo=datetime.timezone.utc)
        return begins.timestamp() + self.window_sec

    def schema(self, table: str) -> pa.Schema:
        """A table's columns, with these settings in the metadata."""
        return files.schema(table, self.task, self.embedding_dim, self.window_sec)

    def table_folder(self, table: str) -> str:
        """Where the parts of a table are."""
        return self.folder if table == PREDICTIONS else storage.join(self.folder, table)

    def staging(self, *table: str) -> str:
        """Where rows are staged: of all tables, or of one."""
        return storage.join(self.folder, STAGING, *table)


@functools.lru_cache(maxsize=1024)
def _name(start_sec: int) -> str:
    return as_datetime(start_sec).strftime(_TIME)


class Committed(NamedTuple):
    """What one commit did.

    Attributes:
      table, window: of which window of which table.
      rows: how many rows were staged, those that came twice too.
      new_rows: how many of them are in the new part.
      path: the new part; empty when there was nothing new.
    """

    table: str
    window: str
    rows: int
    new_rows: int
    path: str


def warm_up(settings: Windows) -> None:
    """Loads what the first rows would wait half a second for; writes nothing."""
    to_parquet(files.from_ipc(files.to_ipc(files.to_arrow([], settings.schema(PREDICTIONS)))))


def stage(settings: Windows, table: str, window: str, rows: Sequence[StreamRow]) -> None:
    """Stages rows of one window; they are safe when it returns.

    Raises:
      JobError: a row doesn't fit the table.
    """
    data = files.to_ipc(files.to_arrow(rows, settings.schema(table)))
    staging.append(settings.staging(table), window, data, fsync=settings.fsync)


def staged_windows(settings: Windows) -> list[tuple[str, str]]:
    """The windows, as (table, window), that have staged rows: what a killed run has left."""
    return staging.staged_windows(settings.staging())


def commit(settings: Windows, table: str, window: str, *, part_bytes: int = PART_BYTES) -> list[Committed]:
    """Makes a part of what is staged for a window; nothing when nothing is staged.

    Only one commit of a window may go on at a time. Where a commit was interrupted the next one completes
    it.

    Args:
      settings: where.
      table, window: which.
      part_bytes: about how many staged bytes make a part; more of them make several, so that memory stays
        bounded.
    """
    with staging.held(settings.staging(table), window) as paths:
        if not paths:
            return []
        seen = _committed_ids(settings, table, window)
        done = []
        for tables in _groups(paths, part_bytes):
            fresh, rows = _without(tables, seen)
            path = _write_part(settings, table, window, fresh) if fresh.num_rows else ""
            done.append(Committed(table, window, rows, fresh.num_rows, path))
        staging.remove(paths)
    return done


def _committed_ids(settings: Windows, table: str, window: str) -> set[str]:
    import pyarrow.parquet as pq

    folder = settings.table_folder(table)
    found: set[str] = set()
    for name in files.names(folder, f"part-{window}-", ".parquet"):
        with storage.open_read(storage.join(folder, name)) as file:
            found.update(pq.ParquetFile(file).read(columns=["row_id"])["row_id"].to_pylist())
    return found


def _groups(paths: Sequence[str], part_bytes: int) -> Iterator[list[pa.Table]]:
    """What is staged in files, about ``part_bytes`` at a time."""
    tables: list[pa.Table] = []
    size = 0
    for block in staging.blocks(paths):
        if tables and size + len(block) > part_bytes:
            yield tables
            tables, size = [], 0
        tables.append(files.from_ipc(block))
        size += len(block)
    if tables:
        yield tables


def _without(tables: Sequence[pa.Table], seen: set[str]) -> tuple[pa.Table, int]:
    """The rows whose ids aren't in ``seen``, the first of each, sorted by id; and how many there were.
    Their ids are put into ``seen``."""
    import pyarrow as pa

    whole = pa.concat_tables(tables)
    first: dict[str, int] = {}
    for number, row_id in enumerate(whole["row_id"].to_pylist()):
        if row_id not in seen:
            first.setdefault(row_id, number)
    seen.update(first)
    return whole.take(pa.array([first[row_id] for row_id in sorted(first)], pa.int64())), whole.num_rows


def _write_part(settings: Windows, table: str, window: str, rows: pa.Table) -> str:
    data = to_parquet(rows.cast(settings.schema(table)))
    name = f"part-{window}-{content_digest(data)[:16]}.parquet"
    path = storage.join(settings.table_folder(table), name)
    files.write_part(path, data, fsync=settings.fsync)
    return path


def remove_aside(settings: Windows) -> None:
    """Removes parts that a killed process was writing, once they are ten minutes old (local folders only)."""
    for table in TABLES:
        files.remove_aside(settings.table_folder(table))


def check_folder(settings: Windows) -> None:
    """Whether rows may be written to the folder; it need not be there yet. Changes nothing.

    Raises:
      UsageError: it is a file; it holds a batch table, Parquet files of somebody else's, or rows with other
        columns or windows.
    """
    folder = settings.folder
    if not storage.is_remote(folder) and storage.exists(folder) and not storage.is_folder(folder):
        raise UsageError(f"--output {folder} is a file; give a folder")
    try:
        batch = storage.exists(storage.join(folder, MANIFEST))
    except ValueError as error:  # no filesystem for this scheme
        raise UsageError(f"--output {folder} is no place for a table: {error}") from error
    runs = set(storage.list_entries(settings.staging())) - set(TABLES)
    if batch or runs:
        found = MANIFEST if batch else f"{STAGING}/{min(runs)}"
        raise UsageError(
            f"--output {folder} holds a table of a batch run ({found}); give a new or an empty folder"
        )
    for table in TABLES:
        _check_table(settings, table)


def _check_table(settings: Windows, table: str) -> None:
    folder = settings.table_folder(table)
    names = files.names(folder, "", ".parquet")
    foreign = [name for name in names if not PART.fullmatch(name)]
    if foreign:
        raise UsageError(
            f"--output {folder} holds {foreign[0]!r}, which is not of a streaming job; "
            "give a new or an empty folder"
        )
    found = [_part_schema(storage.join(folder, name)) for name in names[-1:]]
    found += [files.from_ipc(block).schema for block in _staged_block(settings, table)]
    for schema in found:
        differences = list(_differences(schema, settings.schema(table)))
        if differences:
            raise UsageError(
                f"--output {settings.folder} holds {table} with {', '.join(differences)}; "
                "give the same settings, or another folder"
            )


def _part_schema(path: str) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        try:
            return pq.read_schema(file)
        except pa.ArrowInvalid as error:
            raise UsageError(f"{path} can't be read ({error}); remove it, or give another folder") from error


def _staged_block(settings: Windows, table: str) -> Iterator[bytes]:
    """One block of what is staged for a table, if there is any."""
    paths = [path for path in storage.list_tree(settings.staging(table)) if path.endswith(".rows")]
    yield from itertools.islice(staging.blocks(paths), 1)


def _differences(found: pa.Schema, wanted: pa.Schema) -> Iterator[str]:
    was, now = files.facts_of(found), files.facts_of(wanted)
    for name, value in now.items():
        if was.get(name) != value:
            yield f"another {name} ({was.get(name)}, now {value})"
    if was == now and not found.equals(wanted):
        yield "the columns of another version"
