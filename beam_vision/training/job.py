"""A training job from its description to a trained model: the run loop."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps, digest, storage
from beam_vision.errors import UsageError
from beam_vision.records.reader import decode_settings
from beam_vision.training.checkpoints import Checkpoints, Progress
from beam_vision.training.config import JobConfig
from beam_vision.training.course import Course, fit_phase
from beam_vision.training.fit_replicas import fit_replicas
from beam_vision.training.launch.settings import without_env
from beam_vision.training.phases import Length, plan_length, plan_phases
from beam_vision.training.recipe import Recipe, make_recipe
from beam_vision.training.stopping import StopRequest, asked_by_signals
from beam_vision.training.strategy import MULTI_WORKER, TPU, Place, find_place

if TYPE_CHECKING:
    import keras

    from beam_vision.records.manifest import DatasetManifest

Tell = Callable[[str], None]

SHOWN = ("accuracy", "recall_at_1")
"""The figures beside the loss that an epoch's line has, where there are such."""


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


def train_job(
    config: JobConfig,
    manifest: DatasetManifest,
    tell: Tell = lambda line: None,
    *,
    stop: StopRequest | None = None,
) -> Trained:
    """Trains, stops by the validation split, measures on the test split.

    A run whose ``run.work_dir`` holds a checkpoint of the same job goes on from its step.

    Args:
      config: the job's.
      manifest: of the dataset ``config.data.dataset``.
      tell: is called with lines for the person who watches.
      stop: while steps are done SIGTERM is noted in it, and ends the run after a checkpoint; None: it ends
        the process, as always.

    Raises:
      UsageError: the job can't be done as described.
      JobError: the loss is no longer a finite number.
      Interrupted: the run was asked to end.
    """
    place = find_place(config.run.strategy)
    recipe = make_recipe(config, manifest, replicas=place.replicas)
    return train_recipe(config, manifest, recipe, place, tell, stop=stop)


def train_recipe(
    config: JobConfig,
    manifest: DatasetManifest,
    recipe: Recipe,
    place: Place,
    tell: Tell = lambda line: None,
    *,
    stop: StopRequest | None = None,
) -> Trained:
    """As :func:`train_job`, of a recipe that is made already."""
    start = time.monotonic()
    _check_place(config, place)
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
            with asked_by_signals(stop):
                model = _fit(config, recipe, place, length, progress, checkpoints, tell, stop)
        model = _as_float32(recipe, model) if config.run.mixed_precision else model
        tell(f"ended after {progress.step:,} steps: {progress.stopped}")
        evaluation = recipe.measure(model) if place.chief else None
    facts = {"evaluation": evaluation, "wall_sec": round(time.monotonic() - start, 2)}
    facts = _facts(config, manifest, recipe, place, progress, model) | facts
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


def _check_place(config: JobConfig, place: Place) -> None:
    """Raises UsageError where workers would part ways: each has a clock of its own."""
    if place.name == MULTI_WORKER and config.run.max_seconds:
        raise UsageError(
            f"run.max_seconds is {config.run.max_seconds:g}: workers that train together must do the same "
            "steps, and their clocks differ; set run.steps or run.epochs in its place"
        )


def _fit(
    config: JobConfig,
    recipe: Recipe,
    place: Place,
    length: Length,
    progress: Progress,
    checkpoints: Checkpoints,
    tell: Tell,
    stop: StopRequest | None,
) -> keras.Model:
    """The fitted model; ``progress`` says where it ended."""
    rate = config.optimizer.learning_rate * (place.replicas if config.run.scale_rate else 1)
    schedule = _schedule(config, rate, length.steps)
    model, trainee = _build(config, recipe, place, rate if config.run.max_seconds else schedule)
    tell(f"{model.name}: {model.count_params():,} weights, {len(recipe.labels):,} classes")
    if progress.step:
        with place.strategy.scope():
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
        asked_to_stop=lambda: bool(stop),
    )
    validation = recipe.validation() if recipe.validation else None
    fit = fit_replicas if place.replicas > 1 and place.name != TPU else fit_phase
    with contextlib.closing(course):
        for phase in plan_phases(length, progress.step):
            if progress.stopped:
                break
            fit(course, phase, recipe.train(phase.first_step), validation)
    if progress.best_epoch and place.chief:
        with place.strategy.scope():
            checkpoints.load_best(model)
    return model


def _build(config: JobConfig, recipe: Recipe, place: Place, rate: Any) -> tuple[keras.Model, keras.Model]:
    """The model and what is fitted of it, with all of its variables: a step that made some would be traced
    twice."""
    with place.strategy.scope():
        model = recipe.build()
        trainee = recipe.trainee(model, rate)
        trainee.optimizer.build(trainee.trainable_variables)
    return model, trainee


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
        "job": without_env(config).to_dict(),
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
    shown = [name for name in SHOWN if name in row]
    line += "".join(f"  {name} {row[name]:.3f}" for name in shown)
    if "validation_loss" in row:
        others = [f", {row[f'validation_{name}']:.3f}" for name in shown if f"validation_{name}" in row]
        line += f"  validation {row['validation_loss']:.3f}{''.join(others)}"
    return line
