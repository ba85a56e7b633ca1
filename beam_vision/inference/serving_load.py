"""From a bundle to a model that may serve: loaded, warm, and checked as far as its golden images allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_vision.errors import UsageError
from beam_vision.inference.bundle import find_files, read_bundle, read_spec_file
from beam_vision.inference.check import checked
from beam_vision.inference.engine import Engine, warm_up
from beam_vision.inference.golden import Golden, read_golden, reading, say
from beam_vision.inference.golden_quality import MOST_DIFFERENT, differs, quality
from beam_vision.inference.loader import load
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.serving import Served, version_of
from beam_vision.inference.spec import ModelSpec

_NICE = 5
"""The child process that tries a candidate gives way to the one that serves."""


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Whether, where and how newer versions of a model are taken in.

    Attributes:
      root: the root of versions whose ``LATEST`` is watched; empty, or a model without versions: none is.
      overrides: fields of a :class:`ModelSpec` that the job's options set, for each version alike.
      poll_sec: how often ``LATEST`` is looked at.
      try_apart: whether a candidate is tried in a child process first, which a model that kills its process
        can't hurt.
      max_drop: a candidate may be worse than the one that serves by so much, as a share of golden images.
    """

    root: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    poll_sec: float = 5.0
    try_apart: bool = True
    max_drop: float = 0.05

    def __post_init__(self) -> None:
        if self.poll_sec <= 0:
            raise UsageError(f"--model_poll_sec is {self.poll_sec}; it must be above 0")
        if not 0 <= self.max_drop <= 1:
            raise UsageError(f"--max_drop is {self.max_drop}; it must be in 0..1")


def load_served(path: str, spec: ModelSpec, settings: EngineSettings) -> Served:
    """Loads a model, runs it once, and compares what it says of its golden images with what it said.

    Args:
      path: of the version, as in :func:`~beam_vision.inference.bundle.read_bundle`.
      spec: what that gave for it.
      settings: what is wanted of each image.

    Raises:
      UsageError: it can't be loaded, doesn't give what is wanted, or says something else than it did.
      VisionError: it fails when it is run.
    """
    engine = Engine(spec, settings)
    golden = read_golden(path)
    model = load(path, spec, require_gpu=settings.require_gpu)
    warm_up(model)
    served = Served(path, model, engine, golden)
    if golden is None:
        return served
    said = say(model, golden.images)
    if golden.reading == reading(spec):
        moved = [
            image.name for image, now in zip(golden.images, said, strict=True) if differs(image.said, now)
        ]
        if len(moved) > MOST_DIFFERENT * len(said):
            raise UsageError(
                f"of {len(moved)} of its {len(said)} golden images ({', '.join(moved[:3])}) it doesn't say "
                "what it said when they were packed: its files, its preprocessing or this machine differ"
            )
    return Served(path, model, engine, golden, quality(golden.images, said, settings.task))


@dataclass(frozen=True)
class Incumbent:
    """The model in whose place another is to come.

    Attributes:
      path: of its version.
      spec: rows keep the columns that it makes.
      served: itself, where it is loaded.
    """

    path: str
    spec: ModelSpec
    served: Served | None = None

    @classmethod
    def of(cls, served: Served) -> Incumbent:
        """One that is loaded."""
        return cls(served.path, served.model.spec, served)


def describe_candidate(
    path: str, incumbent: Incumbent, settings: EngineSettings, how: ServingSettings
) -> ModelSpec:
    """Reads a model that is to take the place of another, and tries it apart; it isn't loaded here.

    Args:
      path: of its version.
      incumbent: the other.
      settings: what is wanted of each image.
      how: overrides, and whether it is tried.

    Raises:
      UsageError: it isn't whole, doesn't fit in the other's place, or fails.
    """
    check_described(path, incumbent.path)
    spec = read_bundle(path, how.overrides)
    check_compatible(spec, incumbent.spec, settings)
    if how.try_apart:
        spec, _ = checked(path, spec, nice=_NICE)
        check_compatible(spec, incumbent.spec, settings)
    return spec


def load_candidate(
    path: str,
    spec: ModelSpec,
    incumbent: Incumbent,
    settings: EngineSettings,
    *,
    max_drop: float | None,
) -> tuple[Served, str]:
    """Loads a candidate, and compares what it says of golden images.

    Args:
      path: of its version.
      spec: from :func:`describe_candidate`.
      incumbent: the model in whose place it comes.
      settings: what is wanted of each image.
      max_drop: it may be so much worse; None: however much, as in a rollback.

    Returns:
      It, and what was checked, in one sentence.

    Raises:
      UsageError, VisionError: it may not serve; says why.
    """
    candidate = load_served(path, spec, settings)
    if candidate.golden is None:
        done = "it has no golden images, so that it was checked on generated ones only"
    else:
        done = f"its {len(candidate.golden.images)} golden images gave what they gave when packed"
    if incumbent.served is not None:
        done += compare(candidate, incumbent.served, settings, max_drop)
    return candidate, done


def check_described(path: str, incumbent: str) -> None:
    """Checks that a bundle has a ``model_spec.json`` where the one that serves has: else its digest can't be
    checked, and half of it may be missing.

    Raises:
      UsageError: there is no model at ``path``, or it has none.
    """
    if not read_spec_file(find_files(path)) and read_spec_file(find_files(incumbent)):
        raise UsageError(f"{path} has no model_spec.json, as {version_of(incumbent)} has: it isn't whole")


def check_compatible(spec: ModelSpec, like: ModelSpec, settings: EngineSettings) -> None:
    """Checks that a model can stand in the place of another: what is wanted is given, in the same columns.

    Raises:
      UsageError: it can't.
    """
    settings.check(spec)
    sizes = (spec.embedding_dim, like.embedding_dim)
    if settings.embedding_wanted and None not in sizes and sizes[0] != sizes[1]:
        raise UsageError(
            f"its embedding has {sizes[0]} numbers, and that of the model that serves has {sizes[1]}: rows "
            "of both can't lie in one table"
        )
    if settings.task != "embed" and like.labels and not spec.labels:
        raise UsageError("it has no labels, and the model that serves has")


def compare(candidate: Served, serving: Served, settings: EngineSettings, max_drop: float | None) -> str:
    """Compares how two models do on the golden images of the one that serves; of the other if it has none.

    Args:
      max_drop: so much worse the candidate may be; None: however much.

    Returns:
      Both figures in words; empty where nothing can be said.

    Raises:
      UsageError: it is worse by more.
    """
    owner = next((one for one in (serving, candidate) if one.quality is not None), None)
    if owner is None or owner.golden is None:
        return ""
    new, old = (_quality_on(owner.golden, one, owner, settings.task) for one in (candidate, serving))
    figures = (
        f"; on the {len(owner.golden.images)} golden images of {owner.version} it reaches {new:.1%} and "
        f"{serving.version} {old:.1%}"
    )
    if max_drop is not None and new < old - max_drop:
        raise UsageError(f"{figures.removeprefix('; ')}: worse than the model that serves")
    return figures


def _quality_on(golden: Golden, one: Served, owner: Served, task: str) -> float:
    found = one.quality if one is owner else quality(golden.images, say(one.model, golden.images), task)
    return 0.0 if found is None else found
