"""A BigQuery emulator for tests: a child process on free loopback ports, and datasets made in a line each.

``python -m beam_vision.testing.bigquery_emulator`` serves until its stdin ends, so it can't outlive whoever
started it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from beam_vision.errors import JobError
from beam_vision.warehouse import clients
from beam_vision.warehouse.names import TableName

_THREADS = 256


class Emulator:
    """A running emulator, as a context manager.

    Attributes:
      rest: ``http://127.0.0.1:PORT``.
      grpc: ``127.0.0.1:PORT``, of the Storage Read and Write APIs.
    """

    def __init__(self) -> None:
        self.rest = self.grpc = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Emulator:
        command = [sys.executable, "-m", __name__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise JobError(f"the BigQuery emulator did not start: {self._process.stderr.read()[-2000:]}")
        ports = json.loads(line)
        self.rest, self.grpc = ports["rest"], ports["grpc"]
        _drain(self._process.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()  # it holds nothing that lasts
        self._process.communicate()

    @property
    def environment(self) -> dict[str, str]:
        """What points clients to it."""
        return {clients.EMULATOR_HOST: self.rest, clients.EMULATOR_GRPC: self.grpc}


def _drain(stream: IO[str]) -> None:
    """Reads on, so that the child never waits for room in a pipe."""
    import threading

    threading.Thread(target=lambda: [None for _ in stream], daemon=True).start()


class Warehouse:
    """A project and a dataset of its own on a running emulator, which no other test has.

    Needs the environment of :attr:`Emulator.environment`.

    Attributes:
      project, dataset: their names.
      client: a client of that project.
    """

    def __init__(self, dataset: str = "lake") -> None:
        self.project = f"test-{uuid.uuid4().hex[:12]}"
        self.dataset = dataset
        self.client = clients.client(self.project)
        self.client.create_dataset(dataset)

    def name(self, table: str) -> TableName:
        """The name of a table in the dataset, whether or not it is there."""
        return TableName(self.project, self.dataset, table)

    def uri(self, table: str) -> str:
        """``bigquery://project.dataset.table``."""
        return self.name(table).uri

    def rows(self, sql: str, **settings: Any) -> list[dict[str, Any]]:
        """What a query gives."""
        return [dict(row.items()) for row in self.client.query(sql, **settings).result()]

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return self.rows(f"SELECT COUNT(*) AS n FROM {self.name(table).sql}")[0]["n"]

    def tables(self) -> list[str]:
        """The names of the dataset's tables and views, sorted."""
        found = self.client.list_tables(f"{self.project}.{self.dataset}")
        return sorted(each.table_id for each in found)

    def close(self) -> None:
        """Ends its connections."""
        self.client.close()


async def _serve(answer: IO[str]) -> None:
    """Runs the emulator until stdin ends; writes its addresses as a line of JSON to ``answer``.

    Two of its steps are left out: it would download a DuckDB extension when it starts, and copy the whole
    table at each write, for time travel. One is mended: it forgets what is within RECORDs when rows are
    appended by the Storage Write API.
    """
    from bqemulator.api.routes import tabledata
    from bqemulator.config import LogLevel, Settings
    from bqemulator.grpc_api import write_servicer
    from bqemulator.server import EmulatorServer
    from bqemulator.storage.engine import DuckDBEngine
    from bqemulator.versioning.snapshots import SnapshotManager

    DuckDBEngine._load_spatial = lambda _: None  # type: ignore[method-assign, assignment]
    SnapshotManager.capture = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    write_servicer._table_arrow_schema = lambda table_meta: tabledata._build_arrow_schema(
        [each.model_dump() for each in table_meta.schema_.fields]
    )
    settings = Settings(rest_port=0, grpc_port=0, enable_format_extensions=False, log_level=LogLevel.ERROR)
    # each open connection of the Storage APIs holds a thread, and by default there are six
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    server = EmulatorServer(settings)
    await server.start()
    answer.write(json.dumps({"rest": server.rest_url, "grpc": server.grpc_endpoint}) + "\n")
    answer.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # what it logs is no answer
    asyncio.run(_serve(out))
