"""Labels against the list of known classes."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence

from beam_vision.errors import Reason, VisionError


def check_labels(labels: Sequence[str], classes: tuple[str, ...]) -> None:
    """Checks that each label is a known class; no classes: every label is.

    Raises:
      VisionError: ``unknown_label``, with the nearest known one.
    """
    unknown = [label for label in labels if label not in classes] if classes else []
    if unknown:
        raise VisionError(Reason.UNKNOWN_LABEL, _advice(unknown[0], classes))


@functools.lru_cache(maxsize=1024)
def _advice(label: str, classes: tuple[str, ...]) -> str:
    by_lower = {known.lower(): known for known in classes}
    near = difflib.get_close_matches(label.lower(), by_lower, n=1)
    if near:
        return f"label {label!r} is no known class; the nearest is {by_lower[near[0]]!r}"
    some = ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")
    return f"label {label!r} is no known class; known are {some}"
