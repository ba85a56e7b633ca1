"""Proves a dataset as a whole: what no shard can know alone. Pure; no Beam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from beam_vision import deps, storage
from beam_vision.records import label_map
from beam_vision.records.check import Checked, Place, Problem
from beam_vision.records.layout import LABEL_MAP, SCHEMA, is_shard, side_car_name
from beam_vision.records.manifest import DatasetManifest, Shard
from beam_vision.records.schema import from_text


def kinds_of(schema: Any) -> dict[str, str]:
    """Type by feature name."""
    types = deps.need("tensorflow_metadata.proto.v0.schema_pb2").FeatureType
    return {feature.name: types.Name(feature.type) for feature in schema.feature}


def check_files(folder: str, manifest: DatasetManifest) -> tuple[list[Shard], list[Problem]]:
    """The shards that are there, and which are missing, or there and not in the manifest."""
    there = set(storage.list_folder(folder))
    shards = manifest.shards
    problems = [Problem(name, "", "missing; the manifest lists it") for name in sorted(shards.keys() - there)]
    listed = {*shards, *map(side_car_name, shards)}
    extra = sorted(name for name in there - listed if is_shard(name.removesuffix(".json")))
    problems += [Problem(name, "", "not in the manifest") for name in extra]
    return [shards[name] for name in sorted(shards.keys() & there)], problems


def read_schema(folder: str) -> tuple[Any, list[Problem]]:
    """The dataset's schema (None when it can't be read)."""
    path = storage.join(folder, SCHEMA)
    if not storage.exists(path):
        return None, [Problem(SCHEMA, "", "missing")]
    try:
        return from_text(storage.read_text(path)), []
    except ValueError as error:
        return None, [Problem(SCHEMA, "", str(error))]


def check_label_map(folder: str, manifest: DatasetManifest) -> list[Problem]:
    """Whether the label map is that of the manifest's list of categories; without one there is none."""
    path = storage.join(folder, LABEL_MAP)
    if not manifest.box_classes:
        return [Problem(LABEL_MAP, "", "the manifest has no boxes")] if storage.exists(path) else []
    if not storage.exists(path):
        return [Problem(LABEL_MAP, "", "missing")]
    if storage.read_bytes(path) != label_map.to_text(manifest.box_classes).encode():
        return [Problem(LABEL_MAP, "", "its ids are not those of the manifest's list of categories")]
    return []


def check_counts(manifest: DatasetManifest, checked: Iterable[Checked]) -> list[Problem]:
    """Whether each split has as many images with each label, and boxes of each category, as the manifest
    says."""
    checked = list(checked)
    problems = []
    for name, split in manifest.splits.items():
        shards = [shard for shard in checked if shard.split == name]
        found = _first_difference((shard.classes for shard in shards), split.classes)
        if found is not None:
            label, images, told = found
            what = f"{images} images have label {label!r}, by the manifest {told}"
            problems.append(Problem("", f"split {name}", what))
        found = _first_difference((shard.boxes for shard in shards), split.boxes)
        if found is not None and manifest.box_classes:
            label, boxes, told = found
            what = f"{boxes} boxes are of category {label!r}, by the manifest {told}"
            problems.append(Problem("", f"split {name}", what))
    return problems


def _first_difference(
    counts: Iterable[Mapping[str, int]], told: Mapping[str, int]
) -> tuple[str, int, int] | None:
    """The first name whose counts together aren't as told, its count and what was told."""
    found: Counter[str] = Counter()
    for count in counts:
        found.update(count)
    names = sorted(name for name in found.keys() | told.keys() if found[name] != told.get(name, 0))
    return (names[0], found[names[0]], told.get(names[0], 0)) if names else None


def class_counts(manifest: DatasetManifest) -> dict[str, int]:
    """How many images of the dataset have each label."""
    counts: Counter[str] = Counter()
    for split in manifest.splits.values():
        counts.update(split.classes)
    return dict(counts)


def check_copies(content_sha256: str, places: Iterable[Place]) -> list[Problem]:
    """Whether images with the same bytes are all in one split."""
    first: dict[str, Place] = {}
    for place in sorted(places, key=lambda place: (place.split, place.key)):
        first.setdefault(place.split, place)
    one, *others = first.values()
    return [
        Problem(
            one.shard,
            f"key {one.key}",
            f"the same bytes (sha256 {content_sha256}) are in {o.shard}, key {o.key}",
        )
        for o in others
    ]


def check_key(key: str, places: Iterable[Place]) -> list[Problem]:
    """Whether a key stands only once in the dataset."""
    one, *others = sorted(place.shard for place in places)
    return [Problem(one, f"key {key}", f"stands in {other} too") for other in others]
