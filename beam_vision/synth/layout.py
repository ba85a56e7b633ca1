"""Where a folder of scenes has what.

::

    DIR/images/00000001.jpg              scene 1, ...
    DIR/chunks/00000001-00000064.jsonl   what was drawn into scenes 1 to 64; written when they are whole
    DIR/scenes.json                      the accounts of the run that wrote DIR last
    DIR/annotations.json                 COCO; written last
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.synth.settings import IMAGE_FORMATS, SceneSettings

IMAGES, CHUNKS = "images", "chunks"
ANNOTATIONS, ACCOUNTS = "annotations.json", "scenes.json"
KIND = "beam-vision scenes"
CHUNK = 64
"""Scenes that are made, and made again after a failure, together."""

_IMAGE_NAME = re.compile(rf"\d{{8,}}\.(?:{'|'.join(IMAGE_FORMATS.values())})")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is asked for.

    Attributes:
      folder: absolute.
      count: how many scenes.
      settings: how they look.
      resume: whether chunks that are there, of the same settings and material, are kept.
      run_id: stands in failures and accounts.
    """

    folder: str
    count: int
    settings: SceneSettings
    resume: bool = False
    run_id: str = ""

    def chunks(self) -> Iterator[tuple[int, int]]:
        """The first and the last number of each chunk; scenes are counted from 1."""
        for first in range(1, self.count + 1, CHUNK):
            yield first, min(first + CHUNK - 1, self.count)


def image_name(number: int, settings: SceneSettings) -> str:
    """The file of a scene, below the folder."""
    return f"{IMAGES}/{number:08d}.{IMAGE_FORMATS[settings.image_format]}"


def chunk_name(first: int, last: int) -> str:
    """The file of a chunk, below the folder."""
    return f"{CHUNKS}/{first:08d}-{last:08d}.jsonl"


def read_accounts(folder: str) -> dict | None:
    """What ``scenes.json`` says; None where there is none, or another's."""
    path = storage.join(folder, ACCOUNTS)
    try:
        value = storage.read_json(path) if storage.exists(path) else None
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.get("kind") == KIND else None


def check_output(folder: str, *, also_allowed: Collection[str] = ()) -> None:
    """Raises UsageError unless the folder is absent, empty, or one that a run of ours wrote or began.

    Args:
      folder: absolute.
      also_allowed: names directly in it that may be there as well.
    """
    if storage.exists(folder) and not storage.is_folder(folder):
        raise UsageError(f"--output {folder} is a file; name a folder")
    foreign = sorted(set(storage.list_entries(folder)) - {*also_allowed, CHUNKS, ACCOUNTS})
    begun = read_accounts(folder) is not None or storage.list_folder(storage.join(folder, CHUNKS))
    if foreign and not begun:
        raise UsageError(
            f"--output {folder} holds {foreign[0]!r} and no scenes of ours; name an empty folder"
        )


def begin(job: Job) -> None:
    """Makes the folder look unfinished: from now until the end it has no ``annotations.json``.

    The accounts say whose folder it is. Without ``resume``, what earlier runs drew no longer counts.
    """
    storage.delete(storage.join(job.folder, ANNOTATIONS))
    storage.write_json(storage.join(job.folder, ACCOUNTS), {"kind": KIND, "run_id": ""})
    if not job.resume:
        storage.delete_folder(storage.join(job.folder, CHUNKS))


def remove_stale(job: Job, chunks: Collection[str], scenes: Collection[int]) -> None:
    """Removes chunks and images that aren't of this run; files with names that aren't ours stay.

    Args:
      chunks: names of the chunks that stay.
      scenes: numbers of the scenes that stay.
    """
    kept = {image_name(number, job.settings) for number in scenes} | set(chunks)
    for folder in (IMAGES, CHUNKS):
        for name in storage.list_folder(storage.join(job.folder, folder)):
            ours = folder == CHUNKS or _IMAGE_NAME.fullmatch(name)
            if ours and f"{folder}/{name}" not in kept:
                storage.delete(storage.join(job.folder, folder, name))
