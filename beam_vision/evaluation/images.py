"""One image's truth and detections -> a tally for each of its classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from beam_vision.digest import bucket
from beam_vision.evaluation.matching import corners_of, match, truth_of
from beam_vision.evaluation.summary import ClassMetrics, class_metrics
from beam_vision.evaluation.tally import ClassTally, tally_of
from beam_vision.types import Box

_PLACES = 2**62


@dataclass(frozen=True)
class EvaluatedImage:
    """An image of the truth, with what was predicted on it. All boxes are xyxy in pixels, upright.

    Attributes:
      key: of the image.
      uri: what to open.
      place: of the image among all, by which equal scores of different images are ordered.
      width_px, height_px: of the upright image; 0 when unknown.
      truth: the true boxes; ``area_px`` is NaN where only a share of an image of unknown size is known.
      detections: in the order in which the model gave them.
      missing: whether the table has no row for it.
    """

    key: str
    uri: str
    place: int
    width_px: int
    height_px: int
    truth: Sequence[Box] = ()
    detections: Sequence[Box] = ()
    missing: bool = False


def place_of(key: str, image_id: str | None = None) -> int:
    """The place of an image among all.

    Equal scores of two images are ordered by it, as pycocotools orders them by image id: so it is the id
    that the annotations give, and where they give none, a hash of the key, below 2**62.
    """
    try:
        place = int(image_id) if image_id is not None else -1
    except ValueError:
        place = -1
    return place if 0 <= place < 2**63 else bucket(key, _PLACES)


def by_class(boxes: Iterable[Box]) -> dict[str, list[Box]]:
    """Boxes by label, in the order given."""
    found: defaultdict[str, list[Box]] = defaultdict(list)
    for box in boxes:
        found[box.label].append(box)
    return found


def tallies(image: EvaluatedImage) -> Iterator[tuple[str, ClassTally]]:
    """(label, tally) for each class that the image has truth or detections of."""
    truth, detections = by_class(image.truth), by_class(image.detections)
    for label in sorted({*truth, *detections}):
        found = detections.get(label, [])
        scores = np.array([box.score for box in found], np.float64)
        matches = match(corners_of(found), scores, truth_of(truth.get(label, [])))
        yield label, tally_of(matches, image.place)


def evaluate(images: Iterable[EvaluatedImage]) -> list[ClassMetrics]:
    """The numbers of each class, by label: what the pipeline gives, in plain Python."""
    found: defaultdict[str, ClassTally] = defaultdict(ClassTally)
    for image in images:
        for label, tally in tallies(image):
            found[label].absorb(tally)
    return [class_metrics(label, found[label]) for label in sorted(found)]
