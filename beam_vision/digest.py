"""Short stable digests of settings and of content."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def settings_digest(settings: Any) -> str:
    """16 hexadecimal digits of the canonical JSON of ``settings`` (keys sorted, no white space).

    Args:
      settings: anything JSON can hold. The same settings give the same digest on every machine.
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_digest(data: bytes) -> str:
    """The sha256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def bucket(text: str, buckets: int) -> int:
    """A stable bucket in 0..buckets-1 for ``text``; the same on every machine and in every run."""
    if buckets == 1:
        return 0
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % buckets


def fraction(text: str) -> float:
    """A stable number in [0, 1) for ``text``, uniform over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64
