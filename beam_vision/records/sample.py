"""A few labelled images of a dataset, as even over its classes as can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from beam_vision import storage
from beam_vision.records.example import Record, from_example
from beam_vision.records.manifest import DatasetManifest
from beam_vision.tfrecord_io import Example, read_records


def sample_images(folder: str, manifest: DatasetManifest, split: str, number: int) -> list[Record]:
    """At most ``number`` records of a split with one label each, in the order of the dataset.

    Each class gets the same number, its first ones; what classes of fewer images leave over goes to those
    with more. Of more classes than ``number`` the first have one image each.

    Args:
      folder: the dataset's.
      manifest: its.
      split: a name in it.
      number: how many are wanted.
    """
    wanted = _shares({name: n for name, n in manifest.splits[split].classes.items() if n}, number)
    found: list[Record] = []
    taken: Counter[str] = Counter()
    for record in _records(folder, [shard.name for shard in manifest.splits[split].shards]):
        if sum(taken.values()) == sum(wanted.values()):
            break
        if len(record.labels) == 1 and taken[record.labels[0]] < wanted.get(record.labels[0], 0):
            taken[record.labels[0]] += 1
            found.append(record)
    return found


def _shares(available: dict[str, int], number: int) -> dict[str, int]:
    """How many of each class: one after the other gets one more, while there are any."""
    shares: Counter[str] = Counter()
    left = min(number, sum(available.values()))
    while left:
        for name, most in available.items():
            if left and shares[name] < most:
                shares[name] += 1
                left -= 1
    return dict(shares)


def _records(folder: str, shards: list[str]) -> Iterator[Record]:
    for name in shards:
        with storage.open_read(storage.join(folder, name)) as file:
            for data in read_records(file):
                yield from_example(Example.FromString(data))
