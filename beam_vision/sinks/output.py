"""A table's folder before a run: whether we may write there, and what of it an earlier run has finished."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.sinks.rows import RowSettings
from beam_vision.table import MANIFEST, TableManifest, part_paths, read_manifest

STAGING = ".staging"
LOCK = ".lock"
_PART = re.compile(r"part-\d{8}T\d{12}Z-\d{5}\.parquet")
_OURS = re.compile(rf"({_PART.pattern}|{re.escape(MANIFEST)})(\.[0-9a-f]{{8}}\.tmp)?")
_LATER = {"pubsub": "a Pub/Sub topic"}


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """What was found in a table's folder when a run began, and what will become of it.

    Attributes:
      folder: the table's folder.
      run_id: the run.
      found_run_id: the run that the table was of; ``""`` when there was none. Another one at the commit
        means that somebody else has written there meanwhile.
      parts: paths of the table's parts whose rows are kept.
      staged: paths of whole files that killed runs have staged, whose rows are kept.
      stale: names of files to remove once the new manifest stands, unless it lists them.
      stale_runs: runs whose staging folders are removed then.
      differences: why the rows of the table that is there can't stand beside those of this run: resuming,
        they are made again.
    """

    folder: str
    run_id: str
    found_run_id: str = ""
    parts: tuple[str, ...] = ()
    staged: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    stale_runs: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def keeps(self) -> bool:
        """Whether rows of earlier runs may be kept."""
        return bool(self.parts or self.staged)

    def staging(self, what: str) -> str:
        """Where this run stages its ``rows`` or its ``parts``."""
        return storage.join(self.folder, STAGING, self.run_id, what)


def plan_output(
    folder: str, run_id: str, settings: RowSettings, *, resume: bool = False, failures: str = ""
) -> OutputPlan:
    """Looks at a table's folder and decides what a run would keep and remove there. Changes nothing.

    Args:
      folder: the table's folder; need not be there yet.
      run_id: the run.
      settings: what the run's rows have in common.
      resume: keep the rows that were made with the same settings, by finished and by killed runs.
      failures: the dead letter's folder, which may lie in ``folder``.

    Raises:
      UsageError: the folder holds something that isn't ours, or a kind of destination that isn't there yet.
    """
    manifest = check_output(folder, failures=failures)
    staged = _staged(folder)
    parts: list[str] = []
    differences: list[str] = []
    if resume and manifest is not None:
        parts = part_paths(folder)
        differences = _differences(manifest, parts, settings)
    if differences:
        parts = []
    return OutputPlan(
        folder=folder,
        run_id=run_id,
        found_run_id=manifest.run_id if manifest else "",
        parts=tuple(parts),
        staged=tuple(path for paths in staged.values() for path in paths) if resume else (),
        stale=tuple(
            name for name in storage.list_folder(folder) if _OURS.fullmatch(name) and name != MANIFEST
        ),
        stale_runs=tuple(staged),
        differences=tuple(differences),
    )


def check_output(folder: str, *, failures: str = "") -> TableManifest | None:
    """The manifest of the table in ``folder``, or None, when there is a place for one.

    Args:
      folder: a table's folder; need not be there yet.
      failures: the dead letter's folder, which may lie in ``folder``.

    Raises:
      UsageError: the folder is a file or holds something that isn't ours, or is a destination of a kind that
        isn't there yet.
    """
    scheme = folder.partition("://")[0] if "://" in folder else ""
    if scheme in _LATER:
        raise UsageError(
            f"--output {folder}: {_LATER[scheme]} is not a destination yet in this version; write a Parquet "
            "folder (a path or gs://...), which `beam-vision sql` reads and `bq load` takes"
        )
    if not storage.is_remote(folder) and storage.exists(folder) and not storage.is_folder(folder):
        raise UsageError(f"--output {folder} is a file; give a folder")
    try:
        manifest = read_manifest(folder)
    except ValueError as error:  # no filesystem for this scheme, or a manifest.json that isn't JSON
        raise UsageError(f"--output {folder} is no place for a table: {error}") from error
    if manifest is None:
        ours = {STAGING, LOCK, "failures", failures.removeprefix(f"{folder}/").partition("/")[0]}
        for name in storage.list_entries(folder):
            if name not in ours and not _OURS.fullmatch(name):
                raise UsageError(
                    f"--output {folder} holds {name!r}, which is not of a table of ours; "
                    "give a new or an empty folder"
                )
    return manifest


def _staged(folder: str) -> dict[str, list[str]]:
    """The whole staged files of each run that has a staging folder."""
    root = storage.join(folder, STAGING)
    found: dict[str, list[str]] = {}
    for path in storage.list_tree(root):
        run_id, _, name = path[len(root) + 1 :].partition("/")
        paths = found.setdefault(run_id, [])
        if re.fullmatch(r"rows/[0-9a-f]{32}\.parquet", name):
            paths.append(path)
    return found


def _differences(manifest: TableManifest, parts: list[str], settings: RowSettings) -> list[str]:
    """Why the rows of a table can't stand beside rows of ``settings``."""
    import pyarrow.parquet as pq

    found = [
        f"another {name.replace('_', ' ')} ({was or 'none'}, now {wanted or 'none'})"
        for name in ("task", "model_digest", "preprocessing_digest", "embedding_dim")
        for was, wanted in [(getattr(manifest, name), getattr(settings, name))]
        if was != wanted
    ]
    if manifest.row_kind != settings.rows:
        found.append(f"a row for each of its {manifest.row_kind}, not {settings.rows}")
    if not found and parts:
        with storage.open_read(parts[0]) as file:
            if not settings.made(pq.read_schema(file)):
                found = ["other labels, or another top_k, threshold, activation, NMS or tile size"]
    return found


@contextlib.contextmanager
def hold(folder: str) -> Iterator[None]:
    """Keeps other runs on this machine from writing to ``folder`` while the block runs.

    A lock of the operating system's on ``folder/.lock``: it goes with the process, however that ends. Where
    there are no such locks (remote stores) the commit notices when another run came between.

    Raises:
      UsageError: another run holds it, or it can't be written to.
    """
    if storage.is_remote(folder):
        yield
        return
    import fcntl

    path = storage.join(storage.local(folder), LOCK)
    while True:
        try:
            os.makedirs(storage.local(folder), exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"nothing can be written to {folder}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(file, 200).decode(errors="replace")
            os.close(file)
            raise UsageError(f"another run is writing to {folder} ({owner}); wait for its end") from error
        if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file)):
            break
        os.close(file)  # the one before us removed it between our two calls
    os.truncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
    try:
        yield
    finally:
        os.unlink(path)
        os.close(file)
