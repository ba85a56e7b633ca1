"""A standalone Flink on loopback: a JobManager and TaskManagers, each a Java process that can be killed.

Flink and Beam's job server for it come from Maven Central. Beam's own job server jar, with everything in it,
isn't in every copy of that repository, so the server is put together from the parts that the jar is made of:
the same classes, started the same way, by ``--flink_job_server_jar``. Flink's shell scripts aren't there
either, so its processes are started as those scripts would start them.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from beam_vision.testing.jars import maven_class_path, tool
from beam_vision.testing.prism import end, free_port, wait_for_port

FLINK_RELEASE = "1.19.3"
RUNNER_RELEASE = "2.70.0"
"""Of Beam's Flink runner, whatever the version of the Beam that is installed."""
_RUNNER = (
    f"org.apache.beam:beam-runners-flink-1.19:{RUNNER_RELEASE}",
    "org.apache.beam:beam-runners-java-job-service:2.65.0",  # not to be had everywhere in 2.70.0
    "org.slf4j:slf4j-simple:2.0.16",
)
_FLINK = (f"org.apache.flink:flink-clients:{FLINK_RELEASE}", "org.slf4j:slf4j-simple:1.7.36")
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_WAIT_SEC = 60.0
_JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_LOGGING = ("-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.showThreadName=false")
_OPENED = ("java.lang", "java.net", "java.io", "java.util", "java.util.concurrent", "java.time", "java.text")
"""Packages that Flink reaches into, which Java 17 must be told to allow."""


def fetch_flink() -> Path:
    """Flink's jars: a folder.

    Raises:
      MissingError: there is no Java or no Maven, or a jar can't be had.
    """
    tool("java")
    return maven_class_path(f"flink-{FLINK_RELEASE}", _FLINK)


def fetch_job_server() -> Path:
    """A jar that starts Beam's Flink job server from the jars beside it.

    Raises:
      MissingError: there is no Java or no Maven, or a jar can't be had.
    """
    tool("java")
    folder = maven_class_path(f"flink-job-server-{RUNNER_RELEASE}", _RUNNER)
    jar = folder / "start.jar"
    if not jar.exists():
        parts = sorted(path.name for path in folder.glob("*.jar"))
        manifest = {
            "Manifest-Version": "1.0",
            "Main-Class": _JOB_SERVER,
            "Add-Opens": " ".join(f"java.base/{package}" for package in _OPENED),
            "Class-Path": " ".join(parts),
        }
        aside = folder / "start.tmp"
        with zipfile.ZipFile(aside, "w") as packed:
            lines = "".join(_folded(f"{name}: {value}") for name, value in manifest.items())
            packed.writestr("META-INF/MANIFEST.MF", lines + "\n")
        aside.rename(jar)
    return jar


def _folded(line: str) -> str:
    """A line of a jar's manifest: 72 bytes at most, and what follows begins with a space."""
    parts = [line[:71], *(line[at : at + 70] for at in range(71, len(line), 70))]
    return "\n ".join(parts) + "\n"


class FlinkCluster:
    """A running cluster.

    Args:
      jars: of :func:`fetch_flink`.
      folder: for configuration, logs and temporary files; exists.
      pool_hosts: one for each TaskManager: the address of what it, and no other, knows as the host ``pool``,
        as if it were a machine of its own. A worker pool must not serve two TaskManagers: they give their
        workers the same names, and stop each other's.
      slots: of each TaskManager.

    Attributes:
      address: ``localhost:PORT``, for ``--flink_master``.
      task_managers: their processes.
    """

    def __init__(self, jars: Path, folder: Path, *, pool_hosts: Sequence[str], slots: int = 1) -> None:
        self._classpath = ":".join(str(path) for path in sorted(jars.glob("*.jar")))
        self._folder = folder
        self._pool_hosts = pool_hosts
        self._slots = slots
        self._rpc_port, rest_port = free_port(), free_port()
        self.address = f"localhost:{rest_port}"
        self._started = 0
        settings = {
            "rest.port": rest_port,
            "rest.address": "localhost",
            "jobmanager.memory.heap.size": "512m",
            "restart-strategy.type": "fixed-delay",  # a batch job of Beam's can't have one of its own
            "restart-strategy.fixed-delay.attempts": 10,
            "restart-strategy.fixed-delay.delay": "500 ms",
        }
        self._job_manager, log = self._start(_JOB_MANAGER, settings, heap="512m")
        self.task_managers: list[subprocess.Popen] = []
        try:
            wait_for_port(rest_port, self._job_manager, log)
            self.task_managers += [self._task_manager(number) for number in range(len(pool_hosts))]
            self.wait_until(
                lambda: len(self.registered()) == len(pool_hosts), "the TaskManagers are registered"
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FlinkCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, path: str) -> Any:
        """What the JobManager's REST service answers to a GET, e.g. of ``/jobs/overview``."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return json.load(answer)

    def registered(self) -> list[str]:
        """The TaskManagers that the JobManager knows, by id."""
        return [item["id"] for item in self.ask("/taskmanagers")["taskmanagers"]]

    def jobs(self) -> dict[str, str]:
        """The state of each job, by its id."""
        return {item["jid"]: item["state"] for item in self.ask("/jobs/overview")["jobs"]}

    def losses(self, job: str) -> int:
        """How often a job lost its work and was started anew, or ended."""
        return len(self.ask(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"])

    def kill_task_manager(self, number: int) -> None:
        """Kills a TaskManager as a machine's end would, and starts another in its place."""
        self.task_managers[number].kill()
        self.task_managers[number].wait()
        self.task_managers[number] = self._task_manager(number)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Waits for a minute at most until something holds.

        Raises:
          TimeoutError: it doesn't; with the ends of the logs.
        """
        deadline = time.monotonic() + _WAIT_SEC
        while time.monotonic() < deadline:
            try:
                if holds():
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass  # REST answers 503 until a leader is found
            time.sleep(0.1)
        raise TimeoutError(f"not within {_WAIT_SEC:.0f} s: {what}; {self.said()}")

    def said(self) -> str:
        """The end of each process's log."""
        logs = sorted(self._folder.glob("*.log"))
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in logs)

    def close(self) -> None:
        """Ends all processes."""
        for process in [*self.task_managers, self._job_manager]:
            end(process)

    def _task_manager(self, number: int) -> subprocess.Popen:
        """Its memory is given part by part, as Flink's own script works it out."""
        hosts = self._folder / f"hosts-{number}"
        names = f"127.0.0.1 localhost {socket.gethostname()}\n{self._pool_hosts[number]} pool\n"
        hosts.write_text(names)
        memory = {
            "cpu.cores": 1,
            "memory.framework.heap.size": "64m",
            "memory.framework.off-heap.size": "64m",
            "memory.task.heap.size": "256m",
            "memory.task.off-heap.size": "64m",
            "memory.network.min": "192m",
            "memory.network.max": "192m",
            "memory.managed.size": "128m",
            "memory.jvm-metaspace.size": "256m",
            "memory.jvm-overhead.min": "192m",
            "memory.jvm-overhead.max": "192m",
            "numberOfTaskSlots": self._slots,
        }
        settings = {f"taskmanager.{name}": value for name, value in memory.items()}
        java = (f"-Djdk.net.hosts.file={hosts}",)
        return self._start(_TASK_MANAGER, settings, heap="320m", java=java)[0]

    def _start(
        self, main: str, settings: dict[str, Any], *, heap: str, java: Sequence[str] = ()
    ) -> tuple[subprocess.Popen, Path]:
        """Starts a Java process with its own configuration; gives it and its log."""
        self._started += 1
        name = f"{self._started:02d}-{main.rsplit('.', 1)[-1]}"
        config, log = self._folder / name, self._folder / f"{name}.log"
        config.mkdir()
        common = {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": self._rpc_port,
            "taskmanager.host": "localhost",
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 6000,
            "io.tmp.dirs": str(config),
        }
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in (common | settings).items()]
        (config / "config.yaml").write_text("".join(lines))
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
        options = [*_JAVA_OPTIONS, *_LOGGING, f"-Xmx{heap}", *opened, *java, "-cp", self._classpath]
        with open(log, "w") as output:
            process = subprocess.Popen(
                [tool("java"), *options, main, "--configDir", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return process, log
