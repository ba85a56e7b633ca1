"""The libraries of this environment: whether they are what we need, and whether they can be imported."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_vision.doctor.base import FAIL, OK, UNKNOWN, WARN, Finding

NAMES = ("apache_beam", "crc32c", "tensorflow", "keras", "tfx_bsl", "scann", "onnxruntime")
OPTIONAL = {
    "onnxruntime": ("models in .onnx can't be run", "pip install 'beam-vision[onnx]'"),
    "scann": ("search indexes are exact, not approximate", "pip install 'scann>=1.4.2,<1.5' (Linux only)"),
}
SHOWN = {
    "apache_beam": "Beam",
    "crc32c": "crc32c",
    "tensorflow": "TensorFlow",
    "keras": "Keras",
    "tfx_bsl": "tfx-bsl",
    "scann": "ScaNN",
    "onnxruntime": "ONNX Runtime",
}
_CRC32C_OF_DIGITS = 0xE3069283
"""The CRC-32C of the nine bytes ``123456789`` (RFC 3720, and its catalogues)."""
_PRODUCT = 8.0 * 8 * 8


@dataclass(frozen=True)
class Probed:
    """What became of the imports.

    Attributes:
      facts: by name, what :mod:`beam_vision.doctor.probe` said.
      broken: by name, how the import failed.
    """

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def probe(names: Sequence[str] = NAMES, *, timeout_sec: float = 180.0) -> Probed:
    """Imports libraries in a process apart; where one ends it, another goes on behind it.

    Args:
      names: of :data:`beam_vision.doctor.probe.PROBES`.
      timeout_sec: for each process.
    """
    found, left = Probed(), list(names)
    while left:
        said, trouble = _run(left, timeout_sec)
        for line in said:
            found.facts[line.pop("name")] = line
        left = [name for name in left if name not in found.facts]
        if left:
            found.broken[left.pop(0)] = trouble
    return found


def _run(names: Sequence[str], timeout_sec: float) -> tuple[list[dict[str, Any]], str]:
    """What a process said, and how it ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = [sys.executable, "-m", "beam_vision.doctor.probe", *names]
        try:
            code = subprocess.run(
                command, stdout=out, stderr=err, timeout=timeout_sec, check=False
            ).returncode
            trouble = f"was ended by {signal.Signals(-code).name}" if code < 0 else ""
        except subprocess.TimeoutExpired:
            trouble = f"took more than {timeout_sec:g} s"
        for file in (out, err):
            file.seek(0)
        lines = [line for line in err.read().decode(errors="replace").splitlines() if line.strip()]
        said = [json.loads(line) for line in out.read().splitlines()]
    last = lines[-1].strip() if lines else "ended without a word"
    return said, trouble or last.removeprefix("beam_vision.errors.UsageError: ")


def check_packages(distribution: str = "beam-vision") -> Iterator[Finding]:
    """Whether what a package requires is installed, in versions that it takes; as its metadata says it."""
    from packaging.requirements import Requirement

    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", UNKNOWN, f"{distribution} is not installed", f"pip install {distribution}")
        return
    wrong = []
    parsed = [Requirement(text) for text in required]
    applying = [one for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in applying:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append((one, "is missing"))
            continue
        if not one.specifier.contains(version, prereleases=True):
            wrong.append((one, f"is {version}"))
    if not wrong:
        yield Finding("packages", OK, f"all {len(applying)} that {distribution} needs, in versions it takes")
        return
    said = "; ".join(f"{one.name} {what}, {one.specifier or 'any'} is needed" for one, what in wrong)
    install = " ".join(f"'{one.name}{one.specifier}'" for one, _ in wrong)
    yield Finding("packages", FAIL, said, f"pip install {install}")


def check_libraries(found: Probed, *, needs_gpu: bool = False) -> Iterator[Finding]:
    """What the imports say.

    Args:
      found: by :func:`probe`.
      needs_gpu: whether a job is to run its model on a GPU of this machine.
    """
    for name, facts in found.facts.items():
        yield from _read(name, facts, needs_gpu)
    for name, how in found.broken.items():
        lost, remedy = OPTIONAL.get(name, ("", ""))
        if lost and "is not installed" in how:
            yield Finding(SHOWN[name], WARN, f"not installed: {lost}", remedy)
            continue
        yield Finding(SHOWN[name], FAIL, f"importing it failed: {how}", f"reinstall it: {_reinstall(name)}")


def _reinstall(name: str) -> str:
    packages = {"apache_beam": "'apache-beam[gcp]'", "crc32c": "google-crc32c", "tfx_bsl": "tfx-bsl"}
    return f"pip install --force-reinstall {packages.get(name, name)}"


def _read(name: str, facts: dict[str, Any], needs_gpu: bool) -> Iterator[Finding]:
    shown = SHOWN[name]
    if name == "crc32c":
        yield _crc32c(facts)
    elif name == "tensorflow":
        yield _tensorflow(facts)
        yield check_gpu(facts, needs_gpu=needs_gpu, driver=driver())
    elif name == "scann" and not facts["found"]:
        lost, remedy = OPTIONAL["scann"]
        what = "can't be imported" if facts["installed"] else "not installed"
        yield Finding(shown, WARN, f"{what}: {lost}", remedy)
    else:
        yield Finding(shown, OK, facts.get("version") or "can be imported, beside TensorFlow")


def _crc32c(facts: dict[str, Any]) -> Finding:
    remedy = "pip install --force-reinstall --only-binary :all: google-crc32c"
    if facts["checksum"] != _CRC32C_OF_DIGITS:
        return Finding(SHOWN["crc32c"], FAIL, f"its sums are wrong: {facts['checksum']:#x}", remedy)
    if facts["implementation"] != "c":
        return Finding(SHOWN["crc32c"], WARN, "pure Python: TFRecords are written and read slowly", remedy)
    return Finding(SHOWN["crc32c"], OK, "C code")


def _tensorflow(facts: dict[str, Any]) -> Finding:
    if facts["computed"] != _PRODUCT:
        said = f"{facts['version']} computed {facts['computed']} for {_PRODUCT}"
        return Finding(SHOWN["tensorflow"], FAIL, said, "reinstall it, or look at the driver of the GPU")
    built = f", built for CUDA {facts['cuda_version']}" if facts["cuda_version"] else ""
    return Finding(SHOWN["tensorflow"], OK, f"{facts['version']}{built}, computes on {facts['on']}")


def check_gpu(facts: dict[str, Any], *, needs_gpu: bool, driver: str) -> Finding:
    """What TensorFlow and the machine say of GPUs.

    Args:
      facts: of the probe of TensorFlow.
      needs_gpu: whether a job is to use one here.
      driver: the GPUs that the driver lists, or ``""``.
    """
    seen = facts["gpus"]
    if seen:
        return Finding("GPU", OK, f"{len(seen)}: {', '.join(seen)}")
    if driver:
        cuda = f" (CUDA {facts['cuda_version']})" if facts["cuda_version"] else " (built without CUDA)"
        return Finding(
            "GPU",
            FAIL if needs_gpu else WARN,
            f"the driver lists {driver}, but TensorFlow{cuda} sees none",
            "pip install 'tensorflow[and-cuda]>=2.21,<2.22', and look whether CUDA_VISIBLE_DEVICES is set",
        )
    if needs_gpu:
        return Finding("GPU", FAIL, "none here, and the job needs one", "leave out --require_gpu")
    return Finding("GPU", OK, "none here: models run on the processor")


def driver() -> str:
    """The GPUs that NVIDIA's driver lists, separated by commas; ``""`` where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return "; ".join(answer.stdout.strip().splitlines()) if answer.returncode == 0 else ""
