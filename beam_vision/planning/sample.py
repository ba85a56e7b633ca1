"""A sample of a source, spread over its listing: the same seed gives the same images."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from beam_vision.sources import annotations as annotated
from beam_vision.sources import listing, tfrecord
from beam_vision.sources.spec import SourceSpec
from beam_vision.types import Failure, ImageRef

T = TypeVar("T")
Wanted = ImageRef | tfrecord.RecordRef
"""An image to open: a file, or a record of a shard."""

SHARDS = 16
"""Of a TFRecord dataset so many shards are looked into: listing the others would read all of them."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some images of a source, and what its listing said.

    Attributes:
      images: each as likely as any other to be here, in the order of the listing.
      total: how many the source lists; what failed at the listing is not among them.
      exact: whether all were counted; if not (TFRecords of many shards), ``total`` is an estimate.
      failed: failures of the listing by reason.
    """

    images: tuple[Wanted, ...]
    total: int
    exact: bool = True
    failed: Mapping[str, int] = field(default_factory=dict)


def spread(items: Iterable[T], count: int, seed: int = 0) -> tuple[list[T], int]:
    """A random sample that is spread over a stream of unknown length, in one pass and little memory.

    The stream is cut in blocks of equal length, and one item is drawn of each (stratified sampling). When
    there are more than twice ``count`` blocks, neighbours are merged, and one of the two drawn items stays.

    Args:
      items: in any number.
      count: how many are wanted, at least 1.
      seed: the same gives the same sample.

    Returns:
      The sample, of ``min(count, n)`` items in the order of the stream, and ``n``: how many there were.
    """
    rng = random.Random(seed)
    picks: list[T] = []
    block, seen, total = 1, 0, 0
    pick: T
    for item in items:
        total += 1
        seen += 1
        if rng.randrange(seen) == 0:
            pick = item
        if seen < block:
            continue
        picks.append(pick)
        seen = 0
        if len(picks) == 2 * count:
            picks = [pair[rng.randrange(2)] for pair in zip(picks[::2], picks[1::2], strict=True)]
            block *= 2
    if seen and rng.random() < seen / block:  # the last block is shorter: so is its chance
        picks.append(pick)
    kept = sorted(rng.sample(range(len(picks)), min(count, len(picks))))  # at random: listings have periods
    return [picks[i] for i in kept], total


def take_sample(source: SourceSpec, count: int, *, seed: int = 0, limit: int = 0) -> Sample:
    """Lists a source and draws some of its images; opens none.

    Args:
      source: found and checked.
      count: how many are wanted.
      seed: see :func:`spread`.
      limit: the job takes only so many images, the first by key; 0: all. The sample is of all.
    """
    failed: Counter[str] = Counter()
    exact, scale = True, 1.0
    found: Iterator[Any]
    if source.format == "tfrecord":
        shards, number = spread(_good(tfrecord.list_shards(source.paths), failed), SHARDS, seed)
        exact, scale = number <= len(shards), number / max(len(shards), 1)
        found = (record for shard in shards for record in tfrecord.scan_shard(shard.uri))
    elif source.format in annotated.PAIRED:
        found = annotated.list_pairs(source)
    else:
        found = annotated.list_refs(source)
    images, listed = spread(_good(found, failed), count, seed)
    if source.format in annotated.PAIRED:
        images = list(_good(map(annotated.pair_reader(source), images), failed))
    total = round(listed * scale)
    return Sample(images=tuple(images), total=min(total, limit or total), exact=exact, failed=dict(failed))


def _good(found: Iterable[Any], failed: Counter[str]) -> Iterator[Any]:
    """What is neither a failure, which is counted, nor no input."""
    for item in found:
        if isinstance(item, Failure):
            failed[item.reason] += 1
        elif not isinstance(item, listing.Skipped):
            yield item
