"""This machine: Python, processors, memory, disk, files, and the programs beside us."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from beam_vision.doctor.base import FAIL, OK, UNKNOWN, WARN, Finding

GIB = 2**30
_LEAST_MEMORY_BYTES = 4 * GIB
_LEAST_FREE_BYTES, _FEW_FREE_BYTES = GIB, 10 * GIB
_LEAST_FILES = 1024
_CGROUP = Path("/sys/fs/cgroup")
_PROGRAM_SEC = 30.0


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    """Whether it is a Python that all we need has wheels for."""
    shown = ".".join(map(str, version))
    if (3, 10) <= version[:2] < (3, 14):
        yield Finding("Python", OK, shown)
    else:
        yield Finding(
            "Python", FAIL, f"{shown}; 3.10 to 3.13 is needed", "make an environment of Python 3.11"
        )


def check_machine(root: Path = _CGROUP) -> Iterator[Finding]:
    """Processors, memory and open files that this process may use.

    Args:
      root: where the limits of a container are (Linux, cgroup v2).
    """
    cores = cores_allowed(root)
    few = cores < 2
    said = f"{cores:g} of {os.cpu_count()} cores"
    yield Finding(
        "processors",
        WARN if few else OK,
        said + (": decoding and the model take turns" if few else ""),
        "give the container more" if few else "",
    )
    yield _memory(root)
    yield _files()


def cores_allowed(root: Path = _CGROUP) -> float:
    """How many cores this process may use: its affinity, and its container's share."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    limit = _read(root / "cpu.max").split()
    if len(limit) == 2 and limit[0].isdigit():
        cores = min(cores, int(limit[0]) / int(limit[1]))
    return cores


def _memory(root: Path) -> Finding:
    has = re.search(r"MemTotal:\s+(\d+) kB", _read(Path("/proc/meminfo")))
    if has is None:
        return Finding("memory", UNKNOWN, "this system doesn't say how much there is")
    total = int(has[1]) * 1024
    limit = _read(root / "memory.max").strip()
    if limit.isdigit():
        total = min(total, int(limit))
    said = f"{total / GIB:.1f} GiB"
    if total < _LEAST_MEMORY_BYTES:
        return Finding("memory", WARN, f"{said}: TensorFlow and a batch of images may not fit", "use 4 GiB")
    return Finding("memory", OK, said)


def _files() -> Finding:
    try:
        import resource
    except ModuleNotFoundError:
        return Finding("open files", UNKNOWN, "this system doesn't say how many there may be")
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < _LEAST_FILES:
        return Finding("open files", WARN, f"at most {limit}", f"ulimit -n {min(most, 65536)}")
    return Finding("open files", OK, f"at most {limit:,}" if limit >= 0 else "no limit")


def check_disk(folders: Sequence[str] = ()) -> Iterator[Finding]:
    """Free space for temporary files, and where a job writes.

    Args:
      folders: of this machine; those that aren't there yet count as the nearest that is.
    """
    for folder in dict.fromkeys([tempfile.gettempdir(), *folders]):
        yield _free(folder)


def _free(folder: str) -> Finding:
    name, place = f"disk {folder}", Path(folder).expanduser().absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "is no folder" if not place.is_dir() else "may not be written by this user"
        return Finding(name, FAIL, f"{place} {what}", "choose another folder")
    free = shutil.disk_usage(place).free
    said = f"{free / GIB:.1f} GiB free"
    if free < _LEAST_FREE_BYTES:
        return Finding(name, FAIL, said, "make room: a run stages what it writes beside the result")
    return Finding(name, WARN if free < _FEW_FREE_BYTES else OK, said)


def check_java(*, needed_by: str = "") -> Iterator[Finding]:
    """Whether there is a Java, and how old.

    Args:
      needed_by: the option that can't do without it; ``""``: none does.
    """
    version = program_version("java", "-version")
    major = re.search(r'version "(\d+)', version)
    old = major is not None and int(major[1]) < 11
    if version and not old:
        yield Finding("Java", OK, version)
        return
    what = f"{version}; 11 or newer is needed" if old else "not found"
    said = f"{what}, and {needed_by} needs it" if needed_by else f"{what}; {_JAVA_USES} need it"
    yield Finding("Java", FAIL if needed_by else WARN, said, "install a Java runtime, such as OpenJDK 17")


_JAVA_USES = "only the emulator of Pub/Sub, stream --write_method storage_write_api and a Flink cluster"


def check_gcloud(*, needed_by: str = "") -> Iterator[Finding]:
    """Whether there is a gcloud; ``needed_by`` as for :func:`check_java`."""
    version = program_version("gcloud", "--version")
    if version:
        yield Finding("gcloud", OK, version)
        return
    said = f"not found, and {needed_by} needs it" if needed_by else "not found; template --execute needs it"
    yield Finding("gcloud", FAIL if needed_by else WARN, said, "https://cloud.google.com/sdk/docs/install")


def program_version(program: str, flag: str) -> str:
    """The first line that a program says of itself; ``""``: there is none, or it doesn't run."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        answer = subprocess.run(
            [path, flag], capture_output=True, text=True, timeout=_PROGRAM_SEC, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return ""
    lines = (answer.stdout + answer.stderr).strip().splitlines()
    return lines[0] if lines and answer.returncode == 0 else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
