"""Refs of every kind of source in plain Python: what transforms run on workers, and what evaluation reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from beam_vision.sources import boxes_csv, coco, listing, manifest, tfrecord, voc, warehouse, yolo
from beam_vision.sources.pairs import Pair
from beam_vision.sources.spec import SourceSpec, resolve
from beam_vision.types import Failure, ImageRef

PAIRED = ("voc", "yolo")
"""Formats with a file of annotations for each image: :func:`list_pairs`, then :func:`pair_reader`."""


def read_truth(
    images: str, format: str = "auto", image_root: str = "", boxes_on: str = "auto"
) -> Iterator[ImageRef | Failure]:
    """What a source says of its images, without opening any (they need not be there).

    Args:
      images, format, image_root, boxes_on: see :func:`~beam_vision.sources.spec.resolve`.

    Returns:
      Refs as :class:`~beam_vision.sources.transforms.ListImages` gives them, so with the keys that
      predictions over the same images have, and failures of listing. What a source lists twice comes twice.

    Raises:
      UsageError: as ``resolve``.
    """
    spec = resolve(images, format, image_root, boxes_on, need_images=False)
    if spec.format == "tfrecord":
        found = _records(spec)
    elif spec.format in PAIRED:
        read = pair_reader(spec)
        found = (read(item) if isinstance(item, Pair) else item for item in list_pairs(spec))
    else:
        found = list_refs(spec)
    return (item for item in found if not isinstance(item, listing.Skipped))


def list_refs(spec: SourceSpec) -> Iterator[listing.Found]:
    """The refs of a folder, of patterns, of rows in BigQuery, or of one file with rows or annotations."""
    if spec.format == "folder":
        return listing.list_folder(spec.path)
    if spec.format == "glob":
        return listing.list_patterns(spec.paths)
    if spec.format == "coco":
        return coco.read_coco(spec.path, root=spec.image_root, boxes_on=spec.boxes_on)
    if spec.rows is not None:
        return warehouse.list_rows(spec.rows, root=spec.image_root, boxes_on=spec.boxes_on)
    if spec.format == "csv" and boxes_csv.has_corners(spec.path):
        return boxes_csv.read_boxes_csv(spec.path, root=spec.image_root, boxes_on=spec.boxes_on)
    return manifest.read_manifest(spec.path, spec.format, root=spec.image_root, boxes_on=spec.boxes_on)


def list_pairs(spec: SourceSpec) -> Iterator[Pair | Failure | listing.Skipped]:
    """The images of a VOC or YOLO dataset, with where their annotations are."""
    if spec.format == "voc":
        return voc.list_pairs(voc.find_layout(spec.path, spec.image_root))
    return yolo.list_pairs(spec.path, spec.image_root)


def pair_reader(spec: SourceSpec) -> Callable[[Pair], ImageRef | Failure]:
    """What reads the annotations of one image after the other."""
    if spec.format == "voc":
        return lambda pair: voc.read_pair(pair, boxes_on=spec.boxes_on)
    classes = yolo.read_classes(spec.path)
    return lambda pair: yolo.read_pair(pair, classes, boxes_on=spec.boxes_on)


def _records(spec: SourceSpec) -> Iterator[listing.Found]:
    for shard in tfrecord.list_shards(spec.paths):
        if isinstance(shard, ImageRef):
            yield from tfrecord.read_refs(shard.uri)
        else:
            yield shard
