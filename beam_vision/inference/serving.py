"""The model that serves a stream: one at a time, exchanged between two batches while the stream runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from beam_vision.inference.engine import Engine
from beam_vision.inference.golden import Golden
from beam_vision.inference.loader import LoadedModel
from beam_vision.stream_types import RolloutEvent

MODEL_FILES = frozenset({"saved_model.pb", "model.keras", "model.onnx", "model.tflite"})
"""What a version's folder may hold the model in."""


def version_of(path: str) -> str:
    """The name of a model's folder; of a single file that isn't a bundle's, its own."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return version_of(folder) if folder and name in MODEL_FILES else name


@dataclass(frozen=True)
class Served:
    """A model that is loaded, warm and checked.

    Attributes:
      path: of its version.
      model: in memory.
      engine: runs it over images.
      golden: the images packed with it that it was checked on, or None.
      quality: how well it does on them, in 0..1; None without truth to compare with.
    """

    path: str
    model: LoadedModel
    engine: Engine
    golden: Golden | None = None
    quality: float | None = None

    @property
    def version(self) -> str:
        """The name of its folder."""
        return version_of(self.path)

    @property
    def digest(self) -> str:
        """The model's."""
        return self.model.spec.model_digest


class ServingModel:
    """Holds the model that serves, and what happened since somebody last asked. For any number of threads.

    A batch keeps the :class:`Served` that it began with; when its last batch is done, an exchanged model is
    nobody's any more and goes.

    Args:
      served: the first one.
      event: tells of it.
    """

    def __init__(self, served: Served, event: RolloutEvent) -> None:
        self._lock = threading.Lock()
        self._served = served
        self._events = [event]

    @property
    def served(self) -> Served:
        """The one that serves now."""
        return self._served

    def swap(self, served: Served, event: RolloutEvent) -> None:
        """From the next batch on this one serves."""
        with self._lock:
            self._served = served
            self._events.append(event)

    def note(self, event: RolloutEvent) -> None:
        """Something happened that changes nothing: a candidate was refused."""
        with self._lock:
            self._events.append(event)

    def take(self) -> tuple[Served, list[RolloutEvent]]:
        """The one that serves a batch that begins now, and the events since the last call."""
        with self._lock:
            events, self._events = self._events, []
            return self._served, events
