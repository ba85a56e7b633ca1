"""A query that runs once, however often it is asked for under the same id."""

from __future__ import annotations

import contextlib
import copy
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from beam_vision.warehouse import clients, cost

if TYPE_CHECKING:
    from google.cloud.bigquery import Client, QueryJob, QueryJobConfig


def run_once(
    client: Client,
    sql: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    most_bytes: int = 0,
    job_id: str = "",
) -> QueryJob:
    """A query's finished job; of a ``job_id`` that ran already, that job.

    Raises:
      GoogleAPIError: it is wrong, refused or failed.
    """
    config = cost.job_config(parameters, max_bytes_billed=most_bytes)
    job_id, failed = job_id or f"beam_vision_{uuid.uuid4().hex}", 0

    def run() -> QueryJob:
        nonlocal failed
        job = _job(client, sql, config, f"{job_id}_{failed}")
        try:
            job.result()
        except clients.errors():
            failed += bool(job.error_result)  # an id is good for one job, a failed one too
            raise
        return job

    return clients.retried(run)


def _job(client: Client, sql: str, config: QueryJobConfig, job_id: str) -> QueryJob:
    """Starts a job, or gives the one that has this id already."""
    from google.api_core.exceptions import Conflict, NotFound

    with contextlib.suppress(NotFound):
        return cast("QueryJob", client.get_job(job_id))  # finds those in US and EU
    try:
        return client.query(sql, job_config=config, job_id=job_id, job_retry=None)
    except Conflict:
        dry = copy.deepcopy(config)
        dry.dry_run = True
        location = client.query(sql, job_config=dry).location
        return cast("QueryJob", client.get_job(job_id, location=location))
