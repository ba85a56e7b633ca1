"""What is compared: each contender is one process over the first N images of the lake.

``python -m benchmarks.contenders NAME --lake DIR --count N --work DIR [--model DIR]`` prints one JSON object.
The model is MobileNetV2 (random weights, 224 px, 1280-d embedding) for all of them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import detector, lake

SIDE_PX = 224
BATCH = 32
THREADS = os.cpu_count() or 1


# --- the raw limit, measured alone


def limit_decode(args: argparse.Namespace) -> dict:
    """Decode + resize in a thread pool, nothing else."""
    return _decoding(args, SIDE_PX)


def limit_decode_320(args: argparse.Namespace) -> dict:
    """The same, at the detector's size."""
    return _decoding(args, detector.SIDE_PX)


def _decoding(args: argparse.Namespace, side_px: int) -> dict:
    from beam_vision.images.codec import DecodeSettings, decode

    settings = DecodeSettings(height_px=side_px, width_px=side_px)
    return _in_threads(lambda path: decode(Path(path).read_bytes(), settings), args)


def limit_decode_full(args: argparse.Namespace) -> dict:
    """A full decode at native size in a thread pool: what making TFRecords can't do without."""
    from beam_vision.images.codec import decode

    return _in_threads(lambda path: decode(Path(path).read_bytes()), args)


def limit_model(args: argparse.Namespace) -> dict:
    """The model alone, on a ready batch, with its weights as constants (the fastest way that we know)."""
    return _model_alone(args.model, SIDE_PX, args)


def limit_detector(args: argparse.Namespace) -> dict:
    """The detector alone, likewise."""
    return _model_alone(args.detector, detector.SIDE_PX, args)


def _model_alone(path: str, side_px: int, args: argparse.Namespace) -> dict:
    import numpy as np
    import tensorflow as tf

    from beam_vision.inference.freeze import freeze

    model = tf.saved_model.load(path)
    signature = model.signatures["serving_default"]
    name = next(iter(signature.structured_input_signature[1]))
    function = freeze(signature) or (lambda batch: signature(**{name: batch}))
    pixels = np.random.default_rng(0).uniform(0, 1, (BATCH, side_px, side_px, 3))
    batch = tf.constant(pixels.astype(np.float32))
    function(batch)
    start = time.perf_counter()
    batches = args.count // BATCH
    for _ in range(batches):
        function(batch)
    return {"steady_per_sec": batches * BATCH / (time.perf_counter() - start)}


def _in_threads(work: Callable, args: argparse.Namespace) -> dict:
    files = lake.files(args.lake, args.count)
    for path in files:
        Path(path).read_bytes()
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(lambda path: work(path) is not None, files):
            pass
    return {"steady_per_sec": len(files) / (time.perf_counter() - start)}


# --- beam-vision, by its command line


def embed_ours(args: argparse.Namespace) -> dict:
    """``beam-vision predict --task embed``."""
    return _command("predict", args, "--task=embed", f"--model={args.model}", f"--image_size={SIDE_PX}")


def detect_ours(args: argparse.Namespace) -> dict:
    """``beam-vision predict --task detect``."""
    return _command("predict", args, "--task=detect", f"--model={args.detector}")


def tfrecords_ours(args: argparse.Namespace) -> dict:
    """``beam-vision create-tfrecords``."""
    return _command("create-tfrecords", args)


def _command(job: str, args: argparse.Namespace, *options: str) -> dict:
    from beam_vision.pipelines import cli

    summary = args.work / "summary.json"
    argv = [job, f"--images={args.lake}", f"--output={args.work / job}", f"--limit={args.count}"]
    code = cli.main([*argv, f"--summary={summary}", *options])
    facts = json.loads(summary.read_text())
    return {"code": code, "outputs": facts["outputs"]}


# --- Beam's stock way


def embed_stock(args: argparse.Namespace) -> dict:
    """A decoding DoFn, then Beam's own Keras handler over float tensors, then WriteToParquet."""
    import apache_beam as beam
    import pyarrow as pa
    from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
    from apache_beam.ml.inference.tensorflow_inference import ModelType, TFModelHandlerTensor
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from benchmarks import stock

    handler = TFModelHandlerTensor(
        model_uri=str(Path(args.model) / "stock.weights.h5"),
        model_type=ModelType.SAVED_WEIGHTS,
        create_model_fn=stock.make_model,
        min_batch_size=BATCH,
        max_batch_size=BATCH,
    )
    schema = pa.schema([("key", pa.string()), ("embedding", pa.list_(pa.float32()))])
    with beam.Pipeline(FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create(lake.files(args.lake, args.count))
            | beam.Reshuffle()
            | beam.Map(stock.decode_to_tensor)
            | RunInference(KeyedModelHandler(handler))
            | beam.Map(stock.to_row)
            | beam.io.WriteToParquet(str(args.work / "stock"), schema)
        )
    return {"outputs": args.count}


def tfrecords_stock(args: argparse.Namespace) -> dict:
    """Match, read, a DoFn that decodes and makes the Example, then WriteToTFRecord."""
    import apache_beam as beam
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from benchmarks import stock

    with beam.Pipeline(FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create(lake.files(args.lake, args.count))
            | beam.Reshuffle()
            | beam.Map(stock.to_example)
            | beam.io.WriteToTFRecord(str(args.work / "stock"), num_shards=4)
        )
    return {"outputs": args.count}


# --- plain TensorFlow


def embed_tfdata(args: argparse.Namespace) -> dict:
    """tf.data with parallel decoding, then ``model.predict``, then one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tensorflow as tf

    from benchmarks import stock

    model = stock.make_model()
    model.load_weights(str(Path(args.model) / "stock.weights.h5"))
    files = lake.files(args.lake, args.count)

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, (SIDE_PX, SIDE_PX)) / 255.0

    data = tf.data.Dataset.from_tensor_slices(files).map(load, tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
    vectors = model.predict(data, verbose=0)
    table = pa.table({"key": files, "embedding": list(vectors)})
    pq.write_table(table, str(args.work / "tfdata.parquet"))
    return {"outputs": len(vectors)}


def tfrecords_tfdata(args: argparse.Namespace) -> dict:
    """tf.data that decodes each file (as a check) in parallel, and a TFRecordWriter."""
    import tensorflow as tf

    from benchmarks import stock

    def load(path):
        data = tf.io.read_file(path)
        image = tf.io.decode_jpeg(data, channels=3)
        return path, data, tf.shape(image)

    data = tf.data.Dataset.from_tensor_slices(lake.files(args.lake, args.count))
    data = data.map(load, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    written = 0
    with tf.io.TFRecordWriter(str(args.work / "tfdata.tfrecord")) as writer:
        for path, encoded, shape in data.as_numpy_iterator():
            writer.write(stock.example(path.decode(), encoded, shape[0], shape[1]))
            written += 1
    return {"outputs": written}


CONTENDERS = {
    name: function
    for name, function in list(globals().items())
    if name.startswith(("limit_", "embed_", "detect_", "tfrecords_")) and callable(function)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--detector", default="")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(json.dumps(CONTENDERS[args.name](args)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
