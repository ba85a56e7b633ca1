"""``beam-vision verify-tfrecords``: re-read a TFRecord dataset and prove it whole."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.records.manifest import DatasetManifest, read_manifest

if TYPE_CHECKING:
    import apache_beam as beam

NAME = "verify-tfrecords"
EXAMPLE = "beam-vision verify-tfrecords dataset/"
SHOWN = 50
"""So many problems are shown; the report has all."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``verify-tfrecords`` takes."""

    dataset: str = option(help="the dataset's folder", metavar="DIR", positional=True)
    decode: bool = option(True, help="decode every image")
    report: str = option(
        "",
        help="write what was found to this file as JSON (needed where the runner is not on this machine)",
        metavar="FILE",
    )
    preflight_only: bool = option(False, help="read the manifest, say what would be done, run nothing")


def preflight(options: Options) -> dict[str, Any]:
    """Reads the manifest, and says what would be checked.

    Raises:
      UsageError: there is no dataset, or no manifest, which every check starts from.
    """
    manifest = read_manifest(options.dataset)
    return {
        "job": NAME,
        "dataset": storage.absolute(options.dataset),
        "run_id": manifest.run_id,
        "images": manifest.images,
        "shards": len(manifest.shards),
        "bytes": sum(split.bytes for split in manifest.splits.values()),
        "decode": options.decode,
    }


def build(pipeline: beam.Pipeline, options: Options, *, report: str) -> None:
    """Adds the job to a pipeline; what it finds is written to ``report``."""
    from beam_vision.records.verify_transforms import VerifyDataset

    folder = storage.absolute(options.dataset)
    _ = pipeline | VerifyDataset(folder, read_manifest(folder), decode=options.decode, report=report)


def run(argv: list[str]) -> int:
    """Runs the job.

    Raises:
      JobError: the dataset isn't what its manifest says.
    """
    parser = make_parser(NAME, Options, description=(__doc__ or "").partition(": ")[2], example=EXAMPLE)
    options, beam_args = parse(parser, Options, argv)
    plan = preflight(options)
    if options.preflight_only:
        return jobs.show_plan(plan)
    if not options.report and not jobs.runner_of(jobs.beam_options(beam_args))[1]:
        raise UsageError("--report is needed: the workers write there what they find")
    with tempfile.TemporaryDirectory(prefix="beam-vision-") as scratch:
        report = storage.absolute(options.report or storage.join(scratch, "report.json"))
        paths = {"DIR": options.dataset, "--report": report}
        ran = jobs.execute(lambda pipeline: build(pipeline, options, report=report), beam_args, paths=paths)
        if ran.template:
            return jobs.written(ran)
        found = storage.read_json(report)
    return _show(found, plan["dataset"], read_manifest(options.dataset))


def _show(report: dict[str, Any], folder: str, manifest: DatasetManifest) -> int:
    problems = report["problems"]
    for problem in problems[:SHOWN]:
        jobs.emit(problem)
    if problems:
        more = f" ({SHOWN} are shown)" if len(problems) > SHOWN else ""
        raise JobError(f"{folder} is not what its manifest says: {len(problems)} problems{more}")
    has_boxes = bool(manifest.box_classes)
    header = f"{'split':<16}{'shards':>8}{'images':>12}{'MB':>12}{'classes':>9}"
    lines = [header + (f"{'boxes':>12}" if has_boxes else "")]
    for name, split in report["splits"].items():
        classes = sum(1 for images in manifest.splits[name].classes.values() if images)
        counts = f"{split['shards']:>8,}{split['images']:>12,}{split['bytes'] / 1e6:>12,.1f}{classes:>9,}"
        lines.append(f"{name:<16}{counts}" + (f"{split['boxes']:>12,}" if has_boxes else ""))
    jobs.emit(
        "\n".join([*lines, f"{folder} is whole (run {manifest.run_id}, digest {manifest.dataset_digest})"])
    )
    return 0
