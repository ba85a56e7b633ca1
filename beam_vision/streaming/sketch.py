"""Quantiles of many numbers in little room: a sketch with a bounded relative error, which can be merged.

Buckets grow by a constant factor, so that a bucket's middle is within 1 % of whatever is in it (C. Masson,
J. Rim, H. Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees", 2019).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

RELATIVE_ERROR = 0.01
"""A quantile is off by at most this part of the exact one."""

SMALLEST = 1e-3
"""Numbers nearer to zero than this count as zero."""

_FACTOR = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_FACTOR = math.log(_FACTOR)
_SHIFT = 1 - math.ceil(math.log(SMALLEST) / _LOG_FACTOR)
_HIGHEST = 10_000
"""Of buckets: some 1e83, beyond any number of milliseconds."""


@dataclass(frozen=True)
class Sketch:
    """How many numbers fell into each bucket; never changed once made.

    Attributes:
      buckets: bucket -> count; greater buckets hold greater numbers, negative ones have negative numbers.
      largest: the greatest number, exactly.
    """

    buckets: Mapping[int, int] = field(default_factory=dict)
    largest: float = -math.inf

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(self.buckets.values())

    def quantile(self, q: float) -> float | None:
        """The number at rank ``floor(q * (count - 1))`` of all, in order, within 1 %; None of none.

        Args:
          q: in 0..1.
        """
        rank = math.floor(q * (self.count - 1))
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen > rank:
                return min(_middle(bucket), self.largest)
        return None


def sketch_of(numbers: Iterable[float]) -> Sketch:
    """The sketch of finite numbers; others are left out."""
    buckets: dict[int, int] = {}
    largest = -math.inf
    for number in numbers:
        if math.isfinite(number):
            bucket = _bucket(number)
            buckets[bucket] = buckets.get(bucket, 0) + 1
            largest = max(largest, number)
    return Sketch(buckets, largest)


def merged(a: Sketch, b: Sketch) -> Sketch:
    """The sketch of the numbers of both, exactly as if it had been made of them at once."""
    if len(a.buckets) < len(b.buckets):
        a, b = b, a
    buckets = dict(a.buckets)
    for bucket, count in b.buckets.items():
        buckets[bucket] = buckets.get(bucket, 0) + count
    return Sketch(buckets, max(a.largest, b.largest))


def _bucket(number: float) -> int:
    size = abs(number)
    if size < SMALLEST:
        return 0
    bucket = min(math.ceil(math.log(size) / _LOG_FACTOR) + _SHIFT, _HIGHEST)
    return bucket if number > 0 else -bucket


def _middle(bucket: int) -> float:
    """The number that is as far, relatively, from both ends of a bucket."""
    if bucket == 0:
        return 0.0
    return math.copysign(2 * _FACTOR ** (abs(bucket) - _SHIFT) / (_FACTOR + 1), bucket)
