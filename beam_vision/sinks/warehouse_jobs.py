"""Jobs of BigQuery's that happen once, however often they are asked for: their ids say what they do."""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beam_vision.errors import JobError
from beam_vision.warehouse import clients
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

ATTEMPTS = 5
_FIRST_WAIT_SEC = 1.0
_CONFLICTS = ("could not serialize access", "concurrent update")


def job_id(name: TableName, run_id: str, step: str) -> str:
    """The id of one step of one run into one table: letters, digits, ``_`` and ``-``."""
    digest = hashlib.sha256(name.path.encode()).hexdigest()[:16]
    return f"beam-vision_{digest}_{run_id}_{step}"


def begin(client: Client, start: Callable[[str], Any], name: str, *, location: str) -> Any:
    """A job: started, or the one that was started under this name before.

    Args:
      start: starts it under the id that it is given.
      name: the id.
      location: where the dataset is; BigQuery finds a job by id and location.
    """
    from google.api_core.exceptions import Conflict

    def once() -> Any:
        try:
            return start(name)
        except Conflict:  # asked for before, by us or by a worker that was given up
            return client.get_job(name, location=location)

    return clients.retried(once)


def finish(
    client: Client,
    start: Callable[[str], Any],
    name: str,
    *,
    location: str,
    about: TableName,
    job: Any = None,
) -> Any:
    """A job that has ended well. Where one fails for a passing reason the next is ``NAME-2``, and so on; one
    that may still run is waited for anew.

    Args:
      start, name, location: as for :func:`begin`.
      about: for the message.
      job: the first, where it was begun before.

    Raises:
      JobError: it failed for a reason that lasts, or for a passing one too often.
    """
    failed = 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if job is None:
                job = begin(client, start, f"{name}-{failed + 1}" if failed else name, location=location)
            job.result()
            return job
        except clients.errors() as error:
            if attempt == ATTEMPTS or not _passes(error):
                raise JobError(str(clients.explain(error, about))) from error
            failed += job is not None and _has_failed(job)
        job = None
        time.sleep(min(_FIRST_WAIT_SEC * 2 ** (attempt - 1), 30.0) * random.uniform(0.5, 1.0))
    raise AssertionError("ATTEMPTS is at least 1")


def _has_failed(job: Any) -> bool:
    """Whether a job has ended badly, and its id is used up; one that can't be asked may still run."""
    with contextlib.suppress(*clients.errors()):
        job.reload()
    return bool(job.error_result)


def _passes(error: BaseException) -> bool:
    """Whether it is worth another try: a transient error, or another statement that came between."""
    text = str(error).lower()
    return clients.is_transient(error) or any(words in text for words in _CONFLICTS)
