"""Fitting a model to a data set within a number of epochs and seconds, whichever ends first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import JobError, UsageError
from beam_vision.training.model import SCORES

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to fit.

    Attributes:
      epochs: at most.
      max_seconds: at most, from the end of the first step (which also builds the graph); 0 is no limit. A
        run that this ends differs from machine to machine.
      learning_rate: at its highest; it rises over the first tenth of the run and falls to 0 along a cosine.
      weight_decay: AdamW's.
      patience: epochs without a lower validation loss before it stops.
    """

    epochs: int = 30
    max_seconds: float = 0.0
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    patience: int = 8

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"--epochs must be at least 1, not {self.epochs}")
        if self.max_seconds < 0:
            raise UsageError(f"--max_seconds must not be negative: {self.max_seconds}")


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; the validation figures are None when there is no validation split."""

    number: int
    seconds: float
    loss: float
    accuracy: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None


def learning_rate_at(progress: float, highest: float) -> float:
    """The learning rate at ``progress`` 0..1 of a run: up over the first tenth, then down along a cosine."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < 0.1:
        return highest * max(progress / 0.1, 0.02)
    return highest * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


class Pace:
    """How far a run is, in epochs or in seconds, whichever is more, and its learning rate there.

    Args:
      settings: of the run, which begins now.
      steps: batches in an epoch.
    """

    def __init__(self, settings: FitSettings, steps: int) -> None:
        self._settings = settings
        self._steps = max(steps, 1)
        self._start = time.monotonic()
        self._first_step_end = math.inf

    @property
    def seconds(self) -> float:
        """Since the start, to a hundredth."""
        return round(time.monotonic() - self._start, 2)

    @property
    def time_spent(self) -> float:
        """The share of the seconds allowed that has gone by; 0 without a limit."""
        if not self._settings.max_seconds:
            return 0.0
        return max(0.0, time.monotonic() - self._first_step_end) / self._settings.max_seconds

    def learning_rate(self, epoch: int, batch: int) -> float:
        """For a batch of an epoch, both from 0."""
        progress = max((epoch + batch / self._steps) / self._settings.epochs, self.time_spent)
        return learning_rate_at(progress, self._settings.learning_rate)

    def end_step(self) -> None:
        """Notes that a step is done: the first one, which also builds the graph, takes no time."""
        self._first_step_end = min(self._first_step_end, time.monotonic())


def fit(
    model: keras.Model,
    train: tf.data.Dataset,
    validation: tf.data.Dataset | None,
    settings: FitSettings,
    *,
    steps: int,
    tell: Callable[[Epoch], None] = lambda epoch: None,
) -> list[Epoch]:
    """Fits ``model`` in place; it ends with the weights of the epoch whose validation loss was lowest.

    Args:
      model: as :func:`beam_vision.training.model.build_model` makes it.
      train: batches of (images uint8 ``[N, H, W, 3]``, class ids int ``[N]``), one epoch long.
      validation: the same, or None: then it ends with the last weights.
      settings: how.
      steps: batches in ``train``; the learning rate's course is planned by it.
      tell: is called at the end of each epoch.

    Returns:
      The epochs, in order.

    Raises:
      JobError: the loss is no longer a finite number.
    """
    keras = deps.need("keras")
    scorer = keras.Model(model.inputs, model.output[SCORES])
    scorer.compile(
        keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    course = _Course(scorer, settings, steps, tell)
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_train_batch_begin=course.begin_batch,
            on_train_batch_end=course.end_batch,
            on_epoch_begin=course.begin_epoch,
            on_epoch_end=course.end_epoch,
        ),
        keras.callbacks.TerminateOnNaN(),
    ]
    if validation is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                "val_loss", patience=settings.patience, restore_best_weights=True, start_from_epoch=1
            )
        )
    scorer.fit(
        train,
        validation_data=validation,
        epochs=settings.epochs,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )
    if not all(math.isfinite(epoch.loss) for epoch in course.epochs):
        raise JobError("the training loss is no longer a finite number; try a lower learning rate")
    return course.epochs


class _Course:
    """Sets the learning rate batch by batch, ends the run when its time is over, keeps the epochs."""

    def __init__(self, model: Any, settings: FitSettings, steps: int, tell: Callable[[Epoch], None]) -> None:
        self.model = model
        self.pace = Pace(settings, steps)
        self.tell = tell
        self.epochs: list[Epoch] = []
        self.epoch = 0

    def begin_epoch(self, epoch: int, logs: Any = None) -> None:
        """Notes which epoch it is."""
        self.epoch = epoch

    def begin_batch(self, batch: int, logs: Any = None) -> None:
        """Sets the learning rate by how far the run is, in epochs or in seconds."""
        self.model.optimizer.learning_rate.assign(self.pace.learning_rate(self.epoch, batch))

    def end_batch(self, batch: int, logs: Any = None) -> None:
        """Ends the run when its time is over."""
        self.pace.end_step()
        if self.pace.time_spent >= 1:
            self.model.stop_training = True

    def end_epoch(self, epoch: int, logs: Any = None) -> None:
        """Keeps and tells what the epoch came to."""
        found = {name: float(value) for name, value in (logs or {}).items()}
        done = Epoch(
            epoch + 1,
            self.pace.seconds,
            found["loss"],
            found["accuracy"],
            found.get("val_loss"),
            found.get("val_accuracy"),
        )
        self.epochs.append(done)
        self.tell(done)
