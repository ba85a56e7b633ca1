"""What an evaluation found -> ``metrics.json``, a table of classes and notes for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.evaluation import findings
from beam_vision.evaluation.findings import Findings
from beam_vision.evaluation.marking import MATCH_IOU
from beam_vision.evaluation.matching import AREA_RANGES_PX, IOU_THRESHOLDS, SIZES
from beam_vision.evaluation.summary import ClassMetrics, best_cut, class_metrics, headlines, mean_curves
from beam_vision.evaluation.tally import DETECTION_LIMITS, RECALLS, ClassTally

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "beam-vision evaluation"
METRICS_FILE = "metrics.json"
CLASSES_FILE = "classes.parquet"
REPORT_FILE = "report.html"

_NAMED = 10
_CURVES = ("curve50", "curve75", "curve")


@dataclass(frozen=True)
class Result:
    """What a run wrote, read back.

    Attributes:
      classes: every class that truth or detections name, by label.
      sheets: of pictures: ``label``, ``images``, ``errors``, ``pictures``.
      found: counts and examples.
      failures: what the dead letter holds: ``total``, ``by_reason``, ``files``.
    """

    classes: Sequence[ClassMetrics]
    sheets: Sequence[Mapping[str, Any]]
    found: Findings
    failures: Mapping[str, Any]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """Reads what :class:`~beam_vision.evaluation.transforms.WriteResult` wrote."""
        return cls(
            [ClassMetrics(**each) for each in value["classes"]],
            value["sheets"],
            Findings(**value["findings"]),
            value["failures"],
        )

    @property
    def evaluated(self) -> list[ClassMetrics]:
        """The classes that have truth; the others are in no mean."""
        return [each for each in self.classes if each.truths["all"]]

    @property
    def only_detected(self) -> list[ClassMetrics]:
        """The classes that have detections and no truth (or only crowds)."""
        return [each for each in self.classes if each.detections and not each.truths["all"]]

    @property
    def never_detected(self) -> list[ClassMetrics]:
        """The classes that have truth and no detections."""
        return [each for each in self.evaluated if not each.detections]


def to_json(result: Result, **facts: Any) -> dict[str, Any]:
    """The content of ``metrics.json``; ``facts`` (what was evaluated, which run) stand in it as they are."""
    cut = best_cut(result.classes)
    return {
        "kind": KIND,
        "task": "detect",
        **facts,
        "metrics": headlines(result.classes),
        "classes": [class_row(each) for each in result.classes],
        "curves": {
            "recall": RECALLS.tolist(),
            "mean": mean_curves(result.classes),
            "classes": {
                each.label: {name: list(getattr(each, name)) for name in (*_CURVES, "scores50")}
                for each in result.evaluated
            },
        },
        "best_f1": {"f1": cut[1], "score_threshold": cut[0], "iou": MATCH_IOU} if cut else None,
        "accounts": accounts(result),
        "examples": result.found.examples,
        "settings": {
            "iou_thresholds": [round(float(iou), 2) for iou in IOU_THRESHOLDS],
            "sizes_px2": dict(zip(SIZES, AREA_RANGES_PX.tolist(), strict=True)),
            "detection_limits": list(DETECTION_LIMITS),
        },
        "notes": notes(result),
    }


def class_row(each: ClassMetrics) -> dict[str, Any]:
    """One class as a flat row."""
    return {
        "label": each.label,
        "images": each.images,
        "truths": each.truths["all"],
        **{f"truths_{size}": each.truths[size] for size in SIZES[1:]},
        "detections": each.detections,
        **each.numbers,
        "best_f1": each.best_f1,
        "threshold": each.threshold,
    }


def class_table(result: Result) -> pa.Table:
    """The rows of all classes: integers and doubles, null where undefined."""
    import pyarrow as pa

    rows = [class_row(each) for each in result.classes]
    kinds = {"label": pa.string(), "images": pa.int64(), "detections": pa.int64()}
    names = class_row(class_metrics("", ClassTally())).keys()
    fields = [
        pa.field(name, kinds.get(name, pa.int64() if name.startswith("truths") else pa.float64()))
        for name in names
    ]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def accounts(result: Result) -> dict[str, Any]:
    """How many images and boxes there were, and what could not be used."""
    number = result.found.number
    return {
        "images": number(findings.IMAGES),
        "images_with_a_row": number(findings.COMMON),
        "images_missing": number(findings.MISSING),
        "rows": number(findings.ROWS),
        "rows_without_truth": number(findings.WITHOUT_TRUTH),
        "truths": number(findings.TRUTHS),
        "crowds": number(findings.CROWDS),
        "detections": number(findings.DETECTIONS),
        "unusable_detections": number(findings.UNUSABLE),
        "clipped": number(findings.CLIPPED),
        "faults": result.found.faults(),
    }


def notes(result: Result) -> list[str]:
    """What people should know before they believe the numbers."""
    found = result.found
    said = []
    for name, sentence in _SENTENCES.items():
        if found.number(name):
            examples = ", ".join(found.examples.get(name, ()))
            said.append(sentence.format(n=found.number(name), eg=f" (e.g. {examples})" if examples else ""))
    for reason, number in found.faults().items():
        example = found.examples[f"{findings.FAULT}:{reason}"][0]
        said.append(f"annotations that are not usable, {reason}: {number:,} (e.g. {example})")
    if result.only_detected:
        number = sum(each.detections for each in result.only_detected)
        said.append(
            f"labels of which the truth has no object: {_names(result.only_detected)}; detections of them, "
            f"which are in no number: {number:,}"
        )
    if result.never_detected:
        said.append(f"labels that were never predicted: {_names(result.never_detected)}")
    if result.only_detected and result.evaluated and len(result.never_detected) == len(result.evaluated):
        said.append("no label of the predictions is one of the truth: were they named differently?")
    return said


_SENTENCES = {
    findings.MISSING: "images of the truth without a row in the table: {n:,}{eg}; they count as without "
    "detections",
    findings.WITHOUT_TRUTH: "rows of the table without truth: {n:,}{eg}; left out",
    findings.CLIPPED: "true boxes that left their image and were cut at its edge: {n:,}",
    findings.UNUSABLE: "detections with a corner or score that isn't a finite number: {n:,}{eg}; left out",
    findings.SIZE_UNKNOWN: "images with relative boxes and of no known size: {n:,}{eg}; nothing can match "
    "their objects, which count among no size",
}


def _names(classes: Sequence[ClassMetrics]) -> str:
    names = [repr(each.label) for each in classes]
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def render(metrics: Mapping[str, Any], *, most_classes: int = 20) -> str:
    """The main numbers as a small table of text, the classes of lowest AP first."""
    numbers = metrics["metrics"]
    names = list(numbers)
    lines = [
        "  ".join(f"{name:>6} {_shown(numbers[name])}" for name in names[start : start + 3])
        for start in range(0, len(names), 3)
    ]
    rows = sorted(
        (row for row in metrics["classes"] if row["truths"]), key=lambda row: (row["mAP"], row["label"])
    )
    lines += ["", f"{'class':<24}{'truths':>9}{'detected':>9}{'AP':>8}{'AP50':>8}{'AR@100':>8}{'F1':>8}"]
    for row in rows[:most_classes]:
        values = "".join(f"{_shown(row[name]):>8}" for name in ("mAP", "AP50", "AR@100", "best_f1"))
        lines.append(f"{row['label'][:23]:<24}{row['truths']:>9,}{row['detections']:>9,}{values}")
    if len(rows) > most_classes:
        lines.append(f"... and {len(rows) - most_classes:,} classes more; see {CLASSES_FILE}")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "    -" if value is None else f"{value:.3f}"
