"""Which split an image belongs to: pure, stable, and the same on every machine.

An image's place depends on nothing but itself (its content, its key, or its group), so images that are
added later never move the others. The same bytes never straddle two splits: where copies of one
content are wanted in several (their keys, groups or manifest rows differ), all go to the one that is named
last in ``--splits``. With the held-out splits named last, nothing that is held out leaks into training.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from beam_vision.digest import fraction
from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.types import ImageRef

DEFAULT_SPLITS = "train=0.8,validation=0.1,test=0.1"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_BY = ("content", "uri", "manifest")
_BY_COLUMN = ("group", "column")


def parse_splits(text: str) -> dict[str, float]:
    """``"train=0.8,test=0.2"`` as a mapping in that order.

    Names are lower-case letters, digits and ``_``; fractions lie in 0..1 and sum to 1. Without any
    fraction (``"train,test"``) they are all alike.

    Raises:
      UsageError: it doesn't read so.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    names = [part.partition("=")[0].strip() for part in parts]
    if not names:
        raise UsageError(f"--splits {text!r} names no split; for example {DEFAULT_SPLITS}")
    for name in names:
        if not _NAME.fullmatch(name) or names.count(name) > 1:
            raise UsageError(f"--splits: {name!r} is not a name, or stands there twice: use a-z, 0-9 and _")
    if not any("=" in part for part in parts):
        return {name: 1.0 / len(names) for name in names}
    try:
        fractions = [float(part.partition("=")[2]) for part in parts]
    except ValueError as error:
        raise UsageError(f"--splits {text!r}: each split needs a number, as in {DEFAULT_SPLITS}") from error
    if not all(0.0 <= value <= 1.0 for value in fractions) or not math.isclose(sum(fractions), 1.0):
        raise UsageError(f"--splits {text!r}: the numbers must lie in 0..1 and sum to 1")
    return dict(zip(names, fractions, strict=True))


@dataclass(frozen=True)
class SplitRule:
    """How images are split.

    Attributes:
      splits: fraction of each split, in order; the held-out ones last.
      by: ``content`` (sha256 of the file), ``uri`` (the key), ``group:COLUMN`` (images with the same value
        of an attribute stay together), ``column:COLUMN`` (the attribute names the split) or ``manifest``
        (the manifest's ``split`` names it).
      seed: another number gives another split of the same fractions.

    Raises:
      UsageError: ``by`` is none of these.
    """

    splits: Mapping[str, float]
    by: str = "content"
    seed: int = 0

    def __post_init__(self) -> None:
        kind, _, column = self.by.partition(":")
        if not (self.by in _BY or (kind in _BY_COLUMN and column)):
            raise UsageError(
                f"--split_by {self.by!r} is none of content, uri, manifest, group:COLUMN and column:COLUMN"
            )

    def wanted(self, ref: ImageRef, sha256: str) -> str:
        """The split that this image alone would go to.

        Raises:
          VisionError: the manifest names no split, or an unknown one; or the group column is empty.
        """
        kind, _, column = self.by.partition(":")
        if kind == "content":
            return self._drawn(sha256)
        if kind == "uri":
            return self._drawn(ref.key)
        if kind == "manifest":
            return self._named(ref.split, "the manifest's split")
        value = ref.attributes.get(column)
        if kind == "column":
            return self._named(value, f"column {column!r}")
        if not value:
            raise VisionError(
                Reason.BAD_MANIFEST_ROW, f"no value in column {column!r}, by which --split_by keeps groups"
            )
        return self._drawn(value)

    def resolve(self, wanted: Iterable[str]) -> str:
        """The one split of all copies of one content: the last in the order of ``splits``."""
        order = list(self.splits)
        return max(wanted, key=order.index)

    def _drawn(self, text: str) -> str:
        point, reached = fraction(f"{self.seed}:{text}"), 0.0
        for name, share in self.splits.items():
            reached += share
            if point < reached:
                return name
        return [name for name, share in self.splits.items() if share > 0][-1]

    def _named(self, name: str | None, where: str) -> str:
        if not name:
            raise VisionError(Reason.UNKNOWN_SPLIT, f"{where} is empty; it must be one of {self._names()}")
        if name in self.splits:
            return name
        near = difflib.get_close_matches(name, self.splits, n=1, cutoff=0.3)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise VisionError(Reason.UNKNOWN_SPLIT, f"{where} {name!r} is none of {self._names()}{hint}")

    def _names(self) -> str:
        return ", ".join(self.splits)
