"""From a table and a dead letter to what a report shows.

Samples are drawn by a hash of the key: the same in every run, and no larger for a larger lake.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from beam_vision import storage, table
from beam_vision.digest import fraction
from beam_vision.reports.data import ClassSheet, FailureGroup, Shown
from beam_vision.types import Failure

T = TypeVar("T")

MAX_CLASSES = 40
IMAGES_PER_CLASS = 10
MAX_WRONG_PER_CLASS = 4
MAX_UNCERTAIN = 20
MAX_EXAMPLES = 5
BATCH_ROWS = 65_536


def read_rows(folder: str) -> Iterator[Shown]:
    """The rows of a table, part by part, without their embeddings.

    Raises:
      UsageError: there is no table at ``folder``.
    """
    import pyarrow.parquet as pq

    wanted = [field.name for field in fields(Shown)]
    for path in table.part_paths(folder):
        with storage.open_read(path) as file:
            part = pq.ParquetFile(file)
            present = [name for name in wanted if name in part.schema_arrow.names]
            for batch in part.iter_batches(batch_size=BATCH_ROWS, columns=present):
                for row in batch.to_pylist():
                    yield Shown(**row)


class Lowest(Generic[T]):
    """Keeps the ``most`` items of lowest rank, of any number offered; ties go by key."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.heap: list[tuple[float, str, T]] = []

    def offer(self, rank: float, key: str, image: T) -> None:
        """Keeps ``image`` if its rank is among the lowest so far."""
        item = (-rank, key, image)
        if len(self.heap) < self.most:
            heapq.heappush(self.heap, item)
        elif item > self.heap[0]:
            heapq.heapreplace(self.heap, item)

    def images(self) -> list[T]:
        """What was kept, lowest rank first."""
        return [image for _, _, image in sorted(self.heap, key=lambda item: (-item[0], item[1]))]


@dataclass(frozen=True)
class Overview:
    """What a pass over a table's rows found.

    Attributes:
      sheets: a sample of each class (of the true label; of the prediction where there is no truth).
      classes: how many classes there are in all; ``sheets`` holds those most often wrong when there are many.
      uncertain: the images with the lowest top score, lowest first.
      labelled: rows with both a true label and a prediction.
      correct: how many of these agree.
    """

    sheets: list[ClassSheet]
    classes: int
    uncertain: list[Shown]
    labelled: int
    correct: int


def overview(rows: Iterable[Shown], *, max_classes: int = MAX_CLASSES) -> Overview:
    """One pass over the rows; keeps a bounded number of them."""
    totals: Counter[str] = Counter()
    known: Counter[str] = Counter()
    right: Counter[str] = Counter()
    samples: defaultdict[str, Lowest[Shown]] = defaultdict(lambda: Lowest(IMAGES_PER_CLASS))
    wrongs: defaultdict[str, Lowest[Shown]] = defaultdict(lambda: Lowest(MAX_WRONG_PER_CLASS))
    uncertain: Lowest[Shown] = Lowest(MAX_UNCERTAIN)
    for row in rows:
        name = row.label or row.prediction or "(no label)"
        totals[name] += 1
        if row.label is not None and row.prediction is not None:
            known[name] += 1
            right[name] += not row.wrong
        (wrongs if row.wrong else samples)[name].offer(fraction(row.key), row.key, row)
        if row.score is not None:
            uncertain.offer(row.score, row.key, row)
    shown = sorted(totals, key=lambda name: (right[name] - known[name], name))[:max_classes]
    sheets = [
        ClassSheet(
            name, totals[name], right[name] if known[name] else None, _mixed(wrongs[name], samples[name])
        )
        for name in sorted(shown)
    ]
    return Overview(sheets, len(totals), uncertain.images(), sum(known.values()), sum(right.values()))


def _mixed(wrong: Lowest[Shown], rest: Lowest[Shown]) -> list[Shown]:
    return (wrong.images() + rest.images())[:IMAGES_PER_CLASS]


def group_failures(failures: Iterable[Failure], *, max_examples: int = MAX_EXAMPLES) -> list[FailureGroup]:
    """A dead letter by reason, the most frequent first; each with its first files by key."""
    totals: Counter[str] = Counter()
    kept: defaultdict[str, dict[str, Failure]] = defaultdict(dict)
    for failure in failures:
        totals[failure.reason] += 1
        group = kept[failure.reason]
        group[failure.key] = failure
        if len(group) > max_examples:
            del group[max(group)]
    return [
        FailureGroup(reason, total, [kept[reason][key] for key in sorted(kept[reason])])
        for reason, total in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    ]


def query_images(rows: Iterable[Shown], most: int) -> list[Shown]:
    """Images to search for: one of each of ``most`` classes, the same in every run."""
    first: dict[str, tuple[float, Shown]] = {}
    for row in rows:
        name = row.label or row.prediction or ""
        rank = fraction(f"query {row.key}")
        if name not in first or rank < first[name][0]:
            first[name] = (rank, row)
    ranked = sorted(first, key=lambda name: (fraction(f"class {name}"), name))[:most]
    return [first[name][1] for name in sorted(ranked)]
