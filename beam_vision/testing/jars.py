"""Programs for tests that PyPI's wheels don't bring: fetched once by their own tools, into a cache.

The cache is ``$XDG_CACHE_HOME/beam-vision`` (``~/.cache/beam-vision``). What is fetched there is renamed into
place when it is whole, so a broken download leaves nothing behind that looks finished.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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


def maven_class_path(name: str, artifacts: Sequence[str]) -> Path:
    """Jars from Maven Central with everything that they need to run: a folder of them.

    Args:
      name: of the folder in the cache; says what is in it, version included.
      artifacts: ``GROUP:ARTIFACT:VERSION`` of each. A version that is given here goes before the one that
        another artifact asks for.

    Raises:
      MissingError: there is no Maven or no such jar, or the repository can't be reached.
    """

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache()) as aside:
            pom = Path(aside) / "pom.xml"
            pom.write_text(_pom(artifacts))
            given = ["-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
            ran([tool("mvn"), "-B", "-q", "-Dstyle.color=never", *given, f"-DoutputDirectory={folder}"], name)

    return once(name, fill)


def _pom(artifacts: Sequence[str]) -> str:
    """A Maven project that is nothing but its dependencies."""
    fields = ("groupId", "artifactId", "version")
    needed = (zip(fields, artifact.split(":"), strict=True) for artifact in artifacts)
    inner = ("".join(f"<{field}>{value}</{field}>" for field, value in one) for one in needed)
    lines = [f"<dependency>{one}</dependency>" for one in inner]
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>none</groupId><artifactId>none</artifactId><version>0</version><packaging>pom</packaging>"
        f"<dependencies>{''.join(lines)}</dependencies></project>"
    )


def go_program(module: str, version: str) -> Path:
    """A program built from the Go module proxy.

    Raises:
      MissingError: there is no Go or no such module, or the proxy can't be reached.
    """
    name = module.rsplit("/", 1)[-1]

    def fill(folder: Path) -> None:
        ran([tool("go"), "install", f"{module}@{version}"], f"{name} {version}", GOBIN=str(folder))

    return once(f"{name}-{version}", fill) / name
