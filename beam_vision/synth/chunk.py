"""Makes the scenes of a chunk in threads, writes each, and at the end what was drawn into them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from beam_vision import storage
from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import Guard
from beam_vision.synth.layout import Job, chunk_name, image_name
from beam_vision.synth.material import Loader, Material, Read, Share, share_out, split_of
from beam_vision.synth.scene import encode_scene, make_scene
from beam_vision.types import Failure, ImageRef


@dataclass(frozen=True)
class ChunkInfo:
    """A chunk that is on disk.

    Attributes:
      first, last: its scenes' numbers.
      digest: of the settings and the material; a chunk with another is not kept.
      scenes: how many came out well.
      objects: in them.
      left_out: objects that found no room.
      splits: scenes by split.
      failures: one for each scene that failed.
      kept: whether it was there from an earlier run.
      seconds: that its scenes took, summed over threads.
    """

    first: int
    last: int
    digest: str
    scenes: int
    objects: int
    left_out: int
    splits: dict[str, int]
    failures: tuple[Failure, ...] = ()
    kept: bool = False
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its file, below the folder."""
        return chunk_name(self.first, self.last)


class ChunkMaker:
    """Makes chunks of one job; keeps opened assets from one to the next.

    Args:
      job: what is asked for.
      material: what there is.
      read: gives a file's bytes.
      threads: at work at a time; 0: one a core.
    """

    def __init__(self, job: Job, material: Material, read: Read, *, threads: int = 0) -> None:
        self._job = job
        self._digest = f"{job.settings.digest}-{material.digest}"
        self._material = material
        self._shares = share_out(material, job.settings)
        self._load = Loader(read, job.settings)
        self._guard = Guard(self._make, Stage.WRITE, run_id=job.run_id)
        self._pool = ThreadPoolExecutor(threads or _cores(), "scene")

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(cancel_futures=True)

    def make_or_keep(self, first: int, last: int) -> ChunkInfo:
        """The chunk, unless it is there whole, from the same settings and material, and may be kept."""
        if self._job.resume:
            found = read_info(self._job.folder, first, last)
            if found is not None and found.digest == self._digest and found.scenes == last - first + 1:
                return found
        return self._make_chunk(first, last)

    def _make_chunk(self, first: int, last: int) -> ChunkInfo:
        start = time.monotonic()
        results = list(self._pool.map(self._guarded, range(first, last + 1)))
        drawn = [result for result in results if not isinstance(result, Failure)]
        splits: dict[str, int] = {}
        for scene in drawn:
            splits[scene["split"]] = splits.get(scene["split"], 0) + 1
        info = ChunkInfo(
            first,
            last,
            self._digest,
            scenes=len(drawn),
            objects=sum(len(scene["objects"]) for scene in drawn),
            left_out=sum(scene["left_out"] for scene in drawn),
            splits=splits,
            failures=tuple(result for result in results if isinstance(result, Failure)),
            seconds=time.monotonic() - start,
        )
        _write(self._job.folder, info, drawn)
        return info

    def _guarded(self, number: int) -> dict[str, Any] | Failure:
        path = storage.join(self._job.folder, image_name(number, self._job.settings))
        return self._guard(ImageRef(key=path, uri=path), number, path)

    def _make(self, number: int, path: str) -> dict[str, Any]:
        """Makes and writes a scene; gives what its chunk's file says of it."""
        settings = self._job.settings
        split = split_of(number, settings)
        share = self._shares[split]
        self._check(share)
        scene = make_scene(number, share, self._load, settings)
        try:
            storage.write_bytes(path, encode_scene(scene, settings))
        except OSError as error:
            raise VisionError(Reason.WRITE_ERROR, f"{path} can't be written: {error}") from error
        ids = {label: i for i, label in enumerate(self._material.labels, start=1)}
        objects = [
            [ids[item.label], item.box, item.area_px, round(item.visible, 4)] for item in scene.objects
        ]
        return {"id": number, "split": split, "objects": objects, "left_out": scene.left_out}

    def _check(self, share: Share) -> None:
        if not share.backgrounds:
            raise VisionError(Reason.NOT_FOUND, "there is no background that can be opened")
        if not share.cutouts and self._job.settings.objects[1]:
            raise VisionError(Reason.NOT_FOUND, "there is no cut-out that can be opened")


def _write(folder: str, info: ChunkInfo, drawn: list[dict[str, Any]]) -> None:
    head = {**asdict(info), "failures": len(info.failures)}
    del head["kept"], head["seconds"]
    lines = [json.dumps(line, separators=(",", ":")) + "\n" for line in (head, *drawn)]
    storage.write_bytes(storage.join(folder, info.name), "".join(lines).encode())


def read_info(folder: str, first: int, last: int) -> ChunkInfo | None:
    """What a chunk's file says of it, or None where there is none that can be read."""
    path = storage.join(folder, chunk_name(first, last))
    if not storage.exists(path):
        return None
    with storage.open_read(path) as file:
        try:
            head = json.loads(file.readline())
            return ChunkInfo(**{**head, "failures": (), "kept": True})
        except (ValueError, TypeError):
            return None


def read_scenes(folder: str, name: str) -> Iterator[dict[str, Any]]:
    """The scenes of a chunk in order: ``id``, ``split``, ``left_out`` and ``objects``, each of which is
    ``[category id, [xmin, ymin, xmax, ymax], area_px, visible]``."""
    with storage.open_read(storage.join(folder, name)) as file:
        next(file)
        yield from map(json.loads, file)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
