"""A file of lines that remembers which versions of a folder's files are done with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import IO, NamedTuple

from beam_vision import storage

_SPARE_LINES = 10_000


class Version(NamedTuple):
    """A version of a file: its time of modification in nanoseconds and its size."""

    mtime_ns: int
    size_bytes: int


class Journal:
    """The last version done of each file, by path; kept in a file where there is one.

    A line is added for each; a line that a crash cut off is passed over. It is written anew at the start and
    when most of it is out of date.

    Args:
      path: of the file; empty: nothing outlives the process.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._done: dict[str, Version] = {}
        self._file: IO[bytes] | None = None
        self._lines = 0

    def open(self) -> None:
        """Reads what an earlier run left."""
        if not self._path:
            return
        if os.path.exists(self._path):
            with open(self._path, "rb") as file:
                for line in file:
                    self._take(line)
        self._rewrite()

    def holds(self, path: str, version: Version) -> bool:
        """Whether this version of a file is done with."""
        return self._done.get(path) == version

    def add(self, items: Iterable[tuple[str, Version]]) -> None:
        """Remembers these; they are with the operating system when this returns, so a kill loses none."""
        lines = []
        for path, version in items:
            self._done[path] = version
            lines.append(_line(path, version))
        if self._file is not None and lines:
            self._file.write(b"".join(lines))
            self._file.flush()
            self._lines += len(lines)
            if self._lines > 2 * len(self._done) + _SPARE_LINES:
                self._rewrite()

    def forget(self, path: str) -> None:
        """Forgets a file that is gone; the file of lines follows when it is written anew."""
        self._done.pop(path, None)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            return
        mtime_ns, size_bytes, path = json.loads(line)
        self._done[path] = Version(mtime_ns, size_bytes)

    def _rewrite(self) -> None:
        self.close()
        storage.write_bytes(self._path, b"".join(_line(*item) for item in self._done.items()))
        self._file = open(self._path, "ab")  # noqa: SIM115  (closed in close())
        self._lines = len(self._done)


def _line(path: str, version: Version) -> bytes:
    return json.dumps([*version, path]).encode() + b"\n"
