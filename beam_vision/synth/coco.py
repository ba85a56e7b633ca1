"""The annotations of all scenes as one COCO file, written as a stream."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from beam_vision import storage
from beam_vision.synth.layout import image_name
from beam_vision.synth.settings import SceneSettings

Scenes = Callable[[], Iterable[dict[str, Any]]]
"""Gives the scenes in order, each time anew: ``id``, ``split``, ``objects``; see ``chunk.read_scenes``."""


def categories(labels: Sequence[str]) -> list[dict[str, Any]]:
    """The categories; ids from 1, in the order of the labels."""
    return [{"id": i, "name": label, "supercategory": ""} for i, label in enumerate(labels, start=1)]


def image_entry(scene: Mapping[str, Any], settings: SceneSettings) -> dict[str, Any]:
    """The entry of one scene; its file's name is relative to the annotation file's folder."""
    entry = {
        "id": scene["id"],
        "file_name": image_name(scene["id"], settings),
        "width": settings.width_px,
        "height": settings.height_px,
    }
    return {**entry, "split": scene["split"]} if scene["split"] else entry


def annotation_entries(scenes: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """An entry for each object; ids from 1 (pycocotools takes 0 for no match).

    ``bbox`` is ``[x, y, width, height]`` of the visible pixels, ``area`` how many they are, and ``visible``,
    which isn't COCO's, the share of the object that they are.
    """
    number = itertools.count(1)
    for scene in scenes:
        for category, (xmin, ymin, xmax, ymax), area_px, visible in scene["objects"]:
            yield {
                "id": next(number),
                "image_id": scene["id"],
                "category_id": category,
                "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
                "area": area_px,
                "iscrowd": 0,
                "visible": visible,
            }


def write_coco(
    path: str, info: Mapping[str, Any], labels: Sequence[str], scenes: Scenes, settings: SceneSettings
) -> None:
    """Writes the file, aside and then renamed; one entry a line, and never all of them in memory."""
    with storage.open_write(path) as file:

        def array(name: str, entries: Iterable[Mapping[str, Any]]) -> None:
            file.write(f',\n"{name}": ['.encode())
            for i, entry in enumerate(entries):
                file.write((",\n" if i else "\n").encode() + _json(entry))
            file.write(b"\n]")

        file.write(b'{"info": ' + _json(info))
        file.write(b',\n"licenses": []')
        array("categories", categories(labels))
        array("images", (image_entry(scene, settings) for scene in scenes()))
        array("annotations", annotation_entries(scenes()))
        file.write(b"}\n")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": ")).encode()
