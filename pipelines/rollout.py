"""``beam-vision rollout``: which version of a model serves; another, checked and promoted; the way back."""

from __future__ import annotations

import dataclasses
import datetime
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beam_vision import storage
from beam_vision.errors import JobError, UsageError, VisionError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse

if TYPE_CHECKING:
    from beam_vision.inference.reading import EngineSettings
    from beam_vision.inference.serving_history import Entry

NAME = "rollout"
DESCRIPTION = (
    "Points the LATEST of a root of model versions at another version. Streaming jobs watch it, check what\n"
    "it names once more, and take it into service between two batches, without a restart.\n\n"
    "  status              which version serves, which there are, and what was done\n"
    "  promote VERSION     check a version as a streaming job does, then point LATEST at it\n"
    "  rollback [VERSION]  point LATEST at the version before (or a given one), however well it does"
)
EXAMPLE = "beam-vision rollout promote v2 --model models/"
ACTIONS = ("status", "promote", "rollback")
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``rollout`` takes."""

    action: str = option(help="what to do", choices=ACTIONS, positional=True)
    version: str = option("", help="the name of a version's folder", positional=True, metavar="VERSION")
    model: str = option(help="the root of versions, with its file LATEST", metavar="ROOT")
    task: str = option(
        "",
        help="what the model serves for (default: as the version that serves says)",
        choices=("classify", "embed", "detect"),
    )
    max_drop: float = option(
        0.05, help="promote: how much worse it may do on golden images, as a share of them", metavar="SHARE"
    )
    check_model: bool = option(True, help="promote: try it in a child process first, on generated images")
    output_format: str = option("table", help="how to print", choices=("table", "json"))


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of a root of versions.

    Attributes:
      model: the root.
      latest: the version that ``LATEST`` names; empty where there is none yet.
      model_digest: its digest, as its ``model_spec.json`` says it.
      versions: names of the folders that hold a model.
      golden: how many golden images each of them has.
      before: the version that a rollback goes back to; empty where there is none.
      history: what was done, the oldest first.
    """

    model: str
    latest: str
    model_digest: str
    versions: list[str]
    golden: dict[str, int]
    before: str
    history: list[Entry]


def run(argv: list[str]) -> int:
    """Does what is asked, and prints the state after it. Exit code 1: the version may not serve."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    if options.action == "promote":
        promote(options)
    elif options.action == "rollback":
        rollback(options)
    elif options.version:
        raise UsageError(f"status takes no version: {options.version}")
    found = status(options.model)
    as_json = options.output_format == "json"
    jobs.emit(json.dumps(dataclasses.asdict(found), indent=2) if as_json else render(found))
    return 0


def status(root: str) -> Status:
    """What is known of a root of versions.

    Raises:
      UsageError: it holds no version.
    """
    from beam_vision.inference.bundle import LATEST_FILE
    from beam_vision.inference.serving_history import read_history, version_before
    from beam_vision.inference.serving_watch import said_digest

    root = storage.absolute(root)
    golden = {
        name: images for name in storage.list_entries(root) if (images := _golden(root, name)) is not None
    }
    if not golden:
        raise UsageError(
            f"{root} holds no version of a model: a version is a folder in it, with a model bundle"
        )
    pointer = storage.join(root, LATEST_FILE)
    latest = storage.read_text(pointer).strip() if storage.exists(pointer) else ""
    history = read_history(root)
    return Status(
        model=root,
        latest=latest,
        model_digest=said_digest(storage.join(root, latest)) if latest else "",
        versions=list(golden),
        golden=golden,
        before=version_before(history, latest),
        history=history,
    )


def _golden(root: str, name: str) -> int | None:
    """How many golden images a version has; None where it is no version."""
    from beam_vision.inference.bundle import find_files
    from beam_vision.inference.golden import EXPECTED_FILE, FOLDER

    path = storage.join(root, name)
    if not storage.is_folder(path):
        return None
    try:
        find_files(path)
    except UsageError:
        return None
    return len([item for item in storage.list_folder(storage.join(path, FOLDER)) if item != EXPECTED_FILE])


def promote(options: Options) -> None:
    """Checks a version as a streaming job does, and points ``LATEST`` at it.

    Raises:
      UsageError: there is no such version, or it serves already.
      JobError: it may not serve.
    """
    if not options.version:
        raise UsageError(
            "promote takes the version to promote: beam-vision rollout promote VERSION --model ROOT"
        )
    now = _checked_version(options, options.version)
    try:
        digest, reason = check(options, now.latest if now.latest in now.versions else "")
    except (UsageError, VisionError) as error:
        raise JobError(f"{options.version} was not promoted: {error}") from error
    jobs.say(f"{options.version}: {reason}")
    _point(now, options.version, "promote", digest, reason)


def rollback(options: Options) -> None:
    """Points ``LATEST`` at the version before, or at the one that is asked for.

    Raises:
      UsageError: there is none, or it is no version.
    """
    from beam_vision.inference.bundle import read_bundle

    version = options.version or status(options.model).before
    if not version:
        raise UsageError(
            f"{options.model} has no history of a version before; say which: rollback VERSION --model ROOT"
        )
    now = _checked_version(options, version)
    digest = read_bundle(storage.join(now.model, version)).model_digest
    _point(now, version, "rollback", digest, "a rollback: it may do worse on golden images")


def _checked_version(options: Options, version: str) -> Status:
    now = status(options.model)
    if version not in now.versions:
        raise UsageError(f"{now.model} has no version {version!r}; it has {', '.join(now.versions)}")
    if version == now.latest:
        raise UsageError(f"{version} serves already")
    return now


def check(options: Options, latest: str) -> tuple[str, str]:
    """Checks a version against the one that serves.

    Args:
      options: with the version.
      latest: that serves; empty where there is none to compare with.

    Returns:
      The version's model digest, and what was checked.

    Raises:
      UsageError, VisionError: it may not serve.
    """
    from beam_vision.inference.bundle import read_bundle
    from beam_vision.inference.serving_load import (
        Incumbent,
        ServingSettings,
        describe_candidate,
        load_candidate,
        load_served,
    )

    root = storage.absolute(options.model)
    path = storage.join(root, options.version)
    old = storage.join(root, latest or options.version)
    incumbent = Incumbent(old, read_bundle(old))
    settings = _settings(options, incumbent.spec.task)
    how = ServingSettings(root=root, try_apart=options.check_model, max_drop=options.max_drop)
    spec = describe_candidate(path, incumbent, settings, how)
    if latest:
        incumbent = Incumbent.of(load_served(old, incumbent.spec, settings))
    served, reason = load_candidate(path, spec, incumbent, settings, max_drop=how.max_drop)
    return served.digest, reason


def _settings(options: Options, task: str) -> EngineSettings:
    from beam_vision.inference.reading import EngineSettings

    return EngineSettings(task=options.task or task)


def _point(now: Status, version: str, action: str, digest: str, reason: str) -> None:
    """Writes the entry first: a job that sees the new ``LATEST`` finds why."""
    from beam_vision.inference.bundle import set_latest
    from beam_vision.inference.serving_history import ROLLBACK, Entry, add_entry

    entry = Entry(
        time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        action=action,
        version=version,
        previous=now.latest,
        model_digest=digest,
        reason=reason,
        may_be_worse=action == ROLLBACK,
    )
    add_entry(now.model, entry)
    set_latest(now.model, version)


def render(found: Status) -> str:
    """The same as text."""
    lines = [f"model     {found.model}"]
    serves = f"{found.latest}   {found.model_digest}" if found.latest else "none yet: promote a version"
    lines.append(f"serves    {serves}")
    named = [f"{name} ({_images(found.golden[name])})" for name in found.versions]
    lines.append(f"versions  {', '.join(named)}")
    lines.append(f"rollback  {f'goes back to {found.before}' if found.before else 'needs a VERSION'}")
    for entry in found.history[-SHOWN:]:
        lines.append(
            f"{entry.time}  {entry.action:<8}  {entry.previous or '-'} -> {entry.version}  {entry.reason}"
        )
    return "\n".join(lines)


def _images(number: int) -> str:
    return f"{number} golden images" if number else "no golden images"
