"""Files on any of Beam's filesystems, written aside and then renamed.

A path without a scheme is local and needs no Beam; anything with one (``gs://``, ``s3://``) goes through
``apache_beam.io.filesystems``, which is loaded only then. Nothing written here is ever visible half done
under its final name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes


def is_remote(path: str) -> bool:
    """Whether ``path`` names something that isn't on the local disk (``gs://...``)."""
    return "://" in path and not path.startswith("file://")


def local(path: str) -> str:
    """The local path behind ``path``; the ``%XX`` of a ``file://`` URI are decoded (RFC 8089)."""
    if not path.startswith("file://"):
        return path
    return os.fsdecode(unquote_to_bytes(path[len("file://") :]))


def join(folder: str, *names: str) -> str:
    """``folder/name/...`` with single slashes, for local and remote paths."""
    return "/".join([folder.rstrip("/") or "/", *names]) if folder != "/" else "/" + "/".join(names)


def absolute(path: str) -> str:
    """A path that means the same from any working directory; remote paths stay as they are."""
    return path if is_remote(path) else os.path.abspath(os.path.expanduser(local(path)))


def filesystems() -> Any:
    """Beam's ``FileSystems``, loaded when first needed."""
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def exists(path: str) -> bool:
    """Whether a file (or, locally, a folder) is there."""
    return filesystems().exists(path) if is_remote(path) else os.path.exists(local(path))


def is_folder(path: str) -> bool:
    """Whether ``path`` is a folder: locally a directory, remotely a prefix that holds something."""
    if not is_remote(path):
        return os.path.isdir(local(path))
    return bool(filesystems().match([join(path, "**")], limits=[1])[0].metadata_list)


def open_read(path: str) -> IO[bytes]:
    """Opens ``path`` for reading bytes, as stored (no decompression by file name)."""
    if not is_remote(path):
        return open(local(path), "rb")
    from apache_beam.io.filesystem import CompressionTypes

    return filesystems().open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
    """All of a file."""
    with open_read(path) as file:
        return file.read()


def read_text(path: str) -> str:
    """All of a file as UTF-8 text."""
    return read_bytes(path).decode("utf-8")


def read_json(path: str) -> Any:
    """A JSON file's value."""
    return json.loads(read_text(path))


@contextlib.contextmanager
def open_write(path: str) -> Iterator[IO[bytes]]:
    """Opens ``path`` for writing bytes; it appears, whole, only when the block ends without an error.

    Locally the bytes go to a file beside it that is synced and renamed. Remote object stores show
    an object only once it is closed, but an error would close it too: so there also a temporary name.
    """
    aside = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    if is_remote(path):
        from apache_beam.io.filesystem import CompressionTypes

        file = filesystems().create(aside, compression_type=CompressionTypes.UNCOMPRESSED)
    else:
        os.makedirs(os.path.dirname(local(path)) or ".", exist_ok=True)
        file = open(local(aside), "wb")  # noqa: SIM115  (closed by the `with` below)
    try:
        with file:
            yield file
            if not is_remote(path):
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        delete(aside)
        raise
    rename(aside, path)


def write_bytes(path: str, data: bytes) -> None:
    """Writes a whole file, aside and then renamed."""
    with open_write(path) as file:
        file.write(data)


def write_json(path: str, value: Any) -> None:
    """Writes ``value`` as indented JSON with sorted keys, aside and then renamed."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def rename(source: str, target: str) -> None:
    """Moves a file over whatever is at ``target``."""
    if not is_remote(target):
        os.makedirs(os.path.dirname(local(target)) or ".", exist_ok=True)
        os.replace(local(source), local(target))
        return
    if exists(target):
        delete(target)
    filesystems().rename([source], [target])


def delete(path: str) -> None:
    """Removes a file if it is there."""
    if not is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(local(path))
    elif exists(path):
        filesystems().delete([path])


def delete_folder(path: str) -> None:
    """Removes a folder and all below it, if it is there."""
    if not is_remote(path):
        shutil.rmtree(local(path), ignore_errors=True)
        return
    found = list_tree(path)
    if found:
        filesystems().delete(found)


def list_tree(folder: str) -> list[str]:
    """Paths of all files below a folder, however deep, hidden ones too, sorted."""
    if is_remote(folder):
        return sorted(item.path for item in filesystems().match([join(folder, "**")])[0].metadata_list)
    found = os.walk(local(folder))
    return sorted(os.path.join(below, name) for below, _, names in found for name in names)


def list_folder(path: str) -> list[str]:
    """Names of the files directly in a folder, sorted; empty when there is no such folder."""
    if is_remote(path):
        prefix = path.rstrip("/") + "/"
        names = (item.path[len(prefix) :] for item in filesystems().match([prefix + "*"])[0].metadata_list)
        return sorted(name for name in names if "/" not in name)
    folder = Path(local(path))
    return sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []


def list_entries(path: str) -> list[str]:
    """Names of the files and folders directly in a folder, sorted; empty when there is no such folder.

    A remote store has no folders of its own: there, what its first 1,000 objects show.
    """
    if not is_remote(path):
        return sorted(os.listdir(local(path))) if os.path.isdir(local(path)) else []
    prefix = path.rstrip("/") + "/"
    found = filesystems().match([prefix + "**"], limits=[1000])[0].metadata_list
    return sorted({item.path[len(prefix) :].partition("/")[0] for item in found})
