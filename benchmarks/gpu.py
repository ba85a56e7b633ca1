"""``make bench-gpu``: our handler against the bare model on tensors that are on the device already.

At each batch size, in turn within each round: the model's signature on a resident batch (the limit), the same
with the batch copied there and the result back, decoding alone in threads, and our handler, which decodes,
copies, runs and makes predictions, for ``classify`` and ``embed``. Medians over rounds. On a machine without
a GPU it runs on the processor, and says so: that tries the script, and proves nothing of a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import lake

SIDE_PX = 224
CLASSES = 1000
MODELS = {"mobilenet_v2": "MobileNetV2", "efficientnet_b0": "EfficientNetB0", "resnet50": "ResNet50"}
Rate = Callable[[], float]


def save_model(name: str, folder: Path, side_px: int) -> str:
    """A classifier with random weights that gives its embedding too, as a SavedModel; made once."""
    import keras

    path = folder / f"{name}_{side_px}"
    if not (path / "saved_model.pb").exists():
        keras.utils.set_random_seed(0)
        pixels = keras.Input((side_px, side_px, 3), dtype="uint8", name="pixels")
        backbone = getattr(keras.applications, MODELS[name])(
            input_shape=(side_px, side_px, 3), include_top=False, weights=None, pooling="avg"
        )
        vector = backbone(keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels))
        scores = keras.layers.Dense(CLASSES, activation="softmax", name="scores")(vector)
        keras.Model(pixels, {"probabilities": scores, "embedding": vector}).export(str(path), verbose=False)
    return str(path)


def read_images(folder: Path, count: int) -> list[Any]:
    """The first images of a lake, encoded, in memory."""
    from beam_vision.types import EncodedImage, ImageRef

    paths = lake.files(folder, count)
    return [EncodedImage(ImageRef(path, path), Path(path).read_bytes()) for path in paths]


def bare_call(path: str) -> Callable[[Any], dict[str, Any]]:
    """The signature of a SavedModel, of one argument."""
    import tensorflow as tf

    model = tf.saved_model.load(path)
    call = model.signatures["serving_default"]
    name = next(iter(call.structured_input_signature[1]))

    def run(pixels: Any) -> dict[str, Any]:
        assert model is not None  # keeps the variables alive
        return call(**{name: pixels})

    return run


def resident(
    call: Callable[[Any], dict[str, Any]], batch: int, steps: int, side_px: int, *, copied: bool
) -> Rate:
    """Images a second of the signature alone; ``copied``: with the batch brought there, the result back."""
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (batch, side_px, side_px, 3), np.uint8)
    there = tf.constant(pixels)

    def run(times: int) -> None:
        for _ in range(times):
            outputs = call(tf.constant(pixels) if copied else there)
            if copied:
                _ = {key: value.numpy() for key, value in outputs.items()}
        _ = {key: value.numpy() for key, value in outputs.items()}  # waits until the device is done

    run(2)

    def measure() -> float:
        start = time.perf_counter()
        run(steps)
        return steps * batch / (time.perf_counter() - start)

    return measure


def decoding(images: list[Any], threads: int, side_px: int) -> Rate:
    """Images a second of decoding alone."""
    from beam_vision.images.codec import DecodeSettings, decode

    settings, pool = DecodeSettings(height_px=side_px, width_px=side_px), ThreadPoolExecutor(threads)

    def measure() -> float:
        start = time.perf_counter()
        for _ in pool.map(lambda image: decode(image.data, settings), images):
            pass
        return len(images) / (time.perf_counter() - start)

    return measure


def loaded(path: str, task: str) -> Any:
    """The model as our handler loads it for a task."""
    from beam_vision.inference.bundle import read_bundle
    from beam_vision.inference.engine import warm_up
    from beam_vision.inference.loader import load

    model = load(path, read_bundle(path, {"task": task, "value_range": "0..255"}))
    warm_up(model)
    return model


def handling(
    model: Any, task: str, images: list[Any], batch: int, threads: int
) -> Callable[[], tuple[float, float]]:
    """Images a second of our handler, and the share of time that its model waited for decoding."""
    from beam_vision.inference.engine import Engine
    from beam_vision.inference.reading import EngineSettings
    from beam_vision.types import Failure

    settings = EngineSettings(task=task, batch_size=batch, decode_threads=threads)
    engine = Engine(model.spec, settings)
    engine.results(images[: 2 * batch], model)

    def measure() -> tuple[float, float]:
        start = time.perf_counter()
        results, stats = engine.results(images, model)
        took = time.perf_counter() - start
        if failed := [item for item in results if isinstance(item, Failure)]:
            raise RuntimeError(f"{len(failed)} images failed: {failed[0]}")
        waited, ran = sum(stats.wait_ms), sum(stats.inference_ms)
        return len(images) / took, waited / (waited + ran)

    return measure


def machine() -> str:
    """The GPU with its driver, the processor, TensorFlow."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "a GPU") for gpu in gpus]
    said = ", ".join(names) or "no GPU: run on the processor"
    if gpus:
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        said += f" (driver and memory {subprocess.run(query, capture_output=True, text=True).stdout.strip()})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{said}; {cores} cores; TensorFlow {tf.__version__}, Python {platform.python_version()}"


def measure(args: argparse.Namespace, name: str, images: list[Any]) -> list[dict[str, Any]]:
    """All figures of one model: a dict for each batch size, number of threads and task."""
    path = save_model(name, args.folder, args.side_px)
    call, models = bare_call(path), {task: loaded(path, task) for task in args.tasks}
    rows = []
    decode = {threads: decoding(images, threads, args.side_px) for threads in args.decode_threads}
    for batch in args.batch_sizes:
        bare = resident(call, batch, args.steps, args.side_px, copied=False)
        copied = resident(call, batch, args.steps, args.side_px, copied=True)
        ours = {
            (task, threads): handling(models[task], task, images, batch, threads)
            for task, threads in itertools.product(args.tasks, args.decode_threads)
        }
        rounds = [
            {
                "resident": bare(),
                "copied": copied(),
                "decode": {threads: rate() for threads, rate in decode.items()},
                "handler": {key: rate() for key, rate in ours.items()},
            }
            for _ in range(args.rounds)
        ]
        for task, threads in ours:
            rows.append({"model": name, "task": task, "batch_size": batch, "decode_threads": threads})
            for what in ("resident", "copied"):
                rows[-1][what] = statistics.median(one[what] for one in rounds)
            rows[-1]["decode"] = statistics.median(one["decode"][threads] for one in rounds)
            found = [one["handler"][task, threads] for one in rounds]
            rows[-1]["handler"] = statistics.median(rate for rate, _ in found)
            rows[-1]["waited_share"] = statistics.median(share for _, share in found)
            sys.stderr.write(f"{json.dumps(rows[-1])}\n")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The figures in Markdown, images/s."""
    heads = ("model", "task", "batch", "threads", "resident", "with copies", "decode alone", "handler")
    heads += ("of the limit", "waited")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        limit = min(row["resident"], row["decode"])
        rates = " | ".join(f"{row[name]:,.0f}" for name in ("resident", "copied", "decode", "handler"))
        lines.append(
            f"| {row['model']} | {row['task']} | {row['batch_size']} | {row['decode_threads']} | {rates} "
            f"| {row['handler'] / limit:.0%} | {row['waited_share']:.0%} |"
        )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("bench-output"), help="where all is written")
    parser.add_argument("--lake", type=Path, help="FOLDER/class_*/*.jpg (default: one is made)")
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--tasks", nargs="+", choices=["classify", "embed"], default=["classify", "embed"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8, 32, 128, 512])
    parser.add_argument(
        "--decode_threads", nargs="+", type=int, default=sorted({1, max(cores // 2, 1), cores})
    )
    parser.add_argument("--images", type=int, default=2048, help="of the lake, in memory")
    parser.add_argument("--side_px", type=int, default=SIDE_PX, help="of the model's input")
    parser.add_argument("--steps", type=int, default=30, help="of the bare model, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs it; the figures go to ``gpu-figures.md`` and ``gpu-figures.json``."""
    import tensorflow as tf

    from beam_vision.inference import devices

    args = parse(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    devices.grow_memory(tf)
    where = machine()
    sys.stderr.write(f"{where}\n")
    images = read_images(args.lake or lake.make(args.folder / "lake", args.images), args.images)
    rows = [row for name in args.models for row in measure(args, name, images)]
    about = f"{where}. {args.images:,} JPEGs, {args.side_px} px, {args.rounds} rounds; images/s."
    text = f"### GPU\n\n{about}\n\n{table(rows)}"
    (args.folder / "gpu-figures.md").write_text(text + "\n")
    (args.folder / "gpu-figures.json").write_text(json.dumps({"machine": where, "rows": rows}, indent=1))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
