"""Single files: how they are named, which of them can be images, and how they are read."""

from __future__ import annotations

import errno
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

from beam_vision import storage
from beam_vision.errors import Reason, VisionError

MAX_FILE_BYTES = 256 * 2**20
RETRY_DELAYS_SEC = (0.25, 1.0, 4.0)
"""How long to wait before each further attempt at a transient error (give or take a half)."""

_TEXTS = "json jsonl ndjson geojson txt xml csv tsv md rst yaml yml toml ini cfg conf html htm css log lock"
_CODE = "py pyc ipynb js sh bat lnk url aae xmp md5 sha1 sha256 tmp part crdownload"
_DATA = "db sqlite parquet arrow avro feather tfrecord tfrecords tfrec npy npz mat pkl pickle h5 hdf5"
_MODELS = "pt pth onnx tflite pb pbtxt keras"
_ARCHIVES = "zip tar tgz gz bz2 xz zst 7z rar"
_OFFICE = "doc docx xls xlsx ppt pptx"
_MEDIA = "mp3 wav flac ogg m4a mp4 m4v mov avi mkv webm"
_NOT_IMAGES = frozenset(
    f".{suffix}"
    for group in (_TEXTS, _CODE, _DATA, _MODELS, _ARCHIVES, _OFFICE, _MEDIA)
    for suffix in group.split()
)
_NOT_IMAGE_NAMES = frozenset({"thumbs.db", "desktop.ini", "license", "readme", "makefile", "_success"})
_NOT_LAKE_FOLDERS = frozenset({"__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found"})


def is_image_name(name: str) -> bool:
    """Whether a file of this name (no folders) may be an image.

    Only hidden files and well-known side-cars are refused: a file without an extension, or with an
    unknown one, may well be an image, and leaving it out would be silent.
    """
    lower = name.lower()
    refused = lower.startswith(".") or ".tfrec" in lower or lower in _NOT_IMAGE_NAMES
    return not refused and os.path.splitext(lower)[1] not in _NOT_IMAGES


def is_shard_name(name: str) -> bool:
    """Whether a file of this name is a TFRecord shard: ``x.tfrecord``, ``x.tfrecord-00000-of-00002``,
    ``x.tfrecord.gz``, but none of its side-cars (``x.tfrecord.json``) and no half-written file."""
    lower = name.lower()
    if lower.startswith(".") or ".tfrec" not in lower:
        return False
    suffix = os.path.splitext(lower)[1]
    return suffix not in _NOT_IMAGES or suffix == ".gz" or suffix.startswith(".tfrec")


def is_lake_folder(name: str) -> bool:
    """Whether a folder of this name is looked into: not a hidden one, nor one of the system's own."""
    return not name.startswith(".") and name.lower() not in _NOT_LAKE_FOLDERS


def local_uri(path: str) -> str:
    """The URI of a local path: the absolute path, or a percent-encoded ``file://`` URI if it isn't UTF-8."""
    path = os.path.abspath(path)
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def folder_of(path: str) -> str:
    """The folder that a file lies in."""
    return (path if storage.is_remote(path) else storage.absolute(path)).rpartition("/")[0] or "/"


def normalise_uri(uri: str, root: str = "") -> str:
    """The one spelling of ``uri`` that serves as a key.

    Args:
      uri: a path, a ``file://`` URI, or a URI of one of Beam's filesystems, which stays as it is.
      root: where a relative path starts: a local folder (default: the working directory) or a remote one.
    """
    if storage.is_remote(uri):
        return uri
    path = storage.local(uri)
    if storage.is_remote(root) and not os.path.isabs(path):
        return storage.join(root, path.removeprefix("./"))
    return local_uri(os.path.join(storage.local(root), path))


def read_image(
    uri: str,
    *,
    max_bytes: int = MAX_FILE_BYTES,
    retry_delays_sec: tuple[float, ...] = RETRY_DELAYS_SEC,
    reserve: Callable[[int], None] | None = None,
) -> bytes:
    """The bytes of a file, as they are stored.

    Args:
      uri: a normalised URI.
      max_bytes: a larger file is refused before it is read.
      retry_delays_sec: how long to wait before each further attempt at a transient error.
      reserve: called with the size in bytes before each attempt to read (it may wait for memory).

    Raises:
      VisionError: ``not_found``, ``forbidden``, ``not_an_image`` (a folder or a device) and
        ``too_many_bytes`` at once; ``read_error`` after the last attempt.
    """
    for delay_sec in retry_delays_sec:
        try:
            return _read_once(uri, max_bytes, reserve)
        except VisionError as error:
            if not error.transient:
                raise
            time.sleep(delay_sec * random.uniform(0.5, 1.5))
    return _read_once(uri, max_bytes, reserve)


def _read_once(uri: str, max_bytes: int, reserve: Callable[[int], None] | None) -> bytes:
    try:
        if not storage.is_remote(uri):
            _check_regular(uri)
        with storage.open_read(uri) as file:
            size_bytes = file.seek(0, os.SEEK_END)
            if size_bytes > max_bytes:
                raise VisionError(
                    Reason.TOO_MANY_BYTES,
                    f"{uri} has {size_bytes} bytes, more than the {max_bytes} allowed",
                )
            if reserve is not None:
                reserve(size_bytes)
            file.seek(0)
            return file.read()
    except (VisionError, MemoryError):
        raise
    except Exception as error:
        raise read_error(error, uri) from error


def _check_regular(uri: str) -> None:
    mode = os.stat(storage.local(uri)).st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise VisionError(Reason.NOT_AN_IMAGE, f"{uri} is {kind}, not a file")


def read_error(error: BaseException, uri: str) -> VisionError:
    """What an error of opening, reading or listing ``uri`` means, on any of Beam's filesystems."""
    for cause in _causes(error):
        status = getattr(cause, "code", None) or getattr(cause, "status_code", None)
        number = getattr(cause, "errno", None)
        if status == 404 or number in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            return VisionError(Reason.NOT_FOUND, f"{uri} is not there")
        if status in (401, 403) or number in (errno.EACCES, errno.EPERM):
            return VisionError(Reason.FORBIDDEN, f"{uri} may not be read: {cause}")
        if isinstance(cause, ValueError):  # a NUL in a path, or a scheme that no filesystem serves
            return VisionError(Reason.NOT_FOUND, f"{uri} can't be opened: {cause}")
    return VisionError(Reason.READ_ERROR, f"{uri} can't be read: {type(error).__name__}: {error}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and what Beam's ``BeamIOError`` holds by path."""
    while error is not None:
        yield error
        for detail in (getattr(error, "exception_details", None) or {}).values():
            if isinstance(detail, BaseException):
                yield from _causes(detail)
        error = error.__cause__
