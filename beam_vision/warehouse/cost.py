"""What a query would cost, said before it runs; and values as query parameters, never as text in a statement.

Prices are list prices in one place, :data:`PRICES`; nothing here knows of an account's discounts.
"""

from __future__ import annotations

import datetime
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from beam_vision.errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    from google.cloud.bigquery import (
        ArrayQueryParameter,
        Client,
        QueryJob,
        QueryJobConfig,
        ScalarQueryParameter,
    )

    Parameter: TypeAlias = ScalarQueryParameter | ArrayQueryParameter

MIB, GIB, TIB = 2**20, 2**30, 2**40
LEAST_BILLED_BYTES = 10 * MIB
"""What a query is billed for at least, and each table that it reads (cloud.google.com/bigquery/pricing)."""

_BOUNDS = {"UPPER_BOUND": "at most ", "LOWER_BOUND": "at least "}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LEAST_INT, _GREATEST_INT = -(2**63), 2**63 - 1


class Prices(NamedTuple):
    """List prices in US dollars of the multi-region US (cloud.google.com/bigquery/pricing).

    Attributes:
      as_of: the month in which they were read there.
      query_per_tib: on-demand queries; the first TiB of a month is free.
      storage_per_gib_month: active logical storage; half of it for tables that nobody wrote to for 90 days.
    """

    as_of: str
    query_per_tib: float
    storage_per_gib_month: float


PRICES = Prices(as_of="2025-08", query_per_tib=6.25, storage_per_gib_month=0.02)


@dataclass(frozen=True)
class Cost:
    """What one query is billed for on demand.

    Attributes:
      bytes_processed: bytes of the columns that it reads.
      tables: how many tables it reads; each is billed as 10 MiB at least.
      accuracy: ``PRECISE``, ``LOWER_BOUND`` or ``UPPER_BOUND`` (clustered tables); "" where it wasn't said.
      usd_per_tib: the price.
    """

    bytes_processed: int
    tables: int = 1
    accuracy: str = ""
    usd_per_tib: float = PRICES.query_per_tib

    @property
    def bytes_billed(self) -> int:
        """Rounded up to whole MiB, 10 MiB at least a table; 0 for what reads nothing."""
        if not self.bytes_processed:
            return 0
        return max(-(-self.bytes_processed // MIB) * MIB, max(self.tables, 1) * LEAST_BILLED_BYTES)

    @property
    def usd(self) -> float:
        """The price in US dollars, the free first TiB of a month left aside."""
        return self.bytes_billed / TIB * self.usd_per_tib

    @property
    def text(self) -> str:
        """As a line for people."""
        return text_of([self])

    @property
    def is_least(self) -> bool:
        """Whether no query of so many tables is cheaper."""
        return self.bytes_billed <= max(self.tables, 1) * LEAST_BILLED_BYTES


def text_of(costs: Sequence[Cost]) -> str:
    """What some queries, at least one, cost in all, as a line for people."""
    read, billed = sum(each.bytes_processed for each in costs), sum(each.bytes_billed for each in costs)
    kinds = {each.accuracy for each in costs} & set(_BOUNDS)
    bound = _BOUNDS[kinds.pop()] if len(kinds) == 1 else ""
    said = f"{len(costs):,} queries read" if len(costs) > 1 else "reads"
    usd = money(sum(each.usd for each in costs))
    return (
        f"{said} {bound}{size(read)}{'' if billed == read else f' (billed as {size(billed)})'}: "
        f"{usd} on demand, at {costs[0].usd_per_tib:g} USD a TiB ({PRICES.as_of})"
    )


class Bill:
    """What the queries of one question cost, in few lines: each line is the sum so far, with the query that
    is about to run.

    Args:
      tell: is called with the lines.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._costs: list[Cost] = []

    def query(self, cost: Cost) -> None:
        """Says what a query, about to run, and all before it cost."""
        self._costs.append(cost)
        self._tell(f"BigQuery: {text_of(self._costs)}")

    def look_up(self, cost: Cost) -> None:
        """The same of a query that prepares another; in silence where it costs the least that any does."""
        if cost.is_least:
            self._costs.append(cost)
        else:
            self.query(cost)


def size(count_bytes: float) -> str:
    """A number of bytes for people: ``512 B``, ``9.8 MiB``."""
    if count_bytes < 1024:
        return f"{count_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count_bytes /= 1024
        if count_bytes < 1023.95:  # what would be rounded to 1024.0 is 1.0 of the next
            return f"{count_bytes:,.1f} {unit}"
    return f"{count_bytes / 1024:,.1f} TiB"


def money(usd: float) -> str:
    """A price for people; one that would read as nothing is said to be less than a tenth of a cent."""
    return "less than 0.001 USD" if 0 < usd < 0.001 else f"{usd:,.3f} USD"


def embedding_bytes(dim: int, *, packed: bool = False) -> int:
    """The logical bytes of one embedding, which storage and queries are billed for.

    An ``ARRAY<FLOAT64>`` is the sum of its elements, 8 bytes each; ``BYTES`` are 2 and their number, 4 for a
    float32 (cloud.google.com/bigquery/docs/reference/standard-sql/data-types#data_type_sizes).
    """
    return 2 + 4 * dim if packed else 8 * dim


def storage_usd(count_bytes: float) -> float:
    """What logical bytes cost a month in active storage, in US dollars."""
    return count_bytes / GIB * PRICES.storage_per_gib_month


def parameters_of(values: Mapping[str, Any]) -> list[Parameter]:
    """Named values as query parameters.

    A str is a STRING, a bool a BOOL, an integer an INT64, a float a FLOAT64, bytes are BYTES, a date is a
    DATE, a datetime with a time zone a TIMESTAMP; a list, a tuple or a one-dimensional array of them is an
    ARRAY; integers among floats are floats.

    Raises:
      UsageError: a name that can't be a parameter's, a value of another type, an empty list (it has no type),
        a list of several types, a number that isn't finite or doesn't fit INT64, a time without a zone.
    """
    from google.cloud.bigquery import ArrayQueryParameter, ScalarQueryParameter

    made: list[Parameter] = []
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} can't be a query parameter: letters, digits and _, no digit first")
        value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's arrays and numbers
        if isinstance(value, list | tuple):
            kind, items = _array(name, value)
            made.append(ArrayQueryParameter(name, kind, items))
        else:
            kind, item = _scalar(name, value)
            made.append(ScalarQueryParameter(name, kind, item))
    return made


def _array(name: str, values: list[Any] | tuple[Any, ...]) -> tuple[str, list[Any]]:
    if not values:
        raise UsageError(f"parameter @{name} is an empty list, which has no type; leave its condition out")
    typed = [_scalar(name, value.item() if hasattr(value, "item") else value) for value in values]
    kinds = {kind for kind, _ in typed}
    if kinds == {"INT64", "FLOAT64"}:
        return "FLOAT64", [float(item) for _, item in typed]
    if len(kinds) > 1:
        raise UsageError(f"parameter @{name} is a list of several types: {', '.join(sorted(kinds))}")
    return kinds.pop(), [item for _, item in typed]


def _scalar(name: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, str):
        return "STRING", value
    if isinstance(value, bytes):
        return "BYTES", value
    if isinstance(value, bool):
        return "BOOL", value
    if isinstance(value, numbers.Integral):
        if not _LEAST_INT <= int(value) <= _GREATEST_INT:
            raise UsageError(f"parameter @{name} is {value}, which INT64 can't hold")
        return "INT64", int(value)
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise UsageError(f"parameter @{name} holds {value}; it must be finite")
        return "FLOAT64", float(value)
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise UsageError(f"parameter @{name} is {value}, a time without a zone; add one, such as +00:00")
        return "TIMESTAMP", value
    if isinstance(value, datetime.date):
        return "DATE", value
    raise UsageError(f"parameter @{name} is of type {type(value).__name__}, which no query parameter has")


def job_config(parameters: Mapping[str, Any] | None = None, *, max_bytes_billed: int = 0) -> QueryJobConfig:
    """The settings of a query job.

    Args:
      parameters: as :func:`parameters_of` takes them.
      max_bytes_billed: BigQuery refuses to run, at no cost, what would be billed for more; 0: no such limit.
    """
    from google.cloud.bigquery import QueryJobConfig

    config = QueryJobConfig(query_parameters=parameters_of(parameters or {}))
    if max_bytes_billed:
        config.maximum_bytes_billed = max_bytes_billed
    return config


def dry_run(client: Client, sql: str, parameters: Mapping[str, Any] | None = None) -> Cost:
    """What a query would cost; nothing is read and nothing billed, and the statement is checked.

    Raises:
      GoogleAPIError: the statement is wrong, or a table isn't there or may not be read.
    """
    return priced(dry_job(client, sql, parameters))


def dry_job(client: Client, sql: str, parameters: Mapping[str, Any] | None = None) -> QueryJob:
    """The job of a dry run, which knows the statement's type, the columns that it gives, and its cost.

    Raises:
      GoogleAPIError: as :func:`dry_run`.
    """
    config = job_config(parameters)
    config.dry_run, config.use_query_cache = True, False
    return client.query(sql, job_config=config)


def priced(job: QueryJob) -> Cost:
    """What a dry run's job says of the cost."""
    query = job._properties.get("statistics", {}).get("query", {})  # the client has no name for the accuracy
    return Cost(
        bytes_processed=int(job.total_bytes_processed or 0),
        tables=len(query.get("referencedTables", ())) or 1,
        accuracy=query.get("totalBytesProcessedAccuracy", ""),
    )
