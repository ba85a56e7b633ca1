"""An index as a folder, published so that a reader sees the old one or the new one, whole::

    INDEX/manifest.json              written last, by a rename; names the data folder
    INDEX/data-<id>/vectors.npy      float32 [N, D], unit length; mapped, not read, when opened
    INDEX/data-<id>/rows.parquet     key, uri, label, attributes, ...: row for row as the vectors
    INDEX/data-<id>/scann/           ScaNN's files, where that is the backend
    INDEX/.lock                      held by the one writer

A folder can't be renamed over a full one, hence the data folder inside. It holds relative names only, so
an index can be moved or copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import deps, storage
from beam_vision.errors import UsageError
from beam_vision.search import scann_index
from beam_vision.search.base import Store, VectorIndex
from beam_vision.search.exact import ExactIndex

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
KIND = "beam-vision index"
FORMAT_VERSION = 1
DATA, ASIDE = "data-", ".building-"
SHARDS = "shards"
"""What only the manifest of an index in shards has, see :mod:`beam_vision.search.shards`."""


@dataclass(frozen=True, kw_only=True)
class IndexManifest:
    """What an index says of itself.

    Attributes:
      rows: how many vectors.
      dimension: the length of each.
      backend: ``exact``, ``scann_ah`` or ``scann_tree``.
      asked_backend: what was asked for; ``auto``: chosen by the number of rows.
      parameters: what the backend was trained and tuned to.
      recall_target: the recall@10 that was asked for, 0..1.
      recall_at_10: what was measured on held-out queries (``recall_queries`` of them).
      query_ms_median, query_ms_p95: milliseconds of one query alone, on the machine that built it.
      model_digest, preprocessing_digest: what made the vectors; ``""``: the table doesn't say.
      table: where the rows came from, and ``table_run_id`` the table's last run.
      read_to: rows that were written by then are in it; ``--since last`` goes on from there. ``""``: unknown.
      trained_rows: how many rows the backend was trained on.
      changed_rows: rows put in or taken out since.
      skipped: vectors left out, by reason.
      notes: what a user should know.
      data: the data folder's name; given when it is published.
    """

    rows: int
    dimension: int
    backend: str
    asked_backend: str
    parameters: dict[str, int]
    recall_target: float
    recall_at_10: float
    recall_queries: int
    query_ms_median: float
    query_ms_p95: float
    model_digest: str
    preprocessing_digest: str
    table: str
    table_run_id: str
    trained_rows: int
    changed_rows: int = 0
    read_to: str = ""
    skipped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    metric: str = "cosine"
    data: str = ""
    kind: str = KIND
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], *, path: str) -> IndexManifest:
        """Reads what :meth:`to_json` gave.

        Raises:
          UsageError: it is another kind of manifest, or of a newer format.
        """
        require_kind(value, FORMAT_VERSION, path=path)
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})


@dataclass(frozen=True)
class Bundle:
    """An opened index folder: its manifest, the index, the other columns, and what to say about it."""

    manifest: IndexManifest
    index: VectorIndex
    rows: pa.Table
    notes: list[str]


def read_manifest(folder: str) -> IndexManifest:
    """The manifest of the index in ``folder``.

    Raises:
      UsageError: there is no index, or a newer one, or the folder is not local.
    """
    path = storage.join(local_folder(folder), MANIFEST)
    if not os.path.exists(path):
        raise UsageError(f"no index at {folder}: it has no {MANIFEST}; `beam-vision build-index` makes one")
    value = manifest_value(path)
    if SHARDS in value:
        raise UsageError(
            f"{folder} is an index in shards, and this would make or change one in a single piece: give "
            "--shards too, or another --output"
        )
    return IndexManifest.from_json(value, path=path)


def manifest_value(path: str) -> dict[str, Any]:
    """The JSON object in a manifest, whatever it is of.

    Raises:
      UsageError: it is damaged.
    """
    try:
        value = storage.read_json(path)
    except ValueError as error:  # no UTF-8, or no JSON
        raise UsageError(
            f"{path} is damaged ({error}); copy it again, or remove it and build anew"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} is damaged (no JSON object); copy it again, or remove it and build anew")
    return value


def require_kind(value: dict[str, Any], format_version: int, *, path: str) -> None:
    """Refuses what is not the manifest of an index.

    Raises:
      UsageError: it is of another kind, or of a newer format than ``format_version``.
    """
    if value.get("kind") != KIND:
        raise UsageError(f"{path} is the manifest of {value.get('kind')!r}, not of an index")
    if value.get("format_version", 0) > format_version:
        raise UsageError(f"{path} was written by a newer beam-vision; upgrade to read it")


def local_folder(folder: str) -> str:
    """``folder`` as a local path; an index is mapped into memory, so it can't stay in an object store.

    Raises:
      UsageError: it is remote.
    """
    if storage.is_remote(folder):
        raise UsageError(f"an index is a local folder, and {folder} is not: copy it (it may be moved freely)")
    return storage.absolute(folder)


def open_bundle(folder: str) -> Bundle:
    """Opens an index folder; vectors are mapped. Without ScaNN a ScaNN index serves exactly, and says so.

    Raises:
      UsageError: there is no index, or it is not whole.
    """
    while True:
        manifest = read_manifest(folder)
        try:
            return _open(storage.join(local_folder(folder), manifest.data), manifest)
        except (OSError, EOFError, ValueError, KeyError, UsageError) as error:
            if read_manifest(folder).data != manifest.data:
                continue  # it was replaced while we read
            if isinstance(error, UsageError):
                raise
            if isinstance(error, FileNotFoundError):
                raise UsageError(
                    f"the index at {folder} lacks {error.filename or error}; build it again"
                ) from error
            raise UsageError(f"the index at {folder} is damaged ({error}); build it again") from error


def _open(data: str, manifest: IndexManifest) -> Bundle:
    import pyarrow.parquet as pq

    vectors = np.load(os.path.join(data, "vectors.npy"), mmap_mode="r")
    rows = pq.read_table(os.path.join(data, "rows.parquet"))
    if vectors.shape != (manifest.rows, manifest.dimension) or len(rows) != manifest.rows:
        raise UsageError(f"{data} doesn't hold what its manifest says; build the index again")
    store = Store(rows.column("key").to_pylist(), vectors)
    if manifest.backend == ExactIndex.backend:
        return Bundle(manifest, ExactIndex(store), rows, [])
    if not deps.have("scann"):
        note = f"ScaNN is not installed here: this {manifest.backend} index is searched exactly"
        return Bundle(manifest, ExactIndex(store), rows, [note])
    return Bundle(manifest, scann_index.load(data, store, manifest.parameters), rows, [])


@contextlib.contextmanager
def locked(folder: str, *, check: Callable[[str], object] = read_manifest) -> Iterator[None]:
    """Makes ``folder`` and keeps other writers out while the block runs; the end of a process ends it too.

    Args:
      folder: the index.
      check: refuses the manifest that is there.

    Raises:
      UsageError: another process is writing it, or it is a file or the folder of something else.
    """
    folder = local_folder(folder)
    if os.path.exists(os.path.join(folder, MANIFEST)):
        check(folder)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise UsageError(f"--output {folder} is a file; an index is a folder")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is writing the index at {folder}; wait for it") from error
        yield


def publish(folder: str, bundle: Bundle) -> IndexManifest:
    """Writes an index aside, then makes it the index at ``folder``; call it in :func:`locked`.

    Returns:
      the manifest as it was written.
    """
    folder = local_folder(folder)
    _clean(folder, keep=read_manifest(folder).data if os.path.exists(f"{folder}/{MANIFEST}") else "")
    name = uuid.uuid4().hex[:12]
    aside = os.path.join(folder, ASIDE + name)
    os.makedirs(aside)
    with storage.open_write(os.path.join(aside, "vectors.npy")) as file:
        np.save(file, bundle.index.store.vectors)
    _write_rows(os.path.join(aside, "rows.parquet"), bundle.rows)
    bundle.index.save(aside)
    _sync(aside)
    os.rename(aside, os.path.join(folder, DATA + name))
    manifest = IndexManifest(**{**bundle.manifest.to_json(), "data": DATA + name})
    storage.write_json(os.path.join(folder, MANIFEST), manifest.to_json())
    _clean(folder, keep=manifest.data)
    return manifest


def note(folder: str, manifest: IndexManifest) -> IndexManifest:
    """Writes the manifest of the index at ``folder`` anew; its data stay. Call it in :func:`locked`."""
    storage.write_json(os.path.join(local_folder(folder), MANIFEST), manifest.to_json())
    return manifest


def _write_rows(path: str, rows: pa.Table) -> None:
    import pyarrow.parquet as pq

    with storage.open_write(path) as file:
        pq.write_table(rows, file)


def _clean(folder: str, *, keep: str) -> None:
    """Removes what killed builds left, and data folders other than ``keep``; open maps of them stay valid."""
    for entry in os.scandir(folder):
        if entry.name.startswith((DATA, ASIDE)) and entry.name != keep and entry.is_dir():
            storage.delete_folder(entry.path)


def _sync(folder: str) -> None:
    """Puts every file below ``folder`` on the disk, so that the manifest never outruns what it names."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
