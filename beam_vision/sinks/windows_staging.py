"""Staged rows of a window: blocks in a journal, or, on a remote store, a block an object.

A block carries its digest. One that a crash tore is passed over and those after it are found again, so a
writer only ever appends. Locally, writers and the one commit of a window keep out of each other's way by a
lock of the operating system's on the journal, which goes with the process however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from beam_vision import storage
from beam_vision.digest import content_digest

_LOG = logging.getLogger(__name__)

_MAGIC = b"\xb6beam-vision-rows\n"
_LENGTH_BYTES = 8
_DIGEST_BYTES = 32
_HEAD_BYTES = len(_MAGIC) + _LENGTH_BYTES + _DIGEST_BYTES
_NAME = re.compile(r"(\w+)/(\d{8}T\d{6}Z)(-[0-9a-f]{32})?\.rows")


def append(folder: str, window: str, data: bytes, *, fsync: bool) -> None:
    """Stages a block; it outlasts the process when this returns.

    Args:
      folder: the staging folder of a table.
      window: which window of it.
      data: the block.
      fsync: on a local disk, whether it must outlast a power cut, too.
    """
    block = _MAGIC + len(data).to_bytes(_LENGTH_BYTES, "big") + hashlib.sha256(data).digest() + data
    if storage.is_remote(folder):
        storage.write_bytes(storage.join(folder, f"{window}-{content_digest(data)[:32]}.rows"), block)
        return
    path = storage.join(storage.local(folder), f"{window}.rows")
    with _locked(path) as file:
        new = not os.fstat(file.fileno()).st_size
        file.write(block)
        file.flush()
        if fsync:
            os.fdatasync(file.fileno())
            if new:
                sync_folder(os.path.dirname(path))


@contextlib.contextmanager
def held(folder: str, window: str) -> Iterator[list[str]]:
    """The files with what is staged for a window; locally nobody appends to them within the block."""
    if storage.is_remote(folder):
        prefix = storage.join(folder, window)
        found = storage.filesystems().match([f"{prefix}*.rows"])[0].metadata_list
        yield sorted(item.path for item in found)
        return
    path = storage.join(storage.local(folder), f"{window}.rows")
    if not os.path.exists(path):
        yield []
        return
    with _locked(path):
        yield [path]


def remove(paths: Sequence[str]) -> None:
    """Removes files that :func:`held` gave, within its block."""
    if paths and storage.is_remote(paths[0]):
        storage.filesystems().delete(list(paths))
        return
    for path in paths:
        os.unlink(path)


def blocks(paths: Sequence[str]) -> Iterator[bytes]:
    """The whole blocks in files, one after the other; a journal need not fit into memory."""
    for path in paths:
        with _content(path) as data:
            at = 0
            while at < len(data):
                end = _end_of_block(data, at)
                if end:
                    yield data[at + _HEAD_BYTES : end]
                    at = end
                    continue
                found = data.find(_MAGIC, at + 1)
                end = found if found >= 0 else len(data)
                _LOG.warning("%s: %d bytes that a crash left half written are passed over", path, end - at)
                at = end


@contextlib.contextmanager
def _content(path: str) -> Iterator[bytes | mmap.mmap]:
    if storage.is_remote(path):
        yield storage.read_bytes(path)
        return
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _end_of_block(data: bytes | mmap.mmap, at: int) -> int:
    """Where the block that begins at ``at`` ends; 0 where none begins there, or not a whole one."""
    start = at + _HEAD_BYTES
    head = data[at:start]
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        return 0
    end = start + int.from_bytes(head[len(_MAGIC) : -_DIGEST_BYTES], "big")
    whole = end <= len(data) and hashlib.sha256(data[start:end]).digest() == head[-_DIGEST_BYTES:]
    return end if whole else 0


def staged_windows(root: str) -> list[tuple[str, str]]:
    """What is staged below ``root``, the staging folder of all tables: (table, window)."""
    names = (path[len(root.rstrip("/")) + 1 :] for path in storage.list_tree(root))
    return sorted({(match[1], match[2]) for match in map(_NAME.fullmatch, names) if match})


@contextlib.contextmanager
def _locked(path: str) -> Iterator[BinaryIO]:
    """A journal, opened to append, that nobody else has opened so."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            file = open(path, "ab")  # noqa: SIM115  (closed below)
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                break
            file.close()  # a commit removed it between our two calls
            continue
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with file:
        yield file


def _is_at(file: BinaryIO, path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def sync_folder(folder: str) -> None:
    """Returns once the names in a local folder would outlast a power cut."""
    number = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
