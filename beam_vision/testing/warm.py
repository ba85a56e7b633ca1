"""Python processes that start at once: forks of one that has imported what takes long, and has run nothing.

A fresh ``python -m beam_vision.pipelines.cli`` imports TensorFlow and Beam, for seven seconds of processor
time. :class:`WarmPython` does so once, in a process of its own; each child is a fork of it with its own
working folder, environment and files, runs a module as ``__main__``, and can be killed like any other. It is
made for tests of what a process does and how it dies, not of how it starts.

>>> with WarmPython() as python:
...     child = python.start(["-m", "beam_vision.pipelines.cli", "--version"])
...     child.wait()
0
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

_STOP_SEC = 10.0
_LAUNCHER = """#!{python} -SE
import json, os, signal, socket, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
asked = json.dumps({{"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}).encode()
socket.send_fds(link, [len(asked).to_bytes(4, "big")], [0, 1, 2])
link.sendall(asked)
told = link.makefile("r")
pid = int(told.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(told.readline() or 1)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class Child:
    """A running fork: what :class:`subprocess.Popen` has of use here.

    Attributes:
      pid: of the process itself, to be killed as one likes.
      returncode: None until it was seen to have ended; minus the signal's number where one ended it.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._told = link.makefile("r")
        self.pid = int(self._told.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with contextlib.suppress(TimeoutError):
            self._read(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, as soon as it has one.

        Raises:
          TimeoutError: it still runs after ``timeout`` seconds.
        """
        self._read(timeout)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has been seen to have ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _read(self, timeout: float | None) -> None:
        if self.returncode is not None:
            return
        with selectors.DefaultSelector() as ready:
            ready.register(self._link, selectors.EVENT_READ)
            if not ready.select(timeout):
                raise TimeoutError(f"process {self.pid} still runs")
        self.returncode = int(self._told.readline() or -signal.SIGKILL)
        self._link.close()


class WarmPython:
    """The process that the others are forked from. It is warm once this is made; its end is theirs.

    Attributes:
      executable: a program to run in the place of ``sys.executable``. With ``-m MODULE`` it lends a fork its
        files, passes SIGTERM and SIGINT on and ends as that ends; where it is killed, that is, a moment
        later. With anything else it becomes a fresh Python.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._address = str(Path(self._folder.name) / "socket")
        self.executable = str(Path(self._folder.name) / "python")
        Path(self.executable).write_text(_LAUNCHER.format(python=sys.executable, address=self._address))
        os.chmod(self.executable, 0o700)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._address)
        listening.listen(64)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "beam_vision.testing.warm_parent", str(listening.fileno())],
            pass_fds=[listening.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        listening.close()
        assert self._server.stdout is not None
        if not self._server.stdout.readline():
            raise RuntimeError(f"the warm Python ended with exit code {self._server.wait()}")

    def __enter__(self) -> WarmPython:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(
        self,
        argv: list[str],
        *,
        stdout: IO[Any] | int | None = None,
        stderr: IO[Any] | int | None = None,
        cwd: str | os.PathLike | None = None,
        env: dict[str, str] | None = None,
    ) -> Child:
        """Starts a child.

        Args:
          argv: as after ``python``: ``-m``, the module, its arguments.
          stdout, stderr: files or file descriptors (default: this process's).
          cwd: its working folder (default: this process's).
          env: its whole environment (default: this process's).
        """
        link = socket.socket(socket.AF_UNIX)
        link.connect(self._address)
        with open(os.devnull) as nothing:
            files = [nothing.fileno(), _number(stdout, 1), _number(stderr, 2)]
            asked = {"argv": argv, "cwd": str(cwd or os.getcwd()), "env": dict(env or os.environ)}
            _send(link, asked, files)
        return Child(link)

    def close(self) -> None:
        """Ends the warm process, and kills what still runs of its children."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        try:
            self._server.wait(_STOP_SEC)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._folder.cleanup()


def _number(file: IO[Any] | int | None, default: int) -> int:
    if file is None:
        return default
    return file if isinstance(file, int) else file.fileno()


def _send(link: socket.socket, asked: dict[str, Any], files: list[int]) -> None:
    data = json.dumps(asked).encode()
    socket.send_fds(link, [len(data).to_bytes(4, "big")], files)
    link.sendall(data)
