"""Versions of a model below one root: the next one's name, and ``LATEST`` moved with an entry of why.

Who holds ``LATEST`` for a model is up to :mod:`beam_vision.inference.serving_history`, as for ``rollout``.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.inference.bundle import LATEST_FILE, find_files, set_latest
from beam_vision.inference.serving_history import PROMOTE, Entry, add_entry

_VERSION = re.compile(r"v(\d+)")


def next_version(root: str) -> str:
    """The name after the highest ``vNUMBER`` below ``root``: ``v1`` where there is none."""
    found = [_VERSION.fullmatch(name) for name in storage.list_entries(root)]
    return f"v{max((int(item[1]) for item in found if item), default=0) + 1}"


def latest_version(root: str) -> str:
    """The version that serves; empty where there is none."""
    pointer = storage.join(root, LATEST_FILE)
    return storage.read_text(pointer).strip() if storage.exists(pointer) else ""


def put_in_place(aside: str, target: str, *, overwrite: bool = False) -> None:
    """Renames a whole bundle to where it belongs.

    Args:
      aside: its folder, on the same disk.
      target: where it belongs.
      overwrite: whether a bundle that is there may be replaced.

    Raises:
      UsageError: there is something at ``target``.
    """
    if not os.path.exists(target):
        os.rename(aside, target)
        return
    if not overwrite:
        raise UsageError(f"{target} is there already; choose another folder or give export.overwrite")
    old = f"{aside}.old"
    os.rename(target, old)
    os.rename(aside, target)
    shutil.rmtree(old, ignore_errors=True)


def promote(root: str, version: str, *, model_digest: str, reason: str) -> Entry:
    """Points ``LATEST`` at a version, and writes first why: a job that sees the new one finds it.

    Args:
      root: of the versions.
      version: a folder below it, with a model.
      model_digest: of the version.
      reason: what was checked.

    Returns:
      The entry of the history.

    Raises:
      UsageError: there is no model.
    """
    find_files(storage.join(root, version))
    entry = Entry(
        time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        action=PROMOTE,
        version=version,
        previous=latest_version(root),
        model_digest=model_digest,
        reason=reason,
    )
    add_entry(root, entry)
    set_latest(root, version)
    return entry
