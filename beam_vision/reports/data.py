"""What a report shows, as plain values: no file is opened to draw it but the thumbnails of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from beam_vision.reports.detection_data import DetectionReport
from beam_vision.types import Failure


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One job of the run.

    Attributes:
      name: short, for people.
      command: what a user would type to run it.
      unit: what is counted: images, vectors, ...
      inputs, outputs, failed, already_done: its accounts; ``inputs`` is None for a job that keeps none.
      wall_sec: from its start to its end.
      parts_sec: seconds by part, summed over threads.
      note: anything worth a line.
    """

    name: str
    command: str
    unit: str = "images"
    inputs: int | None = None
    outputs: int = 0
    failed: int = 0
    already_done: int = 0
    wall_sec: float = 0.0
    parts_sec: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def accounted(self) -> bool:
        """Whether in = out + failed + already done."""
        return self.inputs is None or self.inputs == self.outputs + self.failed + self.already_done


@dataclass(frozen=True)
class Shown:
    """An image on the page.

    Attributes:
      key: of the image.
      uri: what to open for its thumbnail.
      label: the true label, or None.
      prediction: the top label, or None.
      score: of the prediction, 0..1.
    """

    key: str
    uri: str
    label: str | None = None
    prediction: str | None = None
    score: float | None = None

    @property
    def wrong(self) -> bool:
        """Whether the prediction is known to be wrong."""
        return None not in (self.label, self.prediction) and self.label != self.prediction


@dataclass(frozen=True)
class ClassSheet:
    """Images of one class: ``total`` in the table, of which ``correct`` were predicted right."""

    name: str
    total: int
    correct: int | None
    images: Sequence[Shown]


@dataclass(frozen=True)
class Hit:
    """A result of a search: ``score`` is the cosine similarity, higher is better."""

    image: Shown
    score: float


@dataclass(frozen=True)
class Query:
    """A search: the image asked for, its nearest neighbours and the command that finds them."""

    image: Shown
    hits: Sequence[Hit]
    command: str = ""


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one reason: how many, and the first of them by key."""

    reason: str
    total: int
    examples: Sequence[Failure]


@dataclass(frozen=True)
class Confusion:
    """How often an image of class ``labels[i]`` was taken for ``labels[j]``: ``counts[i][j]``."""

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """A titled list of names and values."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a page shows; an empty part is left out.

    Attributes:
      title: of the page.
      subtitle: what was run on what.
      highlights: a few figures with their names, for the top.
      classes_in_all: how many classes there are, when ``classes`` holds a part of them.
      detection: the detection part.
    """

    title: str
    subtitle: str = ""
    highlights: Sequence[tuple[str, str]] = ()
    stages: Sequence[StageRun] = ()
    classes: Sequence[ClassSheet] = ()
    classes_in_all: int = 0
    uncertain: Sequence[Shown] = ()
    queries: Sequence[Query] = ()
    failures: Sequence[FailureGroup] = ()
    confusion: Confusion | None = None
    detection: DetectionReport | None = None
    facts: Sequence[Facts] = ()
    notes: Sequence[str] = ()
