"""What ``--images`` means: found from the path, checked before anything runs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from beam_vision import storage
from beam_vision.errors import Reason, UsageError
from beam_vision.sources import boxes_csv, coco, listing, manifest, voc, warehouse, yolo
from beam_vision.sources.checked import BOXES_ON
from beam_vision.sources.files import is_image_name, is_shard_name, read_error
from beam_vision.sources.rows import ROWS
from beam_vision.warehouse.names import is_bigquery

FORMATS = ("auto", "folder", "glob", "csv", "jsonl", "parquet", "tfrecord", "coco", "voc", "yolo", "bigquery")
TFRECORD_KIND = "beam-vision tfrecords"
_MANIFESTS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".json": "coco"}
_YAMLS = (".yaml", ".yml")
_LOOKED_AT = 1000


@dataclass(frozen=True)
class SourceSpec:
    """A source that was found and checked.

    Attributes:
      format: one of :data:`FORMATS`, but not ``auto``.
      paths: absolute: the folder, the one file, the patterns, or the folder of a TFRecord dataset with
        a ``/`` at its end.
      image_root: as asked for, absolute; empty for formats that have none.
      boxes_on: what annotated boxes are drawn on: ``auto``, ``upright`` or ``stored``.
      rows: of BigQuery: which are read; ``paths`` is then the table's URI, or the query itself.
    """

    format: str
    paths: tuple[str, ...]
    image_root: str = ""
    boxes_on: str = "auto"
    rows: warehouse.Rows | None = None

    @property
    def path(self) -> str:
        """The one path of a folder or a manifest."""
        return self.paths[0]


def resolve(
    images: str,
    format: str = "auto",
    image_root: str = "",
    boxes_on: str = "auto",
    *,
    need_images: bool = True,
    query: str = "",
    query_project: str = "",
    max_bytes_billed: int = 0,
) -> SourceSpec:
    """Finds out what ``images`` is, and checks that it is there and readable as that.

    ``auto`` takes, in this order: ``bigquery://`` as a table; an existing folder (whatever characters its
    name holds) as a TFRecord dataset if it has our manifest or no images but shards, as VOC if it has
    ``Annotations/`` and ``JPEGImages/``, as YOLO if it has a ``data.yaml`` with class names or ``images/``
    and texts in ``labels/``, else as a folder of class folders; an existing file as COCO, a manifest, YOLO's
    ``data.yaml``, a shard or a single image, by its extension; anything with wildcards or commas as
    patterns. A comma always parts patterns, unless the whole text is the path of something local: in a
    pattern write ``?`` for a comma of a file's name.

    Args:
      images: a path, a remote URI, or patterns with commas between them.
      format: one of :data:`FORMATS`.
      image_root: where relative URIs of a manifest, file names of COCO (default: the file's folder), the
        images of VOC or the folders of YOLO's ``data.yaml`` start.
      boxes_on: one of :data:`BOXES_ON`: whether annotated boxes are drawn on the upright image or on its
        pixels as stored; ``auto``: upright for rows of manifests, else what has the annotated size.
      need_images: whether COCO's images must be there.
      query: in place of ``images``: a SELECT in GoogleSQL that gives a row an image.
      query_project: reads from BigQuery and is billed (default: the table's, or of a query the first
        table's).
      max_bytes_billed: a query that would be billed for more is refused; 0: no limit.

    Raises:
      UsageError: nothing is there, it isn't of that format, or a file of annotations is not usable.
    """
    if boxes_on not in BOXES_ON:
        raise UsageError(f"--boxes_on {boxes_on} is none of {', '.join(BOXES_ON)}")
    if format not in FORMATS:
        raise UsageError(f"--format {format} is none of {', '.join(FORMATS)}")
    if query or is_bigquery(images) or format == "bigquery":
        if query and (images or format not in ("auto", "bigquery")):
            raise UsageError("--query stands in place of --images and --format; give one of them")
        rows = warehouse.find(images, query, project=query_project, most_bytes=max_bytes_billed)
        root = _root(image_root)
        return SourceSpec("bigquery", (warehouse.uri_of(rows),), root, boxes_on, rows)
    if query_project or max_bytes_billed:
        raise UsageError("--query_project and --max_bytes_billed go with --query or a table of BigQuery")
    if not images.strip(" ,"):
        raise UsageError(
            f"--images {images!r} is empty; give a folder, a glob, a manifest, TFRecords or a table of "
            "BigQuery, or --query"
        )
    try:
        spec = _resolve(images, _find_format(images) if format == "auto" else format, image_root)
        _check(spec, need_images)
        return replace(spec, boxes_on=boxes_on)
    except UsageError:
        raise
    except Exception as error:
        known = read_error(error, images)
        if known.reason is Reason.READ_ERROR and not isinstance(error, OSError):
            raise
        raise UsageError(f"--images: {known.detail}") from error


def _resolve(images: str, format: str, image_root: str) -> SourceSpec:
    if format == "folder":
        if not _is_folder(images):
            state = "is not a folder" if _exists(images) else "does not exist"
            raise UsageError(f"--images {images} {state}; --format folder needs a folder of class folders")
        return SourceSpec("folder", (storage.absolute(images).rstrip("/") or "/",))
    if format == "tfrecord" and _is_folder(images):
        return SourceSpec("tfrecord", (storage.absolute(images).rstrip("/") + "/",))
    if format in ("glob", "tfrecord"):
        return SourceSpec(format, tuple(map(_pattern, _split(images))))
    return _rooted_spec(images, format, image_root)


def _find_format(images: str) -> str:
    if _is_folder(images):
        return _folder_format(images)
    parts = _split(images)
    name = os.path.basename(images.rstrip("/"))
    is_pattern = len(parts) > 1 or (listing.has_wildcard(images) and not _exists(images))
    if all(is_shard_name(os.path.basename(part)) for part in parts):
        return "tfrecord"
    extension = os.path.splitext(name)[1].lower()
    if extension in _YAMLS and not is_pattern:
        return "yolo"
    if extension in _MANIFESTS:
        if is_pattern:
            raise UsageError(f"--images {images}: one manifest at a time; join them into one file")
        return _MANIFESTS[extension]
    if not is_pattern and not _exists(images):
        raise UsageError(f"--images {images} does not exist; give a folder, a glob, a manifest or TFRecords")
    return "glob"


def _folder_format(folder: str) -> str:
    path = storage.absolute(folder).rstrip("/") or "/"
    if _holds_tfrecords(folder):
        return "tfrecord"
    if voc.is_voc_root(path):
        return "voc"
    return "yolo" if yolo.is_yolo_root(path) else "folder"


def _rooted_spec(images: str, format: str, image_root: str) -> SourceSpec:
    """A source that may say elsewhere where its images are."""
    is_folder = _is_folder(images)
    if format == "voc" and not is_folder:
        raise UsageError(f"--images {images} is not a folder; --format voc needs the folder of XML files")
    if (is_folder and format not in ("voc", "yolo")) or not (is_folder or _exists(images)):
        what = {"coco": "JSON file", "yolo": "folder or data.yaml"}.get(format, "manifest")
        raise UsageError(f"--images {images} is not an existing file; --format {format} needs one {what}")
    root = _root(image_root)
    path = storage.absolute(images).rstrip("/") or "/"
    return SourceSpec(format, (path,), root)


def _root(image_root: str) -> str:
    if image_root and not storage.is_remote(image_root) and not _is_folder(image_root):
        raise UsageError(f"--image_root {image_root} is not a folder")
    return storage.absolute(image_root).rstrip("/") if image_root else ""


def _check(spec: SourceSpec, need_images: bool) -> None:
    """Whether what annotates the images can be read."""
    if spec.format == "coco":
        coco.check_coco(spec.path, spec.image_root, need_images=need_images)
    elif spec.format == "voc":
        voc.find_layout(spec.path, spec.image_root)
    elif spec.format == "yolo":
        yolo.check_yolo(spec.path, spec.image_root)
    elif spec.format in ROWS:
        manifest.check_header(spec.path, spec.format)
        if spec.format == "csv":
            boxes_csv.has_corners(spec.path)


def _split(images: str) -> list[str]:
    """The patterns of a comma-separated list; a path that exists is one, whatever its name holds."""
    if not storage.is_remote(images) and _exists(images):
        return [images]
    parts = [part.strip() for part in images.split(",") if part.strip()]
    for part in parts:
        if storage.is_remote(part) and listing.has_wildcard(part.partition("://")[2].partition("/")[0]):
            raise UsageError(f"{part}: a bucket's name can't hold a wildcard")
    return parts


def _pattern(part: str) -> str:
    """An absolute pattern; what exists under just that name is taken literally."""
    if _is_folder(part):
        raise UsageError(f"{part} is a folder among patterns; write {storage.join(part, '**')} for all in it")
    path = storage.absolute(part)
    if not storage.is_remote(path) and os.path.exists(path):
        return listing.escape(path)
    if not listing.has_wildcard(path) and not _exists(listing.unescape(path)):
        raise UsageError(f"--images {part} does not exist")
    listing.glob_regex(path)
    return path


def _exists(path: str) -> bool:
    return storage.exists(path if storage.is_remote(path) else storage.absolute(path))


def _is_folder(path: str) -> bool:
    if storage.is_remote(path):
        return any(True for _ in _first_names(path)) if not listing.has_wildcard(path) else False
    return os.path.isdir(storage.absolute(path))


def _first_names(folder: str) -> Iterable[str]:
    """The names of some of the files below a folder."""
    folder = storage.absolute(folder).rstrip("/") or "/"
    if storage.is_remote(folder):
        found = storage.filesystems().match([f"{listing.escape(folder)}/**"], limits=[_LOOKED_AT])
        return [os.path.basename(item.path) for item in found[0].metadata_list if item.path[-1] != "/"]
    names = listing.walk_names(folder, lambda name: is_shard_name(name) or is_image_name(name))
    return map(os.path.basename, itertools.islice(names, _LOOKED_AT))


def _holds_tfrecords(folder: str) -> bool:
    path = storage.join(storage.absolute(folder), "manifest.json")
    if storage.exists(path):
        try:
            content = storage.read_json(path)
        except ValueError:
            content = None
        if isinstance(content, dict) and content.get("kind") == TFRECORD_KIND:
            return True
    names = list(_first_names(folder))
    return any(map(is_shard_name, names)) and not any(map(is_image_name, names))
