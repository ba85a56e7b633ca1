"""How well a bundle does on a split of a dataset, by the path that serves it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from beam_vision import storage
from beam_vision.records.example import Record, from_example
from beam_vision.records.manifest import DatasetManifest
from beam_vision.tfrecord_io import Example, read_records
from beam_vision.types import Box, EncodedImage, Failure, ImageRef, Prediction

_IMAGES_AT_ONCE = 256


def measure(model: str, folder: str, manifest: DatasetManifest, split: str, *, task: str) -> dict[str, float]:
    """Figures of a model, which may be of any kind that ``predict`` runs.

    Args:
      model: a bundle or a model file with a spec.
      folder: of the dataset.
      manifest: its.
      split: a name in it; its labelled images count, of ``detect`` all.
      task: ``classify``, ``embed`` or ``detect``.

    Returns:
      ``classify``: ``accuracy``, the share of images whose top label is the true one, or, where images have
      several labels, ``f1`` over all labels together. ``embed``: ``recall_at_1``, the share of images whose
      nearest other one has the same label. ``detect``: COCO's ``mAP`` and ``AP50``, over all classes with
      truth, crowds taken for background. An image that the model fails on counts as wrong.
    """
    pairs = list(_answers(model, folder, manifest, split, task))
    if task == "detect":
        return _detected(pairs)
    if task == "embed":
        return {"recall_at_1": recall_at_1(pairs)}
    if manifest.multi_label:
        return {"f1": _f1(pairs)}
    right = sum(_top(result) == record.labels[0] for record, result in pairs)
    return {"accuracy": right / max(len(pairs), 1)}


def _answers(
    model: str, folder: str, manifest: DatasetManifest, split: str, task: str
) -> Iterator[tuple[Record, Prediction | Failure]]:
    from beam_vision.inference.bundle import read_bundle
    from beam_vision.inference.engine import Engine, warm_up
    from beam_vision.inference.loader import load
    from beam_vision.inference.reading import EngineSettings

    spec = read_bundle(model)
    loaded = load(model, spec)
    warm_up(loaded)
    top = len(spec.labels) if manifest.multi_label else 1
    engine = Engine(spec, EngineSettings(task=task, top_k=max(top, 1)))
    records = _records(folder, manifest, split, unlabelled=task == "detect")
    while some := list(itertools.islice(records, _IMAGES_AT_ONCE)):
        asked = [EncodedImage(ImageRef(record.key, record.uri), record.data) for record in some]
        results, _ = engine.predict(asked, loaded)
        yield from zip(some, results, strict=True)


def _records(folder: str, manifest: DatasetManifest, split: str, *, unlabelled: bool) -> Iterator[Record]:
    for shard in manifest.splits[split].shards:
        with storage.open_read(storage.join(folder, shard.name)) as file:
            for data in read_records(file):
                record = from_example(Example.FromString(data))
                if record.labels or unlabelled:
                    yield record


def _top(result: Prediction | Failure) -> str | None:
    return result.labels[0].label if isinstance(result, Prediction) and result.labels else None


def _detected(pairs: Sequence[tuple[Record, Prediction | Failure]]) -> dict[str, float]:
    """COCO's figures, in pixels of the upright images."""
    from beam_vision.evaluation.images import EvaluatedImage
    from beam_vision.training.detect import figures_of

    return figures_of(
        [
            EvaluatedImage(
                record.key,
                record.uri,
                place,
                record.width_px,
                record.height_px,
                [box for box in boxes_px(record) if not box.crowd],
                result.boxes if isinstance(result, Prediction) else (),
            )
            for place, (record, result) in enumerate(pairs)
        ]
    )


def boxes_px(record: Record) -> list[Box]:
    """A record's true boxes, xyxy in pixels of the upright image."""
    width, height = record.width_px, record.height_px
    return [
        dataclasses.replace(
            box, xmin=box.xmin * width, xmax=box.xmax * width, ymin=box.ymin * height, ymax=box.ymax * height
        )
        for box in record.boxes
    ]


def _f1(pairs: Sequence[tuple[Record, Prediction | Failure]]) -> float:
    """Micro-averaged: of all pairs of an image and a label."""
    both = given = true = 0
    for record, result in pairs:
        found = {item.label for item in result.labels} if isinstance(result, Prediction) else set()
        both, given, true = (
            both + len(found & set(record.labels)),
            given + len(found),
            true + len(set(record.labels)),
        )
    return 2 * both / max(given + true, 1)


def recall_at_1(pairs: Sequence[tuple[Record, Prediction | Failure]]) -> float:
    """The share of images whose nearest other image, by cosine, has the same label."""
    known = [
        (record.labels[0], np.frombuffer(result.embedding, "<f4"))
        for record, result in pairs
        if isinstance(result, Prediction) and result.embedding
    ]
    if len(known) < 2:
        return 0.0
    labels = np.array([label for label, _ in known])
    vectors = np.stack([vector for _, vector in known])
    right = 0
    for start in range(0, len(vectors), _IMAGES_AT_ONCE):
        cosines = vectors[start : start + _IMAGES_AT_ONCE] @ vectors.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        right += int((labels[cosines.argmax(axis=1)] == labels[start : start + _IMAGES_AT_ONCE]).sum())
    return right / len(pairs)
