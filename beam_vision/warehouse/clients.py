"""Clients of BigQuery that honour its emulator, and its errors in words that name the remedy."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from beam_vision.errors import UsageError
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    from google.cloud.bigquery import Client
    from google.cloud.bigquery_storage_v1 import BigQueryReadClient, BigQueryWriteClient

EMULATOR_HOST = "BIGQUERY_EMULATOR_HOST"
"""``http://HOST:PORT`` of an emulator's REST API."""
EMULATOR_GRPC = "BIGQUERY_EMULATOR_GRPC"
"""``HOST:PORT`` of the same emulator's Storage Read and Write APIs."""

_ATTEMPTS = 6
_FIRST_WAIT_SEC = 0.5
_LONGEST_WAIT_SEC = 30.0
_REQUEST = re.compile(r"^(?:GET|POST|PUT|PATCH|DELETE) https?://\S+: ")
"""How the client begins what it says of an error: with the request, which helps nobody."""
_CHANNEL = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

T = TypeVar("T")


def emulated() -> bool:
    """Whether the environment names an emulator."""
    return bool(os.environ.get(EMULATOR_HOST))


def client(project: str) -> Client:
    """A client of the REST API whose jobs run in (and are billed to) ``project``; close it when done.

    Raises:
      UsageError: there are no credentials.
    """
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import bigquery

    host = os.environ.get(EMULATOR_HOST)
    if host:
        from google.api_core.client_options import ClientOptions
        from google.auth.credentials import AnonymousCredentials

        return bigquery.Client(
            project=project,
            credentials=AnonymousCredentials(),
            client_options=ClientOptions(api_endpoint=host if "://" in host else f"http://{host}"),
        )
    try:
        return bigquery.Client(project=project)
    except GoogleAuthError as error:
        raise explain(error, project) from error


def reader() -> BigQueryReadClient:
    """A client of the Storage Read API; close it by ``client.transport.close()``."""
    from google.cloud.bigquery_storage_v1 import BigQueryReadClient
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
        BigQueryReadGrpcTransport,
    )

    return BigQueryReadClient(transport=_transport(BigQueryReadGrpcTransport))


def writer() -> BigQueryWriteClient:
    """A client of the Storage Write API; close it by ``client.transport.close()``."""
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
    from google.cloud.bigquery_storage_v1.services.big_query_write.transports import (
        BigQueryWriteGrpcTransport,
    )

    return BigQueryWriteClient(transport=_transport(BigQueryWriteGrpcTransport))


def _transport(made_by: Any) -> Any:
    import grpc

    address = os.environ.get(EMULATOR_GRPC)
    if address:
        return made_by(channel=grpc.insecure_channel(address, options=_CHANNEL))
    if emulated():
        raise UsageError(
            f"{EMULATOR_HOST} names an emulator, but {EMULATOR_GRPC} (HOST:PORT of its gRPC side) isn't set"
        )
    return made_by(channel=made_by.create_channel(options=_CHANNEL))


def errors() -> tuple[type[Exception], ...]:
    """What clients raise when BigQuery, or the way to it, fails."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    return GoogleAPIError, GoogleAuthError, RequestException


def is_transient(error: BaseException) -> bool:
    """Whether one of :func:`errors` may pass when the same is tried again.

    BigQuery's own table of errors: 500, 502, 503, 504, ``rateLimitExceeded`` and ``jobRateLimitExceeded``
    (403 or 429) are worth a retry; ``quotaExceeded``, ``billingTierLimitExceeded`` and the rest are not.
    """
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    if isinstance(error, GoogleAuthError):
        return bool(error.retryable)
    if isinstance(error, RequestException | exceptions.RetryError):
        return True
    if not isinstance(error, exceptions.GoogleAPICallError):
        return False
    if reasons(error) & {"rateLimitExceeded", "jobRateLimitExceeded", "backendError", "internalError"}:
        return True
    passing = (
        exceptions.TooManyRequests,
        exceptions.ServerError,
        exceptions.Aborted,
        exceptions.DeadlineExceeded,
    )
    return isinstance(error, passing) and not isinstance(error, exceptions.MethodNotImplemented)


def reasons(error: BaseException) -> set[str]:
    """BigQuery's own words for an error, such as ``quotaExceeded``."""
    return {one.get("reason", "") for one in getattr(error, "errors", ()) or () if isinstance(one, dict)}


def retried(
    call: Callable[[], T],
    *,
    attempts: int = _ATTEMPTS,
    passes: Callable[[BaseException], bool] = is_transient,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What ``call`` gives, tried again after errors that may pass: 0.5 s, 1 s, 2 s ... at most 30 s, with
    jitter.

    Args:
      call: is called anew each time.
      attempts: how often, at most.
      passes: which errors may pass.
      sleep: waits so many seconds.

    Raises:
      Exception: the first permanent one, or the last transient one when ``attempts`` have failed.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except errors() as error:
            if attempt == attempts or not passes(error):
                raise
            wait_sec = min(_FIRST_WAIT_SEC * 2 ** (attempt - 1), _LONGEST_WAIT_SEC)
            sleep(wait_sec * random.uniform(0.5, 1.0))
    raise AssertionError("attempts is at least 1")


def explain(
    error: BaseException, what: TableName | str, role: str = "roles/bigquery.dataEditor"
) -> UsageError:
    """What the user can do about an error of BigQuery.

    Args:
      error: what its client raised.
      what: the table, or the project.
      role: the role that this use needs.
    """
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    name = f"table {what.path}" if isinstance(what, TableName) else f"project {what}"
    reason = " ".join(str(getattr(error, "message", "") or error).split())
    reason = _REQUEST.sub("", reason)
    if isinstance(error, exceptions.NotFound):
        remedy = ""
        if isinstance(what, TableName):
            dataset = f"{what.project}:{what.dataset}"
            remedy = f"; what is there is listed by: bq ls {dataset}"
            if "not found: dataset" in reason.lower():
                remedy = f"; a dataset is made by: bq mk --dataset {dataset}"
        return UsageError(f"BigQuery: {name}: not found ({reason}){remedy}")
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return UsageError(
            f"BigQuery: {name}: refused ({reason}); the account that runs this needs {role}, and "
            "roles/bigquery.jobUser in the project that runs the jobs"
        )
    if isinstance(error, GoogleAuthError):
        return UsageError(
            f"BigQuery: {name}: no valid credentials ({reason}); log in by `gcloud auth application-default "
            f"login`, or set {EMULATOR_HOST} for an emulator"
        )
    return UsageError(f"BigQuery: {name}: {reason}")
