"""Runs command lines of ours in children of one warm process, which can be killed and started anew quickly.

A child costs the time of a fork, not that of loading Beam. The warm process loads modules and does nothing
else: it has no threads and no connections that a fork would break.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WARM = (
    *("apache_beam", "onnxruntime", "pyarrow.parquet", "beam_vision.pipelines.live_table"),
    *("beam_vision.inference.stream_transforms", "beam_vision.inference.onnx_model"),
    *("beam_vision.sinks.row_transforms", "beam_vision.sinks.windows_transforms"),
    *("beam_vision.streaming.camera_transforms", "beam_vision.streaming.fetch_transforms"),
    *("beam_vision.streaming.local.runner", "beam_vision.streaming.windows_transforms"),
)

_RAISED = 70


class Forks:
    """A warm process.

    Args:
      log: a file for what the children say.
      modules: what it loads.
      env: variables in addition to this process's.
    """

    def __init__(self, log: str, modules: Sequence[str] = WARM, env: dict[str, str] | None = None) -> None:
        self._out = open(log, "ab")  # noqa: SIM115  (until close)
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._out,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self._read()

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def start(self, argv: Sequence[str]) -> int:
        """Starts ``beam-vision ARGV`` in a child; gives its pid."""
        return int(self._ask("start", *argv))

    def kill(self, pid: int, number: int = signal.SIGKILL) -> int:
        """Sends a signal to a child and waits for its end; gives its exit code, or minus the signal."""
        return int(self._ask("kill", str(pid), str(int(number))))

    def wait(self, pid: int) -> int:
        """Waits for a child's end; gives its exit code, or minus the signal that ended it."""
        return int(self._ask("kill", str(pid), "0"))

    def close(self) -> None:
        """Ends the warm process; its children must have ended."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=30)
        self._out.close()

    def _ask(self, *words: str) -> str:
        if self._process.stdin is None:
            raise ValueError("the warm process has no input")
        self._process.stdin.write("\x1f".join(words) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        if self._process.stdout is None:
            raise ValueError("the warm process has no output")
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"the warm process ended: see {Path(str(self._out.name))}")
        return line


def serve(modules: Sequence[str]) -> None:
    """The warm process: loads modules, then obeys until its input ends."""
    import importlib

    for name in modules:
        importlib.import_module(name)
    _answer("ready")
    for line in sys.stdin:
        command, *words = line.rstrip("\n").split("\x1f")
        if command == "start":
            _answer(str(_fork(words)))
        else:
            _answer(str(_end(int(words[0]), int(words[1]))))


def _fork(argv: list[str]) -> int:
    from beam_vision.pipelines import cli

    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    code = _RAISED
    try:
        code = cli.main(argv)
    finally:
        if code == _RAISED:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


def _end(pid: int, number: int) -> int:
    if number:
        os.kill(pid, number)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _answer(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1:])
