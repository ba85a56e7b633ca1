"""What a template's images are built from: Dockerfiles, locked requirements, our wheel, metadata."""

from __future__ import annotations

import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import beam_vision
from beam_vision.dataflow.metadata import to_text
from beam_vision.errors import UsageError
from beam_vision.pipelines.template_jobs import metadata_of, template_jobs

FILES = (
    *("Dockerfile.cpu", "Dockerfile.gpu", "cloudbuild.yaml", "launch.py"),
    *("requirements.txt", "requirements-gpu.txt"),
)
"""What is copied from ``templates/flex``."""
METADATA = "metadata.json"
SOURCE_FILES = ("setup.py", "pyproject.toml", "README.md")
SOURCE_FOLDERS = ("beam_vision", "pipelines", "templates")


def flex_folder() -> Path:
    """``templates/flex`` of the installed package."""
    return Path(str(importlib.resources.files("beam_vision.templates") / "flex"))


def make_context(folder: str, *, wheel: str = "") -> Iterator[Path]:
    """Fills a folder; gives each path that was written, when it was.

    Args:
      folder: made if need be; of an earlier one the files are replaced, and other wheels removed.
      wheel: beam-vision's; empty: made from the source tree that this runs from.

    Raises:
      UsageError: the folder holds something else, there is no such wheel, or no source tree to make one of.
    """
    target = Path(folder)
    _check(target)
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        yield Path(shutil.copyfile(flex_folder() / name, target / name))
    yield from write_metadata(target)
    for old in target.glob("*.whl"):
        old.unlink()
    yield _copied(Path(wheel), target) if wheel else build_wheel(target)


def write_metadata(target: Path) -> Iterator[Path]:
    """Writes each job's ``JOB/metadata.json`` below a folder; gives its path."""
    for job in template_jobs():
        (target / job).mkdir(parents=True, exist_ok=True)
        written = target / job / METADATA
        written.write_text(to_text(metadata_of(job)), encoding="utf-8")
        yield written


def _check(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file; name a folder")
    ours = {*FILES, *template_jobs()}
    others = sorted(one.name for one in target.iterdir() if one.name not in ours and one.suffix != ".whl")
    if others:
        raise UsageError(
            f"{target} holds {others[0]}, which is no part of a build; name an empty or new folder"
        )


def _copied(wheel: Path, target: Path) -> Path:
    if wheel.suffix != ".whl" or not wheel.name.startswith("beam_vision-") or not wheel.is_file():
        raise UsageError(f"--wheel {wheel} is no wheel of beam-vision: beam_vision-VERSION-py3-none-any.whl")
    return Path(shutil.copyfile(wheel, target / wheel.name))


def build_wheel(target: Path, *, isolated: bool = True) -> Path:
    """Makes the wheel from the source tree; gives its path.

    Args:
      target: the folder that it goes to.
      isolated: with the setuptools that pip fetches for it, and not with the one that is installed.

    Raises:
      UsageError: beam-vision runs from no source tree, or pip can't make the wheel.
    """
    source = Path(beam_vision.__file__).resolve().parent.parent
    if not (source / "setup.py").is_file():
        raise UsageError(
            "beam-vision is installed without its source tree: give with --wheel the wheel that it was "
            "installed from"
        )
    with tempfile.TemporaryDirectory(prefix="beam-vision-") as scratch:
        copy = _copied_source(source, Path(scratch) / "source")
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target)]
        command += [] if isolated else ["--no-build-isolation"]
        made = subprocess.run([*command, str(copy)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise UsageError(f"pip can't make the wheel of {source}: {made.stderr.strip()[-500:]}")
    return next(target.glob("beam_vision-*.whl"))


def _copied_source(source: Path, to: Path) -> Path:
    """What the wheel is made of, alone: modules of earlier builds in the tree's build/ would come with it."""
    to.mkdir()
    for name in SOURCE_FILES:
        shutil.copyfile(source / name, to / name)
    for name in SOURCE_FOLDERS:
        shutil.copytree(source / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    return to
