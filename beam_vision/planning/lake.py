"""What a sample says of a lake: shares with their uncertainty, sizes, times."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from beam_vision.planning.measure import Seen

SIZES_MP = (0.1, 0.5, 1.0, 4.0, 12.0)
"""Images are told apart by these sizes, in megapixels."""


@dataclass(frozen=True)
class Share:
    """A share of the images of a lake, as a sample shows it.

    Attributes:
      name: what they have in common.
      images: how many of the sample.
      of: how many were looked at.
      low, high: between which the lake's share lies, with 95 % confidence (Wilson's score interval).
    """

    name: str
    images: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The sample's share, in 0..1."""
        return self.images / self.of if self.of else 0.0


@dataclass(frozen=True, kw_only=True)
class Lake:
    """A lake, as a sample shows it.

    Attributes:
      total: images listed.
      exact: whether they were counted, or estimated.
      sampled: images looked at.
      formats, sizes, orientations, failures: shares; ``orientations`` holds one: those that EXIF turns.
      listing_failed: failures of listing by reason, of the whole lake.
      mean_bytes: of the files that could be read.
      median_mp: megapixels of those with a readable header.
    """

    total: int
    exact: bool
    sampled: int
    formats: tuple[Share, ...] = ()
    sizes: tuple[Share, ...] = ()
    orientations: tuple[Share, ...] = ()
    failures: tuple[Share, ...] = ()
    listing_failed: dict[str, int] = field(default_factory=dict)
    mean_bytes: float = 0.0
    median_mp: float = 0.0


def wilson(hits: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a share that was seen ``hits`` times ``of`` so many (Wilson 1927).

    Unlike the usual ``p +- z sqrt(p(1-p)/n)`` it stays in 0..1 and isn't empty where nothing was seen.

    Args:
      hits: 0..of.
      of: how many were looked at; 0 gives (0, 1).
      z: of the normal distribution; 1.96 for 95 %.
    """
    if of == 0:
        return 0.0, 1.0
    share, z2 = hits / of, z * z
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return low, 1.0 if hits == of else min(1.0, middle + half)


def shares(names: Iterable[str], of: int) -> tuple[Share, ...]:
    """The share of each name, the largest first."""
    counts = sorted(Counter(names).items(), key=lambda item: (-item[1], item[0]))
    return tuple(Share(name, count, of, *wilson(count, of)) for name, count in counts)


def describe(seen: Sequence[Seen], *, total: int, exact: bool, listing_failed: dict[str, int]) -> Lake:
    """The lake that ``seen`` was sampled from."""
    headers = [item.header for item in seen if item.header is not None]
    pixels_mp = [header.width_px * header.height_px / 1e6 for header in headers]
    sizes = {share.name: share for share in shares(map(size_name, pixels_mp), len(headers))}
    turned = sum(header.orientation != 1 for header in headers)
    read = [item.n_bytes for item in seen if item.n_bytes]
    return Lake(
        total=total,
        exact=exact,
        sampled=len(seen),
        formats=shares((item.header.format if item.header else "unreadable" for item in seen), len(seen)),
        sizes=tuple(sizes[name] for name in size_names() if name in sizes),
        orientations=(Share("turned by EXIF", turned, len(headers), *wilson(turned, len(headers))),),
        failures=shares((item.failure.reason for item in seen if item.failure), len(seen)),
        listing_failed=listing_failed,
        mean_bytes=statistics.fmean(read) if read else 0.0,
        median_mp=statistics.median(pixels_mp) if pixels_mp else 0.0,
    )


def images_text(number: int) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{number:,} image{'' if number == 1 else 's'}"


def size_names() -> list[str]:
    """What images are called by their size, the smallest first."""
    marks = [f"{mark:g}" for mark in SIZES_MP]
    between = [f"{low} to {high} MP" for low, high in itertools.pairwise(marks)]
    return [f"under {marks[0]} MP", *between, f"{marks[-1]} MP and more"]


def size_name(pixels_mp: float) -> str:
    """The one of :func:`size_names` that an image of so many megapixels has."""
    return size_names()[sum(pixels_mp >= mark for mark in SIZES_MP)]
