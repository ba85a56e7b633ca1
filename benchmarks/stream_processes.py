"""The processes of the streaming benchmark: contenders that are paused while others work, and the cameras."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

READY_SEC = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def processor_times() -> tuple[int, int]:
    """Ticks of all processors since the start, and those that the hypervisor withheld (``steal``)."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[7]


def stolen(was: tuple[int, int], now: tuple[int, int]) -> float:
    """The share that was withheld between two :func:`processor_times`."""
    return (now[1] - was[1]) / max(now[0] - was[0], 1)


class Contender:
    """A process that takes messages of its own subscription and publishes rows to its own topic.

    Paused (SIGSTOP) it takes no processor time, so all can be started once and take turns step by step.

    Args:
      name: of :data:`benchmarks.stream_figures.TITLES`.
      command: what is run.
      environ: on top of ours.
      folder: where its log and its ready file go.
    """

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str], folder: Path) -> None:
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"{name}.log"
        self._ready = folder / f"{name}.ready"
        self._ready.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command, f"--ready_file={self._ready}"],
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore", **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        end = time.monotonic() + READY_SEC
        while not self._ready.exists():
            self.check()
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} isn't ready after {READY_SEC:g} s: {self.said()}")
            time.sleep(0.1)

    def check(self) -> None:
        """Raises where it has ended."""
        code = self._process.poll()
        if code is not None:
            raise RuntimeError(f"{self.name} ended with {code}: {self.said()}")

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-3000:]

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def cpu_sec(self) -> float:
        """The processor time that it has taken."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mib(self) -> float:
        """The memory that it has resident."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE / 2**20

    def stop(self) -> None:
        """Ends it: by SIGTERM, on which it drains."""
        if self._process.poll() is None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class CamerasProcess:
    """:mod:`benchmarks.stream_cameras` in a process of its own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stream_cameras"],
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.frame_bytes = self._answer()["frame_bytes"]

    def start(self, topic: str, count: int, rate: float) -> None:
        """Has it send; :meth:`done` waits for the end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"topic": topic, "count": count, "rate": rate}) + "\n")
        self._process.stdin.flush()

    def done(self) -> dict[str, Any]:
        """When it began and ended, and how late it was."""
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the publisher has ended")
        return json.loads(line)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class MemoryWatch(threading.Thread):
    """Notes a contender's memory each second until it is told to stop."""

    def __init__(self, contender: Contender) -> None:
        super().__init__(daemon=True)
        self._contender = contender
        self._stopped = threading.Event()
        self.seconds: list[float] = []
        self.mib: list[float] = []

    def run(self) -> None:
        start = time.monotonic()
        while not self._stopped.wait(1.0):
            self.seconds.append(time.monotonic() - start)
            self.mib.append(self._contender.memory_mib())

    def stop(self) -> None:
        self._stopped.set()
        self.join()
