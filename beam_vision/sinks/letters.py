"""Where a job's failures go: a folder of JSONL files, or a table of BigQuery's.

In either, what a run writes takes the place of what the run before wrote for the same output, at once and
only when it is all there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from beam_vision import storage
from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError
from beam_vision.sinks import failures as files
from beam_vision.sinks import warehouse_failures as tables
from beam_vision.sinks.failures import StagedFailures
from beam_vision.sinks.warehouse_staging import staging_folder
from beam_vision.types import Failure
from beam_vision.warehouse.names import is_bigquery, parse_table


class Letter(Protocol):
    """A place for failures, in the steps of a commit. Each may be done again."""

    @property
    def folder(self) -> str:
        """Where failures are staged as they come, below ``.staging/RUN``."""

    def check(self) -> None:
        """Raises UsageError when failures can't be written there."""

    def prepare(self, run_id: str, staged: Sequence[StagedFailures]) -> dict[str, Any]:
        """Brings what was staged there; it doesn't count yet.

        Returns:
          ``{"total": int, "by_reason": {reason: n}, "files": [names]}``.
        """

    def record(self, run_id: str, summary: Mapping[str, Any], *, job: str = "") -> None:
        """Makes what was prepared take the place of the failures before."""

    def clean(self, run_id: str) -> None:
        """Removes what isn't needed any more."""


@dataclass(frozen=True)
class FolderLetter:
    """A folder; see :mod:`beam_vision.sinks.failures`."""

    folder: str

    def check(self) -> None:
        """Raises UsageError when it is a file, or of something else."""
        files.check_folder(self.folder)

    def prepare(self, run_id: str, staged: Sequence[StagedFailures]) -> dict[str, Any]:
        """Writes the parts."""
        return files.write_parts(self.folder, run_id, staged)

    def record(self, run_id: str, summary: Mapping[str, Any], *, job: str = "") -> None:
        """Writes ``job.json``."""
        files.record(self.folder, run_id, summary, job=job)

    def clean(self, run_id: str) -> None:
        """Removes earlier parts, and all that was staged."""
        files.clean(self.folder)


def letter_of(place: str, *, output: str = "", staging: str = "") -> Letter:
    """The letter at ``place``.

    Args:
      place: a folder, or ``bigquery://project.dataset.table``.
      output: the destination of the job; a table holds the failures of several.
      staging: where files for BigQuery are staged.

    Raises:
      UsageError: ``place`` isn't the name of a table.
    """
    if not is_bigquery(place):
        return FolderLetter(place)
    name = parse_table(place, option="--failures")
    own = settings_digest(output)  # runs into other outputs may go on beside this one
    return tables.TableLetter(
        name=name, staging=storage.join(staging_folder(name, staging), own), output=output
    )


def letter_beside(place: str, folder: str) -> Letter:
    """The letter at ``place`` of a job that writes to ``folder``.

    Files for a table are staged where every worker sees them: here, or beside a folder that is in a bucket.

    Raises:
      UsageError: ``place`` isn't the name of a table.
    """
    staging = f"{folder}.staging" if storage.is_remote(folder) else ""
    return letter_of(place, output=folder, staging=staging)


def counts_of(place: str, *, output: str = "") -> dict[str, int]:
    """How many failures are at ``place``, by reason: of the folder's run, or of ``output`` in a table.

    Raises:
      UsageError: it is something else.
    """
    if is_bigquery(place):
        found = Counter(failure.reason for failure in read_letter(place, output=output))
        return dict(sorted(found.items()))
    return (files.read_job(place) or {}).get("by_reason", {})


def read_letter(place: str, *, output: str = "") -> Iterator[Failure]:
    """The failures at ``place``: a folder, one file of it, or those of ``output`` in a table.

    Raises:
      UsageError: nothing is there, or it isn't failures.
    """
    if is_bigquery(place):
        yield from tables.read_table(parse_table(place, option="--failures"), output)
    else:
        yield from files.read_failures(place)


def letter_files(place: str) -> list[str]:
    """What :func:`read_letter` reads one by one, in parallel: a folder's files, or the table.

    Raises:
      UsageError: nothing is there.
    """
    return [place] if is_bigquery(place) else files.failure_files(place)


def job_of(place: str, *, output: str = "") -> str:
    """The job whose failures are at ``place``; ``""`` where it doesn't say.

    Raises:
      UsageError: it is something else, or of several jobs.
    """
    if not is_bigquery(place):
        return (files.read_job(place) or {}).get("job", "")
    jobs = tables.jobs_in(parse_table(place, option="--failures"), output)
    if len(jobs) > 1:
        raise UsageError(f"{place} holds failures of {' and '.join(jobs)} for {output}; name one by --job")
    return jobs[0] if jobs else ""
