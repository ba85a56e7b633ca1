"""``beam-vision inspect-model``: what a model takes and gives, as found, assumed and tried."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job, options
from beam_vision.pipelines.model_options import ModelFactOptions, overrides_of
from beam_vision.pipelines.options import option

if TYPE_CHECKING:
    from beam_vision.inference.check import Report
    from beam_vision.inference.signature import Signature
    from beam_vision.inference.spec import ModelSpec

DESCRIPTION = "Says what a model takes and gives, and tries it in a child process on generated images."
EXAMPLE = "beam-vision inspect-model my_model --image_size 224"


@dataclass(frozen=True, kw_only=True)
class Options(ModelFactOptions):
    """Options of ``inspect-model``."""

    model: str = option(
        help="the model: a bundle, a SavedModel folder, a .keras, .onnx or .tflite file, or a root of "
        "versions with LATEST",
        positional=True,
    )
    task: str = option(
        "", help="which output must be there (default: any)", choices=("classify", "embed", "detect")
    )
    write_spec: bool = option(False, help="write what is known to model_spec.json beside the model")
    output_format: str = option("table", help="how to print", choices=("table", "json"))


def run(argv: list[str]) -> int:
    """Prints what is known of a model. Exit code 1 when it fails, 2 when something must be said first."""
    from beam_vision.inference.bundle import write_spec

    parser = options.make_parser("inspect-model", Options, description=DESCRIPTION, example=EXAMPLE)
    asked, _ = options.parse(parser, Options, argv)
    found = inspect(asked)
    job.emit(json.dumps(to_json(found), indent=2) if asked.output_format == "json" else render(found))
    if found.error is not None:
        raise found.error
    if found.report is not None and not found.report.ok:
        raise JobError(found.report.detail)
    if asked.write_spec and found.spec is not None:
        job.say(f"wrote {write_spec(found.path, found.spec)}")
    return 0


@dataclass(frozen=True)
class Found:
    """What is known of a model.

    Attributes:
      path: where its files are.
      signature: what it takes and gives.
      spec: how it is run; None when something needed is neither said nor found.
      error: what is needed then.
      report: what came of trying it; None when it wasn't tried.
    """

    path: str
    model_format: str
    signature: Signature
    spec: ModelSpec | None
    error: UsageError | None
    report: Report | None


def inspect(asked: Options) -> Found:
    """Finds a model, reads it and tries it.

    Raises:
      UsageError: there is no model that could be read at all.
    """
    from beam_vision.inference.bundle import find_files, read_facts, to_spec
    from beam_vision.inference.check import completed, try_apart

    files = find_files(asked.model)
    facts = read_facts(files.path, overrides_of(asked, task=asked.task))
    try:
        spec = to_spec(facts)
    except UsageError as error:
        return Found(files.path, files.model_format, facts.found, None, error, None)
    report = try_apart(files.path, spec) if asked.check_model else None
    if report is not None and report.ok:
        spec = completed(spec, report)
    return Found(files.path, files.model_format, facts.found, spec, None, report)


def to_json(found: Found) -> dict[str, Any]:
    """All of it as plain JSON values."""
    return {
        "path": found.path,
        "model_format": found.model_format,
        "signature": dataclasses.asdict(found.signature),
        "spec": None if found.spec is None else found.spec.to_json(),
        "notes": [] if found.spec is None else list(found.spec.notes),
        "needs": None if found.error is None else str(found.error),
        "check": None if found.report is None else dataclasses.asdict(found.report),
    }


def render(found: Found) -> str:
    """The same as a table of text."""
    signature = found.signature
    rows = [("model", found.path), ("format", found.model_format)]
    if signature.name:
        others = [name for name in signature.signatures if name != signature.name]
        rows.append(("signature", signature.name + (f"   (also: {', '.join(others)})" if others else "")))
    rows += [("input", str(item)) for item in signature.inputs]
    rows += [("output", str(item)) for item in signature.outputs]
    if signature.layers:
        rows.append(("vector layers", ", ".join(signature.layers[:6])))
    if found.spec is not None:
        rows += _spec_rows(found.spec)
    if found.report is not None:
        rows += _report_rows(found.report)
    if found.error is not None:
        rows.append(("needs", str(found.error)))
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in rows)


def _spec_rows(spec: ModelSpec) -> list[tuple[str, str]]:
    rows = [("task", spec.task)]
    if spec.input_kind == "pixels":
        size = f"{spec.height_px} x {spec.width_px} px (height x width), {spec.channels} channels"
        rows.append(
            ("takes", f"{size}, {spec.channel_order}, {spec.layout}, {spec.dtype} in {spec.value_range}")
        )
        rows.append(("resize", f"{spec.resize}, {spec.interpolation}"))
    else:
        rows.append(("takes", spec.input_kind))
    rows.append(
        ("batch", "any" if spec.fixed_batch is None else f"{spec.fixed_batch} images, no more, no less")
    )
    if spec.detector:
        rows += _detector_rows(spec)
    elif spec.scores_output:
        classes = "?" if spec.classes is None else spec.classes
        named = f"{len(spec.labels)} labels" if spec.labels else "no labels known"
        rows.append(("scores", f"{spec.scores_output}: {classes} classes, {named}"))
    if spec.embedding_output:
        rows.append(("embedding", f"{spec.embedding_output}: {spec.embedding_dim or '?'} numbers"))
    rows.append(("model digest", spec.model_digest))
    rows.append(("preprocessing digest", spec.preprocessing_digest))
    rows += [("metric", f"{name} = {value}") for name, value in sorted(spec.metrics.items())]
    return rows + [("note", note) for note in spec.notes]


def _detector_rows(spec: ModelSpec) -> list[tuple[str, str]]:
    roles = {
        "boxes": spec.boxes_output,
        "scores": spec.scores_output,
        "classes": spec.classes_output,
        "count": spec.count_output,
    }
    read = [f"{role} from {name}" for role, name in roles.items() if name] or list(spec.raw_outputs)
    classes = "?" if spec.classes is None else spec.classes
    named = f"{sum(map(bool, spec.labels))} labels" if spec.labels else "no labels known"
    rows = [
        ("detector", f"{spec.detector}: {', '.join(read)}"),
        ("box format", spec.box_format),
        ("classes", f"{classes}, the first one's id is {spec.class_offset}, {named}"),
    ]
    return rows + ([("activation", spec.activation)] if spec.activation != "none" else [])


def _report_rows(report: Report) -> list[tuple[str, str]]:
    if not report.ok:
        return [("tried", f"FAILED: {report.detail}")]
    rate = report.images / max(report.second_run_sec, 1e-9)
    text = f"ran on {report.images} generated images: load {report.load_sec:.1f} s, first run "
    text += f"{report.first_run_sec:.2f} s, then {rate:,.0f} images/s"
    rows = [("tried", text)]
    rows += [("  gave", f"{name} {shape}") for name, shape in report.shapes.items()]
    if report.detections is not None:
        rows.append(("  found", f"{report.detections} boxes in them"))
    if report.activation:
        kind = "independent labels" if report.multi_label else "one label an image"
        rows.append(("  activation", f"{report.activation} ({kind})"))
    return rows
