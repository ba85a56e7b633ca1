"""The dead letter: a folder of JSONL files, one failure a line, and ``job.json`` that says which files count.

::

    FAILURES/job.json                        job, run, how many failed, names of the parts; written last
    FAILURES/part-<run id>-00000.jsonl       one object a line, with the fields of ``types.Failure``
    FAILURES/.staging/<run id>/              gone when a run has ended well

A folder holds the failures of one run: publishing those of a run replaces the ones before.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from beam_vision import storage
from beam_vision.digest import content_digest
from beam_vision.errors import UsageError
from beam_vision.types import Failure

JOB_FILE = "job.json"
KIND = "beam-vision failures"
STAGING = ".staging"
PART_BYTES = 64 * 2**20
_FIELDS = {field.name: int if field.name == "attempt" else str for field in dataclasses.fields(Failure)}
_REQUIRED = frozenset(
    field.name for field in dataclasses.fields(Failure) if field.default is dataclasses.MISSING
)


@dataclasses.dataclass(frozen=True)
class StagedFailures:
    """A finished JSONL file in the staging folder: where it is and what it holds."""

    path: str
    by_reason: Mapping[str, int]


def to_line(failure: Failure) -> bytes:
    """One line of JSON, newline included."""
    return (json.dumps(dataclasses.asdict(failure), ensure_ascii=False) + "\n").encode()


def from_line(line: str | bytes, *, where: str = "") -> Failure:
    """Reads what :func:`to_line` gave; fields that nobody knows are left aside.

    Raises:
      UsageError: it isn't a failure; the message begins with ``where``.
    """
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: not a JSON object")
    missing = sorted(_REQUIRED - value.keys())
    if missing:
        raise UsageError(f"{where}: no field {missing[0]!r}")
    known = {name: value[name] for name in _FIELDS if name in value}
    for name, found in known.items():
        if type(found) is not _FIELDS[name]:
            raise UsageError(f"{where}: {name!r} is {found!r}, not of type {_FIELDS[name].__name__}")
    return Failure(**known)


def failure_files(path: str) -> list[str]:
    """The JSONL files of a dead letter: the file itself, or those of a folder (its ``job.json`` names them).

    A folder without ``job.json`` (made elsewhere) gives all its ``*.jsonl``.

    Raises:
      UsageError: nothing is there, or ``job.json`` lists a file that isn't.
    """
    if not storage.is_folder(path):
        if not storage.exists(path):
            raise UsageError(f"no failures at {path}: no such file or folder")
        return [path]
    job = read_job(path)
    names = storage.list_folder(path)
    if job is None:
        return [storage.join(path, name) for name in names if name.endswith(".jsonl")]
    missing = sorted(set(job["files"]) - set(names))
    if missing:
        raise UsageError(f"the failures at {path} lack {missing[0]}, which {JOB_FILE} lists")
    return [storage.join(path, name) for name in job["files"]]


def read_failures(path: str) -> Iterator[Failure]:
    """The failures in a dead letter, a folder or one file of it, one after the other.

    Raises:
      UsageError: nothing is there, or a line isn't a failure (its file and number are named).
    """
    for file in failure_files(path):
        yield from read_file(file)


def read_file(path: str) -> Iterator[Failure]:
    """The failures in one JSONL file; blank lines are skipped.

    Raises:
      UsageError: a line isn't a failure (its number is named).
    """
    with storage.open_read(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield from_line(line, where=f"{path} line {number}")


def read_job(folder: str) -> dict[str, Any] | None:
    """What ``job.json`` says: ``job``, ``run_id``, ``total``, ``by_reason``, ``files``; None without one.

    Raises:
      UsageError: it is something else.
    """
    path = storage.join(folder, JOB_FILE)
    if not storage.exists(path):
        return None
    value = storage.read_json(path)
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise UsageError(f"{path} is not the {JOB_FILE} of a failures folder")
    return value


def check_folder(folder: str) -> None:
    """Raises UsageError when failures can't be written to ``folder``: it is a file, or of something else."""
    if storage.exists(folder) and not storage.is_folder(folder):
        raise UsageError(f"--failures {folder} is a file; give a folder")
    read_job(folder)


def staging_folder(folder: str, run_id: str) -> str:
    """Where a run stages its failures."""
    return storage.join(folder, STAGING, run_id)


def stage(folder: str, run_id: str, failures: Iterable[Failure]) -> StagedFailures:
    """Writes failures, sorted by key, to one file in the staging folder, named by its content."""
    ordered = sorted(failures, key=lambda failure: (failure.key, failure.stage, failure.reason))
    data = b"".join(map(to_line, ordered))
    path = storage.join(staging_folder(folder, run_id), f"{content_digest(data)[:32]}.jsonl")
    storage.write_bytes(path, data)
    return StagedFailures(path, Counter(failure.reason for failure in ordered))


def count(staged: Iterable[StagedFailures]) -> dict[str, int]:
    """How many failures the staged files hold, by reason, sorted by reason."""
    total: Counter[str] = Counter()
    for item in staged:
        total.update(item.by_reason)
    return dict(sorted(total.items()))


def write_parts(
    folder: str, run_id: str, staged: Sequence[StagedFailures], *, part_bytes: int = PART_BYTES
) -> dict[str, Any]:
    """Writes the parts from the staged files; they count once :func:`record` has said so.

    Args:
      part_bytes: a part is closed once it holds as much.

    Returns:
      ``{"total": int, "by_reason": {reason: n}, "files": [names]}``.
    """
    files: list[str] = []
    rest = sorted(staged, key=lambda item: item.path)
    while rest:
        files.append(f"part-{run_id}-{len(files):05d}.jsonl")
        with storage.open_write(storage.join(folder, files[-1])) as out:
            written = 0
            while rest and written < part_bytes:
                written += out.write(storage.read_bytes(rest.pop(0).path))
    by_reason = count(staged)
    return {"total": sum(by_reason.values()), "by_reason": by_reason, "files": files}


def record(folder: str, run_id: str, summary: Mapping[str, Any], *, job: str = "") -> None:
    """Writes ``job.json``, which makes the failures of this run take the place of those before.

    Args:
      summary: what :func:`write_parts` gave.
      job: the name of the job, which ``beam-vision redrive`` will run again.
    """
    value = {"kind": KIND, "job": job, "run_id": run_id, **summary}
    storage.write_json(storage.join(folder, JOB_FILE), value)


def clean(folder: str) -> None:
    """Removes what ``job.json`` doesn't list: parts of earlier runs, and all that was staged."""
    job = read_job(folder)
    keep = set(job["files"]) if job else set()
    for name in storage.list_folder(folder):
        if name.startswith("part-") and name.endswith((".jsonl", ".tmp")) and name not in keep:
            storage.delete(storage.join(folder, name))
    storage.delete_folder(storage.join(folder, STAGING))
