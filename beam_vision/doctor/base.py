"""What every check is: a name, a group, and a question whose answers are findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from beam_vision.doctor.google import errors, explain
from beam_vision.errors import JobError, UsageError

OK, WARN, FAIL, UNKNOWN = STATUSES = ("ok", "warn", "fail", "unknown")


@dataclass(frozen=True)
class Finding:
    """One answer.

    Attributes:
      name: what was looked at.
      status: ``ok``; ``warn``: it works, but something should be known; ``fail``: it won't work; ``unknown``:
        it could not be found out.
      said: what was found, or why nothing could be.
      remedy: what to do, where there is something to do.
      group: under what it is shown; filled in by :func:`examine`.
    """

    name: str
    status: str
    said: str
    remedy: str = ""
    group: str = ""


@dataclass(frozen=True)
class Check:
    """One question.

    Attributes:
      name: stands for its findings where the question itself can't be asked.
      group: under what its findings are shown.
      ask: finds out; it may raise what Google's clients raise, and our own errors.
    """

    name: str
    group: str
    ask: Callable[[], Iterable[Finding]]


def examine(checks: Iterable[Check]) -> list[Finding]:
    """The findings of all checks, in order.

    A question that Google Cloud doesn't answer is ``unknown`` with the reason; what we refuse ourselves
    (UsageError) is ``fail``.
    """
    return [finding for check in checks for finding in _asked(check)]


def _asked(check: Check) -> Iterator[Finding]:
    try:
        for found in check.ask():
            yield replace(found, group=found.group or check.group)
    except (UsageError, JobError) as error:
        yield Finding(check.name, FAIL, str(error), group=check.group)
    except errors() as error:
        yield Finding(check.name, UNKNOWN, *explain(error), group=check.group)


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings there are of each status."""
    numbers = dict.fromkeys(STATUSES, 0)
    for finding in findings:
        numbers[finding.status] += 1
    return numbers
