"""The same images by the trainer's path, by a bundle's signatures and by the RunInference pipeline."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from beam_vision import deps, storage
from beam_vision.errors import JobError
from beam_vision.inference.spec import ModelSpec
from beam_vision.records.example import Record, from_example
from beam_vision.records.manifest import DatasetManifest, Shard
from beam_vision.tfrecord_io import Example, read_records, write_record
from beam_vision.training.config import DataConfig
from beam_vision.training.serving_check import ServingCheck, compare
from beam_vision.types import EncodedImage, Failure, ImageRef, Prediction

Serve = Callable[..., Mapping[str, Any]]
_SHARD = "check-00000-of-00001.tfrecord"


def check_serving(
    serve: Serve,
    bundle: str,
    spec: ModelSpec,
    records: Sequence[bytes],
    manifest: DatasetManifest,
    data: DataConfig,
    *,
    lite: Mapping[str, str],
) -> ServingCheck:
    """Compares all paths on the same images; those of TensorFlow Lite, which round, are only stated.

    Args:
      serve: the trained model: uint8 pixels and ``training=False`` to outputs by name.
      bundle: its folder.
      spec: its.
      records: serialized, of the dataset; 32 are a good number.
      manifest: the dataset's.
      data: how the trainer decodes.
      lite: kind -> path of the TensorFlow Lite models.

    Raises:
      JobError: a path gives no answer for an image.
    """
    from beam_vision.training.export import PIXELS, SERVING

    tf = deps.need("tensorflow")
    pixels = trainer_pixels(records, data, manifest, boxes=bool(spec.detector))
    answers = serve(tf.constant(pixels), training=False)
    trainer = {name: np.asarray(answers[name]) for name in _names(spec)}
    loaded = tf.saved_model.load(bundle)
    images = [from_example(Example.FromString(record)) for record in records]
    files = tf.constant([image.data for image in images])
    by_pixels = loaded.signatures[PIXELS](tf.constant(pixels))
    paths = {
        f"the signature {PIXELS!r}": _compared(by_pixels, spec, trainer),
        f"the signature {SERVING!r}": _compared(loaded.signatures[SERVING](files), spec, trainer),
        "the RunInference pipeline": pipeline_answers(images, bundle, spec, trainer),
    }
    stated = {
        f"TensorFlow Lite {kind}": _run_lite(path, pixels, spec, trainer) for kind, path in lite.items()
    }
    return compare(trainer, paths, stated)


def _compared(
    outputs: Mapping[str, Any], spec: ModelSpec, trainer: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """What is compared: scores and embeddings; of a detector scores in their order, and each box with the
    trainer's that is most like it, since boxes of equal scores may change places."""
    if not spec.detector:
        return {name: np.asarray(outputs[name]) for name in _names(spec)}
    scores, boxes = np.asarray(outputs[spec.scores_output]), np.asarray(outputs[spec.boxes_output])
    counts = np.asarray(outputs[spec.count_output]).astype(int)
    found = [(scores[i, :count], boxes[i, :count]) for i, count in enumerate(counts)]
    return {spec.scores_output: scores, spec.boxes_output: _in_place(found, spec, trainer)[1]}


def _names(spec: ModelSpec) -> list[str]:
    other = spec.boxes_output if spec.detector else spec.embedding_output
    return [name for name in (spec.scores_output, other) if name]


def _in_place(
    found: Sequence[tuple[np.ndarray, np.ndarray]], spec: ModelSpec, trainer: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Detections in the places of the trainer's that are most like them, masked where there is none.

    Args:
      found: of each image the scores ``[n]`` and the boxes ``[n, 4]``.
      spec: names the outputs.
      trainer: its scores ``[N, M]`` and boxes ``[N, M, 4]``, as found ones are.
    """
    its_scores, its_boxes = (np.asarray(trainer[name]) for name in (spec.scores_output, spec.boxes_output))
    scores, boxes = np.ma.masked_all(its_scores.shape), np.ma.masked_all(its_boxes.shape)
    for i, detections in enumerate(found):
        for score, box in zip(*detections, strict=True):
            apart = np.abs(its_scores[i] - score) + np.abs(its_boxes[i] - box).max(axis=1)
            scores[i, apart.argmin()], boxes[i, apart.argmin()] = score, box
    return scores, boxes


def _run_lite(
    path: str, pixels: np.ndarray, spec: ModelSpec, trainer: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    from beam_vision.inference.bundle import read_bundle
    from beam_vision.inference.loader import load

    return _compared(load(path, read_bundle(path)).run(pixels), spec, trainer)


def some_records(folder: str, manifest: DatasetManifest, split: str, number: int) -> list[bytes]:
    """At most ``number`` serialized records of a split, the first of each shard in turn."""
    shards = [_read(storage.join(folder, shard.name)) for shard in manifest.splits[split].shards]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*shards))
    return list(itertools.islice((record for record in turns if record is not None), number))


def _read(path: str) -> Iterator[bytes]:
    with storage.open_read(path) as file:
        yield from read_records(file)


def trainer_pixels(
    records: Sequence[bytes], data: DataConfig, manifest: DatasetManifest, *, boxes: bool = False
) -> np.ndarray:
    """What the trainer's reader makes of records: uint8 ``[N, H, W, 3]``.

    The reader itself is run, over a dataset of these records alone.

    Args:
      records: serialized.
      data: how the trainer decodes.
      manifest: of the dataset that they are from.
      boxes: whether the trainer reads boxes rather than labels.
    """
    from beam_vision.records.layout import MANIFEST
    from beam_vision.records.reader import load_dataset

    with tempfile.TemporaryDirectory(prefix="beam-vision-check-") as folder:
        with storage.open_write(storage.join(folder, _SHARD)) as file:
            written = sum(write_record(file, record) for record in records)
        split = next(iter(manifest.splits.values()))
        shard = Shard(_SHARD, len(records), written, "")
        only = dataclasses.replace(split, images=len(records), bytes=written, shards=[shard])
        small = dataclasses.replace(manifest, splits={"check": only})
        storage.write_json(storage.join(folder, MANIFEST), small.to_json())
        batches = load_dataset(
            folder,
            "check",
            batch_size=len(records),
            image_size=(data.image_size, data.image_size),
            targets="boxes" if boxes else "labels",
            resize=data.resize,
        )
        ((images, _),) = list(batches)
        return np.asarray(images).astype(np.uint8)


def pipeline_answers(
    images: Sequence[Record], bundle: str, spec: ModelSpec, trainer: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What ``predict`` would say of images, as arrays like the trainer's; masked where it says nothing.

    Raises:
      JobError: it fails on one.
    """
    from beam_vision.inference.run_local import run_local

    task = "detect" if spec.detector else spec.task
    asked = [
        EncodedImage(ImageRef(f"{number:04d}", image.uri), image.data) for number, image in enumerate(images)
    ]
    found = run_local(
        asked,
        spec,
        bundle,
        task=task,
        with_embedding=bool(spec.embedding_output),
        top_k=max(len(spec.labels), 1),
        batch_size=8,
    )
    good = [item for item in found if isinstance(item, Prediction)]
    bad = [item for item in found if isinstance(item, Failure)]
    if bad:
        raise JobError(f"the pipeline fails on {len(bad)} of {len(found)} images: {bad[0].detail}")
    answers: dict[str, np.ndarray] = {}
    if spec.detector:
        answers = _detections(images, good, spec, trainer)
    elif spec.scores_output:
        answers[spec.scores_output] = _label_scores(good, spec)
    if spec.embedding_output and not spec.detector:
        answers[spec.embedding_output] = np.stack(
            [np.frombuffer(item.embedding or b"", "<f4") for item in good]
        )
    return answers


def _label_scores(predictions: Sequence[Prediction], spec: ModelSpec) -> np.ndarray:
    place = {label: i for i, label in enumerate(spec.labels)}
    scores = np.ma.masked_all((len(predictions), len(spec.labels)), np.float64)
    for i, prediction in enumerate(predictions):
        for label in prediction.labels:
            scores[i, place[label.label]] = label.score
    return scores


def _detections(
    images: Sequence[Record],
    predictions: Sequence[Prediction],
    spec: ModelSpec,
    trainer: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Scores and boxes of what was reported, in the trainer's places; boxes only where images were stretched,
    since others are cut off at the image's edges, which lie within the model's input."""
    found = []
    for image, prediction in zip(images, predictions, strict=True):
        sides = np.array([image.height_px, image.width_px] * 2, np.float64)
        corners = [(box.ymin, box.xmin, box.ymax, box.xmax) for box in prediction.boxes]
        scores = np.array([box.score for box in prediction.boxes], np.float64)
        found.append((scores, np.array(corners, np.float64).reshape(-1, 4) / sides))
    scores, boxes = _in_place(found, spec, trainer)
    if spec.resize != "stretch":
        return {spec.scores_output: _by_score(found, trainer[spec.scores_output])}
    return {spec.scores_output: scores, spec.boxes_output: boxes}


def _by_score(found: Sequence[tuple[np.ndarray, np.ndarray]], trainer: np.ndarray) -> np.ndarray:
    """Each score in the place of the trainer's that is nearest."""
    scores = np.ma.masked_all(trainer.shape, np.float64)
    for i, (reported, _) in enumerate(found):
        for score in reported:
            scores[i, np.abs(trainer[i] - score).argmin()] = score
    return scores
