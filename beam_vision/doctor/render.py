"""Findings as text and as JSON."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

from beam_vision.doctor.base import FAIL, STATUSES, Finding, counts

_WIDTH = 110


def to_json(findings: Sequence[Finding], *, job: str = "") -> dict[str, Any]:
    """As plain JSON values: ``job``, ``ok``, ``counts`` by status, and the ``findings`` in order."""
    numbers = counts(findings)
    return {
        "job": job,
        "ok": not numbers[FAIL],
        "counts": numbers,
        "findings": [
            {name: getattr(one, name) for name in ("group", "name", "status", "said", "remedy")}
            for one in findings
        ],
    }


def render(findings: Sequence[Finding], *, width: int = _WIDTH) -> str:
    """As a table by group: status, name, what was found, and below it the remedy, each but once.

    Args:
      findings: those of a group stand together.
      width: of a line; longer ones are broken between words.
    """
    column = min(max((len(one.name) for one in findings), default=0), 34)
    lines: list[str] = []
    told: set[str] = set()
    for group, members in itertools.groupby(findings, key=lambda one: one.group):
        lines += ["", group] if lines else [group]
        for one in members:
            lines += _lines(one, column, width)
            if one.remedy and one.remedy not in told:
                lines.append(f"{' ' * (13 + column)}-> {one.remedy}")  # whole, to be copied
                told.add(one.remedy)
    numbers = counts(findings)
    summed = ", ".join(f"{numbers[status]} {status}" for status in STATUSES if numbers[status])
    return "\n".join([*lines, "", summed or "nothing to look at"])


def _lines(one: Finding, column: int, width: int) -> list[str]:
    head = f"  {one.status:<8} {one.name:<{column}}  "
    indent = " " * (13 + column)
    broken = textwrap.wrap(
        one.said, max(width - len(indent), 40), break_long_words=False, break_on_hyphens=False
    ) or [""]
    return [(head + broken[0]).rstrip(), *(indent + line for line in broken[1:])]
