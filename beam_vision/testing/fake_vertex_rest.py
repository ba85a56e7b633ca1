"""The neighbours of :mod:`beam_vision.testing.fake_vertex`: logs, quotas, permissions, buckets."""

from __future__ import annotations

import datetime
import itertools
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_METRIC = re.compile(r"/serviceusage/v1beta1/projects/([^/]+)/services/[^/]+/consumerQuotaMetrics/(.+)\Z")
_BUCKET = re.compile(r"/storage/storage/v1/b/([^/]+)(/iam/testPermissions)?\Z")
_JOB_ID = re.compile(r'"(\d+)"')
_SINCE = re.compile(r'timestamp>="([^"]+)"')


@dataclass
class Neighbours:
    """The services.

    Attributes:
      denied: permissions that the caller lacks.
      buckets: what ``storage.buckets.get`` gives, by name.
      quotas: see :class:`~beam_vision.testing.fake_vertex.FakeVertex`.
      entries: of the log, in order.
      page: entries an answer of the log, at most.
      broken: services that answer 403, such as ``logging``.
    """

    denied: set[str] = field(default_factory=set)
    buckets: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    quotas: dict[tuple[str, str], int] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)
    page: int = 1000
    broken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._ids = itertools.count()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> str:
        """Serves; gives ``http://127.0.0.1:PORT``."""
        handler = type("Handler", (_Handler,), {"neighbours": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Ends."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def log(self, job_id: str, text: str) -> None:
        """An entry of a job's first replica, now."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
        labels = {"job_id": job_id, "task_name": "workerpool0-0"}
        resource = {"type": "ml_job", "labels": labels}
        self.entries.append(
            {"insertId": str(next(self._ids)), "timestamp": now, "textPayload": text, "resource": resource}
        )

    def answer(self, path: str, query: Mapping[str, list[str]], body: Any) -> tuple[int, Any]:
        """A status and what is answered with it."""
        service = path.split("/")[1]
        if service in self.broken:
            return 403, _error(403, f"{service} API has not been used in project before or it is disabled.")
        if path == "/logging/v2/entries:list":
            return 200, self._list_entries(body)
        if path.endswith(":testIamPermissions"):
            return 200, {"permissions": [one for one in body["permissions"] if one not in self.denied]}
        bucket, metric = _BUCKET.match(path), _METRIC.match(path)
        if bucket:
            return self._bucket(bucket[1], query if bucket[2] else None)
        if metric:
            return 200, self._metric(unquote(metric[2]))
        return 404, _error(404, f"no such path: {path}")

    def _list_entries(self, body: Mapping[str, Any]) -> dict[str, Any]:
        ids, since = set(_JOB_ID.findall(body["filter"])), _SINCE.search(body["filter"])
        assert since is not None
        found = [
            one
            for one in self.entries
            if one["resource"]["labels"]["job_id"] in ids
            and one["timestamp"].removesuffix("Z") >= since[1].removesuffix("+00:00")
        ]
        start = int(body.get("pageToken", 0))
        answer: dict[str, Any] = {"entries": found[start : start + self.page]}
        return answer | ({"nextPageToken": str(start + self.page)} if start + self.page < len(found) else {})

    def _bucket(self, name: str, asked: Mapping[str, list[str]] | None) -> tuple[int, Any]:
        if name not in self.buckets:
            return 404, _error(404, "The specified bucket does not exist.")
        if asked is None:
            return 200, {"name": name, **self.buckets[name]}
        return 200, {"permissions": [one for one in asked["permissions"] if one not in self.denied]}

    def _metric(self, metric: str) -> dict[str, Any]:
        short = metric.rpartition("/")[2]
        buckets = [{"effectiveLimit": "-1", "defaultLimit": "-1"}] + [
            {"effectiveLimit": str(left), "dimensions": {"region": region}}
            for (region, name), left in self.quotas.items()
            if name == short
        ]
        return {
            "metric": metric,
            "consumerQuotaLimits": [{"unit": "1/{project}/{region}", "quotaBuckets": buckets}],
        }


def _error(code: int, said: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": said}}


class _Handler(BaseHTTPRequestHandler):
    neighbours: Neighbours

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, body: Any) -> None:
        url = urlsplit(self.path)
        code, value = self.neighbours.answer(url.path, parse_qs(url.query), body)
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
