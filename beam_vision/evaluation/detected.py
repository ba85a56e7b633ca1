"""A table of detections -> what it says of each image, without embeddings or any file of an image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from beam_vision import storage, table
from beam_vision.errors import UsageError
from beam_vision.types import Box

if TYPE_CHECKING:
    import pyarrow as pa

_IMAGE = ("key", "uri", "width", "height", "exif_orientation")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_BOX_ROW = ("box", *_CORNERS, "prediction", "score")
_BATCH_ROWS = 4096
_REMEDY = "`beam-vision predict --task detect` makes tables of boxes"


@dataclass(frozen=True)
class Detected:
    """What a table says of one image.

    Attributes:
      key, uri: of the image.
      width_px, height_px: of the upright image; 0 when the table doesn't say.
      orientation: the EXIF orientation, 1..8.
      boxes: xyxy in pixels of the upright image, as ordered in the table.
      unusable: how many further boxes had a corner or a score that isn't a finite number.
      first: the number of the first of ``boxes``, when a table has the rows of one image in several places.
    """

    key: str
    uri: str
    width_px: int
    height_px: int
    orientation: int
    boxes: Sequence[Box] = ()
    unusable: int = 0
    first: int = 0


@dataclass(frozen=True)
class DetectionTable:
    """A table that was found and checked.

    Attributes:
      folder: of the table, or its ``bigquery://`` name.
      paths: its Parquet files; of a table in BigQuery its name alone.
      manifest: what it says of itself; None for a folder of files made elsewhere.
    """

    folder: str
    paths: tuple[str, ...]
    manifest: table.TableManifest | None


def check_table(folder: str) -> DetectionTable:
    """Finds a table of detections.

    Raises:
      UsageError: there is none, or it is a table of something else.
    """
    folder = storage.absolute(folder)
    paths = table.part_paths(folder)
    manifest = table.read_manifest(folder)
    if manifest is not None:
        require_task(manifest.task, folder)
    for path in paths[:1]:
        require_columns(_columns(path), folder)
    return DetectionTable(folder, tuple(paths), manifest)


def require_task(task: str, place: str) -> None:
    """Raises UsageError where a table isn't of detections."""
    if task != "detect":
        raise UsageError(f"--predictions {place} is a table of the task {task!r}; {_REMEDY}")


def require_columns(names: Sequence[str], place: str) -> None:
    """Raises UsageError where a table lacks the columns of detections."""
    if "key" not in names or ("boxes" not in names and not {*_BOX_ROW} <= {*names}):
        raise UsageError(
            f"--predictions {place} has neither the columns key and boxes nor key and "
            f"{', '.join(_BOX_ROW)}; {_REMEDY}"
        )


def _columns(path: str) -> list[str]:
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        return pq.read_schema(file).names


def read_detected(path: str) -> Iterator[Detected]:
    """The images of one Parquet file of a table, whether a row is an image or a box."""
    import pyarrow.parquet as pq

    with storage.open_read(path) as file:
        part = pq.ParquetFile(file)
        names = part.schema_arrow.names
        yield from detected_in(part.iter_batches(batch_size=_BATCH_ROWS, columns=columns_of(names)))


def columns_of(names: Sequence[str]) -> list[str]:
    """The columns that are read of a table with the columns ``names``."""
    wanted = [name for name in (*_IMAGE, "boxes") if name in names]
    return wanted if "boxes" in names else [*wanted, *_BOX_ROW]


def detected_in(batches: Iterable[pa.RecordBatch]) -> Iterator[Detected]:
    """The images of rows; where a row is a box, those of an image may come as several, see ``first``."""
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    for _, group in itertools.groupby(rows, key=itemgetter("key")):
        of_image = list(group)
        if "boxes" in of_image[0]:
            yield from (_detected(row, row["boxes"] or (), 0) for row in of_image)
        else:
            boxes = [{**row, "label": row["prediction"]} for row in of_image if row["box"] is not None]
            yield _detected(of_image[0], boxes, min((row["box"] for row in boxes), default=0))


def _detected(row: Mapping[str, Any], boxes: Sequence[Mapping[str, Any]], first: int) -> Detected:
    usable = [box for box in boxes if _finite(box)]
    return Detected(
        key=row["key"],
        uri=row.get("uri") or row["key"],
        width_px=row.get("width") or 0,
        height_px=row.get("height") or 0,
        orientation=row.get("exif_orientation") or 1,
        boxes=[_box(box) for box in usable],
        unusable=len(boxes) - len(usable),
        first=first,
    )


def _finite(box: Mapping[str, Any]) -> bool:
    numbers = [box[name] for name in (*_CORNERS, "score")]
    return all(number is not None and math.isfinite(number) for number in numbers)


def _box(box: Mapping[str, Any]) -> Box:
    return Box(box["xmin"], box["ymin"], box["xmax"], box["ymax"], box["label"] or "", box["score"])
