"""The columns that a table should have, compared with those that it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_vision.warehouse.names import quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import SchemaField


def compare(
    wanted: Sequence[SchemaField], found: Sequence[SchemaField], path: str = ""
) -> tuple[list[str], list[str]]:
    """What stands against writing columns ``wanted`` into ``found``, and those that could be added."""
    there = {each.name.lower(): each for each in found}  # as BigQuery compares them
    problems, missing = [], []
    for each in wanted:
        where = f"{path}{each.name}"
        other = there.pop(each.name.lower(), None)
        if other is None:
            missing.append(where)
            continue
        problem = _problem(each, other, where)
        if problem:
            problems.append(problem)
        elif each.fields:
            below = compare(each.fields, other.fields, f"{where}.")
            problems += below[0]
            missing += below[1]
    problems += [
        f"{path}{other.name} is REQUIRED, and this job has no values for it"
        for other in there.values()
        if other.mode == "REQUIRED"
    ]
    return problems, missing


def _problem(wanted: SchemaField, found: SchemaField, where: str) -> str:
    kinds = [_kind(each) for each in (wanted, found)]
    if kinds[0] != kinds[1]:
        return f"{where} is {kinds[1]}, not {kinds[0]}"
    if (wanted.mode == "REPEATED") != (found.mode == "REPEATED"):
        return f"{where} is {found.mode}, not {wanted.mode}"
    if found.mode == "REQUIRED" and wanted.mode == "NULLABLE":
        return f"{where} is REQUIRED, and rows may lack it"
    return ""


def _kind(each: SchemaField) -> str:
    from google.cloud.bigquery.schema import LEGACY_TO_STANDARD_TYPES

    standard = LEGACY_TO_STANDARD_TYPES.get(each.field_type)
    return standard.value if standard is not None else each.field_type


def merged(wanted: Sequence[SchemaField], found: Sequence[SchemaField]) -> list[SchemaField]:
    """The columns of ``found``, and behind them those that it lacks, in RECORDs too.

    BigQuery adds no column as REQUIRED to a table that is there: NULLABLE then.
    """
    there = {each.name.lower(): each for each in wanted}
    kept = []
    for each in found:
        other = there.pop(each.name.lower(), None)
        below = merged(other.fields, each.fields) if other is not None and other.fields else None
        kept.append(each if below is None else _with(each, fields=below))
    return kept + [
        _with(each, mode="NULLABLE" if each.mode == "REQUIRED" else each.mode) for each in there.values()
    ]


def _with(each: SchemaField, *, mode: str = "", fields: Sequence[SchemaField] | None = None) -> SchemaField:
    from google.cloud.bigquery import SchemaField

    made = each.to_api_repr()
    if mode:
        made["mode"] = mode
    if fields is not None:
        made["fields"] = [below.to_api_repr() for below in fields]
    return SchemaField.from_api_repr(made)


def sql_type(each: SchemaField) -> str:
    """A column's type in GoogleSQL, such as ``ARRAY<STRUCT<`key` STRING, `value` STRING>>``."""
    kind = _kind(each)
    if each.fields:
        kind = f"STRUCT<{', '.join(f'{quoted(below.name)} {sql_type(below)}' for below in each.fields)}>"
    return f"ARRAY<{kind}>" if each.mode == "REPEATED" else kind
