"""Checkpoints of a run: whole or not there, and exact to the step.

As in Keras's ``BackupAndRestore`` there is one checkpoint, the latest, with weights, the optimizer's slots
and its count of steps. Keras (3.15) writes the weights and what they belong to as two files, goes on at the
beginning of the epoch, and forgets how far dropout's random generators were. Here ``state.json`` has these,
is renamed into place last and names the file of weights, so that a process may be killed at any moment, and
the run goes on at the very step as if it had not been.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import storage
from beam_vision.errors import DigestMismatch

if TYPE_CHECKING:
    import keras

STATE_FILE = "state.json"
BEST_FILE = "best.weights.h5"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
      digest: of the job's settings and its dataset.
      step: steps done.
      seconds: of training until now, all processes of the run together.
      epochs: what each epoch came to: rows of the history.
      best: the best value of the monitored figure; None before there is one.
      best_epoch: the epoch's number, from 1; 0 before there is one.
      waited: epochs since then.
      stopped: why the run is over; ``""`` while it isn't.
      weights: name of the checkpoint's file of weights.
      generators: states of the model's random generators, in the order of its variables.
    """

    digest: str = ""
    step: int = 0
    seconds: float = 0.0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    stopped: str = ""
    weights: str = ""
    generators: list[list[int]] = field(default_factory=list)


class Checkpoints:
    """The checkpoint of a run and its best weights, in a folder.

    Args:
      folder: local or remote.
      write: whether this process writes; others of the same run only follow along.
    """

    def __init__(self, folder: str, *, write: bool = True) -> None:
        self.folder = folder
        self._write = write

    def save(self, model: keras.Model, progress: Progress) -> None:
        """Writes the checkpoint of a compiled model in place of the one before."""
        before, progress.weights = progress.weights, f"step-{progress.step:08d}.weights.h5"
        self._save_weights(model, progress.weights)
        progress.generators = [np.asarray(state).tolist() for state in _generators(model)]
        if not self._write:
            return
        storage.write_json(storage.join(self.folder, STATE_FILE), dataclasses.asdict(progress))
        if before and before != progress.weights:
            storage.delete(storage.join(self.folder, before))

    def read(self, digest: str) -> Progress:
        """How far the run in the folder is; a new one's progress where there is none.

        Raises:
          DigestMismatch: it is a run with other settings, or on another dataset.
        """
        path = storage.join(self.folder, STATE_FILE)
        if not storage.exists(path):
            return Progress(digest)
        progress = Progress(**storage.read_json(path))
        if progress.digest != digest:
            raise DigestMismatch(
                "job",
                expected=digest,
                found=progress.digest,
                remedy=f"run.work_dir {self.folder} holds another job's run: delete it or name another",
            )
        return progress

    def restore(self, model: keras.Model, progress: Progress) -> None:
        """Brings a compiled model to the state of the checkpoint that ``progress`` was read from."""
        if progress.weights:
            model.optimizer.build(model.trainable_variables)
            self._load_weights(model, progress.weights)
            for state, value in zip(_generators(model), progress.generators, strict=True):
                state.assign(value)

    def save_best(self, model: keras.Model) -> None:
        """Keeps the weights of ``model``, which needn't be compiled, as the best."""
        self._save_weights(model, BEST_FILE)

    def load_best(self, model: keras.Model) -> None:
        """Brings back what :meth:`save_best` kept."""
        self._load_weights(model, BEST_FILE)

    def _save_weights(self, model: keras.Model, name: str) -> None:
        """All processes save, since variables may be gathered from all of them; one file stays."""
        with tempfile.TemporaryDirectory(prefix="beam-vision-") as here:
            path = os.path.join(here, name)
            model.save_weights(path)
            if self._write:
                with open(path, "rb") as saved, storage.open_write(storage.join(self.folder, name)) as file:
                    shutil.copyfileobj(saved, file)

    def _load_weights(self, model: keras.Model, name: str) -> None:
        path = storage.join(self.folder, name)
        with tempfile.TemporaryDirectory(prefix="beam-vision-") as here:
            if storage.is_remote(path):
                local = os.path.join(here, name)
                with storage.open_read(path) as stored, open(local, "wb") as file:
                    shutil.copyfileobj(stored, file)
                path = local
            model.load_weights(storage.local(path))


def _generators(model: keras.Model) -> list[Any]:
    """The variables that hold the states of random generators; Keras's files of weights leave them out."""
    return [one for one in model.non_trainable_variables if one.path.endswith("seed_generator_state")]
