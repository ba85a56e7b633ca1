"""Vector indexes for the BigQuery emulator, which has none: an HTTP server in front of it, for tests.

What concerns indexes is put into statements that the emulator can run, so that every answer is one of its
own, read by the real client; all else passes as it came. A job that searched says so in the form of
cloud.google.com/bigquery/docs/reference/rest/v2/Job#vectorsearchstatistics.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from beam_vision.search import googlesql

_CREATE = re.compile(
    r"\s*CREATE\s+(OR\s+REPLACE\s+)?VECTOR\s+INDEX\s+`(\w+)`\s+ON\s+`([^`]+)`", re.IGNORECASE
)
_DROP = re.compile(
    r"\s*(DROP|ALTER)\s+VECTOR\s+INDEX\s+(?:IF\s+EXISTS\s+)?`(\w+)`\s+ON\s+`([^`]+)`", re.IGNORECASE
)
_VIEW = re.compile(r"`([\w.-]+)\.INFORMATION_SCHEMA\.VECTOR_INDEXES`")
_OWN_HEADERS = frozenset({"connection", "content-length", "date", "server", "transfer-encoding"})


@dataclass
class IndexServer:
    """The server, as a context manager.

    Attributes:
      behind: ``http://HOST:PORT`` of the emulator.
      coverage: what ``coverage_percentage`` is at each look, in turn; the last one stays.
      status, disable_reason: of every index.
      drift: what ``VECTOR_INDEX.STATISTICS`` says; None: nothing.
      missed: a condition over the rows that a search through an index misses; "": none.
      unused: why searches don't use the index, ``{"code": ..., "message": ...}``; None: they do.
      statements: every statement as it came.
      indexes: the statement of each index by table and name.
    """

    behind: str
    coverage: list[int] = field(default_factory=lambda: [100])
    status: str = "ACTIVE"
    disable_reason: str = ""
    drift: float | None = 0.1
    missed: str = ""
    unused: dict[str, Any] | None = None
    statements: list[str] = field(default_factory=list)
    indexes: dict[tuple[str, str], str] = field(default_factory=dict)
    _searched: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __enter__(self) -> IndexServer:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def rest(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict, bytes]:
        """The emulator's answer to a request, or to what was put in its place."""
        statistics = None
        if method == "POST" and path.partition("?")[0].endswith("/jobs"):
            job = json.loads(body)
            query = job.get("configuration", {}).get("query")
            if query:
                self.statements.append(query["query"])
                query["query"], statistics = self._put(query["query"])
                body = json.dumps(job).encode()
        status, kept, data = self._forward(method, path, headers, body)
        return status, kept, self._with_statistics(path, data, statistics)

    def _put(self, sql: str) -> tuple[str, dict[str, Any] | None]:
        """What the emulator is given for a statement, and what the job says of its search."""
        if made := _CREATE.match(sql):
            self.indexes[made[3], made[2]] = sql
            return "SELECT 1", None
        if changed := _DROP.match(sql):
            if changed[1].upper() == "DROP":
                del self.indexes[changed[3], changed[2]]
            return "SELECT 1", None
        if viewed := _VIEW.search(sql):
            return self._view(viewed[1]), None
        if "VECTOR_INDEX.STATISTICS" in sql:
            return (
                "SELECT 0.0 AS drift LIMIT 0" if self.drift is None else f"SELECT {self.drift} AS drift",
                None,
            )
        if "VECTOR_SEARCH" not in sql:
            return sql, None
        plain = googlesql.to_bigquery(sql, {}, vector_search=False)
        if "use_brute_force" in sql:
            reason = {"code": "INDEX_SUPPRESSED_BY_FUNCTION_OPTION"}
            return plain, {"indexUsageMode": "UNUSED", "indexUnusedReasons": [reason]}
        if self.unused:
            return plain, {"indexUsageMode": "UNUSED", "indexUnusedReasons": [self.unused]}
        found = f"SELECT * FROM ({plain}) WHERE NOT ({self.missed})" if self.missed else plain
        return found, {"indexUsageMode": "FULLY_USED"}

    def _view(self, dataset: str) -> str:
        """INFORMATION_SCHEMA.VECTOR_INDEXES of a dataset, as a SELECT of what stands there."""
        covered = self.coverage.pop(0) if len(self.coverage) > 1 else self.coverage[0]
        rows = []
        for (path, name), ddl in self.indexes.items():
            if path.rpartition(".")[0] != dataset:
                continue
            refreshed = "TIMESTAMP '2026-11-22 10:00:00+00'" if covered else "CAST(NULL AS TIMESTAMP)"
            reason = json.dumps(self.disable_reason) if self.disable_reason else "CAST(NULL AS STRING)"
            rows.append(
                f"SELECT {json.dumps(name)} AS index_name, "
                f"{json.dumps(path.rpartition('.')[2])} AS table_name, "
                f"{json.dumps(self.status)} AS index_status, {json.dumps(ddl)} AS ddl, "
                f"{covered} AS coverage_percentage, {100 - covered} AS unindexed_row_count, "
                f"TIMESTAMP '2026-11-22 09:00:00+00' AS creation_time, {refreshed} AS last_refresh_time, "
                f"TIMESTAMP '2026-11-22 09:30:00+00' AS last_model_build_time, {reason} AS disable_reason, "
                "12345678 AS total_logical_bytes, 2345678 AS total_storage_bytes, "
                "CAST(NULL AS STRING) AS alteration_status, CAST(NULL AS INT64) AS alteration_percentage"
            )
        if not rows:
            return "SELECT 'none' AS index_name LIMIT 0"
        return f"SELECT * FROM ({' UNION ALL '.join(rows)}) WHERE table_name = @table ORDER BY index_name"

    def _with_statistics(self, path: str, data: bytes, statistics: dict[str, Any] | None) -> bytes:
        if "/jobs" not in path or not data.startswith(b"{"):
            return data
        resource = json.loads(data)
        job_id = resource.get("jobReference", {}).get("jobId", "")
        if statistics is not None:
            self._searched[job_id] = statistics
        if job_id in self._searched:
            query = resource.setdefault("statistics", {}).setdefault("query", {})
            query["vectorSearchStatistics"] = self._searched[job_id]
        return json.dumps(resource).encode()

    def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(
            self.behind + path, data=body or None, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answered: Any = response
                return answered.status, dict(answered.headers), answered.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()


def _handler(server: IndexServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            dropped = ("host", "content-length", "accept-encoding", "connection")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            status, kept, data = server.answer(self.command, self.path, headers, body)
            self.send_response(status)
            for name, value in kept.items():
                if name.lower() not in _OWN_HEADERS:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: tests are quiet."""

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._answer)
    return Handler
