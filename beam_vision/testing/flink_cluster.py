"""A standalone Flink on loopback: a JobManager and TaskManagers, each a Java process that can be killed.

Flink itself comes from PyPI (``apache-flink-libraries``), Beam's Flink runner from Maven Central (the job
server, one jar for each version of Flink). Their shell scripts aren't in the package, so the processes are
started as those scripts would start them.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from beam_vision.testing.jars import maven_jar, pypi_files, tool
from beam_vision.testing.prism import end, free_port, wait_for_port

FLINK = "2.2"
"""The version of Flink that Beam's own FlinkRunner asks for by default."""
FLINK_RELEASE = "2.2.1"
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_WAIT_SEC = 60.0
_JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_OPENED = ("java.lang", "java.net", "java.io", "java.util", "java.util.concurrent", "java.time", "java.text")
"""Packages that Flink reaches into, which Java 17 must be told to allow."""


def fetch_flink() -> Path:
    """Flink's own jars: a folder.

    Raises:
      MissingError: there is no Java, or PyPI can't be reached.
    """
    tool("java")
    return pypi_files("apache-flink-libraries", FLINK_RELEASE) / "pyflink" / "lib"


def fetch_job_server() -> Path:
    """The jar of Beam's Flink job server, of the same version as the Beam that is installed.

    Raises:
      MissingError: there is no Maven, or the jar can't be had.
    """
    import apache_beam

    return maven_jar("org.apache.beam", f"beam-runners-flink-{FLINK}-job-server", apache_beam.__version__)


class FlinkCluster:
    """A running cluster.

    Args:
      jars: of :func:`fetch_flink`.
      folder: for configuration, logs and temporary files; exists.
      task_managers: how many.
      slots: of each TaskManager.

    Attributes:
      address: ``localhost:PORT``, for ``--flink_master``.
      task_managers: their processes.
    """

    def __init__(self, jars: Path, folder: Path, *, task_managers: int = 2, slots: int = 1) -> None:
        self._classpath = ":".join(str(path) for path in sorted(jars.glob("*.jar")))
        self._folder = folder
        self._slots = slots
        self._rpc_port, rest_port = free_port(), free_port()
        self.address = f"localhost:{rest_port}"
        self._started = 0
        settings = {
            "rest.port": rest_port,
            "rest.address": "localhost",
            "jobmanager.memory.heap.size": "512m",
        }
        self._job_manager, log = self._start(_JOB_MANAGER, settings, heap="512m")
        self.task_managers: list[subprocess.Popen] = []
        try:
            wait_for_port(rest_port, self._job_manager, log)
            self.task_managers += [self._task_manager() for _ in range(task_managers)]
            self.wait_until(
                lambda: len(self.registered()) == task_managers, "the TaskManagers are registered"
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

    def restarts(self, job: str) -> int:
        """How often a job was started anew."""
        (found,) = self.ask(f"/jobs/{job}/metrics?get=numRestarts")
        return int(found["value"])

    def kill_task_manager(self, number: int) -> None:
        """Kills a TaskManager as a machine's end would, and starts another in its place."""
        self.task_managers[number].kill()
        self.task_managers[number].wait()
        self.task_managers[number] = self._task_manager()

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

    def _task_manager(self) -> subprocess.Popen:
        """Its memory is given part by part, as Flink's own script works it out."""
        memory = {
            "cpu.cores": 1,
            "memory.framework.heap.size": "64m",
            "memory.framework.off-heap.size": "64m",
            "memory.task.heap.size": "256m",
            "memory.task.off-heap.size": "64m",
            "memory.network.min": "64m",
            "memory.network.max": "64m",
            "memory.managed.size": "128m",
            "memory.jvm-metaspace.size": "256m",
            "memory.jvm-overhead.min": "192m",
            "memory.jvm-overhead.max": "192m",
            "numberOfTaskSlots": self._slots,
        }
        settings = {f"taskmanager.{name}": value for name, value in memory.items()}
        return self._start(_TASK_MANAGER, settings, heap="320m")[0]

    def _start(self, main: str, settings: dict[str, Any], *, heap: str) -> tuple[subprocess.Popen, Path]:
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
        (config / "log4j2.properties").write_text(_LOGGING)
        opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED]
        logging = f"-Dlog4j.configurationFile={config / 'log4j2.properties'}"
        java = [tool("java"), *_JAVA_OPTIONS, f"-Xmx{heap}", *opened, logging, "-cp", self._classpath]
        with open(log, "w") as output:
            process = subprocess.Popen(
                [*java, main, "--configDir", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return process, log


_LOGGING = """
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %-5p %c{1} %m%n
"""
