"""What feeds training: images a second of the reader against those of a MobileNetV2 training step alone.

The reader's parts are put together one by one, each on top of those before, over the same TFRecords; then
the reader itself, and its second pass from the cache. Each figure is the median over rounds, all in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import lake

SIDE_PX = 96
BATCH = 32
IMAGES = 1200
STEPS = 12


def make_records(folder: Path) -> str:
    """The lake's images as a TFRecord dataset, longest side 512 px; made once."""
    from beam_vision.pipelines import cli

    records = folder / "reading_records"
    if not (records / "manifest.json").exists():
        images = lake.make(folder / "reading_lake", IMAGES)
        argv = ["create-tfrecords", "--images", str(images), "--output", str(records)]
        if cli.main([*argv, "--max_side", "512", "--splits", "train=1", "--target_shard_bytes", "8000000"]):
            raise RuntimeError("create-tfrecords failed")
    return str(records)


def by_hand(folder: str, *, interleaved: bool, threads: int, ahead: bool) -> Any:
    """Batches of pixels, read and decoded with or without each part."""
    import tensorflow as tf

    from beam_vision.images.codec import decode
    from beam_vision.records.reader import decode_settings

    files = tf.data.Dataset.from_tensor_slices(sorted(map(str, Path(folder).glob("*.tfrecord"))))
    settings, pool = decode_settings((SIDE_PX, SIDE_PX)), ThreadPoolExecutor(threads)

    def decoded(batch: np.ndarray) -> np.ndarray:
        return np.stack([image.pixels for image in pool.map(lambda data: decode(data, settings), batch)])

    def pixels(serialized: Any) -> Any:
        wanted = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_example(serialized, wanted)["image/encoded"]
        return tf.numpy_function(decoded, [encoded], tf.uint8)

    if interleaved:
        data = files.interleave(
            tf.data.TFRecordDataset, cycle_length=4, block_length=16, num_parallel_calls=2
        )
    else:
        data = files.flat_map(tf.data.TFRecordDataset)
    data = data.batch(BATCH).map(pixels, num_parallel_calls=2 if threads > 1 else None)
    return data.prefetch(2) if ahead else data


def reader(folder: str, *, cache: bool = False) -> Any:
    """The reader itself."""
    from beam_vision.records.reader import load_dataset

    return load_dataset(folder, "train", batch_size=BATCH, image_size=(SIDE_PX, SIDE_PX), cache=cache)


def passed(data: Any) -> float:
    """Images a second of one pass."""
    start, images = time.perf_counter(), 0
    for batch in data:
        images += len(batch[0] if isinstance(batch, tuple) else batch)
    return images / (time.perf_counter() - start)


def second_pass(data: Any) -> float:
    """The same of the second pass."""
    passed(data)
    return passed(data)


def step() -> Callable[[], float]:
    """Images a second of MobileNetV2's training step on a ready batch."""
    import keras

    model = keras.applications.MobileNetV2(input_shape=(SIDE_PX, SIDE_PX, 3), weights=None, classes=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    pixels = np.random.default_rng(0).random((BATCH, SIDE_PX, SIDE_PX, 3), np.float32)
    labels = np.arange(BATCH) % 10
    model.train_on_batch(pixels, labels)

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            model.train_on_batch(pixels, labels)
        return STEPS * BATCH / (time.perf_counter() - start)

    return measure


def main(args: argparse.Namespace, machine: str) -> int:
    """Runs it; the figures go to ``reading-figures.md``."""
    folder = make_records(args.folder)
    ways: dict[str, Callable[[], float]] = {
        "one shard after another, one thread": lambda: passed(
            by_hand(folder, interleaved=False, threads=1, ahead=False)
        ),
        "+ shards interleaved": lambda: passed(by_hand(folder, interleaved=True, threads=1, ahead=False)),
        "+ decoded in threads": lambda: passed(by_hand(folder, interleaved=True, threads=2, ahead=False)),
        "+ prefetch": lambda: passed(by_hand(folder, interleaved=True, threads=2, ahead=True)),
        "our reader (float pixels, labels)": lambda: passed(reader(folder)),
        "our reader, second pass from the cache": lambda: second_pass(reader(folder, cache=True)),
        "MobileNetV2's training step alone": step(),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(args.rounds):
        for name, measure in ways.items():
            rates[name].append(measure())
            sys.stderr.write(f"round {round_number + 1}: {rates[name][-1]:>8,.0f} images/s  {name}\n")
    lines = ["| | images/s (range) |", "|---|---|"]
    for name, found in rates.items():
        lines.append(f"| {name} | {statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f}) |")
    about = f"Machine: {machine}. {IMAGES:,} images, {SIDE_PX} px, batches of {BATCH}, {args.rounds} rounds."
    text = "\n\n".join(["### Reading", about, "\n".join(lines)])
    (args.folder / "reading-figures.md").write_text(text + "\n")
    print(text)
    return 0
