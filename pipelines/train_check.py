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
    trainer = _compared(serve(tf.constant(pixels), training=False), spec)
    loaded = tf.saved_model.load(bundle)
    images = [from_example(Example.FromString(record)) for record in records]
    files = tf.constant([image.data for image in images])
    paths = {
        f"the signature {PIXELS!r}": _compared(loaded.signatures[PIXELS](tf.constant(pixels)), spec),
        f"the signature {SERVING!r}": _compared(loaded.signatures[SERVING](files), spec),
        "the RunInference pipeline": pipeline_answers(images, bundle, spec, trainer),
    }
    stated = {f"TensorFlow Lite {kind}": _run_lite(path, pixels, spec) for kind, path in lite.items()}
    return compare(trainer, paths, stated)


def _compared(outputs: Mapping[str, Any], spec: ModelSpec) -> dict[str, np.ndarray]:
    """What is compared: of a detector its scores, since boxes of equal scores may change places."""
    if spec.detector:
        wanted = [spec.scores_output]
    else:
        wanted = [name for name in (spec.scores_output, spec.embedding_output) if name]
    return {name: np.asarray(outputs[name]) for name in wanted}


def _run_lite(path: str, pixels: np.ndarray, spec: ModelSpec) -> dict[str, np.ndarray]:
    from beam_vision.inference.bundle import read_bundle
    from beam_vision.inference.loader import load

    return _compared(load(path, read_bundle(path)).run(pixels), spec)


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
    answers = {}
    if spec.detector:
        answers[spec.scores_output] = _box_scores(good, trainer[spec.scores_output])
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


def _box_scores(predictions: Sequence[Prediction], trainer: np.ndarray) -> np.ndarray:
    """The score of each box in the place of the trainer's score that is nearest: not all are reported."""
    scores = np.ma.masked_all(trainer.shape, np.float64)
    for i, prediction in enumerate(predictions):
        for box in prediction.boxes:
            scores[i, np.abs(trainer[i] - box.score).argmin()] = box.score
    return scores
