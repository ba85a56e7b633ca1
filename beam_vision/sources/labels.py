"""Labels against the list of known classes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import failure
from beam_vision.sources.checked import Checked
from beam_vision.types import Failure, ImageRef


def check_labels(labels: Sequence[str], classes: tuple[str, ...]) -> None:
    """Checks that each label is a known class; no classes: every label is.

    Raises:
      VisionError: ``unknown_label``, with the nearest known one.
    """
    unknown = [label for label in labels if label not in classes] if classes else []
    if unknown:
        raise VisionError(Reason.UNKNOWN_LABEL, _advice(unknown[0], classes))


def with_known_boxes(ref: ImageRef, classes: tuple[str, ...]) -> ImageRef:
    """The ref with each box of an unknown class turned into a fault ``unknown_category``.

    A box without a label passes; so does any box where no classes are given.
    """
    if not classes or all(box.label in classes for box in ref.boxes if box.label):
        return ref
    known = Checked(faults=list(ref.faults))
    for number, box in enumerate(ref.boxes, start=1):
        if box.label and box.label not in classes:
            error = VisionError(Reason.UNKNOWN_CATEGORY, _advice(box.label, classes))
            known.refuse(f"{ref.uri}: box {number}", error)
        else:
            known.boxes.append(box)
    return dataclasses.replace(ref, **known.fields)


def with_known_labels(found: Any, classes: tuple[str, ...]) -> Any:
    """What a source lists, with its labels and its boxes' checked; a ref with an unknown one is a Failure."""
    if isinstance(found, Failure):
        return found
    try:
        check_labels(found.labels, classes)
    except VisionError as error:
        return failure(error, found, Stage.SOURCE)
    return with_known_boxes(found, classes) if isinstance(found, ImageRef) else found


def known_are(names: Iterable[str]) -> str:
    """The first few of the known names, for a message."""
    first = list(itertools.islice(names, 6))
    more = ", ..." if len(first) > 5 else ""
    return f"known are {', '.join(first[:5])}{more}" if first else "none is known"


@functools.lru_cache(maxsize=1024)
def _advice(label: str, classes: tuple[str, ...]) -> str:
    by_lower = {known.lower(): known for known in classes}
    near = difflib.get_close_matches(label.lower(), by_lower, n=1)
    if near:
        return f"label {label!r} is no known class; the nearest is {by_lower[near[0]]!r}"
    return f"label {label!r} is no known class; {known_are(map(repr, classes))}"
