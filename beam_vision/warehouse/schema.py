"""A table's rows in their three forms: our Arrow columns, what BigQuery stores, and ``tf.train.Example``.

============================  ==================================  =============================
our Arrow column              BigQuery                            feature of an Example
============================  ==================================  =============================
text, bytes                   STRING, BYTES                       bytes
int8 ... int64, bool          INT64, BOOL                         int64
float16 ... float64           FLOAT64                             float (32 bits)
timestamp                     TIMESTAMP (microseconds)            int64, microseconds since 1970
list of numbers or text       REPEATED                            as many values
list of structs               REPEATED RECORD                     a list of each, ``column/field``
map<text, text>               REPEATED RECORD of ``key, value``   ``column/key``, ``column/value``
============================  ==================================  =============================

BigQuery has no null lists: what is null here is empty there.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError
from beam_vision.warehouse.arrow_form import from_warehouse, is_list, is_text, to_warehouse, whole
from beam_vision.warehouse.descriptions import DESCRIPTIONS
from beam_vision.warehouse.example_form import example_of, rows_of_examples
from beam_vision.warehouse.faults import MOST_ROW_BYTES, faults, row_bytes

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import SchemaField

__all__ = [
    "DESCRIPTIONS",
    "MOST_ROW_BYTES",
    "ROW_DIGEST",
    "WRITTEN_AT",
    "batch_schema",
    "example_of",
    "failures_schema",
    "faults",
    "fields",
    "from_warehouse",
    "row_bytes",
    "row_digests",
    "rows_of_examples",
    "stamped",
    "to_warehouse",
]

ROW_DIGEST = "row_digest"
WRITTEN_AT = "written_at"
NOT_SAID = ("run_id", WRITTEN_AT, ROW_DIGEST)
"""Columns that are of the run, and not of what a row says."""


def batch_schema(columns: pa.Schema) -> pa.Schema:
    """The columns of a batch table in BigQuery, in our Arrow form: ``columns`` and those of the run."""
    import pyarrow as pa

    time = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            *columns,
            pa.field(ROW_DIGEST, pa.string(), nullable=False),
            pa.field(WRITTEN_AT, time, nullable=False),
        ]
    )


def failures_schema() -> pa.Schema:
    """The columns of a table of failures: the fields of ``types.Failure``, and of the job."""
    import dataclasses

    import pyarrow as pa

    from beam_vision.types import Failure

    of_failure = [
        pa.field(field.name, pa.int64() if field.name == "attempt" else pa.string(), nullable=False)
        for field in dataclasses.fields(Failure)
    ]
    of_job = [pa.field(name, pa.string(), nullable=False) for name in ("job", "output")]
    time = pa.field(WRITTEN_AT, pa.timestamp("us", tz="UTC"), nullable=False)
    return pa.schema([*of_failure, *of_job, time])


def stamped(rows: pa.Table, written_at: datetime.datetime) -> pa.Table:
    """``rows`` with the two columns that :func:`batch_schema` adds.

    Args:
      rows: in either form.
      written_at: when the run began; with a time zone.
    """
    import pyarrow as pa

    made = {ROW_DIGEST: row_digests(rows), WRITTEN_AT: pa.repeat(_time(written_at), rows.num_rows)}
    kept = rows.drop_columns([name for name in made if name in rows.column_names])
    for name, column in made.items():
        kept = kept.append_column(pa.field(name, column.type, nullable=False), column)
    return kept


def _time(moment: datetime.datetime) -> pa.Scalar:
    import pyarrow as pa

    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return pa.scalar(moment.astimezone(datetime.timezone.utc), pa.timestamp("us", tz="UTC"))


def fields(schema: pa.Schema) -> list[SchemaField]:
    """BigQuery's form of our Arrow columns: types, modes and descriptions.

    A description is the column's own (``description`` in its metadata), or by its name one of
    :data:`DESCRIPTIONS`.

    Raises:
      UsageError: a column has a type that no table of ours has.
    """
    return [
        _field(each.name, each.type, each.nullable, each.name, (each.metadata or {}).get(b"description", b""))
        for each in schema
    ]


def _field(name: str, kind: pa.DataType, nullable: bool, path: str, own: bytes = b"") -> SchemaField:
    import pyarrow as pa
    from google.cloud.bigquery import SchemaField

    mode = "NULLABLE" if nullable else "REQUIRED"
    inner: pa.DataType | None = None
    if pa.types.is_map(kind):
        inner, mode = pa.struct([("key", kind.key_type), ("value", kind.item_type)]), "REPEATED"
    elif is_list(kind):
        inner, mode = kind.value_type, "REPEATED"
    kind = inner if inner is not None else kind
    below = []
    if pa.types.is_struct(kind):
        below = [_field(each.name, each.type, each.nullable, f"{path}.{each.name}") for each in kind]
    said = own.decode() or DESCRIPTIONS.get(path)
    described = {"description": said} if said else {}
    return SchemaField(name, _type_name(kind, path), mode, fields=below, **described)


def _type_name(kind: pa.DataType, path: str) -> str:
    import pyarrow.types as of

    names = {
        "RECORD": of.is_struct,
        "STRING": is_text,
        "BOOLEAN": of.is_boolean,
        "INTEGER": of.is_integer,
        "FLOAT": of.is_floating,
        "TIMESTAMP": of.is_timestamp,
        "DATE": of.is_date,
        "BYTES": lambda found: of.is_binary(found) or of.is_large_binary(found),
    }
    for name, holds in names.items():
        if holds(kind):
            return name
    raise UsageError(
        f"column {path!r} is {kind}, which has no form in BigQuery; cast it before it is written"
    )


def row_digests(rows: pa.Table) -> pa.Array:
    """A digest of what each row says: 32 hexadecimal digits, the same in either form of a row.

    The columns of :data:`NOT_SAID` are left out, and so are nulls and empty lists: a column that is added to
    a table later changes no digest of the rows that lack it.
    """
    import pyarrow as pa

    said = to_warehouse(rows.drop_columns([name for name in NOT_SAID if name in rows.column_names]))
    vectors = [name for name in said.column_names if _is_vector(said.schema.field(name).type)]
    plain = (
        said.drop_columns(vectors).to_pylist() if len(vectors) < said.num_columns else [{}] * said.num_rows
    )
    hashes = []
    for row in plain:
        kept = {name: value for name, value in row.items() if value is not None and value != []}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=_as_json)
        hashes.append(hashlib.sha256(text.encode()))
    for name in sorted(vectors):
        for each, data in zip(hashes, _vector_bytes(said.column(name)), strict=True):
            if data:
                each.update(name.encode() + b"\0" + data)
    return pa.array([each.hexdigest()[:32] for each in hashes], pa.string())


def _is_vector(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) and pa.types.is_floating(kind.value_type)


def _vector_bytes(column: pa.ChunkedArray) -> Iterator[bytes]:
    array = whole(column)
    values = array.values.to_numpy(zero_copy_only=False).astype("<f8", copy=False)
    offsets = array.offsets.to_numpy()
    for start, end in itertools.pairwise(offsets):
        yield values[start:end].tobytes()


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no digest")
