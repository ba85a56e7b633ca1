"""PTransforms: look through the material, make scenes, commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton, TaggedOutput

import beam_vision.coders  # noqa: F401
from beam_vision import metrics, storage
from beam_vision.digest import content_digest
from beam_vision.errors import JobError, Reason, Stage, VisionError
from beam_vision.failures import FAILED, Guard, Outcome
from beam_vision.synth import layout
from beam_vision.synth.chunk import ChunkInfo, ChunkMaker, read_scenes
from beam_vision.synth.coco import write_coco
from beam_vision.synth.cutout import is_opaque, open_background, open_rgba
from beam_vision.synth.layout import Job
from beam_vision.synth.material import CUTOUT, Asset, Material, Read, gather
from beam_vision.synth.settings import SceneSettings
from beam_vision.types import Failure, ImageRef

List = Callable[[str], Iterable[Any]]
"""Gives the ImageRefs and Failures below a folder of class folders (and others, which don't count)."""


class Found(NamedTuple):
    """What :class:`FindMaterial` gives: ``material``, exactly one Material, and ``failed``, Failures."""

    material: beam.PCollection
    failed: beam.PCollection


class FindMaterial(beam.PTransform):
    """PBegin -> :class:`Found`: every cut-out and every background is opened once; a bad one is a Failure.

    Args:
      folders: by kind (``cutout``, ``background``); the class of a cut-out is its folder directly below.
      settings: the scenes'.
      list_: lists a folder.
      read: gives a file's bytes.
      run_id: stands in each failure.
    """

    def __init__(
        self, folders: dict[str, str], settings: SceneSettings, *, list_: List, read: Read, run_id: str = ""
    ) -> None:
        super().__init__()
        self._folders = folders
        self._list = _ListAssets(list_, run_id)
        self._check = _CheckAsset(settings, read, run_id)

    def expand(self, begin: beam.pvalue.PBegin) -> Found:
        """Lists, shares the files out, opens them, gathers what is good."""
        listed = (
            begin
            | "Folders" >> beam.Create(sorted(self._folders.items()))
            | "ListFolders" >> beam.ParDo(self._list).with_outputs(FAILED, main="good")
        )
        checked = (
            listed.good
            | "ShareFiles" >> beam.Reshuffle()
            | "CheckFiles" >> beam.ParDo(self._check).with_outputs(FAILED, main="good")
        )
        material = begin | "OnceMaterial" >> beam.Impulse() | beam.Map(_gather, AsList(checked.good))
        return Found(material, (listed[FAILED], checked[FAILED]) | "AllBad" >> beam.Flatten())


class _ListAssets(beam.DoFn):
    """(kind, folder) -> (kind, name below the folder, ImageRef)."""

    def __init__(self, list_: List, run_id: str) -> None:
        self._list = list_
        self._run_id = run_id

    def process(self, element: tuple[str, str]) -> Iterator[Any]:
        kind, folder = element
        for found in self._list(folder):
            if isinstance(found, Failure):
                metrics.count_failure(found.reason)
                yield TaggedOutput(FAILED, replace(found, run_id=self._run_id))
            elif isinstance(found, ImageRef):
                yield kind, found.key.removeprefix(folder.rstrip("/") + "/"), found


class _CheckAsset(beam.DoFn):
    """(kind, name, ImageRef) -> Asset, or a Failure."""

    def __init__(self, settings: SceneSettings, read: Read, run_id: str) -> None:
        self._settings = settings
        self._read = read
        self._guard = Guard(self._check, Stage.SOURCE, run_id=run_id)

    def process(self, element: tuple[str, str, ImageRef]) -> Iterator[Any]:
        kind, name, ref = element
        found = self._guard(ref, kind, name, ref)
        if isinstance(found, Failure):
            metrics.count_failure(found.reason)
            yield TaggedOutput(FAILED, found)
        else:
            yield found

    def _check(self, kind: str, name: str, ref: ImageRef) -> Asset:
        data = self._read(ref.uri)
        opaque = False
        if kind == CUTOUT:
            if ref.label is None:
                raise VisionError(
                    Reason.UNKNOWN_LABEL, "the cut-out lies in no class folder, so nothing says what it is"
                )
            opaque = is_opaque(open_rgba(data, self._settings))
        else:
            open_background(data, self._settings)
        label = ref.label or "" if kind == CUTOUT else ""
        return Asset(name, ref.uri, kind, label, content_digest(data), opaque)


def _gather(_: bytes, assets: list[Asset]) -> Material:
    return gather(assets)


class MakeScenes(beam.PTransform):
    """The Material -> Outcome(ChunkInfo, Failure): scenes are written as they are made, chunk by chunk.

    Args:
      job: what is asked for.
      read: gives a file's bytes.
    """

    def __init__(self, job: Job, read: Read) -> None:
        super().__init__()
        self._job = job
        self._make = _MakeChunk(job, read)

    def expand(self, material: beam.PCollection) -> Outcome:
        """Shares the chunks out, and makes each."""
        done = (
            material.pipeline
            | "Once" >> beam.Impulse()
            | "Chunks" >> beam.FlatMap(_chunks, self._job)
            | "ShareChunks" >> beam.Reshuffle()
            | "MakeChunks" >> beam.ParDo(self._make, AsSingleton(material)).with_outputs(FAILED, main="good")
        )
        return Outcome(done.good, done[FAILED])


def _chunks(_: bytes, job: Job) -> Iterator[tuple[int, int]]:
    yield from job.chunks()


class _MakeChunk(beam.DoFn):
    def __init__(self, job: Job, read: Read) -> None:
        self._job = job
        self._read = read

    def setup(self) -> None:
        self._maker: ChunkMaker | None = None

    def process(self, chunk: tuple[int, int], material: Material) -> Iterator[Any]:
        if self._maker is None:
            self._maker = ChunkMaker(self._job, material, self._read)
        info = self._maker.make_or_keep(*chunk)
        metrics.count(metrics.LISTED, chunk[1] - chunk[0] + 1)
        if info.scenes:
            metrics.count(metrics.RESUMED if info.kept else metrics.DONE, info.scenes)
        for failure in info.failures:
            metrics.count_failure(failure.reason)
            yield TaggedOutput(FAILED, failure)
        yield info

    def teardown(self) -> None:
        if self._maker is not None:
            self._maker.close()


class CommitScenes(beam.PTransform):
    """ChunkInfos -> exactly one dict, the accounts: ``annotations.json`` is written, after all else.

    Args:
      job: what is asked for.
      material: exactly one Material.
      refused: how many cut-outs and backgrounds failed; exactly one int.
      report: what ``WriteFailures`` gave; so the dead letter is written before.
    """

    def __init__(
        self,
        job: Job,
        *,
        material: beam.PCollection,
        refused: beam.PCollection,
        report: beam.PCollection,
    ) -> None:
        super().__init__()
        self._job = job
        self._singles = (material, refused, report)

    def expand(self, infos: beam.PCollection) -> beam.PCollection:
        """Takes all as side inputs, so that it comes last."""
        singles = map(AsSingleton, self._singles)
        once = infos.pipeline | "OnceCommit" >> beam.Impulse()
        return once | "Commit" >> beam.Map(_commit, self._job, AsList(infos), *singles)


def _commit(
    _: bytes, job: Job, infos: list[ChunkInfo], material: Material, refused: int, report: dict[str, Any]
) -> dict[str, Any]:
    infos = sorted(infos, key=lambda info: info.first)
    accounts = account(job, infos, material, refused, report)
    storage.write_json(storage.join(job.folder, layout.ACCOUNTS), accounts)
    if any(info.scenes for info in infos):

        def scenes() -> Iterator[dict[str, Any]]:
            for info in infos:
                yield from read_scenes(job.folder, info.name)

        numbers = {scene["id"] for scene in scenes()}
        layout.remove_stale(job, [info.name for info in infos], numbers)
        path = storage.join(job.folder, layout.ANNOTATIONS)
        write_coco(path, coco_info(job, material), material.labels, scenes, job.settings)
    return accounts


def account(
    job: Job, infos: list[ChunkInfo], material: Material, refused: int, report: dict[str, Any]
) -> dict[str, Any]:
    """The accounts of a run: every scene that was asked for, and every file that was refused, is an input.

    Raises:
      JobError: they don't add up.
    """
    made = sum(info.scenes for info in infos if not info.kept)
    kept = sum(info.scenes for info in infos if info.kept)
    if job.count + refused != made + kept + report["total"]:
        raise JobError(
            f"{job.count} scenes were asked for and {refused} files refused, but {made} scenes were made, "
            f"{kept} kept and {report['total']} failures written; nothing was committed"
        )
    splits: Counter[str] = Counter()
    for info in infos:
        splits.update(info.splits)
    return {
        "kind": layout.KIND,
        "run_id": job.run_id,
        "inputs": job.count + refused,
        "outputs": made,
        "already_done": kept,
        "failed": report["total"],
        "failed_by_reason": report["by_reason"],
        "files_refused": refused,
        "objects": sum(info.objects for info in infos),
        "objects_left_out": sum(info.left_out for info in infos),
        "splits": dict(splits) if job.settings.splits else {},
        "cutouts": len(material.cutouts),
        "cutouts_opaque": sum(asset.opaque for asset in material.cutouts),
        "backgrounds": len(material.backgrounds),
        "labels": list(material.labels),
        "settings_digest": job.settings.digest,
        "material_digest": material.digest,
        "make_sec": round(sum(info.seconds for info in infos), 3),
    }


def coco_info(job: Job, material: Material) -> dict[str, Any]:
    """``info`` of the COCO file: the same for the same scenes, whenever and wherever they are made."""
    return {
        "description": "simulated scenes: cut-outs pasted on backgrounds",
        "kind": layout.KIND,
        "scenes": job.count,
        "seed": job.settings.seed,
        "settings": job.settings.to_json(),
        "settings_digest": job.settings.digest,
        "material_digest": material.digest,
    }
