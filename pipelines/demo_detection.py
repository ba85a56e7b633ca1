"""The detection part of the demo: scenes -> TFRecords -> a detector -> boxes -> COCO's metrics and pictures.

The scenes of the test split show digits and photographs that no other scene shows.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps, storage
from beam_vision.pipelines import evaluate
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.demo_stages import Places, as_typed, run_stage
from beam_vision.pipelines.options import make_parser, parse
from beam_vision.records.manifest import DatasetManifest, read_manifest
from beam_vision.reports.data import StageRun

if TYPE_CHECKING:
    import tensorflow as tf

    from beam_vision.reports.detection_data import DetectionReport

TRAIN, TEST = "train", "test"
SPLITS = f"{TRAIN}=0.85,{TEST}=0.15"
SIDE_PX = 128
BATCH_SIZE = 8
EPOCHS = 6
LEARNING_RATE = 5e-3
CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Detection:
    """What the part came to."""

    stages: list[StageRun]
    report: DetectionReport


def places_of(output: str) -> Places:
    """Where this part's things are."""
    folder = storage.join(output, "detection")
    return Places(folder, storage.join(folder, "scenes"))


def commands(at: Places, scenes: int) -> dict[str, list[str]]:
    """The jobs by name, as a user would type them; a detector is trained before ``predict``."""
    held_out = storage.join(at.dataset, f"{TEST}-*.tfrecord")
    return {
        "scenes": [
            *("synth-detection", "--output", at.images, "--count", str(scenes), "--splits", SPLITS),
            *("--size", f"{SIDE_PX}x{SIDE_PX}", "--objects", "3-8", "--scale", "0.18-0.4"),
            *("--min_visible", "0.7", "--summary", at.summary("synth-detection")),
        ],
        "dataset": [
            *("create-tfrecords", "--images", storage.join(at.images, "annotations.json")),
            *("--output", at.dataset, "--splits", SPLITS, "--split_by", "manifest"),
            *("--summary", at.summary("create-tfrecords")),
        ],
        "predict": [
            *("predict", "--task", "detect", "--images", held_out, "--model", at.model),
            *("--output", at.table, "--summary", at.summary("predict")),
        ],
        "evaluate": [
            *("evaluate", "--task", "detect", "--predictions", at.table, "--truth", held_out),
            *("--output", storage.join(at.output, "evaluation"), "--summary", at.summary("evaluate")),
        ],
    }


def run(output: str, *, scenes: int, max_seconds: float) -> Detection:
    """Runs the part.

    Args:
      output: the demo's folder.
      scenes: how many to make.
      max_seconds: of training, at most.
    """
    at = places_of(output)
    todo = commands(at, scenes)
    stages = [run_stage(todo["scenes"], at), run_stage(todo["dataset"], at)]
    start = time.monotonic()
    note = train(at, max_seconds=max_seconds)
    stages.append(StageRun(name="train a detector", command="", wall_sec=time.monotonic() - start, note=note))
    stages.append(run_stage(todo["predict"], at))
    measured, report = measure(todo["evaluate"], at)
    return Detection([dataclasses.replace(stage, unit="scenes") for stage in (*stages, measured)], report)


def train(at: Places, *, max_seconds: float, tell: Callable[[str], None] = jobs.say) -> str:
    """Trains a detector on the train split and writes its bundle; gives a line about it."""
    from beam_vision.training.detector import build_detector
    from beam_vision.training.detector_export import export_detector
    from beam_vision.training.detector_fit import fit_detector
    from beam_vision.training.fit import FitSettings

    start = time.monotonic()
    manifest = read_manifest(at.dataset)
    labels = list(manifest.box_classes)
    images = manifest.splits[TRAIN].images
    settings = FitSettings(epochs=EPOCHS, max_seconds=max_seconds, learning_rate=LEARNING_RATE)
    model = build_detector(SIDE_PX, SIDE_PX, len(labels))
    tell(
        f"\ntraining a detector on {images:,} scenes, {len(labels)} classes, {model.count_params():,} weights"
    )
    epochs = fit_detector(
        model,
        batches(at, manifest),
        settings,
        steps=math.ceil(images / BATCH_SIZE),
        tell=lambda epoch: tell(f"epoch {epoch.number:>3}  {epoch.seconds:>6.1f} s  loss {epoch.loss:.3f}"),
    )
    facts = {
        "dataset": storage.absolute(at.dataset),
        "dataset_digest": manifest.dataset_digest,
        "labels": labels,
        "scenes": images,
        "weights": model.count_params(),
        "settings": {**dataclasses.asdict(settings), "batch_size": BATCH_SIZE},
        "epochs": [dataclasses.asdict(epoch) for epoch in epochs],
        "wall_sec": round(time.monotonic() - start, 2),
    }
    spec = export_detector(model, at.model, labels=labels, training=facts, overwrite=True)
    tell(f"bundle {at.model}: model {spec.model_digest}, preprocessing {spec.preprocessing_digest}")
    return f"{len(epochs)} epochs over {images:,} scenes"


def batches(at: Places, manifest: DatasetManifest) -> tf.data.Dataset:
    """One pass over the train split, in another order each time: as
    :func:`beam_vision.training.detector_fit.fit_detector` takes it."""
    from beam_vision.records.reader import load_dataset

    tf = deps.need("tensorflow")
    data = load_dataset(
        at.dataset,
        TRAIN,
        batch_size=BATCH_SIZE,
        image_size=(SIDE_PX, SIDE_PX),
        targets="boxes",
        shuffle=True,
        cache=manifest.splits[TRAIN].images * 3 * SIDE_PX**2 <= CACHE_BYTES,
    )
    return data.map(lambda images, truth: (tf.cast(images, tf.uint8), truth["boxes"], truth["labels"]))


def measure(command: list[str], at: Places) -> tuple[StageRun, DetectionReport]:
    """Runs ``evaluate`` as the command line would; gives its accounts and what its page shows."""
    from beam_vision.pipelines.evaluate_report import report_of

    jobs.say(f"\n$ {as_typed(command)}")
    parser = make_parser(
        evaluate.NAME, evaluate.Options, description=evaluate.DESCRIPTION, example=evaluate.EXAMPLE
    )
    start = time.monotonic()
    found, metrics = evaluate.evaluate(*parse(parser, evaluate.Options, command[1:]))
    wall_sec = time.monotonic() - start
    made = storage.read_json(at.summary(command[0]))
    accounts: dict[str, Any] = {name: made[name] for name in ("inputs", "outputs", "failed", "already_done")}
    stage = StageRun(name=command[0], command=as_typed(command), wall_sec=wall_sec, **accounts)
    return stage, report_of(found, metrics)
