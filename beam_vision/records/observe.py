"""What is in records as TFXIO reads them: features, their types and presence, and the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beam_vision.records.example import CLASS_TEXT

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
    """

    records: int = 0
    features: Mapping[str, FeatureSeen] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)


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
    classes: dict[str, int] = {}
    if CLASS_TEXT in features:
        labels = batch.column(batch.schema.get_field_index(CLASS_TEXT)).flatten()
        counts = pc.value_counts(labels).to_pylist()
        classes = {_text(found["values"]): found["counts"] for found in counts}
    return Observed(batch.num_rows, features, classes)


def merge(parts: Iterable[Observed]) -> Observed:
    """All parts together."""
    records = 0
    features: dict[str, FeatureSeen] = {}
    classes: Counter[str] = Counter()
    for part in parts:
        records += part.records
        classes.update(part.classes)
        for name, seen in part.features.items():
            features[name] = features[name].merged(seen) if name in features else seen
    return Observed(records, features, dict(classes))


def _kind(value_type: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_integer(value_type):
        return "INT"
    return "FLOAT" if pa.types.is_floating(value_type) else "BYTES"


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
