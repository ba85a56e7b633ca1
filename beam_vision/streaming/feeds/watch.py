"""Looks at a folder of cameras again and again, and says which files are new and whole."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from beam_vision.sources.files import is_image_name, is_lake_folder
from beam_vision.streaming.capture_time import time_in_name
from beam_vision.streaming.feeds.journal import Journal, Version

_LOG = logging.getLogger(__name__)
_GRAIN_NS = 2_000_000_000  # the coarsest time of modification that a file system keeps
_MAX_DEPTH = 8
_HALF_WRITTEN = (".tmp", ".temp", ".part", ".partial", ".filepart", ".download", ".crdownload")


class Found(NamedTuple):
    """A file that is new and whole.

    Attributes:
      path: absolute.
      version: which version of it.
      camera: the first folder below the watched one, or that one's name.
      capture_us: from the end of its name, else its time of modification; microseconds since the epoch.
    """

    path: str
    version: Version
    camera: str
    capture_us: int


@dataclass
class _Folder:
    """What was seen of a folder: its time of modification, its folders, and its files: those that were given
    with their version and capture time, those that may still grow with their version and since when."""

    path: str
    camera: str
    mtime_ns: int = -1
    quiet: bool = False
    folders: list[str] = field(default_factory=list)
    given: dict[str, tuple[Version, int]] = field(default_factory=dict)
    growing: dict[str, tuple[Version, float]] = field(default_factory=dict)


class FolderWatch:
    """New files below a folder, at each look.

    A folder whose time of modification hasn't changed isn't read again, so a look costs little however many
    files there are. What is renamed over another file is a new one; what is rewritten in place is not seen.
    Hidden files and folders are left out, and so is what a name shows to be no image or half written.

    Args:
      root: the folder.
      journal: says which versions of files are done with; told of files that are gone.
      settle_sec: a file is whole when it hasn't changed for so long, or was renamed since it last did.
    """

    def __init__(self, root: str, journal: Journal, *, settle_sec: float) -> None:
        self._root = root
        self._journal = journal
        self._settle_sec = settle_sec
        self._folders: dict[str, _Folder] = {}
        self._used: dict[str, set[int]] = {}  # camera -> capture times in us

    @property
    def unsettled(self) -> bool:
        """Whether files were seen that may still grow."""
        return any(folder.growing for folder in self._folders.values())

    def look(self) -> list[Found]:
        """Files that are new since the last look, by capture time.

        Raises:
          OSError: the watched folder can't be read.
        """
        os.scandir(self._root).close()
        found: list[Found] = []
        seen = set()
        for folder in self._walk(self._root, os.path.basename(self._root)):
            seen.add(folder.path)
            found += self._read(folder)
        for path in self._folders.keys() - seen:
            self._forget(self._folders.pop(path), ())
        return sorted(found, key=lambda item: (item.capture_us, item.path))

    def _walk(self, path: str, camera: str, depth: int = 0) -> Iterator[_Folder]:
        """A folder and all below it; the caller reads each, which makes its folders known."""
        folder = self._folders.setdefault(path, _Folder(path, camera))
        yield folder
        if depth < _MAX_DEPTH:
            for name in folder.folders:
                yield from self._walk(os.path.join(path, name), camera if depth else name, depth + 1)

    def _read(self, folder: _Folder) -> list[Found]:
        try:
            mtime_ns = os.stat(folder.path).st_mtime_ns
            if folder.quiet and mtime_ns == folder.mtime_ns:
                return []
            at_ns = time.time_ns()
            files, folder.folders = _list(folder.path, follow_links=folder.path == self._root)
        except OSError as error:
            _LOG.warning("%s can't be read: %s", folder.path, error)
            return []
        self._forget(folder, files)
        found = self._new(folder, files)
        folder.mtime_ns = mtime_ns
        folder.quiet = not folder.growing and abs(at_ns - mtime_ns) > _GRAIN_NS
        return found

    def _new(self, folder: _Folder, files: Mapping[str, os.stat_result]) -> list[Found]:
        found = []
        for name in sorted(files, key=lambda name: (files[name].st_mtime_ns, name)):
            version = Version(files[name].st_mtime_ns, files[name].st_size)
            if name in folder.given and folder.given[name][0] == version:
                continue
            path = os.path.join(folder.path, name)
            done = self._journal.holds(path, version)
            if not done and not self._is_whole(folder, name, version, files[name]):
                continue
            capture_us = self._give(folder, name, version)
            if not done:
                found.append(Found(path, version, folder.camera, capture_us))
        return found

    def _is_whole(self, folder: _Folder, name: str, version: Version, stat: os.stat_result) -> bool:
        if version.size_bytes and stat.st_ctime_ns > stat.st_mtime_ns:
            return True  # renamed, or given its times, since its last byte was written
        now = time.monotonic()
        seen, since = folder.growing.get(name, (version, now))
        folder.growing[name] = version, since if seen == version else now
        age_sec = (time.time_ns() - version.mtime_ns) / 1e9
        return max(age_sec, now - folder.growing[name][1]) >= self._settle_sec

    def _give(self, folder: _Folder, name: str, version: Version) -> int:
        """Notes a file as given, and when it was captured.

        Its time is moved on by 1 us while another file of the camera has it, as files that were copied
        together may, or that are named to the second: they would pass for one frame.
        """
        self._forget_one(folder, name)
        used = self._used.setdefault(folder.camera, set())
        in_name = time_in_name(name)
        capture_us = version.mtime_ns // 1000 if in_name is None else round(in_name * 1e6)
        while capture_us in used:
            capture_us += 1
        used.add(capture_us)
        folder.given[name] = version, capture_us
        return capture_us

    def _forget(self, folder: _Folder, left: Container[str]) -> None:
        """Forgets the files of a folder that are gone."""
        for name in [name for name in (*folder.given, *folder.growing) if name not in left]:
            self._forget_one(folder, name)
            self._journal.forget(os.path.join(folder.path, name))

    def _forget_one(self, folder: _Folder, name: str) -> None:
        folder.growing.pop(name, None)
        _, capture_us = folder.given.pop(name, (None, 0))
        self._used.get(folder.camera, set()).discard(capture_us)


def _list(path: str, *, follow_links: bool) -> tuple[dict[str, os.stat_result], list[str]]:
    """The files of a folder that may be images, and its folders; below the first level links to folders are
    not followed, for they might lead round."""
    files, folders = {}, []
    with os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                if entry.is_dir(follow_symlinks=follow_links):
                    folders.append(entry.name)
                elif entry.is_file() and _may_be_image(entry.name):
                    files[entry.name] = entry.stat()
    return files, sorted(filter(is_lake_folder, folders))


def _may_be_image(name: str) -> bool:
    return is_image_name(name) and not name.lower().endswith(_HALF_WRITTEN)
