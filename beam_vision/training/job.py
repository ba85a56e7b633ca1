"""A training job from its description to a trained model: the run loop."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps, digest, storage
from beam_vision.records.reader import decode_settings
from beam_vision.training.checkpoints import Checkpoints, Progress
from beam_vision.training.config import JobConfig
from beam_vision.training.course import Course, fit_phase
from beam_vision.training.phases import Length, plan_length, plan_phases
from beam_vision.training.recipe import Recipe, make_recipe
from beam_vision.training.strategy import Place, find_place

if TYPE_CHECKING:
    import keras

    from beam_vision.records.manifest import DatasetManifest

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of a job.

    Attributes:
      config: the job's.
      model: the trained model, with the weights of the best epoch where one was monitored; computes in
        float32, whatever it was trained in. From uint8 ``[N, H, W, 3]`` to a dict of outputs.
      labels: the classes' names, in order.
      multi_label: whether an image may have several.
      history: a row an epoch: ``number``, ``step``, ``seconds``, ``loss``, ``validation_loss``, ...
      steps: done in all.
      best_epoch: whose weights the model has; 0: the last step's.
      stopped: why it ended, in words.
      evaluation: the figures on the ``split`` that it was measured on; None: it wasn't.
      metrics: what it is released with, e.g. ``test_accuracy``.
      facts: how it was trained, for people and for ``training.json``; plain JSON.
      chief: whether this process is the one that exports it.
    """

    config: JobConfig
    model: keras.Model
    labels: tuple[str, ...]
    multi_label: bool
    history: list[dict[str, Any]]
    steps: int
    best_epoch: int
    stopped: str
    evaluation: dict[str, Any] | None
    metrics: dict[str, float]
    facts: dict[str, Any]
    chief: bool = True


def train_job(config: JobConfig, manifest: DatasetManifest, tell: Tell = lambda line: None) -> Trained:
    """Trains, stops by the validation split, measures on the test split.

    A run whose ``run.work_dir`` holds a checkpoint of the same job goes on from its step.

    Args:
      config: the job's.
      manifest: of the dataset ``config.data.dataset``.
      tell: is called with lines for the person who watches.

    Raises:
      UsageError: the job can't be done as described.
      JobError: the loss is no longer a finite number.
    """
    place = find_place(config.run.strategy)
    recipe = make_recipe(config, manifest, replicas=place.replicas)
    return train_recipe(config, manifest, recipe, place, tell)


def train_recipe(
    config: JobConfig, manifest: DatasetManifest, recipe: Recipe, place: Place, tell: Tell = lambda line: None
) -> Trained:
    """As :func:`train_job`, of a recipe that is made already."""
    start = time.monotonic()
    length = plan_length(
        recipe.steps_per_pass,
        epochs=config.run.epochs,
        steps=config.run.steps,
        steps_per_epoch=config.run.steps_per_epoch,
    )
    tell(f"training {place.words}: {length.steps:,} steps in {length.epochs:,} epochs at most")
    with _work_dir(config.run.work_dir) as folder:
        checkpoints = Checkpoints(folder, write=place.chief)
        progress = checkpoints.read(digest.settings_digest([config.digest, manifest.dataset_digest]))
        with _precision(config.run.mixed_precision):
            model = _fit(config, recipe, place, length, progress, checkpoints, tell)
        model = _as_float32(recipe, model) if config.run.mixed_precision else model
        tell(f"ended after {progress.step:,} steps: {progress.stopped}")
        evaluation = recipe.measure(model)
    facts = _facts(config, manifest, recipe, place, progress, model)
    facts |= {"evaluation": evaluation, "wall_sec": round(time.monotonic() - start, 2)}
    return Trained(
        config=config,
        model=model,
        labels=recipe.labels,
        multi_label=recipe.multi_label,
        history=progress.epochs,
        steps=progress.step,
        best_epoch=progress.best_epoch,
        stopped=progress.stopped,
        evaluation=evaluation,
        metrics=_released(evaluation),
        facts=facts,
        chief=place.chief,
    )


def _fit(
    config: JobConfig,
    recipe: Recipe,
    place: Place,
    length: Length,
    progress: Progress,
    checkpoints: Checkpoints,
    tell: Tell,
) -> keras.Model:
    """The fitted model; ``progress`` says where it ended."""
    rate = config.optimizer.learning_rate * (place.replicas if config.run.scale_rate else 1)
    with place.strategy.scope():
        schedule = _schedule(config, rate, length.steps)
        model = recipe.build()
        trainee = recipe.trainee(model, rate if config.run.max_seconds else schedule)
    tell(f"{model.name}: {model.count_params():,} weights, {len(recipe.labels):,} classes")
    if progress.step:
        checkpoints.restore(trainee, progress)
        tell(f"goes on at step {progress.step:,} of {length.steps:,}, as {checkpoints.folder} has it")
    course = Course(
        trainee,
        model,
        config.run,
        length,
        progress,
        checkpoints,
        validates=recipe.validation is not None,
        schedule=schedule if config.run.max_seconds else None,
        tell=lambda row: tell(epoch_line(row)),
        write=place.chief,
    )
    validation = recipe.validation() if recipe.validation else None
    with contextlib.closing(course):
        for phase in plan_phases(length, progress.step):
            if progress.stopped:
                break
            fit_phase(course, phase, recipe.train(phase.first_step), validation)
    if progress.best_epoch:
        checkpoints.load_best(model)
    return model


def _schedule(config: JobConfig, rate: float, steps: int) -> Any:
    from beam_vision.training.schedules import build_schedule

    return build_schedule(config.schedule, rate, steps)


@contextlib.contextmanager
def _work_dir(asked: str) -> Iterator[str]:
    """The folder for checkpoints; without a name one that is gone at the end."""
    if asked:
        yield storage.absolute(asked)
        return
    with tempfile.TemporaryDirectory(prefix="beam-vision-train-") as folder:
        yield folder


@contextlib.contextmanager
def _precision(mixed: bool) -> Iterator[None]:
    """Keras computes in 16 bits while the block runs: float16 on GPUs, bfloat16 elsewhere."""
    if not mixed:
        yield
        return
    keras, tf = deps.need("keras"), deps.need("tensorflow")
    before = keras.mixed_precision.dtype_policy()
    half = "float16" if tf.config.list_physical_devices("GPU") else "bfloat16"
    keras.mixed_precision.set_dtype_policy(f"mixed_{half}")
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)


def _as_float32(recipe: Recipe, model: keras.Model) -> keras.Model:
    """The same model with the same weights, all of it in float32, as it is measured and served."""
    plain = recipe.build()
    plain.set_weights(model.get_weights())
    return plain


def _released(evaluation: Mapping[str, Any] | None) -> dict[str, float]:
    """The figures that a model is released with, named by their split."""
    if evaluation is None:
        return {}
    numbers = {name: value for name, value in evaluation.items() if isinstance(value, float)}
    return {f"{evaluation['split']}_{name}": value for name, value in numbers.items()}


def _facts(
    config: JobConfig,
    manifest: DatasetManifest,
    recipe: Recipe,
    place: Place,
    progress: Progress,
    model: keras.Model,
) -> dict[str, Any]:
    side = config.data.image_size
    return {
        "dataset": storage.absolute(config.data.dataset),
        "dataset_digest": manifest.dataset_digest,
        "encode_digest": manifest.encode_digest,
        "decode_digest": decode_settings((side, side), resize=config.data.resize).digest,
        "labels": list(recipe.labels),
        "splits": {name: split.images - split.unlabelled for name, split in manifest.splits.items()},
        "image_size_px": side,
        "weights": model.count_params(),
        "job": config.to_dict(),
        "job_digest": config.digest,
        "strategy": place.name,
        "replicas": place.replicas,
        "steps": progress.step,
        "stopped": progress.stopped,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epochs,
    }


def epoch_line(row: Mapping[str, Any]) -> str:
    """One epoch, for the person who watches."""
    line = f"epoch {row['number']:>3}  {row['seconds']:>6.1f} s  loss {row['loss']:.3f}"
    line += f"  accuracy {row['accuracy']:.3f}" if "accuracy" in row else ""
    if "validation_loss" in row:
        line += f"  validation {row['validation_loss']:.3f}"
        line += f", {row['validation_accuracy']:.3f}" if "validation_accuracy" in row else ""
    return line
