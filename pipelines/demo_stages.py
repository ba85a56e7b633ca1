"""What the parts of the demo share: where things are, and running a job as the command line would."""

from __future__ import annotations

import importlib
import shlex
import time
from dataclasses import dataclass

from beam_vision import storage
from beam_vision.errors import JobError
from beam_vision.pipelines import job as jobs
from beam_vision.reports.data import StageRun


@dataclass(frozen=True)
class Places:
    """Where the demo's things are."""

    output: str
    images: str

    @property
    def dataset(self) -> str:
        """The TFRecord dataset."""
        return storage.join(self.output, "tfrecords")

    @property
    def model(self) -> str:
        """The model bundle."""
        return storage.join(self.output, "model")

    @property
    def table(self) -> str:
        """The table of predictions and embeddings."""
        return storage.join(self.output, "table")

    @property
    def index(self) -> str:
        """The search index."""
        return storage.join(self.output, "index")

    @property
    def report(self) -> str:
        """The HTML report."""
        return storage.join(self.output, "report.html")

    def summary(self, job: str) -> str:
        """A job's summary."""
        return storage.join(self.output, "summaries", f"{job}.json")


def as_typed(command: list[str]) -> str:
    """A command as one types it."""
    return shlex.join(["beam-vision", *command])


def run_stage(command: list[str], places: Places) -> StageRun:
    """Runs one job here, as the command line would, and gives its accounts.

    Raises:
      JobError: it ended with another exit code than 0.
    """
    name = command[0]
    storage.delete(places.summary(name))
    start = time.monotonic()
    call(command)
    wall_sec = time.monotonic() - start
    if not storage.exists(places.summary(name)):
        return StageRun(
            name=name, command=as_typed(command), wall_sec=wall_sec, note=_training_note(name, places)
        )
    made = storage.read_json(places.summary(name))
    return StageRun(
        name=name,
        command=as_typed(command),
        unit="vectors" if name == "build-index" else "images",
        wall_sec=wall_sec,
        parts_sec=made["stage_sec"],
        **{key: made[key] for key in ("inputs", "outputs", "failed", "already_done")},
    )


def call(command: list[str]) -> None:
    """Runs one job here.

    Raises:
      JobError: it ended with another exit code than 0.
    """
    jobs.say(f"\n$ {as_typed(command)}")
    module = importlib.import_module(f"beam_vision.pipelines.{command[0].replace('-', '_')}")
    code = module.run(command[1:])
    if code != 0:
        raise JobError(f"beam-vision {command[0]} ended with exit code {code}")


def _training_note(name: str, places: Places) -> str:
    if name != "train":
        return ""
    from beam_vision.training.export import TRAINING_FILE

    made = storage.read_json(storage.join(places.model, TRAINING_FILE))
    return f"{len(made['epochs'])} epochs over {made['splits'].get('train', 0):,} images"
