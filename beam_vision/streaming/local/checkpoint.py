"""State on disk: a base, and a journal of what changed since. Only what is in them is acknowledged.

::

    STATE/base          the whole state at some time, and the number of the journal that goes on from it
    STATE/journal-7     records, each with its length and CRC-32C: what changed from one save to the next
    STATE/lock          held by the process that uses the folder

A record that was cut off by a kill doesn't count: nothing that it stands for had been acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import struct
from collections.abc import Collection
from typing import Any, BinaryIO

from beam_vision.errors import JobError, UsageError
from beam_vision.streaming.local.state import MESSAGES, Store

FORMAT = 1
_HEAD = struct.Struct("<QI")
_COMPACT_AT_LEAST_BYTES = 4 << 20


class Checkpoint:
    """Where a job's state is saved.

    Args:
      folder: a local folder, of this job alone; made if it isn't there.
      steps: labels of the job's steps that have state; state of others can't be used.

    Raises:
      UsageError: another process uses the folder, or it holds the state of another job.
    """

    def __init__(self, folder: str, *, steps: Collection[str]) -> None:
        self._folder = folder
        self._steps = {*steps, MESSAGES}
        os.makedirs(folder, exist_ok=True)
        self._lock = open(os.path.join(folder, "lock"), "w")  # noqa: SIM115  (held until close)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise UsageError(
                f"the state folder {folder} is in use by another process: end it, or give another --state"
            ) from error
        self._generation = 0
        self._journal: BinaryIO | None = None
        self._base_bytes = 0
        self._journal_bytes = 0

    def load(self, store: Store) -> dict[str, Any]:
        """Fills an empty store with the state as it was last saved.

        Returns:
          the facts saved with it; nothing at first.

        Raises:
          UsageError: it is that of another job, or can't be read.
        """
        facts: dict[str, Any] = {}
        path = self._path("base")
        if os.path.exists(path):
            base = self._read_base(path)
            store.apply(base["state"])
            facts, self._generation = base["facts"], base["generation"]
            for changes, later in self._records():
                store.apply(changes)
                facts = later
        self._check(store)
        self._compact(store, facts)
        return facts

    def _check(self, store: Store) -> None:
        """Whether each piece of state has its step; steps that are new, or have none, may come and go."""
        found = {cell.step for cell in store.cells} | {due.step for due in store.timers}
        orphans = sorted(found - self._steps)
        if orphans:
            raise UsageError(
                f"the state in {self._folder} is of a job that also has the step {orphans[0]}: finish "
                "that job with the options it had, or give another --state"
            )

    def _read_base(self, path: str) -> dict[str, Any]:
        try:
            with open(path, "rb") as stream:
                base = pickle.load(stream)
            if base["format"] != FORMAT:
                raise KeyError(f"format {base['format']}")
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError) as error:
            raise UsageError(
                f"the state in {self._folder} can't be read ({error}); move it away to start without "
                "it, and without the few frames that it may hold"
            ) from error
        return base

    def _records(self) -> list[tuple[Any, dict[str, Any]]]:
        import google_crc32c

        path, found = self._path(f"journal-{self._generation}"), []
        if not os.path.exists(path):
            return []
        with open(path, "rb") as stream:
            while len(head := stream.read(_HEAD.size)) == _HEAD.size:
                length, crc = _HEAD.unpack(head)
                data = stream.read(length)
                if len(data) < length or google_crc32c.value(data) != crc:
                    break
                found.append(pickle.loads(data))
        return found

    def save(self, store: Store, facts: dict[str, Any]) -> None:
        """Makes what changed outlive this process, and the machine's power.

        Raises:
          JobError: the folder is gone: what would be acknowledged now would be in nobody's state.
        """
        import google_crc32c

        if self._journal is None:
            raise ValueError("load() comes first")
        if not self._is_in_place(self._journal):
            raise JobError(f"the state folder {self._folder} was moved or removed while it was in use")
        data = pickle.dumps((store.changes(), facts), protocol=pickle.HIGHEST_PROTOCOL)
        self._journal.write(_HEAD.pack(len(data), google_crc32c.value(data)) + data)
        self._journal.flush()
        os.fdatasync(self._journal.fileno())
        self._journal_bytes += len(data)
        if self._journal_bytes > max(_COMPACT_AT_LEAST_BYTES, 2 * self._base_bytes):
            self._compact(store, facts)

    def _compact(self, store: Store, facts: dict[str, Any]) -> None:
        """Writes a new base; the journal begins anew."""
        old, self._generation = self._generation, self._generation + 1
        base = {
            "format": FORMAT,
            "generation": self._generation,
            "state": store.everything(),
            "facts": facts,
        }
        data = pickle.dumps(base, protocol=pickle.HIGHEST_PROTOCOL)
        aside = self._path("base.tmp")
        with open(aside, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        journal = open(self._path(f"journal-{self._generation}"), "wb")  # noqa: SIM115  (held until close)
        os.replace(aside, self._path("base"))
        self._sync_folder()
        if self._journal is not None:
            self._journal.close()
        self._journal, self._journal_bytes, self._base_bytes = journal, 0, len(data)
        store.changed = set()
        if os.path.exists(self._path(f"journal-{old}")):
            os.remove(self._path(f"journal-{old}"))

    def _is_in_place(self, journal: BinaryIO) -> bool:
        try:
            found = os.stat(self._path(f"journal-{self._generation}"))
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(journal.fileno()))

    def _sync_folder(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def close(self) -> None:
        """Lets go of the folder."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._lock.close()

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)
