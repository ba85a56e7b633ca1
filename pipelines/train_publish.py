"""A bundle that was trained elsewhere, brought to where the job exports to, past its gate."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from beam_vision import storage
from beam_vision.errors import JobError, UsageError
from beam_vision.inference.bundle import read_bundle
from beam_vision.pipelines.train_export import check_export, publish
from beam_vision.training.config import JobConfig
from beam_vision.training.export import TRAINING_FILE
from beam_vision.training.publish import next_version, put_in_place

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Release:
    """What the gate judges; the part of :class:`~beam_vision.training.job.Trained` that a bundle has with it.

    Attributes:
      config: the job's, with the gate.
      metrics: what the bundle is released with.
      evaluation: the figures on its ``split``; None: it wasn't measured.
    """

    config: JobConfig
    metrics: Mapping[str, float]
    evaluation: Mapping[str, Any] | None


def publish_bundle(config: JobConfig, source: str, tell: Tell = lambda line: None) -> str:
    """Copies a bundle to ``export.output``, whole or not at all; a version becomes ``LATEST`` past the gate.

    Args:
      config: the job's: ``export`` says where to and past which gate; ``not_worse`` compares on ``data``.
      source: the bundle's folder, such as ``gs://.../model`` below the staging folder of a job on Vertex AI.
      tell: is called with lines for the person who watches.

    Returns:
      Its new folder.

    Raises:
      UsageError: it is no whole bundle, of another task or classes of images than the job's, or it can't go
        where it should.
      JobError: it is a version that missed its gate; it is kept, and ``LATEST`` is as before.
    """
    check_export(config.export, task=config.task)
    root = storage.absolute(config.export.output)
    version = next_version(root) if config.export.versioned else ""
    target = storage.join(root, version) if version else root
    aside = f"{target}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        release = _bring(config, source.rstrip("/"), aside)
        put_in_place(aside, target, overwrite=config.export.overwrite)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    tell(f"bundle {target}: model {read_bundle(target).model_digest}, as {source} has it")
    verdict = publish(release, None, root, version, tell) if version else None
    if verdict is not None and not verdict.passed:
        raise JobError(f"{target} missed its gate: {verdict.reason}")
    return target


def _bring(config: JobConfig, source: str, folder: str) -> Release:
    """Copies the bundle, and looks whether all of it came."""
    spec = read_bundle(source)
    if spec.task != config.task:
        raise UsageError(f"{source} is a bundle for task {spec.task}, and the job's task is {config.task}")
    for path in storage.list_tree(source):
        name = path.removeprefix(f"{source}/")
        storage.write_bytes(os.path.join(folder, *name.split("/")), storage.read_bytes(path))
    came = read_bundle(folder)  # which compares the digest that the spec holds with the files
    facts = _facts(folder)
    return Release(config, came.metrics, facts.get("evaluation"))


def _facts(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, TRAINING_FILE)
    return storage.read_json(path) if os.path.exists(path) else {}
