"""Evaluation as PTransforms: a join by key, a tally by class. Opens no image and nowhere holds all boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

from beam_vision import coders, metrics, storage
from beam_vision.evaluation import detected, findings, images, joining, marking, summary, warehouse
from beam_vision.evaluation.detected import Detected
from beam_vision.evaluation.findings import Finding, Findings
from beam_vision.evaluation.images import EvaluatedImage
from beam_vision.evaluation.marking import Worst
from beam_vision.evaluation.summary import ClassMetrics
from beam_vision.evaluation.tally import ClassTally
from beam_vision.failures import FAILED
from beam_vision.types import Failure, ImageRef

for _row in (Detected, EvaluatedImage):
    coders.register_row(_row)

MAX_SHEETS = 12
"""Classes of which pictures are kept: those with most misses and false alarms."""

_FOUND = "found"


class Joined(NamedTuple):
    """What :class:`JoinTruth` gives.

    Attributes:
      images: PCollection of EvaluatedImage: every image of the truth, with or without a row.
      failed: PCollection of Failure.
      findings: PCollection of exactly ONE Findings.
    """

    images: beam.PCollection
    failed: beam.PCollection
    findings: beam.PCollection


class ReadDetected(beam.PTransform):
    """PBegin -> PCollection[Detected]: the rows of a table, file by file.

    Args:
      paths: the Parquet files.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self._paths = list(paths)

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Shares the files out and reads them."""
        return (
            begin
            | "Files" >> beam.Create(self._paths)
            | "ShareFiles" >> beam.Reshuffle()
            | "ReadRows" >> beam.FlatMap(detected.read_detected).with_output_types(Detected)
        )


class ReadWarehouseDetected(beam.PTransform):
    """PBegin -> PCollection[Detected]: the rows of a table in BigQuery, stream by stream.

    Args:
      place: ``bigquery://project.dataset.table``.
    """

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Shares the streams out and reads them; they are of one moment."""
        return (
            begin
            | "Table" >> beam.Create([self._place])
            | "OpenStreams" >> beam.FlatMap(warehouse.open_streams)
            | "ShareStreams" >> beam.Reshuffle()
            | "ReadRows" >> beam.FlatMap(warehouse.read_detected).with_output_types(Detected)
        )


class JoinTruth(beam.PTransform):
    """(PCollection[ImageRef | Failure], PCollection[Detected]) -> :class:`Joined`, by key.

    Args:
      run_id: stands in each failure.
    """

    def __init__(self, *, run_id: str = "") -> None:
        super().__init__()
        self._run_id = run_id

    def expand(self, both: tuple[beam.PCollection, beam.PCollection]) -> Joined:
        """One shuffle, of refs and rows without their images."""
        truth, rows = both
        read = truth | "Truth" >> beam.ParDo(_KeyTruth(self._run_id)).with_outputs(
            FAILED, _FOUND, main="refs"
        )
        keyed = {
            "refs": read.refs,
            "rows": rows | "KeyRows" >> beam.Map(_by_key).with_output_types(tuple[str, Detected]),
        }
        joined = (
            keyed
            | "ByKey" >> beam.CoGroupByKey()
            | "Join" >> beam.ParDo(_Join(self._run_id)).with_outputs(FAILED, _FOUND, main="images")
        )
        return Joined(
            images=joined.images,
            failed=(read[FAILED], joined[FAILED]) | "AllFailed" >> beam.Flatten(),
            findings=(read[_FOUND], joined[_FOUND])
            | "AllFound" >> beam.Flatten()
            | "Findings" >> beam.CombineGlobally(CombineFindings()),
        )


class MeasureClasses(beam.PTransform):
    """PCollection[EvaluatedImage] -> PCollection[ClassMetrics], one for each class."""

    def expand(self, evaluated: beam.PCollection) -> beam.PCollection:
        """Matches image by image; all that is shuffled is 23 bytes a detection, by class."""
        return (
            evaluated
            | "Match" >> beam.FlatMap(images.tallies).with_output_types(tuple[str, ClassTally])
            | "Tally" >> beam.CombinePerKey(CombineTallies())
            | "Measure" >> beam.MapTuple(summary.class_metrics).with_output_types(ClassMetrics)
        )


class PickPictures(beam.PTransform):
    """(PCollection[EvaluatedImage], PCollection[ClassMetrics]) -> PCollection[(label, Worst)], few.

    The cut is that of best F1 over all classes, see :func:`~beam_vision.evaluation.summary.best_cut`.
    """

    def expand(self, both: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection:
        """Marks boxes once the cut is known, and keeps the worst images of the worst classes."""
        evaluated, classes = both
        once = evaluated.pipeline | "Once" >> beam.Create([None])
        cut = once | "Cut" >> beam.Map(_cut, AsList(classes))
        return (
            evaluated
            | "Mark" >> beam.FlatMap(_marked, AsSingleton(cut)).with_output_types(tuple[str, Worst])
            | "Worst" >> beam.CombinePerKey(CombineWorst())
            | "Sheets" >> beam.combiners.Top.Of(MAX_SHEETS, key=_wrong)
            | "EachSheet" >> beam.FlatMap(list)
        )


class WriteResult(beam.PTransform):
    """Writes everything that an evaluation found as one JSON file; gives its path, once.

    Args:
      path: of the file.
      joined: of :class:`JoinTruth`.
      failures: PCollection of ONE dict, when the failures were written.
    """

    def __init__(self, path: str, *, joined: Joined, failures: beam.PCollection) -> None:
        super().__init__()
        self._path = path
        self._joined = joined
        self._failures = failures

    def expand(self, both: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection:
        """Takes classes and pictures as they are: a few kilobytes a class."""
        classes, sheets = both
        return (
            classes.pipeline
            | "Once" >> beam.Create([self._path])
            | "Write"
            >> beam.Map(
                _write,
                AsList(classes),
                AsList(sheets),
                AsSingleton(self._joined.findings),
                AsSingleton(self._failures),
            )
        )


class CombineTallies(beam.CombineFn):
    """ClassTally -> ClassTally: the matches of one class, in any order of merging; 23 bytes a detection."""

    def create_accumulator(self) -> ClassTally:
        """Nothing yet."""
        return ClassTally()

    def add_input(self, accumulator: ClassTally, tally: ClassTally) -> ClassTally:
        """Takes one image's."""
        return accumulator.absorb(tally)

    def merge_accumulators(self, accumulators: Iterable[ClassTally]) -> ClassTally:
        """Takes those of several workers."""
        whole = ClassTally()
        for accumulator in accumulators:
            whole.absorb(accumulator)
        return whole

    def extract_output(self, accumulator: ClassTally) -> ClassTally:
        """As it is."""
        return accumulator


class CombineFindings(beam.CombineFn):
    """Finding -> Findings."""

    def create_accumulator(self) -> Findings:
        """Nothing yet."""
        return Findings()

    def add_input(self, accumulator: Findings, finding: Finding) -> Findings:
        """Counts one."""
        return accumulator.add(finding)

    def merge_accumulators(self, accumulators: Iterable[Findings]) -> Findings:
        """Adds up."""
        whole = Findings()
        for accumulator in accumulators:
            whole.absorb(accumulator)
        return whole

    def extract_output(self, accumulator: Findings) -> Findings:
        """As it is."""
        return accumulator


class CombineWorst(beam.CombineFn):
    """Worst -> Worst: keeps a few pictures of a class."""

    def create_accumulator(self) -> Worst:
        """Nothing yet."""
        return Worst()

    def add_input(self, accumulator: Worst, worst: Worst) -> Worst:
        """Offers one image's."""
        return accumulator.absorb(worst)

    def merge_accumulators(self, accumulators: Iterable[Worst]) -> Worst:
        """Keeps the worst of all."""
        whole = Worst()
        for accumulator in accumulators:
            whole.absorb(accumulator)
        return whole

    def extract_output(self, accumulator: Worst) -> Worst:
        """As it is."""
        return accumulator


class _KeyTruth(beam.DoFn):
    """ImageRef | Failure -> (key, ImageRef), or Failure under ``failed``; a Finding each under ``found``."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def process(self, read: ImageRef | Failure) -> Iterator[Any]:
        metrics.count(metrics.LISTED)
        yield TaggedOutput(_FOUND, Finding(findings.LISTED))
        if isinstance(read, ImageRef):
            yield read.key, read
        else:
            yield _failed(read, self._run_id)


class _Join(beam.DoFn):
    """(key, refs and rows) -> EvaluatedImage; Failure under ``failed``; Finding under ``found``."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def process(self, element: tuple[str, dict[str, Iterable]]) -> Iterator[Any]:
        key, both = element
        for out in joining.join(key, list(both["refs"]), list(both["rows"])):
            if isinstance(out, Failure):
                yield _failed(out, self._run_id)
            elif isinstance(out, Finding):
                yield TaggedOutput(_FOUND, out)
            else:
                metrics.count(metrics.DONE)
                yield out


def _failed(failure: Failure, run_id: str) -> TaggedOutput:
    metrics.count_failure(failure.reason)
    values = {**vars(failure), "run_id": failure.run_id or run_id}
    return TaggedOutput(FAILED, Failure(**values))


def _by_key(row: Detected) -> tuple[str, Detected]:
    return row.key, row


def _cut(_: None, classes: list[ClassMetrics]) -> tuple[float, frozenset[str]]:
    """The score to cut at, and the classes that are evaluated."""
    best = summary.best_cut(classes)
    return best[0] if best else 0.0, frozenset(each.label for each in classes if each.truths["all"])


def _marked(image: EvaluatedImage, cut: tuple[float, frozenset[str]]) -> Iterator[tuple[str, Worst]]:
    return marking.pictures(image, *cut)


def _wrong(sheet: tuple[str, Worst]) -> tuple[int, str]:
    label, worst = sheet
    return worst.errors, label


def _write(
    path: str,
    classes: list[ClassMetrics],
    sheets: list[tuple[str, Worst]],
    found: Findings,
    failures: dict[str, Any],
) -> str:
    result = {
        "classes": [each.to_json() for each in sorted(classes, key=lambda each: each.label)],
        "sheets": [
            {
                "label": label,
                "images": worst.images,
                "errors": worst.errors,
                "pictures": [picture.to_json() for _, _, picture in worst.kept],
            }
            for label, worst in sorted(sheets, key=lambda pair: (-pair[1].errors, pair[0]))
        ],
        "findings": {"numbers": found.numbers, "examples": found.examples},
        "failures": failures,
    }
    storage.write_json(path, result)
    return path
