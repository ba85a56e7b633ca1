"""Clients of Vertex AI and its neighbours (logs, quotas, permissions, buckets), and their errors in words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.services.job_service import JobServiceClient

EMULATOR_HOST = "VERTEX_EMULATOR_HOST"
"""``HOST:PORT`` of an emulator's gRPC side, in the place of ``REGION-aiplatform.googleapis.com``."""
EMULATOR_REST = "VERTEX_EMULATOR_REST"
"""``http://HOST:PORT`` of the same for the neighbours: it has ``/SERVICE/PATH`` for
``https://SERVICE.googleapis.com/PATH``."""

ROLE = "roles/aiplatform.user"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_REST_SEC = 30.0


class Api:
    """Connections to Vertex AI, made when first needed, as a context manager.

    Args:
      project: whose jobs they are, and which is asked about.
    """

    def __init__(self, project: str) -> None:
        self.project = project
        self._jobs: dict[str, JobServiceClient] = {}
        self._session: Any = None

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._jobs.values():
            client.transport.close()
        if self._session is not None:
            self._session.close()

    def jobs(self, region: str) -> JobServiceClient:
        """The client of a region's jobs.

        Raises:
          UsageError: the client library isn't installed, or there are no credentials.
        """
        if region not in self._jobs:
            self._jobs[region] = self._make_jobs(region)
        return self._jobs[region]

    def _make_jobs(self, region: str) -> JobServiceClient:
        service = deps.need("google.cloud.aiplatform_v1.services.job_service")
        address = os.environ.get(EMULATOR_HOST)
        if address:
            import grpc

            transports = deps.need("google.cloud.aiplatform_v1.services.job_service.transports")
            channel = grpc.insecure_channel(address)
            return service.JobServiceClient(transport=transports.JobServiceGrpcTransport(channel=channel))
        from google.auth.exceptions import GoogleAuthError

        try:
            return service.JobServiceClient(
                client_options={"api_endpoint": f"{region}-aiplatform.googleapis.com"}
            )
        except GoogleAuthError as error:
            raise explain(error, self.project) from error

    def rest(
        self,
        service: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One request of a neighbour's REST API: POST where there is a body, else GET.

        Args:
          service: the host's first part, such as ``logging``.
          path: from the host on, such as ``/v2/entries:list``.

        Raises:
          GoogleAPICallError: it was refused; the way there failed: RequestException or GoogleAuthError.
        """
        from google.api_core import exceptions

        session = self._session = self._session or _make_session()
        emulated = os.environ.get(EMULATOR_REST)
        base = f"{emulated}/{service}" if emulated else f"https://{service}.googleapis.com"
        answer = session.request(
            "GET" if body is None else "POST", base + path, params=params, json=body, timeout=_REST_SEC
        )
        if not answer.ok:
            raise exceptions.from_http_response(answer)
        return answer.json()


def _make_session() -> Any:
    if os.environ.get(EMULATOR_REST):
        import requests

        return requests.Session()
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=[_SCOPE])
    return AuthorizedSession(credentials)


def errors() -> tuple[type[Exception], ...]:
    """What clients raise when Google Cloud, or the way to it, fails."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    return GoogleAPIError, GoogleAuthError, RequestException


def passing() -> tuple[type[Exception], ...]:
    """Those of :func:`errors` that may pass when the same is tried again."""
    from google.api_core import exceptions
    from requests.exceptions import ConnectionError, Timeout

    return (
        exceptions.ServiceUnavailable,
        exceptions.InternalServerError,
        exceptions.DeadlineExceeded,
        exceptions.Aborted,
        ConnectionError,
        Timeout,
    )


def message_of(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(getattr(error, "message", "") or error).split())


def explain(error: BaseException, what: str) -> UsageError:
    """What the user can do about an error.

    Args:
      error: one of :func:`errors`.
      what: the project, the job or the bucket that was asked about.
    """
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    said = message_of(error)
    if isinstance(error, GoogleAuthError):
        return UsageError(
            f"Vertex AI: {what}: no valid credentials ({said}); log in by "
            "`gcloud auth application-default login`"
        )
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return UsageError(
            f"Vertex AI: {what}: refused ({said}); the account that runs this needs {ROLE}, and the API is "
            "enabled by `gcloud services enable aiplatform.googleapis.com`"
        )
    if isinstance(error, exceptions.NotFound):
        return UsageError(f"Vertex AI: {what}: not found ({said})")
    return UsageError(f"Vertex AI: {what}: {said}")
