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
from beam_vision.types import Label, Prediction

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"beam_vision"


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """What the rows of one table have in common; rows with other settings don't belong beside them.

    Attributes:
      task: ``classify`` rows have ``prediction``, ``score`` and ``predictions``; ``embed`` rows don't.
      embedding_dim: the length of ``embedding``, or None for no such column.
      model_digest: the model that made the rows.
      preprocessing_digest: how images were prepared for it.
      options_digest: whatever else decides what a row says (top_k, a threshold).
    """

    task: str
    embedding_dim: int | None
    model_digest: str
    preprocessing_digest: str
    options_digest: str = ""

    @property
    def predictions(self) -> bool:
        """Whether rows have labels and scores."""
        return self.task == "classify"

    def schema(self) -> pa.Schema:
        """The columns, with these settings in the schema's metadata."""
        columns = table.schema(predictions=self.predictions, embedding_dim=self.embedding_dim)
        return columns.with_metadata({METADATA_KEY: json.dumps(asdict(self), sort_keys=True).encode()})

    def made(self, schema: pa.Schema) -> bool:
        """Whether a file with ``schema`` holds rows of just these settings."""
        found = (schema.metadata or {}).get(METADATA_KEY)
        return found is not None and json.loads(found) == asdict(self)


def fault(row: Prediction, settings: RowSettings) -> VisionError | None:
    """Why ``row`` can't stand in the table (an embedding of another length, a number that isn't finite)."""
    if any(not math.isfinite(label.score) for label in row.labels):
        return VisionError(Reason.NON_FINITE, "a score is NaN or infinite")
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


def to_table(rows: Sequence[Prediction], settings: RowSettings, run_id: str) -> pa.Table:
    """Rows, sorted by key, as an Arrow table with the columns of ``settings.schema()``.

    Each row must have passed :func:`fault`. A size of 0 (the model decoded the image itself) becomes null.
    """
    import pyarrow as pa

    rows = sorted(rows, key=lambda row: row.ref.key)
    schema = settings.schema()
    columns: dict[str, Any] = {
        "key": [row.ref.key for row in rows],
        "uri": [row.ref.uri for row in rows],
        "label": [row.ref.label for row in rows],
        "width": [row.width_px or None for row in rows],
        "height": [row.height_px or None for row in rows],
        "model_digest": [row.model_digest for row in rows],
        "preprocessing_digest": [row.preprocessing_digest for row in rows],
        "run_id": [run_id] * len(rows),
        "attributes": [sorted(row.ref.attributes.items()) for row in rows],
    }
    if settings.predictions:
        columns["prediction"] = [row.labels[0].label if row.labels else None for row in rows]
        columns["score"] = [row.labels[0].score if row.labels else None for row in rows]
        columns["predictions"] = _predictions([row.labels for row in rows])
    if settings.embedding_dim is not None:
        values = np.frombuffer(b"".join(row.embedding or b"" for row in rows), "<f4")
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(values), settings.embedding_dim)
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field in schema
        for column in [columns[field.name]]
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _predictions(labels: Sequence[Sequence[Label]]) -> pa.Array:
    """``list<struct<label, score>>`` from flat columns."""
    import pyarrow as pa

    flat = [label for row in labels for label in row]
    names = pa.array([label.label for label in flat], pa.string())
    scores = pa.array([label.score for label in flat], pa.float32())
    offsets = pa.array(accumulate(map(len, labels), initial=0), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([names, scores], ["label", "score"]))
