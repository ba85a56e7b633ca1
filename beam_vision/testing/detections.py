"""Small tables of detections and their truth, written as the sinks and as annotators write them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from beam_vision import storage, table
from beam_vision.sinks.rows import RowSettings, to_table
from beam_vision.types import Box, ImageRef, Prediction


def write_detections(
    folder: str,
    images: Mapping[str, Sequence[Box]],
    *,
    size_px: tuple[int, int] | None = (640, 480),
    orientation: int = 1,
    rows: str = "images",
    parts: int = 1,
) -> None:
    """Writes a table of detections, with its manifest.

    Args:
      folder: may hold an earlier table, which is replaced.
      images: boxes by the image's key.
      size_px: width and height of every upright image; None when the table doesn't say.
      orientation: the EXIF orientation of every image.
      rows: ``images`` or ``boxes``.
      parts: in how many files.
    """
    import pyarrow.parquet as pq

    settings = RowSettings(
        task="detect", embedding_dim=None, model_digest="model-a", preprocessing_digest="prep-a", rows=rows
    )
    width_px, height_px = size_px or (0, 0)
    predictions = [
        Prediction(ImageRef(key, key), width_px, height_px, boxes=tuple(boxes), orientation=orientation)
        for key, boxes in sorted(images.items())
    ]
    os.makedirs(folder, exist_ok=True)
    written = []
    for number, chosen in enumerate(np.array_split(np.arange(len(predictions)), parts)):
        part = to_table([predictions[i] for i in chosen], settings, "run-1")
        name = f"part-run-1-{number:05d}.parquet"
        pq.write_table(part, os.path.join(folder, name))
        written.append(table.Part(name, part.num_rows))
    manifest = table.TableManifest(
        parts=written,
        rows=sum(part.rows for part in written),
        run_id="run-1",
        task="detect",
        model_digest="model-a",
        preprocessing_digest="prep-a",
        images=len(predictions),
        row_kind=rows,
    )
    storage.write_json(os.path.join(folder, table.MANIFEST), manifest.to_json())


def write_coco(
    path: str, images: Mapping[str, Sequence[Box]], *, size_px: tuple[int, int] | None = (640, 480)
) -> None:
    """Writes truth as COCO JSON, with image ids in the order given and categories in that of their names.

    Args:
      path: of the file.
      images: boxes by file name.
      size_px: width and height that every image is said to have.
    """
    names = sorted({box.label for boxes in images.values() for box in boxes})
    size = dict(zip(("width", "height"), size_px or (), strict=False))
    boxes = [(number, box) for number, boxes in enumerate(images.values(), 1) for box in boxes]
    content = {
        "images": [{"id": number, "file_name": name, **size} for number, name in enumerate(images, 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": names.index(box.label) + 1,
                "bbox": [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin],
                "area": box.area_px or (box.xmax - box.xmin) * (box.ymax - box.ymin),
                "iscrowd": int(box.crowd),
            }
            for number, (image, box) in enumerate(boxes, 1)
        ],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
