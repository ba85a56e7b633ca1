"""Which images are in a folder, or match patterns: locally by walking, remotely by one listing of a prefix.

A pattern means the same on every filesystem: ``*`` and ``?`` stay within a folder, ``**`` crosses folders
(``a/**/b`` matches ``a/b`` too), ``[abc]`` and ``[!abc]`` are one character. ``[*]`` is a literal star.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from beam_vision import storage
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import failure
from beam_vision.sources.files import is_image_name, is_lake_folder, local_uri, normalise_uri, read_error
from beam_vision.types import Failure, ImageRef

_SET = r"(?:\][^\]/]*|[^\]/]+)\]"  # a `]` that comes first belongs to the set
_TOKEN = re.compile(rf"(?<![^/])\*\*/|\*\*|\*|\?|\[!{_SET}|\[(?!!){_SET}|.", re.DOTALL)
_ESCAPED = re.compile(r"\[([*?[])\]")
_MAGIC = re.compile(r"[*?[]")
_SIMPLE = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Skipped:
    """A file that is no input: hidden, a side-car, a pipe."""

    path: str


Found = ImageRef | Failure | Skipped


def list_folder(root: str) -> Iterator[Found]:
    """Every image below a folder of class folders.

    The label is the name of the first folder below ``root``; a file directly in it has none. A folder that
    several links lead to is listed once, under its real name if that is below ``root`` too; a folder that
    can't be read is a Failure.
    """
    root = root.rstrip("/") or "/"
    for found in walk_wanted(root, is_image_name):
        if isinstance(found, str):
            folder, _, rest = found.partition("/")
            yield _ref(storage.join(root, found), label=folder if rest else "")
        else:
            yield found


def list_patterns(
    patterns: Sequence[str], *, wanted: Callable[[str], bool] = is_image_name
) -> Iterator[Found]:
    """Every file that matches one of the patterns, once; it has no label.

    Args:
      patterns: absolute paths or remote URIs with wildcards. One without any is taken as it stands (whether
        the file is there shows when it is read); one that matches nothing is a Failure. Of several, what
        all but the last one match is held in memory.
      wanted: which file names to take (the others are skipped) where a wildcard stands in the path.
    """
    seen: set[object] = set()
    for pattern in patterns:
        is_last, empty = pattern is patterns[-1], True
        for found in _matches(pattern, wanted):
            empty = False
            mark = found.path if isinstance(found, Skipped) else (type(found), found.uri)
            if mark not in seen:
                yield found
            if not is_last:
                seen.add(mark)
        if empty:
            error = VisionError(Reason.NOT_FOUND, f"no file matches {pattern}")
            yield failure(error, _ref(pattern), Stage.SOURCE)


def glob_regex(pattern: str) -> re.Pattern[str]:
    """The regular expression that matches the same whole paths as ``pattern``.

    Raises:
      UsageError: a ``[...]`` in it is no set of characters.
    """
    text = "".join(map(_translate, _TOKEN.findall(pattern)))
    try:
        return re.compile(text, re.DOTALL)
    except re.error as error:
        raise UsageError(f"{pattern} is not a pattern: {error}") from error


def has_wildcard(path: str) -> bool:
    """Whether a path holds a wildcard (an escaped one, ``[*]``, is none)."""
    return _MAGIC.search(_ESCAPED.sub("", path)) is not None


def escape(path: str) -> str:
    """A pattern that matches just ``path``."""
    return glob.escape(path)


def unescape(pattern: str) -> str:
    """The path behind a pattern without wildcards."""
    return _ESCAPED.sub(r"\1", pattern)


def walk_wanted(root: str, wanted: Callable[[str], bool]) -> Iterator[str | Failure | Skipped]:
    """Paths, relative to ``root``, of the files below it whose names are wanted; other files are Skipped, and
    a folder that can't be read is a Failure."""
    for found in _walk(root, lambda folder: True):
        if not isinstance(found, str) or _is_wanted(found, wanted):
            yield found
        else:
            yield Skipped(storage.join(root, found))


def walk_names(root: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Paths, relative to ``root``, of the files below it whose names are wanted."""
    for found in walk_wanted(root, wanted):
        if isinstance(found, str):
            yield found


def _matches(pattern: str, wanted: Callable[[str], bool]) -> Iterator[Found]:
    if not has_wildcard(pattern):
        yield _ref(unescape(pattern))
        return
    head, tail = _split(pattern)
    root, regex = unescape(head) or "/", glob_regex(pattern)
    levels = [None if "**" in part else glob_regex(part) for part in tail.split("/")]
    if levels[-1] is not None:
        levels.pop()  # it names files

    def may_hold(folder: str) -> bool:
        parts = folder.split("/")
        for part, level in zip(parts, levels, strict=False):
            if level is None:
                return True
            if not level.fullmatch(part):
                return False
        return len(parts) <= len(levels)

    for found in _walk(root, may_hold):
        if isinstance(found, str):
            path = storage.join(root, found)
            if regex.fullmatch(path):
                yield _ref(path) if _is_wanted(found, wanted) else Skipped(path)
        else:
            yield found


def _split(pattern: str) -> tuple[str, str]:
    """A pattern's folder without wildcards, and what follows it."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if has_wildcard(part))
    return "/".join(parts[:first]), "/".join(parts[first:])


def _translate(token: str) -> str:
    if token in _SIMPLE:
        return _SIMPLE[token]
    if len(token) == 1:
        return re.escape(token)
    body = token[1:-1]
    negated, body = body.startswith("!"), body.removeprefix("!")
    body = re.sub(r"([\\^\[\]&~|])", r"\\\1", body)
    return f"[^/{body}]" if negated else f"[{body}]"


def _is_wanted(relative: str, wanted: Callable[[str], bool]) -> bool:
    *folders, name = relative.split("/")
    return wanted(name) and all(map(is_lake_folder, folders))


def _ref(path: str, label: str = "") -> ImageRef:
    uri = normalise_uri(path)
    text = label.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return ImageRef(key=uri, uri=uri, labels=(text,) if text else ())


def _walk(root: str, enter: Callable[[str], bool]) -> Iterator[str | Failure | Skipped]:
    return _walk_remote(root) if storage.is_remote(root) else _walk_local(root, enter)


def _walk_remote(root: str) -> Iterator[str]:
    prefix = f"{root}/"
    for item in storage.filesystems().match([f"{escape(prefix)}**"])[0].metadata_list:
        if not item.path.endswith("/"):  # an empty object that stands for a folder
            yield item.path[len(prefix) :]


def _walk_local(root: str, enter: Callable[[str], bool]) -> Iterator[str | Failure | Skipped]:
    """Relative paths of the files below ``root``. Real folders come before linked ones, and none comes twice,
    so that a loop of links ends."""
    seen: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        path = os.path.join(root, folder) if folder else root
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            ref = ImageRef(key=local_uri(path), uri=local_uri(path))
            yield failure(read_error(error, ref.uri), ref, Stage.SOURCE)
            continue
        for entry in entries:
            relative = f"{folder}/{entry.name}" if folder else entry.name
            kind = _kind(entry)
            if kind == "file":
                yield relative
            elif kind == "other":
                yield Skipped(entry.path)
            elif is_lake_folder(entry.name) and enter(relative):
                (links if entry.is_symlink() else folders).append(relative)


def _kind(entry: os.DirEntry[str]) -> str:
    """``folder``, ``file`` or ``other``; what can't be told is a file: it fails, by name, when it is read."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_symlink() or entry.is_file(follow_symlinks=False) else "other"
    except OSError:  # a link that leads in a circle, or to where we may not look
        return "file"
