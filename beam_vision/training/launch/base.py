"""How a launched job stands, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class State(str, Enum):
    """How a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether it will not change any more."""
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A job on Vertex AI as it stands.

    Attributes:
      name: what it is found by again: ``projects/P/locations/REGION/customJobs/ID`` or
        ``.../hyperparameterTuningJobs/ID``.
      display_name: for people.
      state: how it stands.
      error: why it failed, in Vertex AI's words; empty else.
      started: whether it ever ran.
      created_sec: when it was made, in seconds since 1970; 0 where unknown.
      output: the folder that its model comes to; empty where the job names none.
      trials: of a tuning job, one mapping a trial: ``id``, ``state``, ``parameters``, ``metrics``.
    """

    name: str
    display_name: str = ""
    state: State = State.WAITING
    error: str = ""
    started: bool = False
    created_sec: float = 0.0
    output: str = ""
    trials: tuple[Mapping[str, Any], ...] = ()
