"""Two processes that do a job's work, as two machines would: elements, DoFns and errors cross gRPC.

Each process is a worker pool of Beam's with its workers as threads, so that what is imported and loaded stays
warm from job to job; and it tells what it has counted, which shows who did the work.

>>> with WarmPython() as python, WorkerPools(python) as pools:
...     cli.main(["predict", ..., *pools.beam_args])
...     pools.counts()
{4711: {"images_read": 30, ...}, 4712: {...}}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import grpc

from beam_vision import metrics

_START_SEC = 60.0
_ANSWER_SEC = 30.0
_SERVICE = "beam_vision.testing.WorkerPool"


class Process(Protocol):
    """What :class:`subprocess.Popen` and :class:`~beam_vision.testing.warm.Child` have in common."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, as soon as it has one."""

    def kill(self) -> None:
        """SIGKILL."""


class Starter(Protocol):
    """What starts a Python process, as :class:`~beam_vision.testing.warm.WarmPython` does."""

    def start(self, argv: list[str], *, stderr: IO[Any], env: dict[str, str]) -> Process:
        """``argv`` as after ``python``."""


class WorkerPools:
    """Running worker pools, each a process of its own.

    Args:
      python: starts them.
      folder: for their ports and their output; exists.
      hosts: of each, as this process reaches it.
      port: of all of them, each listening on its own host's address alone, as on machines of their own; 0:
        each takes a free one.
      env: is added to this process's environment.

    Attributes:
      addresses: ``HOST:PORT`` of each.
      children: the processes.
    """

    def __init__(
        self,
        python: Starter,
        folder: Path,
        *,
        hosts: tuple[str, ...] = ("localhost", "localhost"),
        port: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._python = python
        self._folder = folder
        self._hosts = hosts
        self._port = port
        self._env = {**os.environ, **(env or {})}
        self._started = 0
        started = [self._start(number) for number in range(len(hosts))]
        self.children = [child for child, _ in started]
        self.addresses = [self._address(number, path) for number, (_, path) in enumerate(started)]

    def __enter__(self) -> WorkerPools:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def beam_args(self) -> list[str]:
        """What a job's command line needs to have its work done here."""
        where = ",".join(self.addresses)
        return ["--runner=FnApiRunner", "--environment_type=EXTERNAL", f"--environment_config={where}"]

    @property
    def pids(self) -> list[int]:
        """The process of each."""
        return [child.pid for child in self.children]

    def counts(self) -> dict[int, dict[str, int]]:
        """What each process has counted (see :mod:`beam_vision.metrics`) since :meth:`clear`."""
        told = [json.loads(_ask(address, "Counts")) for address in self.addresses]
        return {one["pid"]: one["counts"] for one in told}

    def clear(self) -> None:
        """Lets each process count from nothing."""
        for address in self.addresses:
            _ask(address, "Clear")

    def said(self) -> str:
        """What the processes have written to stderr."""
        return "".join(path.read_text() for path in sorted(self._folder.glob("*.stderr")))

    def kill(self, pid: int) -> None:
        """Kills a process; :meth:`replace_dead` starts another."""
        child = self.children[self.pids.index(pid)]
        child.kill()
        child.wait(_START_SEC)

    def replace_dead(self) -> int:
        """Starts a process, at another address, in the place of each that has ended; says how many."""
        dead = [number for number, child in enumerate(self.children) if child.poll() is not None]
        for number in dead:
            self.children[number], path = self._start(number)
            self.addresses[number] = self._address(number, path)
        return len(dead)

    def close(self) -> None:
        """Ends the processes."""
        for child in self.children:
            child.kill()
            child.wait(_START_SEC)

    def _start(self, number: int) -> tuple[Process, Path]:
        self._started += 1
        path = self._folder / f"pool-{self._started}"
        where = f"{self._hosts[number]}:{self._port}" if self._port else "[::]:0"
        with open(path.with_suffix(".stderr"), "w") as stderr:
            argv = ["-m", "beam_vision.testing.worker_pools", str(path), where]
            return self._python.start(argv, stderr=stderr, env=self._env), path

    def _address(self, number: int, path: Path) -> str:
        deadline = time.monotonic() + _START_SEC
        while not path.exists():
            if self.children[number].poll() is not None:
                raise RuntimeError(f"the worker pool ended: {path.with_suffix('.stderr').read_text()}")
            if time.monotonic() > deadline:
                raise TimeoutError("the worker pool didn't start")
            time.sleep(0.01)
        return f"{self._hosts[number]}:{path.read_text()}"


def _ask(address: str, method: str) -> bytes:
    with grpc.insecure_channel(address) as channel:
        return channel.unary_unary(f"/{_SERVICE}/{method}")(b"", timeout=_ANSWER_SEC, wait_for_ready=True)


def _counts(request: bytes, context: grpc.ServicerContext) -> bytes:
    return json.dumps({"pid": os.getpid(), "counts": metrics.TALLY.counts()}).encode()


def _clear(request: bytes, context: grpc.ServicerContext) -> bytes:
    metrics.TALLY.clear()
    return b""


def serve(path: Path, where: str) -> None:
    """Is a worker pool until the process is ended; listens at ``where`` and writes its port to ``path``."""
    from apache_beam.internal.gcp.auth import _Credentials
    from apache_beam.portability.api import beam_fn_api_pb2_grpc as fn_api
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
    from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

    if "STORAGE_EMULATOR_HOST" in os.environ:  # Beam would look for real credentials for 24 s
        _Credentials._credentials_init = True
    pings = [("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0)]  # as Beam's own
    server = grpc.server(shared_unbounded_instance(), options=[("grpc.so_reuseport", 0), *pings])
    port = server.add_insecure_port(where)
    pool = BeamFnExternalWorkerPoolServicer(data_buffer_time_limit_ms=-1)
    fn_api.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    methods = {"Counts": _counts, "Clear": _clear}
    handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    server.start()
    aside = path.with_suffix(".tmp")
    aside.write_text(str(port))
    aside.rename(path)
    server.wait_for_termination()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
