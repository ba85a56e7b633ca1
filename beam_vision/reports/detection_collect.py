"""From a table of detections to sheets of pictures, where nobody knows the truth.

Samples are drawn by a hash of the key: the same in every run, and no larger for a larger table.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from beam_vision import storage, table
from beam_vision.digest import fraction
from beam_vision.errors import UsageError
from beam_vision.reports.collect import Lowest
from beam_vision.reports.detection_data import DetectionReport, DrawnBox, Scene, Sheet
from beam_vision.reports.markup import amount

SCORE_THRESHOLD = 0.3
SCENES_PER_LABEL = 6
MAX_LABELS = 20
BATCH_ROWS = 4096
SAMPLE = "a sample, the same in every run."

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_COLUMNS = ("key", "uri", "width", "height", "boxes", "box", *_CORNERS, "prediction", "score")


def read_scenes(folder: str) -> Iterator[Scene]:
    """The images of a table with their detections, whether a row is an image or a box.

    Boxes with a corner or a score that isn't finite are left out.

    Raises:
      UsageError: there is no table at ``folder``, or it has no boxes.
    """
    for path in table.part_paths(folder):
        rows = _rows(path)
        for key, group in itertools.groupby(rows, key=lambda row: row["key"]):
            of_image = list(group)
            first = of_image[0]
            boxes = [box for row in of_image for box in _boxes(row)]
            yield Scene(
                key, first.get("uri") or key, first.get("width") or 0, first.get("height") or 0, boxes
            )


def _rows(path: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        part = pq.ParquetFile(file)
        present = [name for name in _COLUMNS if name in part.schema_arrow.names]
        if "boxes" not in present and not {*_CORNERS} <= {*present}:
            raise UsageError(f"{path} has no boxes: `beam-vision predict --task detect` makes such tables")
        for batch in part.iter_batches(batch_size=BATCH_ROWS, columns=present):
            yield from batch.to_pylist()


def _boxes(row: Mapping[str, Any]) -> Iterator[DrawnBox]:
    """The boxes of a row of either kind."""
    found = row["boxes"] or () if "boxes" in row else ({**row, "label": row["prediction"]},)
    for box in found:
        numbers = [box[name] for name in (*_CORNERS, "score")]
        if all(number is not None and math.isfinite(number) for number in numbers):
            *corners, score = numbers
            yield DrawnBox((corners[0], corners[1], corners[2], corners[3]), box["label"] or "", score)


@dataclass(frozen=True)
class Detections:
    """What a pass over scenes found.

    Attributes:
      images: scenes seen.
      empty: scenes without a box that is drawn.
      boxes: boxes drawn, by label, the most frequent first.
      sheets: a sample of the scenes of each label, and of those without boxes.
    """

    images: int
    empty: int
    boxes: dict[str, int]
    sheets: list[Sheet]


def overview(
    scenes: Iterable[Scene],
    *,
    score_threshold: float = SCORE_THRESHOLD,
    per_label: int = SCENES_PER_LABEL,
    max_labels: int = MAX_LABELS,
) -> Detections:
    """One pass over scenes; keeps a bounded number of them for each label.

    Args:
      scenes: as of :func:`read_scenes`.
      score_threshold: boxes below it are left out.
      per_label: scenes on a sheet, at most.
      max_labels: sheets, at most: those of the most frequent labels.
    """
    images, empty = 0, 0
    boxes: Counter[str] = Counter()
    having: Counter[str] = Counter()
    samples: defaultdict[str | None, Lowest[Scene]] = defaultdict(lambda: Lowest(per_label))
    for scene in scenes:
        drawn = [box for box in scene.boxes if box.score is None or box.score >= score_threshold]
        scene = replace(scene, boxes=drawn)
        images += 1
        empty += not drawn
        boxes.update(box.label for box in drawn)
        labels: set[str | None] = {box.label for box in drawn}
        for label in labels or {None}:
            having[label or ""] += label is not None
            samples[label].offer(fraction(scene.key), scene.key, scene)
    counted = dict(sorted(boxes.items(), key=lambda item: (-item[1], item[0])))
    sheets = [
        Sheet(
            label or "(no label)",
            f"{counted[label]:,} in {amount(having[label], 'image')}; {SAMPLE}",
            samples[label].images(),
            having[label],
        )
        for label in itertools.islice(counted, max_labels)
    ]
    if empty:
        said = f"Images without a detection from a score of {score_threshold:g}; {SAMPLE}"
        sheets.append(Sheet("Nothing detected", said, samples[None].images(), empty))
    return Detections(images, empty, counted, sheets)


def report_of(folder: str, *, title: str = "", score_threshold: float = SCORE_THRESHOLD) -> DetectionReport:
    """The report of a table of detections.

    Raises:
      UsageError: there is no table at ``folder``, or it has no boxes.
    """
    found = overview(read_scenes(folder), score_threshold=score_threshold)
    total = sum(found.boxes.values())
    return DetectionReport(
        title=title or "Detections",
        subtitle=f"{amount(total, 'detection')} of {amount(len(found.boxes), 'class', 'classes')} in "
        f"{amount(found.images, 'image')}; {found.empty:,} without any",
        sheets=found.sheets,
        score_threshold=score_threshold,
    )
