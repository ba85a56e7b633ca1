"""What happens beside the steps of a run: its pace, its history, the best weights, checkpoints, its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import JobError
from beam_vision.training.checkpoints import Checkpoints, Progress
from beam_vision.training.config import RunConfig
from beam_vision.training.history import Events, write_curves, write_history
from beam_vision.training.phases import Length, Phase
from beam_vision.training.stopping import Interrupted

if TYPE_CHECKING:
    import keras

LOOK_EVERY_STEPS = 20
"""How often it is looked whether the loss is a number: a look waits for the device."""

_LOWER_IS_BETTER = ("loss", "error")


class Course:
    """A run as Keras's callbacks see it; the same object over all phases of the run.

    Args:
      trainee: the compiled model that is fitted.
      model: the one that is kept where it is best; shares the weights of ``trainee``.
      run: the settings.
      length: of the run.
      progress: how far it is; is changed on the way.
      checkpoints: where it is kept.
      validates: whether there are validation figures.
      schedule: the learning rate by step, for a run within so many seconds; None: the optimizer has it.
      tell: is called with each epoch's row.
      write: whether this process writes files.
      asked_to_stop: whether someone wants the run to end before it is over.
    """

    def __init__(
        self,
        trainee: keras.Model,
        model: keras.Model,
        run: RunConfig,
        length: Length,
        progress: Progress,
        checkpoints: Checkpoints,
        *,
        validates: bool,
        schedule: Callable[[Any], Any] | None,
        tell: Callable[[Mapping[str, Any]], None],
        write: bool = True,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.trainee, self.model, self.run, self.length = trainee, model, run, length
        self.progress, self.checkpoints = progress, checkpoints
        self.monitor = _monitor(run.monitor, validates)
        self._schedule, self._tell, self._write = schedule, tell, write
        self._asked_to_stop = asked_to_stop
        self._told_to_stop = False
        self._began = math.inf
        self._before = progress.seconds
        self._saved = progress.step
        folder = storage.join(checkpoints.folder, "tensorboard")
        self._events = Events(folder) if run.tensorboard and write else None

    @property
    def wants_stop(self) -> bool:
        """Whether this process was asked to end the run."""
        return self._asked_to_stop()

    @property
    def seconds(self) -> float:
        """Of training, from the end of the first step of each process of the run."""
        return self._before + max(0.0, time.monotonic() - self._began)

    @property
    def time_spent(self) -> float:
        """The share of the seconds allowed that has gone by; 0 without a limit."""
        return self.seconds / self.run.max_seconds if self.run.max_seconds else 0.0

    def begin_batch(self, batch: int, logs: Any = None) -> None:
        """Sets the learning rate by how far the run is, in steps or in seconds, whichever is more."""
        if self._schedule is not None:
            at = max(self.progress.step, min(self.time_spent, 1.0) * self.length.steps)
            self.trainee.optimizer.learning_rate.assign(self._schedule(at))

    def end_batch(self, batch: int, logs: Any = None, *, stop: bool | None = None) -> None:
        """Counts the step, keeps it when it is time to, ends the run when its time is over.

        Args:
          batch: its number in the epoch.
          logs: the figures over the epoch until now.
          stop: whether some process of the run was asked to end it; None: this one is the only one.

        Raises:
          Interrupted: the run was asked to end; its checkpoint is written. At an epoch's end that is for
            :meth:`end_epoch`.
        """
        self._began = min(self._began, time.monotonic())
        self.progress.step += 1
        every = self.run.checkpoint_every_steps
        self._told_to_stop = self._told_to_stop or (self.wants_stop if stop is None else stop)
        due = self._told_to_stop or (every and self.progress.step - self._saved >= every)
        if due or self.progress.step % LOOK_EVERY_STEPS == 0:
            self._check(logs)
        step = self.progress.step
        if due and step % self.length.steps_per_epoch and step < self.length.steps:
            self.save()
            self._end_where_told()
        if self.time_spent >= 1:
            self.stop(f"its {self.run.max_seconds:g} seconds are over")

    def end_epoch(self, epoch: int, logs: Any = None) -> None:
        """Keeps and tells what the epoch came to; keeps the weights where they are the best.

        Raises:
          Interrupted: as :meth:`end_batch`.
        """
        self._check(logs)
        self._look_for_missing_steps()
        row = self._row(epoch, logs or {})
        self.progress.epochs.append(row)
        self._follow(row)
        if self.progress.step >= self.length.steps:
            self.stop(f"all {self.length.steps:,} steps are done")
        self.save()
        if self._write:
            write_history(self.checkpoints.folder, self.progress.epochs)
            write_curves(self.checkpoints.folder, self.progress.epochs, best_epoch=self.progress.best_epoch)
        if self._events is not None:
            self._events.write(self.progress.step, row)
        self._tell(row)
        if not self.progress.stopped:
            self._end_where_told()

    def _end_where_told(self) -> None:
        if self._told_to_stop:
            raise Interrupted(
                f"asked to end: stopped after step {self.progress.step:,} of {self.length.steps:,}"
            )

    def stop(self, why: str) -> None:
        """Ends the run after this step."""
        self.progress.stopped = self.progress.stopped or why
        self.trainee.stop_training = True

    def save(self) -> None:
        """Writes the checkpoint."""
        self.progress.seconds = round(self.seconds, 3)
        self.checkpoints.save(self.trainee, self.progress)
        self._saved = self.progress.step

    def close(self) -> None:
        """Ends what was opened."""
        if self._events is not None:
            self._events.close()

    def _look_for_missing_steps(self) -> None:
        """Keras only warns where batches run out, and would go on with the next epoch."""
        step, whole = self.progress.step, self.length.steps
        if step % self.length.steps_per_epoch and step < whole and not self.progress.stopped:
            raise JobError(
                f"there were no more batches after step {step:,} of {whole:,}: is the dataset whole?"
            )

    def _row(self, epoch: int, logs: Mapping[str, Any]) -> dict[str, Any]:
        figures = {name.replace("val_", "validation_", 1): float(value) for name, value in logs.items()}
        rate = float(self.trainee.optimizer.learning_rate)
        step = self.progress.step
        return {
            "number": epoch + 1,
            "step": step,
            "seconds": round(self.seconds, 2),
            **{name: value for name, value in figures.items() if name != "learning_rate"},
            "learning_rate": rate,
        }

    def _follow(self, row: Mapping[str, Any]) -> None:
        """Notes whether the epoch is the best, and stops when none was for long."""
        if not self.monitor:
            return
        if self.monitor not in row:
            raise JobError(f"run.monitor {self.monitor!r} is none of the run's figures: {', '.join(row)}")
        value = row[self.monitor]
        progress = self.progress
        if progress.best is None or self._better(value, progress.best):
            progress.best, progress.best_epoch, progress.waited = value, row["number"], 0
            self.checkpoints.save_best(self.model)
            return
        progress.waited += 1
        if self.run.patience and progress.waited >= self.run.patience:
            self.stop(f"{self.monitor} was no better for {progress.waited} epochs")

    def _better(self, value: float, best: float) -> bool:
        lower = any(word in self.monitor for word in _LOWER_IS_BETTER)
        return value < best if lower else value > best

    def _check(self, logs: Any) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            rate = float(self.trainee.optimizer.learning_rate)
            raise JobError(
                f"the training loss is no longer a finite number ({loss}) at step {self.progress.step:,} of "
                f"{self.length.steps:,}, with a learning rate of {rate:.3g}; "
                "try a lower optimizer.learning_rate, a schedule.warmup, or optimizer.clipnorm: 1. The last "
                f"checkpoint is of step {self._saved:,}"
            )


def _monitor(asked: str, validates: bool) -> str:
    """The figure's name in the history; ``""``: none is followed."""
    if asked == "auto":
        return "validation_loss" if validates else ""
    return asked.replace("val_", "validation_", 1) if asked.startswith("val_") else asked


def fit_phase(course: Course, phase: Phase, train: Any, validation: Any) -> None:
    """Fits over the epochs of one phase, on ``train``, which begins at its first step."""
    from beam_vision import deps

    keras = deps.need("keras")
    course.trainee.fit(
        train,
        validation_data=validation,
        initial_epoch=phase.first_epoch,
        epochs=phase.end_epoch,
        steps_per_epoch=phase.steps,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_begin=course.begin_batch,
                on_train_batch_end=course.end_batch,
                on_epoch_end=course.end_epoch,
            )
        ],
    )
