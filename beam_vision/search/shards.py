"""An index in shards: a folder of index folders, and a manifest that names those that belong to it::

    INDEX/manifest.json                            written last, by a rename
    INDEX/shard-00003-<digest>-<run>-<id>/         an index of its own, see :mod:`~beam_vision.search.bundle`
    INDEX/.staging/<run id>/                       rows by shard, while a build is on
    INDEX/.lock                                    held by the one writer, where INDEX is local

A shard never changes: its digest is of its rows and of how it was made, so a shard whose rows are the same is
found by its name and kept, and any other is made beside it. ``<run>`` says which build made it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from beam_vision import storage
from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError
from beam_vision.search import bundle

FORMAT_VERSION = 2  # of bundle.KIND; a beam-vision that knows no shards says that it is too old
SHARD, STAGING = "shard-", ".staging"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard of an index.

    Attributes:
      number: 0..shards-1; the hash of a key gives it.
      name: of its folder.
      rows: at least 1; a shard without rows isn't listed.
      backend, recall_at_10, query_ms_median: as in its own manifest.
      notes: as in its own manifest.
    """

    number: int
    name: str
    rows: int
    backend: str
    recall_at_10: float
    query_ms_median: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ShardedManifest:
    """What an index in shards says of itself.

    Attributes:
      shards: those that have rows, by number.
      shard_count: how many shards keys are parted into.
      rows, dimension: of the vectors in all shards.
      asked_backend, recall_target: as asked for; each shard is tuned to the target.
      recall_at_10: of searches over all shards, measured against exact search over all shards on
        ``recall_queries`` rows.
      model_digest, preprocessing_digest: what made the vectors; ``""``: the table doesn't say.
      table: where the rows came from, and ``table_run_id`` the table's last run.
      skipped: vectors left out, by reason.
      notes: what a user should know.
      run_id: of the build.
      made: numbers of the shards that this build made; it found the others as they are.
    """

    shards: list[Shard]
    shard_count: int
    rows: int
    dimension: int
    asked_backend: str
    recall_target: float
    recall_at_10: float
    recall_queries: int
    model_digest: str
    preprocessing_digest: str
    table: str
    table_run_id: str
    run_id: str
    made: list[int]
    skipped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    metric: str = "cosine"
    kind: str = bundle.KIND
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], *, path: str) -> ShardedManifest:
        """Reads what :meth:`to_json` gave.

        Raises:
          UsageError: it is another kind of manifest, or of a newer format.
        """
        bundle.require_kind(value, FORMAT_VERSION, path=path)
        if bundle.SHARDS not in value:
            raise UsageError(
                f"{path} is of an index in a single piece; leave out --shards, or give another --output"
            )
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        return cls(**known | {"shards": [Shard(**each) for each in value["shards"]]})

    @property
    def backends(self) -> str:
        """The backends of its shards, each once."""
        return ", ".join(sorted({each.backend for each in self.shards}))


def manifest_path(folder: str) -> str:
    """Where the manifest of the index in ``folder`` is or will be."""
    return storage.join(storage.absolute(folder), bundle.MANIFEST)


def is_sharded(folder: str) -> bool:
    """Whether there is an index in shards.

    Raises:
      UsageError: what is there is damaged.
    """
    path = manifest_path(folder)
    value = bundle.manifest_value(path) if storage.exists(path) else {}
    return value.get("kind") == bundle.KIND and bundle.SHARDS in value


def read_manifest(folder: str) -> ShardedManifest:
    """The manifest of the index in ``folder``.

    Raises:
      UsageError: there is no index in shards.
    """
    path = manifest_path(folder)
    if not storage.exists(path):
        raise UsageError(
            f"no index at {folder}: it has no {bundle.MANIFEST}; `beam-vision build-index` makes one"
        )
    return ShardedManifest.from_json(bundle.manifest_value(path), path=path)


def write_manifest(folder: str, manifest: ShardedManifest) -> None:
    """Makes ``manifest`` the index at ``folder``; what it names must be there."""
    storage.write_json(manifest_path(folder), manifest.to_json())


def run_tag(run_id: str) -> str:
    """A run's part in its shards' names: 8 hexadecimal digits."""
    return settings_digest(run_id)[:8]


def staging_folder(output: str, run_id: str) -> str:
    """Where a run puts rows by shard."""
    return storage.join(storage.absolute(output), STAGING, run_id)


def find_shard(output: str, number: int, digest: str, *, run_id: str, any_run: bool) -> str:
    """The name of a whole shard that was made of the same rows in the same way; "" when there is none.

    Args:
      output: the index folder.
      number: the shard's.
      digest: of its rows and of how it is made.
      run_id: of the run; what it made itself, in a bundle that is now tried again, always counts.
      any_run: whether shards of other runs count too.
    """
    start = f"{SHARD}{number:05d}-{digest}-" + ("" if any_run else f"{run_tag(run_id)}-")
    output = storage.absolute(output)
    names = [name for name in _entries(output, start) if name.startswith(start)]
    whole = (name for name in names if storage.exists(storage.join(output, name, bundle.MANIFEST)))
    return next(whole, "")


def publish_shard(made: str, output: str, number: int, digest: str, run_id: str) -> str:
    """Puts an index folder that was made aside into ``output``, its manifest last; gives its name there."""
    output = storage.absolute(output)
    name = f"{SHARD}{number:05d}-{digest}-{run_tag(run_id)}-{uuid.uuid4().hex[:6]}"
    if not storage.is_remote(output):
        os.rename(made, os.path.join(output, name))
        return name
    paths = sorted(storage.list_tree(made), key=lambda path: path == os.path.join(made, bundle.MANIFEST))
    for path in paths:
        relative = os.path.relpath(path, made).replace(os.sep, "/")
        with open(path, "rb") as file, storage.open_write(storage.join(output, name, relative)) as target:
            shutil.copyfileobj(file, target, 2**20)
    return name


@contextmanager
def aside(output: str) -> Iterator[str]:
    """A local folder in which a shard of ``output`` can be made, on the same disk where that is local."""
    beside = storage.absolute(output)
    if storage.is_remote(beside):
        with tempfile.TemporaryDirectory() as folder:
            yield os.path.join(folder, "shard")
        return
    folder = os.path.join(beside, bundle.ASIDE + uuid.uuid4().hex[:12])
    try:
        yield folder
    finally:
        storage.delete_folder(folder)


@contextmanager
def local_copy(output: str, name: str) -> Iterator[str]:
    """A shard as a local folder; where it is remote, a copy that lives as the block does."""
    folder = storage.join(storage.absolute(output), name)
    if not storage.is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        for path in storage.list_tree(folder):
            target = os.path.join(copy, path.removeprefix(folder + "/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with storage.open_read(path) as file, open(target, "wb") as own:
                shutil.copyfileobj(file, own, 2**20)
        yield copy


def clean(output: str, manifest: ShardedManifest) -> None:
    """Removes shards that the manifest doesn't name, and what this and earlier builds left unfinished."""
    output = storage.absolute(output)
    kept = {each.name for each in manifest.shards}
    stale = [name for name in _entries(output, SHARD) if name not in kept]
    staged = storage.list_entries(storage.join(output, STAGING))
    stale += [storage.join(STAGING, name) for name in staged if name <= manifest.run_id]
    if not storage.is_remote(output):
        stale += _entries(output, bundle.ASIDE)
    for name in stale:
        storage.delete_folder(storage.join(output, name))
    if not storage.is_remote(output) and not os.listdir(os.path.join(output, STAGING)):
        os.rmdir(os.path.join(output, STAGING))


def _entries(output: str, start: str) -> list[str]:
    """Names of folders in ``output`` that begin with ``start``, sorted."""
    if not storage.is_remote(output):
        return sorted(name for name in storage.list_entries(output) if name.startswith(start))
    found = storage.filesystems().match([storage.join(output, start + "**")])[0].metadata_list
    return sorted({item.path[len(output) + 1 :].partition("/")[0] for item in found})
