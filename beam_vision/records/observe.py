"""What is in records as TFXIO reads them: features, their types and presence, labels and categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beam_vision.records.example import BOX_TEXT, CLASS_TEXT

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class FeatureSeen:
    """One feature over all records.

    Attributes:
      present: records that have it.
      fewest: values in the record that has fewest of those that have it.
      most: values in the record that has most.
      types: of ``BYTES``, ``INT``, ``FLOAT``; more than one means that records disagree.
    """

    present: int
    fewest: int
    most: int
    types: frozenset[str]

    def merged(self, other: FeatureSeen) -> FeatureSeen:
        """Both together."""
        return FeatureSeen(
            self.present + other.present,
            min(self.fewest, other.fewest),
            max(self.most, other.most),
            self.types | other.types,
        )


@dataclass(frozen=True)
class Observed:
    """What records hold.

    Attributes:
      records: how many there are.
      features: by name.
      classes: how many values each label has.
      boxes: how many boxes each category has.
    """

    records: int = 0
    features: Mapping[str, FeatureSeen] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    boxes: Mapping[str, int] = field(default_factory=dict)


def observe(batch: pa.RecordBatch) -> Observed:
    """What is in one batch of records, a column of lists for each feature, as TFXIO's sources give it."""
    import pyarrow.compute as pc

    features = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        present = len(column) - column.null_count
        if not present:
            continue
        lengths = pc.min_max(pc.list_value_length(column))
        kinds = frozenset({_kind(column.type.value_type)})
        features[name] = FeatureSeen(present, lengths["min"].as_py(), lengths["max"].as_py(), kinds)
    texts = {name: _counts(batch, name) if name in features else {} for name in (CLASS_TEXT, BOX_TEXT)}
    return Observed(batch.num_rows, features, classes=texts[CLASS_TEXT], boxes=texts[BOX_TEXT])


def merge(parts: Iterable[Observed]) -> Observed:
    """All parts together."""
    records = 0
    features: dict[str, FeatureSeen] = {}
    classes, boxes = Counter[str](), Counter[str]()
    for part in parts:
        records += part.records
        classes.update(part.classes)
        boxes.update(part.boxes)
        for name, seen in part.features.items():
            features[name] = features[name].merged(seen) if name in features else seen
    return Observed(records, features, dict(classes), dict(boxes))


def _counts(batch: pa.RecordBatch, name: str) -> dict[str, int]:
    import pyarrow.compute as pc

    values = batch.column(batch.schema.get_field_index(name)).flatten()
    return {_text(found["values"]): found["counts"] for found in pc.value_counts(values).to_pylist()}


def _kind(value_type: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_integer(value_type):
        return "INT"
    return "FLOAT" if pa.types.is_floating(value_type) else "BYTES"


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
