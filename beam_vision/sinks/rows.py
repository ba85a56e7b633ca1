"""Predictions -> rows of a table, column by column into Arrow."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import table
from beam_vision.errors import Reason, VisionError
from beam_vision.types import Box, Label, Prediction

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"beam_vision"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LABEL = ("label", "score")
_BOX = (*_CORNERS, "label", "score")


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """What the rows of one table have in common; rows with other settings don't belong beside them.

    Attributes:
      task: ``classify`` rows have ``prediction``, ``score`` and ``predictions``; ``detect`` rows have boxes;
        ``embed`` rows have neither.
      embedding_dim: the length of ``embedding``, or None for no such column.
      model_digest: the model that made the rows.
      preprocessing_digest: how images were prepared for it.
      options_digest: whatever else decides what a row says (top_k, a threshold).
      rows: what a row stands for: ``images``; ``boxes`` (an image without any has one row all the same); or
        ``tiles``, whose predictions say in their attributes of which image they are, and where in it.
    """

    task: str
    embedding_dim: int | None
    model_digest: str
    preprocessing_digest: str
    options_digest: str = ""
    rows: str = "images"

    @property
    def predictions(self) -> bool:
        """Whether rows have labels and scores."""
        return self.task == "classify"

    @property
    def boxes(self) -> bool:
        """Whether rows have boxes, or are boxes."""
        return self.task == "detect"

    @property
    def image_column(self) -> str:
        """The column with the key of the image that a row is of."""
        return "image_key" if self.rows == "tiles" else "key"

    @property
    def order(self) -> list[str]:
        """The columns that rows are sorted by."""
        return ["key", "box"] if self.rows == "boxes" else ["key"]

    def image_key(self, row: Prediction) -> str:
        """The key of the image that a prediction is of."""
        return row.ref.attributes["image_key"] if self.rows == "tiles" else row.ref.key

    def schema(self) -> pa.Schema:
        """The columns, with these settings in the schema's metadata."""
        columns = table.schema(
            predictions=self.predictions, embedding_dim=self.embedding_dim, boxes=self.boxes, rows=self.rows
        )
        return columns.with_metadata({METADATA_KEY: json.dumps(asdict(self), sort_keys=True).encode()})

    def made(self, schema: pa.Schema) -> bool:
        """Whether a file with ``schema`` holds rows of just these settings."""
        found = (schema.metadata or {}).get(METADATA_KEY)
        # a file of an earlier version doesn't say what its rows stand for: images
        return found is not None and {"rows": "images", **json.loads(found)} == asdict(self)


def fault(row: Prediction, settings: RowSettings) -> VisionError | None:
    """Why ``row`` can't stand in the table: an embedding of another length, a number that isn't finite, a box
    that is inside out."""
    if any(not math.isfinite(label.score) for label in row.labels):
        return VisionError(Reason.NON_FINITE, "a score is NaN or infinite")
    for box in row.boxes:
        error = _box_fault(box)
        if error is not None:
            return error
    if settings.embedding_dim is None:
        return None
    if row.embedding is None:
        return VisionError(Reason.BAD_MODEL_OUTPUT, "there is no embedding")
    if len(row.embedding) != 4 * settings.embedding_dim:
        return VisionError(
            Reason.BAD_MODEL_OUTPUT,
            f"the embedding has {len(row.embedding) / 4:g} numbers, not {settings.embedding_dim}",
        )
    if not np.isfinite(np.frombuffer(row.embedding, "<f4")).all():
        return VisionError(Reason.NON_FINITE, "the embedding holds a number that is NaN or infinite")
    return None


def _box_fault(box: Box) -> VisionError | None:
    corners = (box.xmin, box.ymin, box.xmax, box.ymax)
    if not all(map(math.isfinite, (*corners, box.score))):
        return VisionError(Reason.NON_FINITE, "a box has a corner or a score that is NaN or infinite")
    if box.xmax < box.xmin or box.ymax < box.ymin:
        shown = ", ".join(f"{value:g}" for value in corners)
        return VisionError(Reason.BAD_MODEL_OUTPUT, f"a box is inside out: xmin, ymin, xmax, ymax = {shown}")
    return None


def to_table(rows: Sequence[Prediction], settings: RowSettings, run_id: str) -> pa.Table:
    """Rows, in the order of ``settings.order``, as an Arrow table with the columns of ``settings.schema()``.

    Each row must have passed :func:`fault`. A size of 0 (the model decoded the image itself) becomes null.
    """
    import pyarrow as pa

    rows = sorted(rows, key=lambda row: row.ref.key)
    columns: dict[str, Any] = {}
    if settings.rows == "boxes":
        lines = [(row, box) for row in rows for box in (enumerate(row.boxes) if row.boxes else [None])]
        columns = _columns_of_boxes([box for _, box in lines])
        rows = [row for row, _ in lines]
    elif settings.boxes:
        columns["boxes"] = _lists([row.boxes for row in rows], _BOX)
    if settings.predictions:
        columns["prediction"] = [row.labels[0].label if row.labels else None for row in rows]
        columns["score"] = [row.labels[0].score if row.labels else None for row in rows]
        columns["predictions"] = _lists([row.labels for row in rows], _LABEL)
    if settings.embedding_dim is not None:
        values = np.frombuffer(b"".join(row.embedding or b"" for row in rows), "<f4")
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(values), settings.embedding_dim)
    columns |= _columns_of_images(rows, run_id)
    schema = settings.schema()
    arrays = []
    for field in schema:
        column = columns[field.name] if field.name in columns else _from_attributes(rows, field.name)
        arrays.append(column if isinstance(column, pa.Array) else pa.array(column, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _columns_of_images(rows: Sequence[Prediction], run_id: str) -> dict[str, Any]:
    return {
        "key": [row.ref.key for row in rows],
        "uri": [row.ref.uri for row in rows],
        "label": [row.ref.label for row in rows],
        "width": [row.width_px or None for row in rows],
        "height": [row.height_px or None for row in rows],
        "exif_orientation": [row.orientation if row.width_px else None for row in rows],
        "model_digest": [row.model_digest for row in rows],
        "preprocessing_digest": [row.preprocessing_digest for row in rows],
        "run_id": [run_id] * len(rows),
        "attributes": [sorted(row.ref.attributes.items()) for row in rows],
    }


def _from_attributes(rows: Sequence[Prediction], name: str) -> list[Any]:
    """A column of a table of tiles: which image, and where in it (pixels of the upright image)."""
    values = [row.ref.attributes[name] for row in rows]
    return [int(value) for value in values] if name.endswith("_px") else values


def _columns_of_boxes(boxes: Sequence[tuple[int, Box] | None]) -> dict[str, Any]:
    """The columns of one box a row; nulls where an image has none."""
    columns = {name: [box and getattr(box[1], name) for box in boxes] for name in (*_CORNERS, "score")}
    return {
        **columns,
        "box": [box and box[0] for box in boxes],
        "prediction": [box and box[1].label for box in boxes],
    }


def _lists(values: Sequence[Sequence[Label | Box]], names: Sequence[str]) -> pa.Array:
    """``list<struct>`` of the attributes ``names``, from flat columns; ``label`` is text, others float32."""
    import pyarrow as pa

    flat = [value for row in values for value in row]
    arrays = [
        pa.array([getattr(value, name) for value in flat], pa.string() if name == "label" else pa.float32())
        for name in names
    ]
    offsets = pa.array(accumulate(map(len, values), initial=0), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, list(names)))
