"""Prism, Beam's portable runner in Go: built from its module, and started as a job service."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from beam_vision.testing.jars import go_program

MODULE = "github.com/apache/beam/sdks/v2/go/cmd/prism"
_START_SEC = 60.0
_STOP_SEC = 10.0


def build_prism() -> Path:
    """The program, of the same version as the Beam that is installed; built once, in about two minutes.

    Raises:
      MissingError: there is no Go, or no way to fetch the module.
    """
    import apache_beam

    return go_program(MODULE, f"v{apache_beam.__version__}")


def free_port() -> int:
    """A TCP port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prism:
    """Prism as a process of its own, as a cluster's job service would be.

    Args:
      program: of :func:`build_prism`.
      folder: for its log; exists.

    Attributes:
      address: ``localhost:PORT`` of its job service.
      log: the file with what it says.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self.log = folder / "prism.log"
        port = free_port()
        self.address = f"localhost:{port}"
        with open(self.log, "w") as log:
            argv = [str(program), "--job_port", str(port), "--serve_http=false", "--log_kind=text"]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_for_port(port, self._process, self.log)

    def __enter__(self) -> Prism:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def beam_args(self) -> list[str]:
        """What a job's command line needs to run here."""
        return ["--runner=PortableRunner", f"--job_endpoint={self.address}"]

    def close(self) -> None:
        """Ends it."""
        end(self._process)


def wait_for_port(port: int, process: subprocess.Popen, log: Path) -> None:
    """Waits until a process listens on a port of loopback.

    Raises:
      RuntimeError: it ended instead; with what it said.
      TimeoutError: it does not after a minute.
    """
    deadline = time.monotonic() + _START_SEC
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the process ended at once: {log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}: {log.read_text()[-2000:]}")


def end(process: subprocess.Popen) -> None:
    """Ends a process, by force if it takes too long."""
    process.terminate()
    try:
        process.wait(_STOP_SEC)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
