"""The accounts of a backfill: what became of each image, counted from the data itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from beam_vision import storage
from beam_vision.errors import JobError
from beam_vision.sinks.windows import Committed
from beam_vision.stream_table import PREDICTIONS
from beam_vision.stream_types import DeadLetter, Observation, StreamRow
from beam_vision.types import Failure, ImageRef

FOLDER = ".backfill"
_FAILED = "failed/"
_KINDS = {"gated": "gated", "duplicate": "duplicates"}

Counted = tuple[str, int]
"""A name of the accounts, and how many."""


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """What became of each image: ``inputs == rows + failed + gated + duplicates``.

    Attributes:
      inputs: images listed, failures of listing among them.
      rows: predictions made.
      new_rows: of these, how many the table didn't hold before.
      gated: images like the last one predicted.
      duplicates: images of the same camera and capture time as another.
      failed_by_reason: the dead letters.
    """

    inputs: int = 0
    rows: int = 0
    new_rows: int = 0
    gated: int = 0
    duplicates: int = 0
    failed_by_reason: Mapping[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Dead letters in all."""
        return sum(self.failed_by_reason.values())

    def check(self) -> None:
        """Whether the run is acceptable.

        Raises:
          JobError: images are unaccounted for, nothing came in, or nothing came through.
        """
        accounted = self.rows + self.failed + self.gated + self.duplicates
        if self.inputs != accounted:
            raise JobError(
                f"{self.inputs} images came in but {accounted} are accounted for; "
                "this is a bug, please report it"
            )
        if not self.inputs:
            raise JobError("no images came in: check --input and --format")
        if self.failed == self.inputs:
            reasons = ", ".join(f"{name} {number}" for name, number in self.failed_by_reason.items())
            raise JobError(f"no image came through: {reasons}; their details are in OUTPUT/failures")


def of_input(_: ImageRef | Failure) -> Iterator[Counted]:
    """What one listed image adds."""
    yield "inputs", 1


def of_end(end: StreamRow | DeadLetter | Observation | Committed) -> Iterator[Counted]:
    """What the end of one image adds, and of a commit its new predictions; nothing for anything else."""
    if isinstance(end, StreamRow):
        yield "rows", 1
    elif isinstance(end, DeadLetter):
        yield f"{_FAILED}{end.failure.reason}", 1
    elif isinstance(end, Committed):
        if end.table == PREDICTIONS:
            yield "new_rows", end.new_rows
    elif end.kind in _KINDS:
        yield _KINDS[end.kind], 1


def accounts_of(counts: Mapping[str, int]) -> Accounts:
    """The accounts, from the sums of what was added."""
    failed = {name[len(_FAILED) :]: n for name, n in sorted(counts.items()) if name.startswith(_FAILED)}
    rest = {name: number for name, number in counts.items() if not name.startswith(_FAILED)}
    return Accounts(failed_by_reason=failed, **rest)


def accounts_path(folder: str, run_id: str) -> str:
    """Where the accounts of a run are."""
    return storage.join(folder, FOLDER, f"{run_id}.json")


def write_accounts(counts: Mapping[str, int], path: str) -> None:
    """Writes the accounts that sums make."""
    storage.write_json(path, asdict(accounts_of(counts)))


def read_accounts(path: str) -> Accounts:
    """The accounts of a run.

    Raises:
      JobError: it wrote none.
    """
    if not storage.exists(path):
        raise JobError(f"the run ended without its accounts at {path}")
    content: dict[str, Any] = storage.read_json(path)
    return Accounts(**content)
