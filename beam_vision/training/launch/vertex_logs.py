"""What the replicas of a job on Vertex AI say, read from Cloud Logging as it comes."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from beam_vision.training.launch.vertex_api import Api, errors, message_of

_PAGE = 1000
_LATE = datetime.timedelta(seconds=60)
"""Entries may come into the log later than others that are younger; so far back is looked for them."""


class LogReader:
    """Gives each line of some jobs' logs once, in the order of time as far as it is known.

    Args:
      api: connections.
      since: nothing older is looked for; in UTC.
    """

    def __init__(self, api: Api, since: datetime.datetime) -> None:
        self._api = api
        self._from = since
        self._seen: dict[tuple[str, str], datetime.datetime] = {}
        self.problem = ""
        """Why logs can't be read; empty while they can."""

    def read(self, job_ids: Sequence[str]) -> list[str]:
        """The lines that are new, each with its replica, such as ``workerpool0-0: epoch 1 ...``.

        A log that can't be read is no reason to end: see :attr:`problem`.

        Args:
          job_ids: the last parts of custom jobs' names.
        """
        if not job_ids or self.problem:
            return []
        try:
            return [_line(entry) for entry in self._entries(job_ids) if self._is_new(entry)]
        except errors() as error:
            self.problem = message_of(error)
            return []

    def _entries(self, job_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        ids = " OR ".join(f'"{one}"' for one in job_ids)
        body: dict[str, Any] = {
            "resourceNames": [f"projects/{self._api.project}"],
            "filter": f'resource.type="ml_job" AND resource.labels.job_id=({ids}) AND '
            f'timestamp>="{self._from.isoformat()}"',
            "orderBy": "timestamp asc",
            "pageSize": _PAGE,
        }
        while True:
            answer = self._api.rest("logging", "/v2/entries:list", body=body)
            yield from answer.get("entries", [])
            if not answer.get("nextPageToken"):
                return
            body["pageToken"] = answer["nextPageToken"]

    def _is_new(self, entry: dict[str, Any]) -> bool:
        key = entry.get("timestamp", ""), entry.get("insertId", "")
        if key in self._seen:
            return False
        when = _time(key[0], self._from)
        self._seen[key] = when
        if when - _LATE > self._from:
            self._from = when - _LATE
            self._seen = {one: at for one, at in self._seen.items() if at >= self._from}
        return True


def _time(text: str, default: datetime.datetime) -> datetime.datetime:
    """A time of Cloud Logging, which has up to nine digits of a second; Python 3.10 reads six."""
    head, dot, rest = text.removesuffix("Z").partition(".")
    try:
        return datetime.datetime.fromisoformat(f"{head}{dot}{rest[:6].ljust(6, '0') if dot else ''}+00:00")
    except ValueError:
        return default


def _line(entry: dict[str, Any]) -> str:
    payload = entry.get("jsonPayload", {})
    text = entry.get("textPayload") or payload.get("message") or ""
    replica = entry.get("resource", {}).get("labels", {}).get("task_name", "")
    return f"{replica}: {str(text).rstrip()}" if replica else str(text).rstrip()
