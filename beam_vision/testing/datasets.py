"""TFRecord datasets of images in memory, written without Beam in milliseconds: for tests of training."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from beam_vision import storage
from beam_vision.digest import content_digest, settings_digest
from beam_vision.images.codec import encode_png
from beam_vision.records.example import Record, to_example
from beam_vision.records.layout import MANIFEST, shard_name
from beam_vision.records.manifest import DatasetManifest, Shard, Split
from beam_vision.tfrecord_io import write_record
from beam_vision.types import Box

LABELS = ("red", "green", "blue")

Labelled = tuple[np.ndarray, Sequence[str]]
"""Pixels uint8 ``[H, W, 3]`` and the image's labels."""
SQUARES = ("dark", "bright")


def make_labelled(
    folder: str | Path,
    splits: Mapping[str, int],
    *,
    side_px: int = 32,
    labels: Sequence[str] = LABELS,
    several: bool = False,
    unlabelled: int = 0,
    seed: int = 0,
) -> DatasetManifest:
    """Writes a dataset of noise on flat colours, which a small network tells apart in seconds.

    Args:
      folder: a new one.
      splits: images by split; two shards each.
      side_px: of the images.
      labels: three at most: of the pictures that are brighter in red, in green, in blue.
      several: whether each other picture is brighter in two, and has both labels.
      unlabelled: so many more pictures of each split, at its end, without a label.
      seed: of the noise.

    Returns:
      The manifest, as it was written.
    """
    made = {}
    for name, number in splits.items():
        rng = np.random.default_rng([seed, *name.encode()])
        made[name] = [
            _picture(rng, i, side_px, labels, several=several, known=i < number)
            for i in range(number + unlabelled)
        ]
    return write_dataset(folder, made, labels=labels, several=several)


def _picture(
    rng: np.random.Generator, i: int, side_px: int, labels: Sequence[str], *, several: bool, known: bool
) -> Labelled:
    ids = [i % len(labels)]
    if several and i % 2:
        ids = sorted({ids[0], (ids[0] + 1) % len(labels)})
    pixels = rng.integers(0, 120, (side_px, side_px, 3))
    pixels[..., ids] += 100
    return pixels.astype(np.uint8), [labels[one] for one in ids] if known else []


def write_dataset(
    folder: str | Path,
    splits: Mapping[str, Sequence[Labelled]],
    *,
    labels: Sequence[str] = (),
    several: bool = False,
    shards: int = 2,
) -> DatasetManifest:
    """Writes a dataset of PNG images; gives its manifest.

    Args:
      folder: a new one.
      splits: the images of each; their keys are ``SPLIT/00000``, ...
      labels: the classes (default: those that images have, sorted).
      several: whether images may have several labels.
      shards: of each split.
    """
    classes = list(labels) or sorted({label for each in splits.values() for _, own in each for label in own})
    made = {name: _write_split(str(folder), name, each, classes, shards) for name, each in splits.items()}
    images = sum(split.images for split in made.values())
    manifest = DatasetManifest(
        run_id="testing",
        dataset_digest=settings_digest([shard.sha256 for split in made.values() for shard in split.shards]),
        splits=made,
        classes=classes,
        multi_label=several,
        split_settings={},
        encode_settings={},
        encode_digest="testing",
        moved_duplicates=0,
        encoded_anew=0,
        inputs=images,
        outputs=images,
        failed=0,
        already_done=0,
    )
    storage.write_json(storage.join(str(folder), MANIFEST), manifest.to_json())
    return manifest


def _write_split(
    folder: str, name: str, images: Sequence[Labelled], classes: Sequence[str], shards: int
) -> Split:
    written = []
    for number in range(shards):
        path = storage.join(folder, shard_name(name, number, shards))
        places = range(number, len(images), shards)
        with storage.open_write(path) as file:
            for place in places:
                write_record(file, to_example(_record(f"{name}/{place:05d}", *images[place], classes)))
        data = storage.read_bytes(path)
        written.append(Shard(shard_name(name, number, shards), len(places), len(data), content_digest(data)))
    counts = Counter(label for _, own in images for label in own)
    return Split(
        images=len(images),
        bytes=sum(shard.bytes for shard in written),
        shards=written,
        classes={label: counts[label] for label in classes},
        unlabelled=sum(not own for _, own in images),
        mean_rgb=[0.0] * 3,
        std_rgb=[1.0] * 3,
    )


def _record(key: str, pixels: np.ndarray, labels: Sequence[str], classes: Sequence[str]) -> Record:
    data = encode_png(pixels)
    return Record(
        key=key,
        uri=f"memory/{key}.png",
        data=data,
        format="png",
        width_px=pixels.shape[1],
        height_px=pixels.shape[0],
        content_sha256=content_digest(data),
        labels=tuple(labels),
        label_ids=tuple(classes.index(label) for label in labels),
    )


def make_squares(
    folder: str | Path, splits: Mapping[str, int], *, side_px: int = 32, seed: int = 0
) -> DatasetManifest:
    """Writes a dataset of a dark or a bright square on gray, with its box; gives the manifest.

    Args:
      folder: a new one.
      splits: images by split; one shard each.
      side_px: of the images; squares are near half of that.
      seed: of the places.
    """
    made, boxes = {}, Counter[str]()
    for name, number in splits.items():
        rng = np.random.default_rng([seed, *name.encode()])
        records = [_square(rng, f"{name}/{i:05d}", side_px) for i in range(number)]
        path = shard_name(name, 0, 1)
        with storage.open_write(storage.join(str(folder), path)) as file:
            size = sum(write_record(file, to_example(record)) for record in records)
        counts = Counter(box.label for record in records for box in record.boxes)
        boxes += counts
        shard = Shard(path, number, size, settings_digest([seed, name, number]))
        own = {label: counts[label] for label in SQUARES}
        made[name] = Split(number, size, [shard], {}, number, [0.0] * 3, [1.0] * 3, own)
    plain = write_dataset(folder, {})
    manifest = dataclasses.replace(
        plain,
        dataset_digest=settings_digest([shard.sha256 for split in made.values() for shard in split.shards]),
        splits=made,
        box_classes=list(SQUARES),
        boxes=dict(boxes),
        most_boxes=1,
    )
    storage.write_json(storage.join(str(folder), MANIFEST), manifest.to_json())
    return manifest


def _square(rng: np.random.Generator, key: str, side_px: int) -> Record:
    pixels = np.full((side_px, side_px, 3), 120, np.uint8)
    side = int(rng.integers(side_px * 7 // 16, side_px * 10 // 16))
    x, y = (int(value) for value in rng.integers(0, side_px - side, 2))
    label = SQUARES[int(rng.integers(2))]
    pixels[y : y + side, x : x + side] = 250 if label == "bright" else 10
    xmin, ymin, xmax, ymax = (value / side_px for value in (x, y, x + side, y + side))
    record = _record(key, pixels, [], [])
    return dataclasses.replace(
        record,
        boxes=(Box(xmin, ymin, xmax, ymax, label, area_px=float(side**2)),),
        box_ids=(1 + SQUARES.index(label),),
        for_detection=True,
    )
