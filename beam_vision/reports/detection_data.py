"""What a report of a detector shows, as plain values. Boxes are xyxy in pixels of the upright image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from beam_vision.errors import UsageError

KINDS = ("hit", "false_alarm", "miss", "truth", "detection", "crowd")
"""What a box on a picture can be; see :class:`DrawnBox`."""

RECALL_POINTS = tuple(i / 100 for i in range(101))
"""COCO's 101 recall points, at which precision is read."""


@dataclass(frozen=True)
class DrawnBox:
    """A box on a picture.

    Attributes:
      xyxy: (xmin, ymin, xmax, ymax) in pixels of the original upright image.
      label: its class.
      score: of a detection, 0..1; None for a true box.
      kind: ``hit`` (a detection that has its true object), ``false_alarm`` (one that has none), ``miss``
        (a true object without a detection), ``truth``, ``detection`` (nobody knows whether it is right) or
        ``crowd`` (a region of many objects, in which detections are neither right nor wrong).
    """

    xyxy: tuple[float, float, float, float]
    label: str
    score: float | None = None
    kind: str = "detection"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"kind is {self.kind!r}: use one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Scene:
    """An image with the boxes to draw on it.

    Attributes:
      key: of the image.
      uri: what to open.
      width_px: width of the upright image; 0 when unknown (then the file's own size is taken).
      height_px: its height.
      boxes: in any order.
    """

    key: str
    uri: str
    width_px: int
    height_px: int
    boxes: Sequence[DrawnBox] = ()

    def of_size(self, width_px: int, height_px: int) -> Scene:
        """Itself; with this size when its own is unknown."""
        known = self.width_px > 0 and self.height_px > 0
        return self if known else replace(self, width_px=width_px, height_px=height_px)

    def count(self, kind: str) -> int:
        """How many of its boxes are of ``kind``."""
        return sum(box.kind == kind for box in self.boxes)


@dataclass(frozen=True)
class Sheet:
    """Scenes that belong together, e.g. those with most misses.

    Attributes:
      name: of the sheet.
      explanation: one sentence: how the scenes were chosen.
      scenes: in the order to show.
      total: how many there are in all, when ``scenes`` is a part of them; 0 when it holds all.
    """

    name: str
    explanation: str
    scenes: Sequence[Scene]
    total: int = 0


class Headline(NamedTuple):
    """A figure for the top: ``value`` is in 0..1, None where it isn't defined (no object of that size)."""

    name: str
    value: float | None
    explanation: str = ""


@dataclass(frozen=True)
class ClassRow:
    """One class: counts of boxes, and its metrics in 0..1 (None where the class has no true object)."""

    label: str
    truth: int
    detections: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ar: float | None


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve.

    Attributes:
      label: the class; None for the mean over classes.
      iou: the IoU from which a detection counts as right.
      precision: at each recall of ``recall``, 0..1; interpolated as COCO does (never rising).
      recall: 0..1, rising.
    """

    label: str | None
    iou: float
    precision: Sequence[float]
    recall: Sequence[float] = RECALL_POINTS

    def __post_init__(self) -> None:
        if len(self.precision) != len(self.recall):
            raise UsageError(
                f"a curve has {len(self.precision)} precisions for {len(self.recall)} recall points"
            )

    @property
    def ap(self) -> float:
        """The mean precision over the recall points: COCO's average precision at this IoU."""
        return sum(self.precision) / len(self.precision) if self.precision else 0.0


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """What was evaluated: every true image is ``evaluated`` or ``missing``.

    Attributes:
      evaluated: images with both truth and a row of predictions.
      missing: images with truth and no row (each true object in them counts as missed).
      without_truth: rows of images that the truth doesn't know; left out.
      faults: annotations that could not be used.
      faults_by_reason: the same, by reason.
    """

    evaluated: int = 0
    missing: int = 0
    without_truth: int = 0
    faults: int = 0
    faults_by_reason: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DetectionReport:
    """All that a detection page shows; an empty part is left out.

    Attributes:
      title: of the page.
      subtitle: which model on which images.
      headlines: mAP@[.5:.95], AP50, AP75, AP by size, AR@1, 10, 100.
      classes: a row for each class.
      curves: by class and for the mean, at one or more IoUs.
      sheets: pictures.
      accounts: what was evaluated; None without truth.
      score_threshold: detections below it are not drawn (metrics take all); None when all are.
      match_iou: the IoU from which a drawn detection is a hit; None without truth.
      notes: sentences for the foot of the page.
    """

    title: str
    subtitle: str = ""
    headlines: Sequence[Headline] = ()
    classes: Sequence[ClassRow] = ()
    curves: Sequence[Curve] = ()
    sheets: Sequence[Sheet] = ()
    accounts: Accounts | None = None
    score_threshold: float | None = None
    match_iou: float | None = None
    notes: Sequence[str] = ()
