"""The history of a root of versions: promotions and rollbacks, ``rollout.jsonl`` beside ``LATEST``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from beam_vision import storage
from beam_vision.errors import UsageError

HISTORY_FILE = "rollout.jsonl"
PROMOTE, ROLLBACK = "promote", "rollback"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of it.

    Attributes:
      time: ISO 8601, UTC.
      action: ``promote`` or ``rollback``.
      version: the one that ``LATEST`` names from then on.
      previous: the one that it named before; empty for the first.
      model_digest: of the version.
      reason: what was checked.
      may_be_worse: whether it is to serve however it does on golden images.
    """

    time: str
    action: str
    version: str
    previous: str
    model_digest: str = ""
    reason: str = ""
    may_be_worse: bool = False


def read_history(root: str) -> list[Entry]:
    """All entries, the oldest first; none where there is no such file.

    Raises:
      UsageError: a line isn't an entry.
    """
    if HISTORY_FILE not in storage.list_folder(root):
        return []
    path = storage.join(root, HISTORY_FILE)
    found = []
    for number, line in enumerate(storage.read_text(path).splitlines(), 1):
        try:
            found.append(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path}:{number} isn't an entry of a rollout: {error}") from error
    return found


def add_entry(root: str, entry: Entry) -> None:
    """Adds one at the end; the file is written whole and renamed."""
    lines = [json.dumps(dataclasses.asdict(item)) for item in [*read_history(root), entry]]
    storage.write_bytes(storage.join(root, HISTORY_FILE), ("\n".join(lines) + "\n").encode())


def worse_is_wanted(history: Sequence[Entry], version: str) -> bool:
    """Whether the last entry is about ``version`` and says that it may be worse."""
    return bool(history) and history[-1].version == version and history[-1].may_be_worse


def version_before(history: Sequence[Entry], current: str) -> str:
    """The version that a rollback from ``current`` goes back to; empty where there is none.

    Promotions pile up and rollbacks take from the pile, so that two rollbacks go back two promotions. A
    version that ``LATEST`` was given by hand lies on top.
    """
    pile: list[str] = []
    for entry in history:
        if entry.previous and entry.previous not in pile[-1:]:
            pile.append(entry.previous)
        if entry.action == ROLLBACK and entry.version in pile:
            while pile[-1] != entry.version:
                pile.pop()
        elif entry.version not in pile[-1:]:
            pile.append(entry.version)
    if current not in pile[-1:]:
        return pile[-1] if pile else ""
    return pile[-2] if len(pile) > 1 else ""
