"""Whether a query used the vector index, and why not, in plain words.

The codes are those of ``IndexUnusedReason`` and ``StoredColumnsUnusedReason``
(cloud.google.com/bigquery/docs/reference/rest/v2/Job#vectorsearchstatistics).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.cloud.bigquery import QueryJob

MODES = {
    "FULLY_USED": "the whole search went through the index",
    "PARTIALLY_USED": "a part of the search went through the index",
    "UNUSED": "the search went without the index, comparing every row: the answer is exact",
}

REASONS = {
    "INDEX_CONFIG_NOT_AVAILABLE": "the table has no vector index; make one with `vector-index create`",
    "PENDING_INDEX_CREATION": "the index is still being made; wait until its coverage is above 0",
    "BASE_TABLE_TRUNCATED": "the table was emptied since the index was last refreshed; it will catch up",
    "INDEX_CONFIG_MODIFIED": "the index was changed since it was last refreshed; it will catch up",
    "TIME_TRAVEL_QUERY": "the query asks for a time before the index was last refreshed",
    "NO_PRUNING_POWER": "the index would have left out nothing, as every row would be compared all the same",
    "UNINDEXED_SEARCH_FIELDS": "the index is of another column than the one that is searched",
    "UNSUPPORTED_SEARCH_PATTERN": "the index can't serve this form of query; search the table itself, with a "
    "plain filter and no subquery in it",
    "OPTIMIZED_WITH_MATERIALIZED_VIEW": "a materialized view answered it instead",
    "SECURED_BY_DATA_MASKING": "the table's columns are masked, and an index would show what is hidden",
    "MISMATCHED_TEXT_ANALYZER": "the index and the search split text into words in different ways",
    "BASE_TABLE_TOO_SMALL": "the table is under 10 MB, where BigQuery keeps no index; comparing every row is "
    "as quick",
    "BASE_TABLE_TOO_LARGE": "the organization's indexed tables exceed the limit for free indexing (6 TB); "
    "assign a reservation of type BACKGROUND to the project",
    "ESTIMATED_PERFORMANCE_GAIN_TOO_LOW": "so few query vectors gain nothing from this index; search more at "
    "once, or make an IVF index, which is for small batches",
    "COLUMN_METADATA_INDEX_NOT_USED": "the metadata that the index rests on could not be used",
    "NOT_SUPPORTED_IN_STANDARD_EDITION": "BigQuery's Standard edition has no vector indexes; run it on "
    "demand, or in Enterprise",
    "INDEX_SUPPRESSED_BY_FUNCTION_OPTION": "the query asked for brute force (use_brute_force)",
    "QUERY_CACHE_HIT": "the answer came from the cache of an earlier query, and nothing was searched",
    "STALE_INDEX": "the index is too far behind the table; wait for its refresh, or rebuild it",
    "INTERNAL_ERROR": "something failed inside BigQuery; try again",
    "OTHER_REASON": "BigQuery gives no reason of its list",
}

STORED_REASONS = {
    "STORED_COLUMNS_COVER_INSUFFICIENT": "the query needs columns that the index doesn't store; name them in "
    "STORING, or don't select them",
    "BASE_TABLE_HAS_RLS": "the table has row-level access policies, which keep stored columns from use",
    "BASE_TABLE_HAS_CLS": "a stored column has a policy tag, with which it is never used",
    "UNSUPPORTED_PREFILTER": "the filter can't be applied inside the index, so that it came after the search "
    "and fewer rows than asked for may be left; write it without subqueries",
    "INTERNAL_ERROR": "something failed inside BigQuery; try again",
    "OTHER_REASON": "BigQuery gives no reason of its list",
}


@dataclass(frozen=True)
class Use:
    """How a query used vector indexes.

    Attributes:
      mode: ``FULLY_USED``, ``PARTIALLY_USED`` or ``UNUSED``; "" where the query had no vector search.
      reasons: why an index wasn't used, in plain words, with BigQuery's own after it.
      stored: why stored columns weren't used.
    """

    mode: str = ""
    reasons: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """All of it in a line."""
        if not self.mode:
            return "the query had no vector search"
        why = "; ".join(self.reasons + self.stored)
        return MODES.get(self.mode, self.mode) + (f", because {why}" if why else "")


def use_of(job: QueryJob) -> Use:
    """How a finished query used vector indexes."""
    return from_statistics(job._properties.get("statistics", {}).get("query", {}))


def from_statistics(query: Mapping[str, Any]) -> Use:
    """The same, from ``statistics.query`` of a job's resource."""
    found = query.get("vectorSearchStatistics")
    if not found:
        return Use()
    stored = [
        why
        for use in found.get("storedColumnsUsages", ())
        for why in use.get("storedColumnsUnusedReasons", ())
    ]
    return Use(
        mode=found.get("indexUsageMode", ""),
        reasons=tuple(_said(one, REASONS) for one in found.get("indexUnusedReasons", ())),
        stored=tuple(_said(one, STORED_REASONS) for one in stored),
    )


def _said(reason: Mapping[str, Any], words: Mapping[str, str]) -> str:
    code = reason.get("code", "CODE_UNSPECIFIED")
    plain = words.get(code, f"BigQuery says {code}")
    columns = ", ".join(reason.get("uncoveredColumns", ()))
    own = " ".join(str(reason.get("message", "")).split())
    return plain + (f": {columns}" if columns else "") + (f" [{own}]" if own else "")
