"""The names of a dataset's files, and how many shards a split gets.

::

    OUTPUT/train-00000-of-00002.tfrecord         records sorted by key
    OUTPUT/train-00000-of-00002.tfrecord.json    side-car: written after its shard, says what is in it
    OUTPUT/schema.pbtxt
    OUTPUT/label_map.pbtxt                       where images have boxes: the id of each category
    OUTPUT/manifest.json                         written last; without it the dataset isn't finished
    OUTPUT/failures/
    OUTPUT/annotation_failures/                  where annotations failed: JSON lines
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from beam_vision import storage
from beam_vision.digest import bucket
from beam_vision.errors import UsageError

KIND = "beam-vision tfrecords"
MANIFEST = "manifest.json"
SCHEMA = "schema.pbtxt"
LABEL_MAP = "label_map.pbtxt"
FAILURES = "failures"
ANNOTATION_FAILURES = "annotation_failures"
ANNOTATION_PART = "part-00000.jsonl"
TARGET_SHARD_BYTES = 128 * 2**20
_SHARD = re.compile(r"([a-z][a-z0-9_]*)-(\d{5,})-of-(\d{5,})\.tfrecord")
_ASIDE = re.compile(r"(.+)\.[0-9a-f]{8}\.tmp")


def shard_name(split: str, index: int, of: int) -> str:
    """``train-00000-of-00002.tfrecord``."""
    return f"{split}-{index:05d}-of-{of:05d}.tfrecord"


def side_car_name(shard: str) -> str:
    """The name of the JSON file that says what is in a shard."""
    return f"{shard}.json"


def shard_names(shards: Mapping[str, int]) -> list[str]:
    """All names, for the number of shards of each split."""
    return [shard_name(split, index, of) for split, of in shards.items() for index in range(of)]


def shard_count(split_bytes: int, target_shard_bytes: int) -> int:
    """How many shards a split of ``split_bytes`` gets; a split without images has one empty shard."""
    return max(1, math.ceil(split_bytes / target_shard_bytes))


def shard_of(key: str, shards: int) -> int:
    """The shard of an image, 0..shards-1; from its key alone."""
    return bucket(f"shard:{key}", shards)


def is_shard(name: str) -> bool:
    """Whether a file is named like a shard."""
    return _SHARD.fullmatch(name) is not None


def split_of(name: str) -> str:
    """The split that a shard's name begins with; empty when it isn't named like a shard."""
    match = _SHARD.fullmatch(name)
    return match.group(1) if match else ""


def is_ours(name: str) -> bool:
    """Whether a file of this name can be a dataset's, finished or being written."""
    aside = _ASIDE.fullmatch(name)
    name = aside.group(1) if aside else name
    return name in (MANIFEST, SCHEMA, LABEL_MAP) or is_shard(name.removesuffix(".json"))


def remove_orphans(folder: str, keep: Iterable[str], *, label_map: bool = False) -> list[str]:
    """Removes shards, side-cars and half-written files that don't belong to the shards ``keep``.

    Args:
      folder: the dataset's.
      keep: the names of its shards.
      label_map: whether it has a label map.

    Returns:
      The names that were removed.
    """
    wanted = {name for shard in keep for name in (shard, side_car_name(shard))} | {MANIFEST, SCHEMA}
    if label_map:
        wanted.add(LABEL_MAP)
    orphans = [name for name in storage.list_folder(folder) if is_ours(name) and name not in wanted]
    for name in orphans:
        storage.delete(storage.join(folder, name))
    return orphans


def check_output(folder: str, *, also_allowed: Iterable[str] = ()) -> None:
    """Refuses a folder that holds anything but a dataset of ours.

    Args:
      folder: where the dataset will be; it need not exist.
      also_allowed: names beside the dataset's own that may be there (the dead letter's folder).

    Raises:
      UsageError: something else is there; it would be lost among our files, or ours among them.
    """
    allowed = {FAILURES, ANNOTATION_FAILURES, *also_allowed}
    if storage.exists(folder) and not storage.is_folder(folder):
        raise UsageError(f"--output {folder} is a file; it must be a folder")
    foreign = [name for name in storage.list_entries(folder) if name not in allowed and not is_ours(name)]
    if foreign:
        raise UsageError(
            f"--output {folder} holds {foreign[0]!r}, not a TFRecord dataset's: take an empty folder"
        )
    path = storage.join(folder, MANIFEST)
    kind = _kind_of(path) if storage.exists(path) else KIND
    if kind != KIND:
        raise UsageError(f"{path} is not the manifest of a TFRecord dataset, but of {kind}")


def _kind_of(manifest: str) -> str:
    try:
        return str(storage.read_json(manifest)["kind"])
    except (ValueError, KeyError, TypeError):
        return "an unknown kind"
