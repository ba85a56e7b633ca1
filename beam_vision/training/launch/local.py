"""A job as a child process in its own session: its lines passed on, its end ours, its exit code kept."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from beam_vision.training.launch.base import State

GRACE_SEC = 30.0
"""What a child has to end by itself after SIGTERM, before SIGKILL: time enough to save a checkpoint."""
_CANCEL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LocalJob:
    """A job that runs in a child process.

    The child has a session of its own: a Ctrl-C in the terminal reaches it once, through us, and all that it
    starts can be ended with it.

    Args:
      argv: of ``beam-vision``, such as ``["train", "--config", "job.yaml"]``.
      env: further environment variables.
      grace_sec: between SIGTERM and SIGKILL.
    """

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, grace_sec: float = GRACE_SEC
    ) -> None:
        self.argv = list(argv)
        self._env = {**os.environ, **(env or {})}
        self._grace_sec = grace_sec
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = False
        self._killer: threading.Timer | None = None

    @property
    def pid(self) -> int:
        """Of the child; also of its session and its process group."""
        assert self._process is not None
        return self._process.pid

    @property
    def state(self) -> State:
        """How it stands."""
        if self._process is None:
            return State.WAITING
        code = self._process.poll()
        if code is None:
            return State.RUNNING
        if code and self._cancelled:
            return State.CANCELLED
        return State.FAILED if code else State.SUCCEEDED

    def start(self) -> None:
        """Starts it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "beam_vision.pipelines.cli", *self.argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self._env,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._end_session, daemon=True).start()
        if self._cancelled:
            self._terminate()

    def _end_session(self) -> None:
        """Ends what the child has left running when it ends: it would hold the pipe that we read from."""
        assert self._process is not None
        self._process.wait()
        self._signal(signal.SIGKILL)

    def lines(self) -> Iterator[str]:
        """What it says on stdout and stderr, line by line, until it ends."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield line.rstrip("\n")

    def wait(self) -> int:
        """Waits for its end; gives its exit code, 128 + N where signal N ended it, as a shell does."""
        assert self._process is not None
        code = self._process.wait()
        if self._killer is not None:
            self._killer.cancel()
        return code if code >= 0 else 128 - code

    def cancel(self) -> None:
        """Asks it and all that it started to end (SIGTERM); kills them after the grace."""
        if not self._cancelled:
            self._cancelled = True
            if self._process is not None:
                self._terminate()

    def _terminate(self) -> None:
        self._signal(signal.SIGTERM)
        self._killer = threading.Timer(self._grace_sec, self._signal, [signal.SIGKILL])
        self._killer.daemon = True
        self._killer.start()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def run_local(
    argv: Sequence[str],
    tell: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    grace_sec: float = GRACE_SEC,
) -> int:
    """Runs a job in a child process and waits for it; SIGINT, SIGTERM and SIGHUP cancel it.

    Args:
      argv: of ``beam-vision``.
      tell: is called with each line that it says, as it comes.
      env: further environment variables.
      grace_sec: see :data:`GRACE_SEC`.

    Returns:
      Its exit code; 128 + N where signal N ended it.
    """
    job = LocalJob(argv, env=env, grace_sec=grace_sec)
    with _cancelled_by_signals(job):
        job.start()
        for line in job.lines():
            tell(line)
        return job.wait()


@contextlib.contextmanager
def _cancelled_by_signals(job: LocalJob) -> Iterator[None]:
    """In the block, signals that end a process cancel ``job`` instead; the main thread only can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(number: int, frame: FrameType | None) -> None:
        job.cancel()

    before = {number: signal.signal(number, cancel) for number in _CANCEL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
