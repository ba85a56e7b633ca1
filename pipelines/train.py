"""``beam-vision train``: a small classifier with an embedding layer, from a TFRecord dataset to a bundle."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps, storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.records.manifest import DatasetManifest, read_manifest

if TYPE_CHECKING:
    import tensorflow as tf

    from beam_vision.training.evaluate import Evaluation
    from beam_vision.training.fit import Epoch

NAME = "train"
DESCRIPTION = (
    "Trains a compact convolutional network (about 110,000 weights) from nothing on one machine: enough for\n"
    "small images and a few dozen classes, and to try all else with. The bundle that it writes gives class\n"
    "scores and an embedding of length one, for `beam-vision predict` with either task."
)
EXAMPLE = "beam-vision train --dataset dataset/ --output model/ --image_size 64 --max_seconds 60"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
MAX_CONFUSION_CLASSES = 100
GOLDEN_IMAGES = 24
CACHE_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``train`` takes."""

    dataset: str = option(help="the TFRecord dataset, as create-tfrecords writes it", metavar="DIR")
    output: str = option(help="folder for the model bundle", metavar="BUNDLE")
    overwrite: bool = option(False, help="replace a bundle that is there, once the new one is whole")
    image_size: int = option(64, help="side of the model's square input in pixels", metavar="PX")
    epochs: int = option(30, help="rounds over the train split, at most", metavar="N")
    max_seconds: float = option(0.0, help="train for so long at most; 0: no limit", metavar="SEC")
    batch_size: int = option(64, help="images a step", metavar="N")
    learning_rate: float = option(3e-3, help="the highest; it rises at first and falls to 0", metavar="RATE")
    seed: int = option(0, help="of the first weights, the order and the augmentation", metavar="N")
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


def preflight(options: Options) -> dict[str, Any]:
    """Checks the dataset and the options, and says what would be done.

    Raises:
      UsageError: it can't be trained on, or a value is out of its range.
    """
    from beam_vision.training.model import MIN_SIDE_PX

    manifest = read_manifest(options.dataset)
    known = {name: split for name, split in manifest.splits.items() if split.images > split.unlabelled}
    if manifest.multi_label:
        raise UsageError(f"{options.dataset} has images with several labels; train learns one label an image")
    if TRAIN not in known:
        raise UsageError(
            f"{options.dataset} has no labelled images in a split named {TRAIN}; make the dataset from class "
            "folders or a manifest with a label column (with more images, if there were only a few)"
        )
    seen = [name for name, images in known[TRAIN].classes.items() if images]
    if len(seen) == 1:
        raise UsageError(
            f"{options.dataset} has train images of one class only ({seen[0]}), and a classifier needs two; "
            "the classes of a folder are the folders directly in it"
        )
    if options.image_size < MIN_SIDE_PX:
        raise UsageError(f"--image_size must be at least {MIN_SIDE_PX}, not {options.image_size}")
    if options.batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, not {options.batch_size}")
    if storage.is_remote(options.output):
        raise UsageError(f"--output {options.output}: a bundle is written to a local folder")
    if os.path.exists(options.output) and not options.overwrite:
        raise UsageError(f"--output {options.output} is there already; give --overwrite to replace it")
    return {
        "dataset": options.dataset,
        "dataset_digest": manifest.dataset_digest,
        "splits": {name: split.images - split.unlabelled for name, split in known.items()},
        "classes": manifest.classes,
        "output": options.output,
    }


def run(argv: list[str]) -> int:
    """Trains and writes the bundle; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    plan = preflight(options)
    if options.preflight_only:
        return jobs.show_plan(plan)
    train(options, read_manifest(options.dataset), plan["splits"])
    return 0


def train(options: Options, manifest: DatasetManifest, splits: dict[str, int]) -> None:
    """Trains on the train split, stops by the validation split, measures on the test split, exports."""
    from beam_vision.training.export import export
    from beam_vision.training.fit import FitSettings, fit
    from beam_vision.training.model import build_model

    start = time.monotonic()
    settings = FitSettings(
        epochs=options.epochs, max_seconds=options.max_seconds, learning_rate=options.learning_rate
    )
    labels = manifest.classes
    model = build_model(options.image_size, options.image_size, len(labels), seed=options.seed)
    jobs.say(
        f"training on {splits[TRAIN]:,} images of {len(labels)} classes, {model.count_params():,} weights"
    )
    epochs = fit(
        model,
        train_batches(options, splits[TRAIN]),
        batches(options, VALIDATION, splits[VALIDATION]) if VALIDATION in splits else None,
        settings,
        steps=math.ceil(splits[TRAIN] / options.batch_size),
        tell=lambda epoch: jobs.say(epoch_line(epoch)),
    )
    tested = measure(options, model, labels, splits)
    metrics = {f"{tested['split']}_{name}": tested[name] for name in ("accuracy", "loss")} if tested else {}
    facts = {
        "dataset": storage.absolute(options.dataset),
        "dataset_digest": manifest.dataset_digest,
        "encode_digest": manifest.encode_digest,
        "labels": labels,
        "splits": splits,
        "image_size_px": options.image_size,
        "weights": model.count_params(),
        "settings": {**dataclasses.asdict(settings), "batch_size": options.batch_size, "seed": options.seed},
        "epochs": [dataclasses.asdict(epoch) for epoch in epochs],
        "evaluation": tested,
        "wall_sec": round(time.monotonic() - start, 2),
    }
    spec = export(
        model, options.output, labels=labels, metrics=metrics, training=facts, overwrite=options.overwrite
    )
    pack_images(options, manifest, tested)
    jobs.say(f"bundle {options.output}: model {spec.model_digest}, preprocessing {spec.preprocessing_digest}")


def pack_images(options: Options, manifest: DatasetManifest, tested: dict[str, Any] | None) -> None:
    """Packs a few images that the model never saw with the bundle, for ``stream`` and ``rollout`` to check it
    by; none where nothing was tested."""
    from beam_vision.inference.golden import pack_golden
    from beam_vision.records.sample import sample_images

    if tested is not None:
        found = sample_images(options.dataset, manifest, tested["split"], GOLDEN_IMAGES)
        pack_golden(options.output, [record.data for record in found], [record.labels[0] for record in found])


def measure(options: Options, model: Any, labels: list[str], splits: dict[str, int]) -> dict[str, Any] | None:
    """Figures on the test split; on the validation split when there is no test split; None without both."""
    from beam_vision.training.evaluate import evaluate

    split = next((name for name in (TEST, VALIDATION) if name in splits), None)
    if split is None:
        jobs.say("there is no test and no validation split: how good the model is was not measured")
        return None
    found: Evaluation = evaluate(model, batches(options, split, splits[split]), len(labels))
    jobs.say(f"{split} split: {found.accuracy:.1%} of {found.images:,} images right, loss {found.loss:.3f}")
    kept = dataclasses.asdict(found)
    if len(labels) > MAX_CONFUSION_CLASSES:
        del kept["confusion"]
    return {"split": split, **kept}


def epoch_line(epoch: Epoch) -> str:
    """One epoch, for the person who watches."""
    line = f"epoch {epoch.number:>3}  {epoch.seconds:>6.1f} s  "
    line += f"loss {epoch.loss:.3f}  accuracy {epoch.accuracy:.3f}"
    if epoch.validation_loss is not None:
        line += f"  validation {epoch.validation_loss:.3f}, {epoch.validation_accuracy:.3f}"
    return line


def batches(options: Options, split: str, images: int, *, shuffle: bool = False) -> tf.data.Dataset:
    """Batches of a split's labelled images: (uint8 ``[N, H, W, 3]``, class ids int64 ``[N]``).

    Args:
      options: the job's.
      split: its name.
      images: how many labelled ones it has; when their pixels fit in :data:`CACHE_BYTES` they are kept.
      shuffle: in another order at each pass.
    """
    from beam_vision.records.reader import load_dataset

    tf = deps.need("tensorflow")
    data = load_dataset(
        options.dataset,
        split,
        batch_size=options.batch_size,
        image_size=(options.image_size, options.image_size),
        shuffle=shuffle,
        seed=options.seed,
        cache=images * 3 * options.image_size**2 <= CACHE_BYTES,
    )
    labelled = data.unbatch().filter(lambda pixels, label: label >= 0).batch(options.batch_size)
    steps = tf.data.experimental.assert_cardinality(math.ceil(images / options.batch_size))
    return labelled.map(lambda pixels, labels: (tf.cast(pixels, tf.uint8), labels)).apply(steps)


def train_batches(options: Options, images: int) -> tf.data.Dataset:
    """One pass over the train split, in another order and with another augmentation each time."""
    from beam_vision.training.augment import augment

    tf = deps.need("tensorflow")
    data = batches(options, TRAIN, images, shuffle=True)
    seeds = tf.data.Dataset.random(seed=options.seed, rerandomize_each_iteration=True).batch(2)
    augmented = tf.autograph.experimental.do_not_convert(
        lambda batch, seed: (augment(batch[0], seed), batch[1])
    )
    return tf.data.Dataset.zip((data, seeds)).map(augmented, num_parallel_calls=2).prefetch(2)
