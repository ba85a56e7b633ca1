"""The process that :class:`beam_vision.testing.warm.WarmPython` forks its children from; see there."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import time
from typing import Any

MODULES = (
    "tensorflow",
    "apache_beam",
    "apache_beam.runners.portability.fn_api_runner",
    "pyarrow.parquet",
    "tfx_bsl.public.tfxio",
    "google.cloud.pubsub_v1",
    "google.cloud.bigquery",
    "google.cloud.bigquery_storage_v1",
    "sqlglot",
    "beam_vision.coders",
    "beam_vision.inference.check",
    "beam_vision.inference.transforms",
    "beam_vision.inference.stream_transforms",
    "beam_vision.sinks.row_transforms",
    "beam_vision.sinks.transforms",
    "beam_vision.sinks.windows_transforms",
    "beam_vision.sources.transforms",
    "beam_vision.streaming.camera_transforms",
    "beam_vision.streaming.local.runner",
    "beam_vision.streaming.windows_transforms",
)
"""What is imported before the first fork, where it is installed."""

_STOP_SEC = 5.0


def _receive(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    size, files, _, _ = socket.recv_fds(link, 4, 3)
    with link.makefile("rb") as reading:
        return json.loads(reading.read(int.from_bytes(size, "big"))), files


class Parent:
    """Forks when asked, and tells each asker how its child ended."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._children: dict[int, socket.socket] = {}
        self._ready = selectors.DefaultSelector()
        self._woken, waker = socket.socketpair()
        self._woken.setblocking(False)
        waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._waker = waker
        for source in (self._listening, self._woken, sys.stdin):
            self._ready.register(source, selectors.EVENT_READ)

    def serve(self) -> list[str] | None:
        """Returns the arguments to run in a child, and None in the warm process itself, when it shall end."""
        while True:
            for key, _ in self._ready.select():
                if key.fileobj is sys.stdin:
                    self._end()
                    return None
                if key.fileobj is self._woken:
                    self._reap()
                elif key.fileobj is self._listening:
                    argv = self._fork(self._listening.accept()[0])
                    if argv is not None:
                        return argv
                else:
                    self._forsaken(key.fileobj)  # type: ignore[arg-type]

    def _fork(self, link: socket.socket) -> list[str] | None:
        asked, files = _receive(link)
        pid = os.fork()
        if pid == 0:
            self._become(asked, files)
            link.close()
            return asked["argv"]
        for file in files:
            os.close(file)
        link.sendall(f"{pid}\n".encode())
        self._children[pid] = link
        self._ready.register(link, selectors.EVENT_READ)
        return None

    def _become(self, asked: dict[str, Any], files: list[int]) -> None:
        """In the child: its own files, folder and environment, and nothing of the warm process's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._ready.close()
        for other in (self._listening, self._woken, self._waker, *self._children.values()):
            other.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.path[:1] = [asked["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass
        for pid in list(self._children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                link = self._children.pop(pid)
                with contextlib.suppress(KeyError):
                    self._ready.unregister(link)
                with contextlib.suppress(OSError):
                    link.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                link.close()

    def _forsaken(self, link: socket.socket) -> None:
        """Who asked has gone: nobody would know of the child any more."""
        self._ready.unregister(link)
        for pid, other in self._children.items():
            if other is link:
                os.kill(pid, signal.SIGKILL)

    def _end(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _STOP_SEC
        while self._children and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.01)


def main(argv: list[str]) -> None:
    """The warm process, and in each fork of it what was asked for."""
    for name in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    asked = Parent(socket.socket(fileno=int(argv[0]))).serve()
    if asked is None:
        return
    if asked[:1] != ["-m"]:
        sys.exit(f"only -m is known here, not {asked}")
    sys.argv = asked[1:]
    runpy.run_module(asked[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
