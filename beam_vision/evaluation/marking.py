"""For pictures: which detections are right at one score and one IoU; and the worst images of each class."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from beam_vision.evaluation.images import EvaluatedImage, by_class
from beam_vision.evaluation.matching import assign, by_score, corners_of, crowd_iou
from beam_vision.types import Box

MATCH_IOU = 0.5
HIT, FALSE_ALARM, MISS, TRUTH, NEITHER, CROWD = "hit", "false_alarm", "miss", "truth", "detection", "crowd"
ERRORS = (FALSE_ALARM, MISS)
IMAGES_A_CLASS = 6


@dataclass(frozen=True)
class Marked:
    """A box and what it is: a hit, a false alarm, a miss, a truth that was found, a crowd, or ``detection``:
    one in a crowd, which is neither right nor wrong."""

    box: Box
    kind: str


@dataclass(frozen=True)
class MarkedImage:
    """An image with its boxes."""

    key: str
    uri: str
    width_px: int
    height_px: int
    boxes: Sequence[Marked]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        boxes = [
            {
                "xyxy": [each.box.xmin, each.box.ymin, each.box.xmax, each.box.ymax],
                "label": each.box.label,
                "score": each.box.score if each.kind in (HIT, FALSE_ALARM, NEITHER) else None,
                "kind": each.kind,
            }
            for each in self.boxes
        ]
        size = {"width_px": self.width_px, "height_px": self.height_px}
        return {"key": self.key, "uri": self.uri, **size, "boxes": boxes}


def mark(truth: Sequence[Box], detections: Sequence[Box], cut: float) -> list[Marked]:
    """What each box of one image and class is, when detections below ``cut`` are left out.

    Matched as in :mod:`beam_vision.evaluation.matching` at :data:`MATCH_IOU`, for all sizes.
    """
    found = [box for box in detections if box.score >= cut]
    found = [found[i] for i in by_score(np.array([box.score for box in found], np.float64))]
    crowd = np.array([box.crowd for box in truth], bool)
    corners = corners_of(truth)
    ious = crowd_iou(corners_of(found), corners, crowd)
    taken = assign(ious, ~crowd[None], crowd, np.array([MATCH_IOU]))[0, 0]
    marked = []
    for box, of in zip(found, taken, strict=True):
        marked.append(Marked(box, FALSE_ALARM if of < 0 else NEITHER if crowd[of] else HIT))
    for number, box in enumerate(truth):
        marked.append(Marked(box, CROWD if box.crowd else TRUTH if number in taken else MISS))
    return marked


def pictures(image: EvaluatedImage, cut: float, labels: Collection[str]) -> Iterator[tuple[str, Worst]]:
    """(label, :class:`Worst` of this one image) for each class in which something is wrong.

    A picture has the boxes of its class, and those of other classes that lie where something is wrong: a
    miss and a false alarm at the same place are one object taken for another.

    Args:
      image: with size, truth and detections.
      cut: the least score that counts.
      labels: the classes that are evaluated.
    """
    if image.missing:
        return
    truth, detections = by_class(image.truth), by_class(image.detections)
    present = sorted({*truth, *detections} & {*labels})
    marked = {name: mark(truth.get(name, []), detections.get(name, []), cut) for name in present}
    for label, own in marked.items():
        wrong = [each.box for each in own if each.kind in ERRORS]
        if not wrong:
            continue
        others = [each for name in present if name != label for each in marked[name]]
        boxes = (*own, *_near(others, wrong))
        picture = MarkedImage(image.key, image.uri, image.width_px, image.height_px, boxes)
        yield label, Worst(1, len(wrong), [(len(wrong), image.key, picture)])


def _near(marked: Sequence[Marked], wrong: Sequence[Box]) -> list[Marked]:
    boxes = corners_of([each.box for each in marked])
    ious = crowd_iou(boxes, corners_of(wrong), np.zeros(len(wrong), bool))
    touched = np.any(ious >= MATCH_IOU, axis=1).tolist()
    return [each for each, near in zip(marked, touched, strict=True) if near]


@dataclass
class Worst:
    """The images of one class with most that is wrong; ties go by key.

    Attributes:
      images: how many have anything wrong.
      errors: misses and false alarms of the class in all of them.
      kept: the worst :data:`IMAGES_A_CLASS`, as (errors, key, picture), the worst first.
    """

    images: int = 0
    errors: int = 0
    kept: list[tuple[int, str, MarkedImage]] = field(default_factory=list)

    def absorb(self, other: Worst) -> Worst:
        """Takes what ``other`` kept, and gives itself."""
        self.images += other.images
        self.errors += other.errors
        self.kept = _first(self.kept + other.kept)
        return self


def _first(kept: Iterable[tuple[int, str, MarkedImage]]) -> list[tuple[int, str, MarkedImage]]:
    return heapq.nsmallest(IMAGES_A_CLASS, kept, key=lambda item: (-item[0], item[1]))
