"""How alike two spaces are: the share of an image's nearest neighbours that both agree on, on a sample."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beam_vision.warehouse import clients, read
from beam_vision.warehouse.migrate import Migration, Space
from beam_vision.warehouse.names import quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What :func:`overlap` found.

    Attributes:
      queries: how many images were searched for.
      k: neighbours of each.
      mean: the share of its k nearest in the old space that are among its k nearest in the new one; the mean
        over queries. Two good models of one lake have 0.3 to 0.8: low is no fault of either.
      worst: the lowest share.
      worst_key: an image that has it.
    """

    queries: int
    k: int
    mean: float
    worst: float
    worst_key: str


def neighbours_sql(migration: Migration, space: Space, *, k: int, sample: int) -> str:
    """The query for the k nearest of ``sample`` images in one space: ``query_key``, ``key``.

    Both spaces are searched among the images that both have, and the sample is the same in each. It compares
    every row: an index would add its own error, and VECTOR_SEARCH takes neither a filter on the vectors
    nor a column in which some rows have none.
    """
    both = (
        f"SELECT key, {quoted(space.column)} AS vector FROM {migration.table.sql}\n"
        f"  WHERE ARRAY_LENGTH(embedding) = {migration.old.embedding_dim:d}\n"
        f"  AND ARRAY_LENGTH({quoted(migration.new.column)}) = {migration.new.embedding_dim:d}"
    )
    return (
        "SELECT query_key, key FROM (\n"
        "  SELECT asked.key AS query_key, base.key AS key,\n"
        "    COSINE_DISTANCE(asked.vector, base.vector) AS far\n"
        f"  FROM ({both}) AS base\n"
        f"  CROSS JOIN ({both} ORDER BY FARM_FINGERPRINT(key), key LIMIT {sample:d}) AS asked\n"
        "  WHERE asked.key != base.key\n"
        ")\n"
        "WHERE far IS NOT NULL\n"
        f"QUALIFY ROW_NUMBER() OVER (PARTITION BY query_key ORDER BY far, key) <= {k:d}"
    )


def overlap(
    client: Client,
    migration: Migration,
    *,
    k: int = 10,
    sample: int = 100,
    max_bytes_billed: int = 0,
) -> Overlap | None:
    """Compares the neighbours of a sample of images in both spaces; None where no image has any.

    Args:
      max_bytes_billed: for each of the two queries; 0: no limit.

    Raises:
      UsageError: BigQuery refuses.
    """
    found: list[list[Pair]] = []
    for space in (migration.old, migration.new):
        sql = neighbours_sql(migration, space, k=k, sample=sample)
        try:
            rows = read.run_once(client, sql, most_bytes=max_bytes_billed).result()
            found.append([(row["query_key"], row["key"]) for row in rows])
        except clients.errors() as error:
            raise clients.explain(error, migration.table, "roles/bigquery.dataViewer") from error
    return overlap_of(*found, k=k)


def overlap_of(old: Iterable[Pair], new: Iterable[Pair], *, k: int) -> Overlap | None:
    """The overlap, from ``(query key, key)`` of the k nearest in each space.

    Of fewer than k neighbours the share is of as many as there are.
    """
    before, after = _sets(old), _sets(new)
    shares = {query: len(near & after.get(query, set())) / len(near) for query, near in before.items()}
    if not shares:
        return None
    worst = min(shares, key=lambda query: (shares[query], query))
    mean = sum(shares.values()) / len(shares)
    return Overlap(queries=len(shares), k=k, mean=mean, worst=shares[worst], worst_key=worst)


def _sets(pairs: Iterable[Pair]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for query, key in pairs:
        found[query].add(key)
    return found
