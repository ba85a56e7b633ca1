"""From a trained model to a published bundle: written, checked against serving, measured, past the gate."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.images.codec import DecodeSettings, decode
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.spec import ModelSpec
from beam_vision.pipelines.train_check import Serve, check_serving, some_records
from beam_vision.records.example import from_example
from beam_vision.records.manifest import DatasetManifest, read_manifest
from beam_vision.tfrecord_io import Example
from beam_vision.training import serving_check
from beam_vision.training.config import ExportConfig, JobConfig
from beam_vision.training.gate import Verdict, judge, parse_gate
from beam_vision.training.job import Trained
from beam_vision.training.publish import latest_version, next_version, promote, put_in_place

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
      path: the bundle's folder.
      spec: its.
      check: how far serving is from the trainer; None where there were no images to compare by.
      lite: kind -> figures of the TensorFlow Lite models.
      verdict: of the gate; None where the bundle isn't a version.
    """

    path: str
    spec: ModelSpec
    check: serving_check.ServingCheck | None = None
    lite: dict[str, dict[str, float]] = field(default_factory=dict)
    verdict: Verdict | None = None


def check_export(config: ExportConfig, *, task: str = "classify") -> None:
    """Checks what can be known before the training.

    Raises:
      UsageError: the gate can't be read, or has nothing to hold; the bundle can't go where it should; or
        TensorFlow Lite can't hold a model of this task.
    """
    if task == "detect" and config.tflite:
        raise UsageError(
            f"export.tflite {', '.join(config.tflite)}: not for task detect: TensorFlow Lite's interpreter "
            "has no operation that suppresses boxes (CombinedNonMaxSuppression); leave it out"
        )
    gate = parse_gate(config.gate)
    if (gate.bounds or gate.not_worse) and not config.versioned:
        raise UsageError("export.gate is what LATEST waits for: set export.versioned too")
    if not config.output:
        raise UsageError("where the bundle goes isn't said: give --output, or export.output")
    if storage.is_remote(config.output):
        raise UsageError(f"--output {config.output}: a bundle is written to a local folder")
    if os.path.exists(config.output) and not config.overwrite and not config.versioned:
        raise UsageError(f"--output {config.output} is there already; give --overwrite to replace it")


def export_model(
    trained: Trained,
    manifest: DatasetManifest,
    tell: Tell = lambda line: None,
    *,
    add: Callable[[str], None] = lambda folder: None,
) -> Exported:
    """Writes the bundle of a trained model, whole and checked or not at all; a version becomes ``LATEST``
    where it is past the gate, and stays beside it where it isn't.

    Args:
      trained: the model, with the job's configuration.
      manifest: of the dataset.
      tell: is called with lines for the person who watches.
      add: writes further files into the folder that it is given, before the bundle is in its place.

    Raises:
      UsageError: it can't go where it should.
      JobError: serving differs from the trainer.
    """
    config = trained.config.export
    check_export(config, task=trained.config.task)
    root = storage.absolute(config.output)
    version = next_version(root) if config.versioned else ""
    target = storage.join(root, version) if version else root
    aside = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        made = _make(trained, manifest, aside, tell)
        add(aside)
        put_in_place(aside, target, overwrite=config.overwrite)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    tell(f"bundle {target}: model {made.spec.model_digest}, preprocessing {made.spec.preprocessing_digest}")
    verdict = publish(trained, manifest, root, version, tell) if version else None
    return Exported(path=target, spec=made.spec, check=made.check, lite=made.lite, verdict=verdict)


def _make(trained: Trained, manifest: DatasetManifest, folder: str, tell: Tell) -> Exported:
    """All that is in a bundle, in its order: the model, the smaller models, the check, the golden images."""
    config = trained.config.export
    spec, serve = _write(trained, folder)
    split = _split(trained, manifest)
    lite = _add_lite(trained, manifest, folder, split)
    check = None
    wanted = some_records(trained.config.data.dataset, manifest, split, config.check_images)
    if wanted:
        paths = {kind: storage.join(folder, "tflite", f"{kind}.tflite") for kind in lite}
        check = check_serving(serve, folder, spec, wanted, manifest, trained.config.data, lite=paths)
        check.verify()
        storage.write_json(storage.join(folder, serving_check.FILE), check.to_json())
        tell(f"serving gives what the trainer gives: off by {check.largest:.1g} on {check.images} images")
        for kind, each in check.stated.items():
            tell(f"{kind} is off by {max(each.values()):.4f}")
    for kind, figures in lite.items():
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        tell(f"tflite/{kind}.tflite: {shown or 'not measured'}")
    pack_images(trained, manifest, folder, split)
    return Exported(path=folder, spec=spec, check=check, lite=lite)


def _write(trained: Trained, folder: str) -> tuple[ModelSpec, Serve]:
    """Writes the model itself, and gives the function that it is served by."""
    config = trained.config
    common: dict[str, Any] = {
        "labels": trained.labels,
        "metrics": trained.metrics,
        "training": trained.facts,
        "resize": config.data.resize,
    }
    if config.task == "detect":
        from beam_vision.training.retinanet_export import export_retinanet, serving

        spec = export_retinanet(
            trained.model, folder, config=config.detector, keras_too=config.export.keras, **common
        )
        return spec, serving(trained.model, config.detector)
    from beam_vision.training.export import export

    multi = trained.multi_label if config.task == "classify" else None
    spec = export(
        trained.model,
        folder,
        task=config.task,
        multi_label=multi,
        keras_too=config.export.keras,
        **common,
    )
    return spec, trained.model


def _split(trained: Trained, manifest: DatasetManifest) -> str:
    """The split that the model was measured on; without one that it was trained on."""
    return trained.evaluation["split"] if trained.evaluation else trained.config.data.train


def _add_lite(
    trained: Trained, manifest: DatasetManifest, folder: str, split: str
) -> dict[str, dict[str, float]]:
    """Adds the TensorFlow Lite models, each with its figures in its spec."""
    from beam_vision.pipelines.train_measure import measure
    from beam_vision.training.export_tflite import REPRESENTATIVE_IMAGES, add_tflite, write_own_spec

    config = trained.config
    if not config.export.tflite:
        return {}
    side = config.data.image_size
    settings = DecodeSettings(height_px=side, width_px=side, resize=config.data.resize)
    seen = some_records(config.data.dataset, manifest, config.data.train, REPRESENTATIVE_IMAGES)
    images = [decode(from_example(Example.FromString(record)).data, settings).pixels for record in seen]
    measured: dict[str, dict[str, float]] = {}
    for kind in config.export.tflite:
        path = add_tflite(folder, kind, images)
        measured[kind] = {}
        if trained.evaluation:
            found = measure(path, config.data.dataset, manifest, split, task=config.task)
            measured[kind] = {f"{split}_{name}": value for name, value in found.items()}
        write_own_spec(path, read_bundle(path), measured[kind])
    return measured


def pack_images(trained: Trained, manifest: DatasetManifest, folder: str, split: str) -> None:
    """Packs images that the model never saw, with their truth; none where nothing was measured."""
    from beam_vision.inference.golden import pack_golden
    from beam_vision.records.sample import sample_images

    config, number = trained.config, trained.config.export.golden_images
    if trained.evaluation is None or not number:
        return
    if config.task == "classify" and not trained.multi_label:
        found = sample_images(config.data.dataset, manifest, split, number)
        pack_golden(folder, [record.data for record in found], [record.labels[0] for record in found])
        return
    records = some_records(config.data.dataset, manifest, split, number)
    found = [from_example(Example.FromString(record)) for record in records]
    pack_golden(folder, [record.data for record in found], [_truth(config.task, record) for record in found])


def _truth(task: str, record: Any) -> Any:
    """What golden images are judged by: one label, boxes in pixels, or nothing where there are several."""
    if task == "detect":
        from beam_vision.pipelines.train_measure import boxes_px

        return boxes_px(record)
    return record.labels[0] if len(record.labels) == 1 else None


class Released(Protocol):
    """What a gate judges: :class:`Trained` is such a thing."""

    @property
    def config(self) -> JobConfig:
        """The job's, with the gate."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What the model is released with."""

    @property
    def evaluation(self) -> Mapping[str, Any] | None:
        """The figures on its ``split``; None: it wasn't measured."""


def publish(
    trained: Released,
    manifest: DatasetManifest | None,
    root: str,
    version: str,
    tell: Tell = lambda line: None,
) -> Verdict:
    """Moves ``LATEST`` to a version where the gate lets it pass.

    Args:
      trained: the model, with its figures and the gate.
      manifest: of the dataset; None: it is read where the gate needs it.
      root: of the versions.
      version: the model's, whole, in its place.
      tell: is called with a line for the person who watches.

    Raises:
      UsageError: the gate asks for what wasn't measured.
    """
    gate = parse_gate(trained.config.export.gate)
    before = latest_version(root)
    pair = _pair(trained, manifest, root, version, before) if gate.not_worse and before else None
    verdict = judge(gate, trained.metrics, pair)
    if verdict.passed:
        digest = read_bundle(storage.join(root, version)).model_digest
        promote(root, version, model_digest=digest, reason=verdict.reason)
        tell(f"LATEST is {version}, before {before or 'nothing'}: {verdict.reason}")
    else:
        tell(f"LATEST stays {before or 'unset'}; {version} is kept beside it: {verdict.reason}")
    return verdict


def _pair(
    trained: Released, manifest: DatasetManifest | None, root: str, version: str, before: str
) -> dict[str, tuple[float, float]]:
    """The figures of the version and of the one that serves, measured on the same images now."""
    from beam_vision.pipelines.train_measure import measure

    config = trained.config
    if trained.evaluation is None:
        raise UsageError("the gate not_worse compares on a test or validation split, and there is none")
    split, data = trained.evaluation["split"], config.data.dataset
    manifest = manifest or read_manifest(data)
    both = (storage.join(root, name) for name in (version, before))
    new, old = (measure(path, data, manifest, split, task=config.task) for path in both)
    return {f"{split}_{name}": (new[name], old[name]) for name in new}
