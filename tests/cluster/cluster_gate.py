"""A file that whoever opens it must wait for: holds a job at a known place, for as long as a test likes."""

import contextlib
import errno
import fcntl
import os
import signal
import threading
import time

import pytest

WAIT_SEC = 60.0


class Gate:
    """Holds a write lease on a file (Linux): the kernel lets others open it once the lease is given up.

    Attributes:
      reached: is set when somebody wants to open the file.
    """

    def __init__(self, path):
        if not hasattr(fcntl, "F_SETLEASE"):
            pytest.skip("only Linux has leases on files")
        self._path = path
        self.reached = threading.Event()
        self._before = signal.signal(signal.SIGIO, lambda *_: self.reached.set())
        self._file = os.open(path, os.O_RDONLY)
        self._take()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open()
        os.close(self._file)
        signal.signal(signal.SIGIO, self._before)

    def open(self):
        """Lets everyone through."""
        with contextlib.suppress(BlockingIOError):  # it was open already
            fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def _take(self):
        deadline = time.monotonic() + WAIT_SEC
        while True:
            try:
                fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                return
            except OSError as error:
                if error.errno != errno.EAGAIN:  # somebody has it open, as a reader of it may for a moment
                    pytest.skip(f"this filesystem has no leases: {error}")
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def wait_until(is_so, job=None):
    """Waits for a condition; a ``job`` (a process) must not end before."""
    deadline = time.monotonic() + WAIT_SEC
    while not is_so():
        assert job is None or job.poll() is None, "the job ended before"
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)
