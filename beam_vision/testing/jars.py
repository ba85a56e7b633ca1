"""Programs for tests that PyPI's wheels don't bring: fetched once by their own tools, into a cache.

The cache is ``$XDG_CACHE_HOME/beam-vision`` (``~/.cache/beam-vision``). What is fetched there is renamed into
place when it is whole, so a broken download leaves nothing behind that looks finished.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

_FETCH_SEC = 540.0


class MissingError(Exception):
    """A program can't be had here; says which, and why."""


def cache() -> Path:
    """The folder of everything that is fetched; made if need be."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(root) / "beam-vision"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(name: str, fill: Callable[[Path], None]) -> Path:
    """A folder of the cache, filled the first time that it is asked for.

    Args:
      name: of the folder; says what is in it, version included.
      fill: is given a new folder and puts everything there.

    Raises:
      MissingError: as ``fill`` does; then there is no such folder, and the next call tries again.
    """
    place = cache() / name
    if place.exists():
        return place
    with tempfile.TemporaryDirectory(dir=cache()) as aside:
        made = Path(aside) / name
        made.mkdir()
        fill(made)
        if not place.exists():  # another process may have been quicker
            made.rename(place)
    return place


def tool(name: str) -> str:
    """The path of a program.

    Raises:
      MissingError: it isn't installed.
    """
    found = shutil.which(name)
    if found is None:
        raise MissingError(f"{name} isn't installed here")
    return found


def ran(argv: Sequence[str], what: str, **env: str) -> str:
    """Runs a tool that fetches something; gives what it wrote to stdout.

    Raises:
      MissingError: it failed or took too long; with the first line of its errors.
    """
    try:
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            timeout=_FETCH_SEC,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"{what} wasn't fetched within {_FETCH_SEC:.0f} s") from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = next((line for line in lines if "ERROR" in line), lines[-1] if lines else "no word")
        told = told.rpartition("Unable to find artifact. ")[2]
        raise MissingError(f"{what} can't be had: {told.strip()}")
    return done.stdout


def maven_jar(group: str, artifact: str, version: str) -> Path:
    """A jar from Maven Central, without what it depends on.

    Raises:
      MissingError: there is no Maven or no such jar, or the repository can't be reached.
    """

    def fill(folder: Path) -> None:
        given = [f"-Dartifact={group}:{artifact}:{version}:jar", f"-DoutputDirectory={folder}"]
        ran(
            [tool("mvn"), "-B", "-q", "-Dstyle.color=never", "dependency:copy", *given],
            f"{artifact} {version}",
        )

    return once(f"{artifact}-{version}", fill) / f"{artifact}-{version}.jar"


def pypi_files(package: str, version: str) -> Path:
    """The unpacked wheel of a package on PyPI: a folder of which nothing is run or imported.

    Raises:
      MissingError: there is no such wheel, or PyPI can't be reached.
    """

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache()) as aside:
            given = ["--quiet", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", aside]
            command = [sys.executable, "-m", "pip", "download", *given, f"{package}=={version}"]
            ran(command, f"{package} {version}")
            (wheel,) = Path(aside).iterdir()
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)

    return once(f"{package}-{version}", fill)


def go_program(module: str, version: str) -> Path:
    """A program built from the Go module proxy.

    Raises:
      MissingError: there is no Go or no such module, or the proxy can't be reached.
    """
    name = module.rsplit("/", 1)[-1]

    def fill(folder: Path) -> None:
        ran([tool("go"), "install", f"{module}@{version}"], f"{name} {version}", GOBIN=str(folder))

    return once(f"{name}-{version}", fill) / name
