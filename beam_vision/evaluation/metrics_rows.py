"""An evaluation as rows of a table that many share: one for each class, and one over all."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from beam_vision.evaluation.matching import SIZES
from beam_vision.evaluation.summary import HEADLINES

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {name: name.replace("@", "_") for name in HEADLINES}
"""``AR@1`` is no name that BigQuery takes for a column."""
_ABOUT = {
    "run_id": "The evaluation.",
    "evaluated_at": "When it was made; the day is the partition.",
    "task": "What was predicted.",
    "predictions": "The table that was compared with the truth.",
    "truth": "The annotations, as JSON: their format and paths.",
    "model_digest": "The digest of the model that made the predictions.",
    "preprocessing_digest": "The digest of how images were prepared for it.",
    "label": "The class; null in the row over all classes.",
}
_COUNTS = {
    "images": "Images of the truth that hold the class.",
    "truths": "Objects in the truth, crowds left out.",
    **{f"truths_{size}": f"Of them those that are {size}." for size in SIZES[1:]},
    "detections": "Objects that were detected.",
}
_NUMBERS = {
    **{COLUMNS[name]: f"COCO's {name}: {text}." for name, text in HEADLINES.items()},
    "best_f1": "The highest F1 at IoU 0.5.",
    "threshold": "The score to cut at for it.",
}


def schema() -> pa.Schema:
    """The columns, with descriptions."""
    import pyarrow as pa

    kinds: dict[str, tuple[str, Any]] = {name: (about, pa.string()) for name, about in _ABOUT.items()}
    kinds["evaluated_at"] = (_ABOUT["evaluated_at"], pa.timestamp("us", tz="UTC"))
    kinds |= {name: (about, pa.int64()) for name, about in _COUNTS.items()}
    kinds |= {name: (about, pa.float64()) for name, about in _NUMBERS.items()}
    never_null = ("run_id", "evaluated_at")
    return pa.schema(
        [
            pa.field(name, kind, nullable=name not in never_null, metadata={"description": about})
            for name, (about, kind) in kinds.items()
        ]
    )


def rows_of(metrics: Mapping[str, Any], evaluated_at: datetime.datetime) -> pa.Table:
    """The rows of an evaluation.

    Args:
      metrics: the content of ``metrics.json``.
      evaluated_at: when the run began, with a time zone.
    """
    import pyarrow as pa

    common = {
        "run_id": metrics["run_id"],
        "evaluated_at": evaluated_at,
        "task": metrics["task"],
        "predictions": metrics["predictions"],
        "truth": json.dumps(metrics["truth"], sort_keys=True),
        "model_digest": metrics["digests"].get("model"),
        "preprocessing_digest": metrics["digests"].get("preprocessing"),
    }
    rows = [_over_all(metrics), *metrics["classes"]]
    named = [{COLUMNS.get(name, name): value for name, value in row.items()} for row in rows]
    return pa.Table.from_pylist([{**common, **row} for row in named], schema=schema())


def _over_all(metrics: Mapping[str, Any]) -> dict[str, Any]:
    accounts, best = metrics["accounts"], metrics["best_f1"] or {}
    return {
        "label": None,
        "images": accounts["images"],
        "truths": accounts["truths"],
        "detections": accounts["detections"],
        **metrics["metrics"],
        "best_f1": best.get("f1"),
        "threshold": best.get("score_threshold"),
    }
