"""The steps in which a run ends; what a pipeline holds between them is in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from beam_vision.sinks import parts
from beam_vision.sinks.commit import Commit, clean, commit
from beam_vision.sinks.letters import Letter
from beam_vision.sinks.output import OutputPlan
from beam_vision.sinks.rows import RowSettings
from beam_vision.table import Part, TableManifest


class Steps(Protocol):
    """The end of a run, in steps that may each be done again."""

    def write_part(self, task: parts.PartTask) -> Part:
        """Writes a part aside."""

    def commit(self, plan: Commit, written: list[Part]) -> Any:
        """Puts all in place; gives what :class:`WriteTable` gives."""

    def clean(self, committed: Any) -> Any:
        """Removes what isn't needed any more; gives what it was given."""


@dataclass(frozen=True)
class FolderSteps:
    """Into a folder; see :mod:`beam_vision.sinks.commit`."""

    output: OutputPlan
    settings: RowSettings
    letter: Letter
    job: str

    def write_part(self, task: parts.PartTask) -> Part:
        """Writes a Parquet file."""
        return parts.write_part(task, self.output.staging("parts"), self.settings)

    def commit(self, plan: Commit, written: list[Part]) -> TableManifest:
        """Writes failures and manifest."""
        return commit(self.output, self.settings, plan, written, letter=self.letter, job=self.job)

    def clean(self, committed: TableManifest) -> TableManifest:
        """Removes earlier parts, and what was staged."""
        clean(self.output, committed, letter=self.letter)
        return committed
