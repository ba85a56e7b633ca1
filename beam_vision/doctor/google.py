"""Google Cloud's REST APIs, asked with short timeouts, and their errors in words.

What can't be reached is not asked a second time: offline, a doctor's visit takes one timeout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

EMULATOR_REST = "CLOUD_EMULATOR_REST"
"""``http://HOST:PORT`` of a service for tests that has ``/SERVICE/PATH`` for
``https://SERVICE.googleapis.com/PATH``."""
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
STORAGE_EMULATOR = "STORAGE_EMULATOR_HOST"
LOGIN = "log in: gcloud auth application-default login"

_ALL = ""
"""In the place of a service: what holds for all of them."""
_NONE = "default credentials were not found"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_DISABLED = re.compile(r"has not been used in project|it is disabled|SERVICE_DISABLED")
_API = re.compile(r"\b([a-z]+\.googleapis\.com)\b")


class Google:
    """Connections that are made when first needed; a context manager.

    Args:
      timeout_sec: for an answer of each request.
    """

    def __init__(self, timeout_sec: float = 10.0) -> None:
        self.timeout_sec = timeout_sec
        self._sessions: dict[bool, Any] = {}
        self._login: tuple[Any, str] | None = None
        self._trouble: dict[str, Exception] = {}

    def __enter__(self) -> Google:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self._sessions.values():
            session.close()

    def login(self) -> tuple[Any, str]:
        """The credentials that clients find here, with a fresh token, and the project they name or ``""``.

        Raises:
          GoogleAuthError: there are none, they aren't valid any more, or nobody could be asked.
        """
        if _ALL in self._trouble:
            raise self._trouble[_ALL]
        if self._login is None:
            from google.auth.exceptions import GoogleAuthError

            try:
                self._login = _login(self.timeout_sec)
            except GoogleAuthError as error:
                self._trouble[_ALL] = error
                raise
        return self._login

    def get(
        self,
        service: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The answer to a GET.

        Args:
          service: the host's first part, such as ``compute``; with a dot in it, the whole host.
          path: from the host on, such as ``/compute/v1/projects/p``.
          params: of the query.
          headers: besides those of the login.

        Raises:
          GoogleAPICallError: it was refused; RequestException or GoogleAuthError: the way there failed.
        """
        return self._ask("GET", service, path, params=params, headers=headers)

    def post(self, service: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a POST; see :meth:`get`."""
        return self._ask("POST", service, path, json=body)

    def _ask(self, method: str, service: str, path: str, **content: Any) -> dict[str, Any]:
        from google.api_core import exceptions
        from requests.exceptions import ConnectionError, RequestException

        if service in self._trouble:
            raise self._trouble[service]
        url = base(service) + path
        try:
            answer = self._session(service).request(method, url, timeout=self.timeout_sec, **content)
        except RequestException as error:
            self._trouble[_ALL if isinstance(error, ConnectionError) else service] = error
            raise
        if not answer.ok:
            raise exceptions.from_http_response(answer)
        return answer.json()

    def _session(self, service: str) -> Any:
        """What requests to a service go through: with credentials, or to an emulator without."""
        login = not (service == "storage" and os.environ.get(STORAGE_EMULATOR))
        if login:
            self.login()
        if login not in self._sessions:
            self._sessions[login] = _session(self.login()[0] if login else None, self.timeout_sec)
        return self._sessions[login]

    def check_way(self) -> None:
        """Raises what an earlier request found on the way to Google Cloud, for those who use other clients.

        Raises:
          Exception: one of :func:`errors`.
        """
        self.login()


def base(service: str) -> str:
    """Where a service is: ``https://SERVICE.googleapis.com``, or its place in the emulator.

    Cloud Storage's own emulators are honoured: ``STORAGE_EMULATOR_HOST``.
    """
    storage = os.environ.get(STORAGE_EMULATOR)
    if service == "storage" and storage:
        return storage if "://" in storage else f"http://{storage}"
    emulated = os.environ.get(EMULATOR_REST)
    if emulated:
        return f"{emulated}/{service}"
    return f"https://{service}" if "." in service else f"https://{service}.googleapis.com"


def _login(timeout_sec: float) -> tuple[Any, str]:
    import functools

    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import Request

    if os.environ.get(EMULATOR_REST) and not os.environ.get(KEY_FILE):
        return AnonymousCredentials(), ""
    credentials, project = google.auth.default(scopes=[_SCOPE])
    credentials.refresh(functools.partial(Request(), timeout=timeout_sec))
    return credentials, project or ""


def _session(credentials: Any, timeout_sec: float) -> Any:
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import AuthorizedSession

    if credentials is None or isinstance(credentials, AnonymousCredentials):
        import requests

        return requests.Session()
    return AuthorizedSession(credentials, refresh_timeout=timeout_sec)


def errors() -> tuple[type[Exception], ...]:
    """What clients raise when Google Cloud, or the way to it, fails."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    return GoogleAPIError, GoogleAuthError, RequestException


def message_of(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(getattr(error, "message", "") or error).split())


def explain(error: BaseException) -> tuple[str, str]:
    """Why a question got no answer, and the remedy.

    Args:
      error: one of :func:`errors`.
    """
    from google.api_core import exceptions
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
    from requests.exceptions import RequestException

    said = message_of(error)
    if isinstance(error, DefaultCredentialsError):
        return ("there are no credentials" if _NONE in said else said), LOGIN
    if isinstance(error, TransportError | RequestException) or getattr(error, "retryable", False):
        return f"Google Cloud can't be reached ({host_of(said)})", "try again where there is a network"
    if isinstance(error, GoogleAuthError):
        return f"the credentials are not valid ({said})", LOGIN
    if isinstance(error, exceptions.Forbidden) and _DISABLED.search(said):
        api = _API.search(said)
        enable = f"gcloud services enable {api[1]}" if api else "enable the API that is named"
        return f"an API is not enabled ({said})", enable
    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        return f"this account may not look ({said})", "ask someone who may, or for roles/viewer"
    return said, ""


def host_of(said: str) -> str:
    """The short form of what a failed connection says: the host, and the last reason."""
    host = re.search(r"host='([^']+)'", said)
    reason = re.findall(r"\[Errno -?\d+\] ([\w ]+)|(timed out|SSLError)", said)
    words = [*([host[1]] if host else []), *(next(filter(None, one)) for one in reason[-1:])]
    return ": ".join(words) or said[:200]
