"""The official Pub/Sub emulator as a child process that ends with us, for the demo and for tests.

Its jar is run by java directly: ``gcloud beta emulators pubsub start`` takes seconds longer and leaves the
server behind when it is stopped.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from beam_vision.errors import JobError, UsageError
from beam_vision.pubsub import EMULATOR_HOST

HOW_TO_INSTALL = (
    "gcloud components install pubsub-emulator (or apt-get install google-cloud-cli-pubsub-emulator)"
)

_JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
_SDK_ROOTS = ("/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk", "/usr/local/google-cloud-sdk")
_SDK_ROOTS_MORE = ("/opt/homebrew/share/google-cloud-sdk", "/usr/local/share/google-cloud-sdk")
_JAVA_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_TRIES = 3

# Run between us and java: the kernel is to end the server when we die, however we die.
_LAUNCHER = """\
import ctypes, os, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == parent:
    os.execv(sys.argv[2], sys.argv[2:])
"""


def find_emulator() -> str | None:
    """The path of the emulator's jar, or None where it, or a java to run it, is missing.

    Looked for below ``CLOUDSDK_ROOT_DIR``, where ``gcloud`` is, and where packages put the SDK.
    """
    if _find_java() is None:
        return None
    for root in _sdk_roots():
        found = sorted(root.glob(_JAR))
        if found:
            return str(found[-1])
    return None


def _sdk_roots() -> Iterator[Path]:
    if os.environ.get("CLOUDSDK_ROOT_DIR"):
        yield Path(os.environ["CLOUDSDK_ROOT_DIR"])
    gcloud = shutil.which("gcloud")
    if gcloud:
        yield Path(gcloud).resolve().parent.parent
    yield from map(Path, (*_SDK_ROOTS, *_SDK_ROOTS_MORE))
    yield Path.home() / "google-cloud-sdk"


def _find_java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return (shutil.which("java", path=str(Path(home, "bin"))) if home else None) or shutil.which("java")


class Emulator:
    """A Pub/Sub server on a free port of the loopback interface, while the ``with`` block lasts.

    It is empty at first and forgets all at the end. Clients find it by :attr:`environ`.

    Args:
      jar: as :func:`find_emulator` gives it, which is asked when it is None.
      ready_sec: how long the start may take.

    Raises:
      UsageError: there is no emulator; says how to install one.
      JobError: it doesn't start.
    """

    def __init__(self, jar: str | None = None, *, ready_sec: float = 60.0) -> None:
        self._jar = jar
        self._ready_sec = ready_sec
        self._process: subprocess.Popen | None = None
        self._log: IO[bytes] | None = None
        self.port = 0

    @property
    def host(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        """The environment variable that points every Pub/Sub client at it."""
        return {EMULATOR_HOST: self.host}

    def __enter__(self) -> Emulator:
        for left in reversed(range(_TRIES)):  # another process may take the port between our look and its use
            self.port = _free_port()
            self._start()
            try:
                self._wait_until_ready()
                return self
            except JobError:
                self.close()
                if not left:
                    raise
        raise AssertionError("unreachable")

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        jar, java = self._jar or find_emulator(), _find_java()
        if jar is None or java is None:
            raise UsageError(f"no Pub/Sub emulator found; install java and {HOW_TO_INSTALL}")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close())
        server = [java, *_JAVA_OPTIONS, "-jar", jar, "--host=127.0.0.1", f"--port={self.port}"]
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        self._process = subprocess.Popen(
            [*launcher, *server], stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + self._ready_sec
        while time.monotonic() < end and self._process.poll() is None:
            if self._ask("GET", "/", timeout_sec=1.0):
                return
            time.sleep(0.03)
        raise JobError(f"the Pub/Sub emulator did not start in {self._ready_sec:.0f} s: {self._log_tail()}")

    def _ask(self, method: str, path: str, *, timeout_sec: float) -> bool:
        """Whether the server takes an HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_sec)
        try:
            connection.request(method, path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _log_tail(self) -> str:
        assert self._log is not None
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-500:].strip() or "it said nothing"

    def reset(self) -> None:
        """Forgets all topics, subscriptions and messages.

        Raises:
          JobError: it doesn't answer.
        """
        if not self._ask("POST", "/reset", timeout_sec=10.0):
            raise JobError(f"the Pub/Sub emulator at {self.host} does not answer")

    def close(self) -> None:
        """Ends the server. May be called twice."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
