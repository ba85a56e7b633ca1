"""Tries a model in a child process before it serves: a model can kill its process with no Python exception.

(One that does: TensorFlow 2.21 with oneDNN dies of SIGSEGV on some residual blocks, see the documentation
of failures. ``TF_ENABLE_ONEDNN_OPTS=0`` helps there.)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError, VisionError
from beam_vision.inference.bundle import fetch, find_files
from beam_vision.inference.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np

    from beam_vision.inference.loader import LoadedModel

_MARK = "beam-vision check: "


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of trying a model on a few generated images.

    Attributes:
      ok: whether it ran.
      detail: what went wrong, in words; empty when it ran.
      load_sec, first_run_sec, second_run_sec: how long loading and each run took.
      shapes: of each output of use, for ``images`` images.
      images: how many images it was tried on.
      activation: what turns its scores into probabilities, as found by the scores it gave.
      multi_label: whether its scores are independent of each other.
      classes: how many scores it gives, or None; for a detector as many as are known of.
      detections: how many boxes a detector found in the images, with the settings' default threshold.
      embedding_dim: the length of its embedding, or None.
      freeze: whether it also runs frozen (:mod:`beam_vision.inference.freeze`), with the same outputs.
    """

    ok: bool
    detail: str = ""
    load_sec: float = 0.0
    first_run_sec: float = 0.0
    second_run_sec: float = 0.0
    shapes: dict[str, list[int]] = field(default_factory=dict)
    images: int = 0
    activation: str = ""
    multi_label: bool = False
    classes: int | None = None
    embedding_dim: int | None = None
    freeze: bool = False
    detections: int | None = None


def try_here(model: LoadedModel) -> Report:
    """Runs a loaded model in this process.

    Raises:
      VisionError: it fails.
    """
    from beam_vision.inference.engine import warm_up
    from beam_vision.inference.probe import probe_batch

    start = time.monotonic()
    warm_up(model)
    middle = time.monotonic()
    batch = probe_batch(model.spec)
    outputs = model.run(batch)
    end = time.monotonic()
    return Report(
        ok=True,
        load_sec=model.load_sec,
        first_run_sec=middle - start,
        second_run_sec=end - middle,
        shapes={name: list(value.shape) for name, value in outputs.items()},
        images=len(batch),
        **_told(model, outputs),
    )


def _told(model: LoadedModel, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the outputs tell: fields of a :class:`Report`."""
    from beam_vision.inference import embed
    from beam_vision.inference.engine import read_boxes

    spec = model.spec
    if spec.detector:
        found = sum(len(item.scores) for item in read_boxes(spec, outputs))
        return {"classes": spec.classes, "detections": found}
    rows = {name: embed.rows(value, layout=spec.layout) for name, value in outputs.items()}
    return {
        "activation": model.activation if spec.scores_output else "",
        "multi_label": model.multi_label,
        "classes": rows[spec.scores_output].shape[1] if spec.scores_output else None,
        "embedding_dim": rows[spec.embedding_output].shape[1] if spec.embedding_output else None,
    }


def try_apart(path: str, spec: ModelSpec, *, timeout_sec: float = 600, nice: int = 0) -> Report:
    """The same in a child process, whose death is told in words and hurts nobody.

    Args:
      path, spec: as for :func:`checked`.
      timeout_sec: how long it may take.
      nice: how much it gives way to other processes, 0..19, where the system knows of that.
    """
    here = fetch(find_files(path)).path
    try:
        child = subprocess.run(
            [sys.executable, "-m", "beam_vision.inference.check", here, str(nice)],
            input=json.dumps(spec.to_json()),
            capture_output=True,
            text=True,
            timeout=timeout_sec,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Report(ok=False, detail=f"the model did not answer within {timeout_sec:g} s")
    for line in reversed(child.stdout.splitlines()):
        if line.startswith(_MARK):
            return Report(**json.loads(line.removeprefix(_MARK)))
    if child.returncode < 0:
        return Report(ok=False, detail=_in_words(-child.returncode, child.stderr))
    return Report(ok=False, detail=f"exit code {child.returncode}: {_last_words(child.stderr)}")


def _in_words(number: int, stderr: str) -> str:
    name = signal.Signals(number).name
    text = f"the model killed its process ({name})"
    if number == signal.SIGKILL:
        text += ", probably because memory ran out"
    if number in (signal.SIGSEGV, signal.SIGABRT):
        text += "; TF_ENABLE_ONEDNN_OPTS=0 in the environment avoids some such crashes"
    last = _last_words(stderr)
    return f"{text}; its last words: {last}" if last else text


def _last_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else ""


def checked(
    path: str, spec: ModelSpec, *, timeout_sec: float = 600, nice: int = 0
) -> tuple[ModelSpec, Report]:
    """Tries a model apart and completes its spec with what only running tells.

    Raises:
      UsageError: the model fails.
    """
    report = try_apart(path, spec, timeout_sec=timeout_sec, nice=nice)
    if not report.ok:
        raise UsageError(f"the model {path} fails on generated images: {report.detail}")
    return completed(spec, report), report


def completed(spec: ModelSpec, report: Report) -> ModelSpec:
    """The spec with what only running tells: sizes of outputs, and how scores become probabilities."""
    return replace(
        spec,
        classes=report.classes,
        embedding_dim=report.embedding_dim,
        activation=report.activation or spec.activation,
        multi_label=report.multi_label if spec.scores_output and not spec.detector else None,
        freeze=report.freeze,
    )


def runs_frozen(model: LoadedModel) -> bool:
    """Whether the model gives the same when its weights are constants."""
    from beam_vision.inference.freeze import alike
    from beam_vision.inference.probe import probe_batch

    batch, frozen = probe_batch(model.spec), model.frozen()
    try:
        return frozen is not model and alike(frozen.run(batch), model.run(batch))
    except (UsageError, VisionError):
        return False


def main(argv: list[str]) -> int:
    """The child: the path and how nice it is as arguments, the spec as JSON on stdin; on stdout the report as
    JSON, the last one counts.

    The model is tried frozen after the first report is out, so that a crash of that costs only its speed.
    """
    from beam_vision.inference.loader import load

    path, *rest = argv
    if rest and hasattr(os, "nice"):
        os.nice(int(rest[0]))
    spec = replace(ModelSpec.from_json(json.load(sys.stdin)), freeze=False)
    try:
        model = load(path, spec)
        report = try_here(model)
    except (UsageError, VisionError) as error:
        _tell(Report(ok=False, detail=str(error)))
        return 0
    _tell(report)
    _tell(replace(report, freeze=runs_frozen(model)))
    return 0


def _tell(report: Report) -> None:
    sys.stdout.write("\n" + _MARK + json.dumps(asdict(report)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
