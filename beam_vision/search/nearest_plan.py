"""How to find the k nearest rows with BigQuery so that k come back where k exist: the ways, in order.

Sources, all of cloud.google.com/bigquery/docs: ``vector-index#filtering`` (a filter on a column that the
index doesn't store is applied after the search, "the final result set might contain fewer than top_k rows";
even a filter on stored columns "can also reduce the size of the result set"; with ``use_brute_force`` "the
data is filtered and then searched"), ``vector-index`` (no index is filled for a table under 10 MB), and
``reference/standard-sql/search_functions#vector_search`` (no logical views, no filter on the embedding).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from beam_vision.search.where import Condition

LEAST_INDEXED_BYTES = 10 * 2**20
"""Of the vectors that are searched: below, an index saves nothing."""
MOST_FETCHED = 5_000
"""Neighbours asked of an index for one query; beyond, every row is compared instead."""
GROWTH = 4
MARGIN = 2  # images that are alike share labels and cameras: the share among the nearest is not the table's


@dataclass(frozen=True)
class IndexFacts:
    """What BigQuery's vector index of a table is; ``kind`` is ``IVF``, ``TREE_AH`` or ``""``: there is none.

    Attributes:
      stored: the columns that may filter before the search.
      usable: whether searches use it now.
    """

    kind: str = ""
    stored: frozenset[str] = field(default_factory=frozenset)
    usable: bool = False


NO_INDEX = IndexFacts()


@dataclass(frozen=True)
class Way:
    """One way to search.

    Attributes:
      name: ``index``, ``index, filtered before``, ``index, filtered after``, ``brute force`` (VECTOR_SEARCH
        without its index) or ``every row compared`` (ORDER BY the distance).
      fetch: neighbours that VECTOR_SEARCH is asked for.
      why: for the person who searches.
    """

    name: str
    fetch: int
    why: str

    @property
    def is_exact(self) -> bool:
        """Whether nothing nearer can have been missed: what it doesn't give isn't there."""
        return self.name in ("brute force", "every row compared")

    @property
    def text(self) -> str:
        """The way as a note."""
        fetched = f", {self.fetch:,} fetched a query" if self.name == "index, filtered after" else ""
        return f"{self.name}{fetched} ({self.why})"


def ways(
    k: int,
    *,
    rows: int,
    matches: int,
    dimension: int,
    condition: Condition,
    index: IndexFacts,
    searchable: bool = True,
    uniform: bool = True,
) -> list[Way]:
    """The ways to try, one after the other, until each query has its k; the last one is exact.

    Args:
      k: how many neighbours, at least 1.
      rows: how many the table has, and ``matches`` for how many of them ``condition`` is true.
      dimension: the length of each vector.
      condition: the filter.
      index: the table's vector index.
      searchable: whether VECTOR_SEARCH takes the table: no view (streams are read through one).
      uniform: whether each row has a vector, of one length, which VECTOR_SEARCH needs to compare every row.
    """
    is_simple = searchable and uniform and condition.plain

    def exact(why: str) -> Way:
        return Way("brute force" if is_simple else "every row compared", k, why)

    reason = _why_exact(k, rows, matches, dimension, condition, index, searchable)
    if reason:
        return [exact(reason)]
    last = exact("the index gave too few")
    if not condition.sql:
        return [Way("index", k, index.kind), last]
    if condition.plain and condition.columns <= index.stored:
        return [Way("index, filtered before", k, f"{index.kind} stores the filter's columns"), last]
    missing = ", ".join(sorted(condition.columns - index.stored)) or "the filter"
    fetches = _fetches(k, rows, matches)
    if not fetches:
        return [exact(f"the index doesn't store {missing}, and only {matches:,} of {rows:,} rows match")]
    why = f"{index.kind} doesn't store {missing}"
    return [*(Way("index, filtered after", fetch, why) for fetch in fetches), last]


def _why_exact(
    k: int,
    rows: int,
    matches: int,
    dimension: int,
    condition: Condition,
    index: IndexFacts,
    searchable: bool,
) -> str:
    """Why the index is of no use; "" where it is."""
    if not searchable:
        return "VECTOR_SEARCH takes no view"
    if not index.usable:
        return f"its {index.kind} index is not usable yet" if index.kind else "there is no vector index"
    if matches <= k:
        return f"no more than {k:,} rows match"
    if rows * dimension * 8 < LEAST_INDEXED_BYTES:
        return "the vectors are less than 10 MiB"
    if "embedding" in condition.columns:
        return "the filter is on the embedding"
    return ""


def _fetches(k: int, rows: int, matches: int) -> list[int]:
    """How many to fetch so that k of them should match, then more; none where it would be too many."""
    fetch = -(-k * rows * MARGIN // max(matches, 1))
    found = []
    while fetch <= min(MOST_FETCHED, rows):
        found.append(fetch)
        fetch *= GROWTH
    return found
