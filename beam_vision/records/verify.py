"""Proves a dataset as a whole: what no shard can know alone. Pure; no Beam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from beam_vision import deps, storage
from beam_vision.records.check import Checked, Place, Problem
from beam_vision.records.layout import SCHEMA, is_shard, side_car_name
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


def check_counts(manifest: DatasetManifest, checked: Iterable[Checked]) -> list[Problem]:
    """Whether the class histogram of each split is the manifest's."""
    problems = []
    found: dict[str, Counter[str]] = {name: Counter() for name in manifest.splits}
    for shard in checked:
        found.setdefault(shard.split, Counter()).update(shard.classes)
    for name, split in manifest.splits.items():
        told = {label: n for label, n in split.classes.items() if n}
        if dict(found[name]) != told:
            label = min(set(found[name].items()) ^ set(told.items()))[0]
            problems.append(
                Problem(
                    "",
                    f"split {name}",
                    f"{found[name][label]} images have label {label!r}, by the manifest {told.get(label, 0)}",
                )
            )
    return problems


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
