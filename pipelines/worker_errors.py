"""What a worker said: runners hand on an error of another process as the text of a traceback."""

from __future__ import annotations

import re

from beam_vision.errors import JobError, UsageError

_OURS = re.compile(
    rf"^(?:{re.escape(JobError.__module__)}\.)(JobError|UsageError|DigestMismatch): (.+?)"
    r"(?: \[while running '[^'\n]*'\])?\s*$",
    re.MULTILINE,
)
_KINDS: dict[str, type[JobError] | type[UsageError]] = {
    "JobError": JobError,
    "UsageError": UsageError,
    "DigestMismatch": UsageError,  # which it is; its parts are in the text
}


def ours_in(text: str) -> JobError | UsageError | None:
    """Our own error in the text of a worker's traceback: the last, which is the one that was raised."""
    found = _OURS.findall(text)
    if not found:
        return None
    kind, said = found[-1]
    return _KINDS[kind](said)
