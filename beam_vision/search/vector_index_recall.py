"""How many of the true neighbours a vector index finds: the same queries with it and by brute force.

The sample is the same rows each time (the first by a fingerprint of their keys), so that measures of other
days can be compared.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError
from beam_vision.search.vector_index_use import Use, use_of
from beam_vision.warehouse import clients
from beam_vision.warehouse.cost import Cost, dry_run, job_config, size
from beam_vision.warehouse.names import TableName, quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import Client, QueryJob

SAME_DISTANCE = 1e-6
"""Rows this near to the last true neighbour are as good as it: ties are no misses."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a measure found.

    Attributes:
      queries: how many images were searched for.
      recall: the share of the k true neighbours that the index found; the mean over queries.
      worst: the lowest of any query.
      index_sec, exact_sec: what all queries took, inside BigQuery.
      index_bytes, exact_bytes: what was billed.
      use: whether the index was used at all; a recall of 1 without it says nothing.
    """

    queries: int
    k: int
    recall: float
    worst: float
    index_sec: float
    exact_sec: float
    index_bytes: int
    exact_bytes: int
    use: Use

    @property
    def text(self) -> str:
        """As a line for people."""
        found = f"{self.recall:.3f} (worst {self.worst:.3f}) of {self.queries} queries"
        index = f"index {self.index_sec:.2f} s, {size(self.index_bytes)} billed"
        exact = f"brute force {self.exact_sec:.2f} s, {size(self.exact_bytes)} billed"
        return f"{found}; {index}; {exact}; {self.use.text}"


def sample_sql(name: TableName, *, column: str, k: int, sample: int, brute_force: bool) -> str:
    """The query for the neighbours of ``sample`` images of the table: ``query_key``, ``key``, ``distance``.

    One neighbour more than k is asked for: an image is the nearest to itself, and doesn't count.
    """
    vector = quoted(column)
    options = json.dumps({"use_brute_force": True} if brute_force else {})
    return (
        "SELECT query.query_key AS query_key, base.key AS key, distance\n"
        "FROM VECTOR_SEARCH(\n"
        f"  (SELECT key, {vector} FROM {name.sql}),\n"
        f"  '{column}',\n"
        f"  (SELECT key AS query_key, {vector} FROM {name.sql} WHERE ARRAY_LENGTH({vector}) > 0\n"
        f"   ORDER BY FARM_FINGERPRINT(key), key LIMIT {sample:d}),\n"
        f"  query_column_to_search => '{column}',\n"
        f"  top_k => {k + 1:d}, distance_type => 'COSINE', options => '{options}')"
    )


def recall_of(
    found: Iterable[tuple[str, str, float]], exact: Iterable[tuple[str, str, float]], k: int
) -> list[float]:
    """The recall of each query: of its k nearest in ``exact``, or all when there are fewer, how many of
    ``found`` are as near.

    Args:
      found, exact: ``(query key, key, distance)``, in any order; a query's own key doesn't count.
    """
    mine, truth = _distances(found, k), _distances(exact, k)
    recalls = []
    for query, best in truth.items():
        near = [each for each in mine.get(query, ()) if each <= best[-1] + SAME_DISTANCE]
        recalls.append(min(len(near), len(best)) / len(best))
    return recalls


def _distances(rows: Iterable[tuple[str, str, float]], k: int) -> dict[str, list[float]]:
    """Each query's k least distances, in order; of queries that have any."""
    by_query = defaultdict(list)
    for query, key, distance in rows:
        if key != query:
            by_query[query].append(distance)
    return {query: sorted(distances)[:k] for query, distances in by_query.items()}


def price(client: Client, name: TableName, *, column: str, k: int, sample: int) -> Cost:
    """What :func:`measure` would be billed for at most: its two queries, by brute force both.

    Raises:
      UsageError: the table can't be searched so.
    """
    statement = sample_sql(name, column=column, k=k, sample=sample, brute_force=True)
    try:
        once = dry_run(client, statement)
    except clients.errors() as error:
        raise clients.explain(error, name, "roles/bigquery.dataViewer") from error
    return Cost(2 * once.bytes_processed, tables=2 * once.tables, accuracy=once.accuracy)


def measure(
    client: Client, name: TableName, *, column: str, k: int, sample: int, max_bytes_billed: int = 0
) -> Measured:
    """Recall of the table's index on a sample of its images.

    Args:
      max_bytes_billed: for each of the two queries; 0: no limit.

    Raises:
      UsageError: the table can't be searched so, or has no two images to compare.
    """
    rows, jobs, seconds = [], [], []
    for brute_force in (False, True):
        statement = sample_sql(name, column=column, k=k, sample=sample, brute_force=brute_force)
        job, answer, wall_sec = _run(client, name, statement, max_bytes_billed)
        rows.append([(row["query_key"], row["key"], row["distance"]) for row in answer])
        jobs.append(job)
        seconds.append(_seconds(job, wall_sec))
    recalls = recall_of(rows[0], rows[1], k)
    if not recalls:
        raise UsageError(f"{name.uri} has no two vectors in {column!r}, so there is no recall to measure")
    return Measured(
        queries=len(recalls),
        k=k,
        recall=sum(recalls) / len(recalls),
        worst=min(recalls),
        index_sec=seconds[0],
        exact_sec=seconds[1],
        index_bytes=jobs[0].total_bytes_billed or 0,
        exact_bytes=jobs[1].total_bytes_billed or 0,
        use=use_of(jobs[0]),
    )


def _run(client: Client, name: TableName, statement: str, limit: int) -> tuple[QueryJob, list[Any], float]:
    config = job_config(max_bytes_billed=limit)
    config.use_query_cache = False  # a cached answer would use no index and take no time
    started = time.monotonic()
    try:
        job = client.query(statement, job_config=config)
        answer = list(job.result())
        job.reload()
    except clients.errors() as error:
        raise clients.explain(error, name, "roles/bigquery.dataViewer") from error
    return job, answer, time.monotonic() - started


def _seconds(job: QueryJob, wall_sec: float) -> float:
    if job.started is None or job.ended is None:
        return wall_sec
    return (job.ended - job.started).total_seconds()
