"""From what the demo's jobs wrote to the report's page."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from beam_vision import __version__, storage, table
from beam_vision.reports import collect
from beam_vision.reports.data import Confusion, Facts, FailureGroup, Query, Report, StageRun
from beam_vision.reports.page import write_report

if TYPE_CHECKING:
    from beam_vision.pipelines.demo_stages import Places
    from beam_vision.reports.detection_data import DetectionReport

LAKE_NOTE = (
    "Crops of one photograph overlap, so the accuracy on the photographs shows that the line works, not how "
    "well a model does on photographs it never saw. The scanned digits are all different."
)


def write(
    places: Places,
    stages: Sequence[StageRun],
    queries: Sequence[Query],
    *,
    own_images: bool,
    detection: DetectionReport | None = None,
) -> int:
    """Writes the report; gives its size in bytes."""
    report = collect_report(places, stages, queries, own_images=own_images, detection=detection)
    return write_report(places.report, report)


def collect_report(
    places: Places,
    stages: Sequence[StageRun],
    queries: Sequence[Query],
    *,
    own_images: bool,
    detection: DetectionReport | None = None,
) -> Report:
    """What the report shows, from the table, the dead letter, the index and the model bundle; and what the
    detection part came to."""
    from beam_vision.training.export import TRAINING_FILE

    seen = collect.overview(collect.read_rows(places.table))
    training = storage.read_json(storage.join(places.model, TRAINING_FILE))
    index = storage.read_json(storage.join(places.index, "manifest.json"))
    predicted = storage.read_json(places.summary("predict"))
    where = storage.absolute(places.images)
    return Report(
        title=f"From {os.path.basename(where) or where} to a searchable table",
        subtitle=f"{predicted['inputs']:,} images, {seen.classes:,} classes, from {where}",
        highlights=[*_highlights(training, index, predicted, queries), *_detected(detection)],
        stages=stages,
        classes=seen.sheets,
        classes_in_all=seen.classes,
        uncertain=seen.uncertain,
        queries=queries,
        failures=_failures(predicted["failures"]),
        confusion=_confusion(training),
        detection=detection,
        facts=[*_facts(places, training, index), _machine()],
        notes=[] if own_images else [LAKE_NOTE],
    )


def _highlights(
    training: dict[str, Any], index: dict[str, Any], predicted: dict[str, Any], queries: Sequence[Query]
) -> list[tuple[str, str]]:
    found = []
    tested = training["evaluation"]
    if tested:
        what = f"accuracy on {tested['images']:,} held-out images ({tested['split']} split)"
        found.append((what, f"{tested['accuracy']:.1%}"))
    found.append(("recall@10 of the index, measured against exact search", f"{index['recall_at_10']:.3f}"))
    found.append(("images a second predicted, start included", f"{predicted['images_per_sec']:,.0f}"))
    found.append(("median time of a query in the index", f"{index['query_ms_median']:.2f} ms"))
    return found


def _detected(detection: DetectionReport | None) -> list[tuple[str, str]]:
    found = {line.name: line.value for line in detection.headlines} if detection else {}
    if found.get("AP50") is None:
        return []
    return [("AP50 of the detector on held-out scenes", f"{found['AP50']:.3f}")]


def _failures(folder: str) -> list[FailureGroup]:
    from beam_vision.sinks.failures import read_failures

    return collect.group_failures(read_failures(folder)) if storage.exists(folder) else []


def _confusion(training: dict[str, Any]) -> Confusion | None:
    tested = training["evaluation"]
    if not tested or "confusion" not in tested:
        return None
    caption = "Images of the test split, which training never saw."
    if tested["split"] != "test":
        caption = f"Images of the {tested['split']} split, by which training was stopped."
    return Confusion(training["labels"], tested["confusion"], caption)


def _facts(places: Places, training: dict[str, Any], index: dict[str, Any]) -> list[Facts]:
    made = table.read_manifest(places.table)
    runs = [
        (job, storage.read_json(places.summary(job))["run_id"])
        for job in ("create-tfrecords", "predict", "build-index")
    ]
    sizes = ", ".join(f"{name} {images:,}" for name, images in training["splits"].items())
    return [
        Facts("Runs", runs),
        Facts(
            "Dataset", [("folder", places.dataset), ("digest", training["dataset_digest"]), ("splits", sizes)]
        ),
        Facts(
            "Model",
            [
                ("bundle", places.model),
                ("digest", made.model_digest if made else ""),
                ("preprocessing digest", made.preprocessing_digest if made else ""),
                ("input", f"{training['image_size_px']} x {training['image_size_px']} px"),
                ("weights", f"{training['weights']:,}"),
                ("training", f"{len(training['epochs'])} epochs, {training['wall_sec']:.0f} s"),
            ],
        ),
        Facts(
            "Index",
            [
                ("folder", places.index),
                ("vectors", f"{index['rows']:,} of {index['dimension']} numbers"),
                ("backend", index["backend"]),
                ("recall@10", f"{index['recall_at_10']:.3f} (asked for {index['recall_target']})"),
                ("measured on", f"{index['recall_queries']:,} held-out queries"),
                ("a query", f"{index['query_ms_median']:.2f} ms (median)"),
            ],
        ),
    ]


def _machine() -> Facts:
    packages = ("apache-beam", "tensorflow", "scann", "duckdb", "pillow")
    versions = [(name, _version(name)) for name in packages]
    here = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return Facts(
        "Made with",
        [("beam-vision", __version__), ("python", platform.python_version()), *versions, ("machine", here)],
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
