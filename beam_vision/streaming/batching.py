"""How long frames wait for others to share a batch with: as little as the load allows.

A batch of n images takes about ``fixed + n * each`` seconds. Where frames come slower than they can be run
one by one, none waits. Where they come faster, a batch is held until it has as many images as are needed to
keep up, and never longer than the bound. Rates are measured by arrivals, costs by batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from beam_vision.errors import UsageError

RATE_MEMORY_SEC = 2.0
"""Arrivals so long ago count 1/e of what new ones do."""

BUSY_SHARE = 1.1
"""Frames wait for larger batches once those at hand would take more than this share of the time.

Up to 1 nothing is gained by it: what comes while a batch runs is the next one. (In a simulation of one
server, Poisson arrivals, at half of its top rate: 0.9 adds up to 9 ms to the 95th percentile, 1.1 up to 2.)
"""

_COST_MEMORY = 0.95
"""What a batch counts less than the one after it."""

_LEAST_SPREAD = 0.5
"""Batches whose sizes differ by less (as a standard deviation) don't tell a fixed cost from one an image."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """Bounds of a batch; the first that is reached ends it.

    Attributes:
      max_images: at most so many images.
      max_bytes: of encoded images together; a single larger one goes alone.
      max_latency_ms: no frame waits longer for others; 0: what a bundle brings is a batch.
      shards: over so many keys frames are spread, which is how many workers can batch at once.
      waits: whether frames wait for others at all. Where one thread takes in and runs them it gains nothing:
        what comes while a batch runs is the next one, and the more there is to do, the larger it is.
    """

    max_images: int = 32
    max_bytes: int = 32 << 20
    max_latency_ms: float = 200.0
    shards: int = 1
    waits: bool = True

    def __post_init__(self) -> None:
        for name in ("max_images", "max_bytes", "shards"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} of a batch is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.max_latency_ms < math.inf:
            raise UsageError(f"--max_batch_latency_ms is {self.max_latency_ms}; it must be 0 or more")


@dataclass(frozen=True)
class Held:
    """Frames that wait, without their images, and how fast they come.

    Attributes:
      images, size_bytes: how many, and their encoded bytes together.
      first_sec: since when the first of them waits.
      rate: frames a second, lately.
      last_sec: when the last frame came.
    """

    images: int = 0
    size_bytes: int = 0
    first_sec: float = 0.0
    rate: float = 0.0
    last_sec: float = 0.0

    def has_room(self, size_bytes: int, settings: BatchSettings) -> bool:
        """Whether one more image of so many bytes keeps within the bounds."""
        if not self.images:
            return True
        within = self.size_bytes + size_bytes <= settings.max_bytes
        return within and self.images < settings.max_images

    def is_full(self, settings: BatchSettings) -> bool:
        """Whether there is nothing left to wait for."""
        return self.images >= settings.max_images or self.size_bytes >= settings.max_bytes

    def add(self, size_bytes: int, now_sec: float) -> Held:
        """With one more frame, that came now."""
        faded = math.exp(-max(0.0, now_sec - self.last_sec) / RATE_MEMORY_SEC)
        return Held(
            images=self.images + 1,
            size_bytes=self.size_bytes + size_bytes,
            first_sec=self.first_sec if self.images else now_sec,
            rate=self.rate * faded + 1 / RATE_MEMORY_SEC,
            last_sec=now_sec,
        )

    def emptied(self) -> Held:
        """After its frames have gone: only how fast they come is left."""
        return replace(self, images=0, size_bytes=0, first_sec=0.0)


@dataclass(frozen=True)
class Costs:
    """What batches took, as faded sums over them; the line through them gives the costs.

    Attributes:
      batches: how many, older ones counting less.
      images, seconds: sums of their sizes and times.
      images_squared, images_seconds: sums of products.
    """

    batches: float = 0.0
    images: float = 0.0
    seconds: float = 0.0
    images_squared: float = 0.0
    images_seconds: float = 0.0

    def seen(self, images: int, seconds: float) -> Costs:
        """With one more batch of so many images that took so long."""
        old, new = _COST_MEMORY, (1.0, images, seconds, images**2, images * seconds)
        sums = (self.batches, self.images, self.seconds, self.images_squared, self.images_seconds)
        return Costs(*(old * a + b for a, b in zip(sums, new, strict=True)))

    def split(self) -> tuple[float, float]:
        """``(fixed, each)`` in seconds: the least-squares line, both at least 0; (0, 0) before any batch.

        Where sizes hardly differ the line has no slope to speak of: then half of the time is taken for fixed.
        """
        if not self.batches:
            return 0.0, 0.0
        mean, took = self.images / self.batches, self.seconds / self.batches
        spread = self.images_squared / self.batches - mean**2
        if spread < _LEAST_SPREAD**2:
            return took / 2, took / 2 / mean
        each = (self.images_seconds / self.batches - mean * took) / spread
        each = min(max(each, 0.0), took / mean)
        return max(took - each * mean, 0.0), each


def images_to_keep_up(rate: float, fixed_sec: float, each_sec: float, most: int) -> int:
    """How large batches must be so that running them takes at most :data:`BUSY_SHARE` of the time.

    With n images a batch, that share is ``rate * (fixed / n + each)``.

    Args:
      rate: frames a second.
      fixed_sec, each_sec: what a batch takes: ``fixed + n * each``.
      most: the largest batch; also the answer where even that doesn't keep up.
    """
    left = BUSY_SHARE - rate * each_sec
    if left * most <= rate * fixed_sec:
        return most
    return max(1, math.ceil(rate * fixed_sec / left))


def wait_sec(held: Held, costs: Costs, settings: BatchSettings, now_sec: float) -> float:
    """How much longer the held frames wait for others; 0: they go as soon as what has come is taken in.

    Never past ``max_latency_ms`` after the first of them came.
    """
    if held.is_full(settings) or not held.images or not settings.waits:
        return 0.0
    needed = images_to_keep_up(held.rate, *costs.split(), settings.max_images)
    if needed <= held.images:
        return 0.0
    left = held.first_sec + settings.max_latency_ms / 1000 - now_sec
    return max(0.0, min(left, (needed - held.images) / held.rate))
