"""Names of every counter and distribution, and the tally behind the progress line of a local run.

Every transform counts through :func:`count` and :func:`observe`: they update Beam's metrics, and the
process-wide :data:`TALLY` that a local run's progress line reads (Beam's local runner shows its own
metrics only at the end). :mod:`beam_vision.measured` says what each of them means.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

NAMESPACE = "beam_vision"

# counters
LISTED = "images_listed"
SKIPPED_FILES = "files_skipped"
READ = "images_read"
READ_BYTES = "bytes_read"
DECODED = "images_decoded"
INFERRED = "images_inferred"
DONE = "images_done"
FAILED = "images_failed"
RESUMED = "images_already_done"
BATCHES = "batches"
BISECTED = "batches_bisected"
HALVED = "batches_halved_for_memory"

# counters of streaming
MESSAGES = "messages"
MESSAGES_SKIPPED = "messages_skipped"
DUPLICATES = "frames_duplicate"
GATED = "frames_gated"
SAVED_MS = "inference_ms_saved"
TOO_LATE = "observations_too_late"
LATE_ROWS = "rows_late"
ALERTS = "camera_alerts"
SWAPS = "model_swaps"
REFUSED_MODELS = "models_refused"
PUBLISHED = "messages_published"
APPENDED = "rows_appended"
REFUSED_ROWS = "rows_refused"

# distributions
BATCH_SIZE = "batch_size"
READ_MS = "read_ms_per_batch"
DECODE_MS = "decode_ms_per_image"
DECODE_WAIT_MS = "decode_wait_ms_per_batch"
INFERENCE_MS = "inference_ms_per_batch"
MODEL_LOAD_MS = "model_load_ms"


@dataclass(frozen=True)
class Spread:
    """A distribution's observations, in short: whole numbers, at least one of them."""

    count: int
    sum: int
    min: int
    max: int

    def merged(self, other: Spread) -> Spread:
        """Of both."""
        return Spread(
            self.count + other.count, self.sum + other.sum, min(self.min, other.min), max(self.max, other.max)
        )

    def to_json(self) -> dict[str, float]:
        """As plain JSON values, with the mean."""
        return {**asdict(self), "mean": round(self.sum / self.count, 3)}


class Tally:
    """Counts of this process, for the progress line of a local run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter()
        self._spreads: dict[str, Spread] = {}

    def add(self, name: str, amount: int) -> None:
        """Adds to a counter."""
        with self._lock:
            self._counters[name] += amount

    def add_observation(self, name: str, value: int) -> None:
        """Adds one observation to a distribution."""
        one = Spread(1, value, value, value)
        with self._lock:
            self._spreads[name] = self._spreads[name].merged(one) if name in self._spreads else one

    def counts(self) -> dict[str, int]:
        """What each counter stands at."""
        with self._lock:
            return dict(self._counters)

    def spreads(self) -> dict[str, Spread]:
        """Each distribution."""
        with self._lock:
            return dict(self._spreads)

    def clear(self) -> None:
        """Starts again from nothing (at the start of a job)."""
        with self._lock:
            self._counters.clear()
            self._spreads.clear()


TALLY = Tally()


def count(name: str, amount: int = 1) -> None:
    """Adds to a counter. Call it on a thread of the runner's, never in a pool of our own: Beam's metrics
    find their bundle by the thread."""
    _counter(name).inc(amount)
    TALLY.add(name, amount)


def observe(name: str, value: float) -> None:
    """Adds a value (rounded to an integer) to a distribution; on a runner's thread, as :func:`count`."""
    _distribution(name).update(round(value))
    TALLY.add_observation(name, round(value))


@functools.cache
def _counter(name: str) -> Any:
    """Beam's counter; names are few, and it finds its bundle when it is used."""
    from apache_beam.metrics import Metrics

    return Metrics.counter(NAMESPACE, name)


@functools.cache
def _distribution(name: str) -> Any:
    from apache_beam.metrics import Metrics

    return Metrics.distribution(NAMESPACE, name)


def count_failure(reason: str) -> None:
    """Counts a failure, in all and by its reason."""
    count(FAILED)
    count(f"{FAILED}_{reason}")
