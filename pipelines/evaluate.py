"""``beam-vision evaluate``: compare a table of detections with the truth, as COCO does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import JobError, UsageError
from beam_vision.evaluation import findings, result, warehouse
from beam_vision.evaluation.detected import DetectionTable, check_table
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.evaluate_output import Outputs, add_to_table, check, outputs_of
from beam_vision.pipelines.options import ReportOptions, SourceOptions, make_parser, option, parse
from beam_vision.pipelines.ran import Ran
from beam_vision.warehouse.names import is_bigquery

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_vision.sources.spec import SourceSpec

NAME = "evaluate"
DESCRIPTION = "Compares a table of detections with the truth: COCO's metrics, curves and pictures."
EXAMPLE = (
    "beam-vision evaluate --task detect --predictions table/ --truth annotations.json --image_root images/ "
    "--output evaluation/"
)
WITHOUT_BOXES = ("folder", "glob")
_SOURCE = SourceOptions.__dataclass_fields__


@dataclass(frozen=True, kw_only=True)
class Options(ReportOptions):
    """What ``evaluate`` takes."""

    task: str = option(help="what was predicted", choices=("detect",))
    predictions: str = option(
        help="the table, as predict writes it (either kind of --rows), in a folder or in BigQuery",
        metavar="DEST",
    )
    truth: str = option(
        help="the annotated images: COCO JSON, a folder of VOC or YOLO files, a manifest or a table of "
        "BigQuery with boxes, or a TFRecord dataset",
        metavar="SRC",
    )
    format: str = option(
        "auto",
        help="what --truth is; auto finds it from the path",
        choices=tuple(name for name in _SOURCE["format"].metadata["choices"] if name not in WITHOUT_BOXES),
    )
    image_root: str = option("", help=_SOURCE["image_root"].metadata["help"], metavar="DIR")
    boxes_on: str = option(
        "auto",
        help=_SOURCE["boxes_on"].metadata["help"],
        choices=_SOURCE["boxes_on"].metadata["choices"],
    )
    output: str = option(
        help="folder for metrics.json, classes.parquet and report.html; what is there is replaced; and "
        "behind a comma, if you like, a table of BigQuery that the numbers are added to",
        metavar="DIR[,bigquery://...]",
    )
    failures: str = option(
        "",
        help="where unusable entries of the truth go: a folder, as JSONL (default: OUTPUT/failures), "
        "or a table of BigQuery",
        metavar="PATH",
    )
    max_failure_rate: float = option(
        1.0, help="end with exit code 1 when a larger share of the truth's images is unusable"
    )
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that was found and checked before a run.

    Attributes:
      table: the predictions.
      source: of the truth.
      outputs: where results go.
      failures: the dead letter: a folder, or a table's ``bigquery://`` name.
      run_id: of this run.
    """

    table: DetectionTable
    source: SourceSpec
    outputs: Outputs
    failures: str
    run_id: str

    @property
    def output(self) -> str:
        """The folder."""
        return self.outputs.folder

    @property
    def truth(self) -> dict[str, Any]:
        """What the truth is."""
        return {"format": self.source.format, "paths": list(self.source.paths)}

    @property
    def found(self) -> str:
        """Where the pipeline leaves what it found; gone when the run has ended well."""
        return storage.join(self.output, f".evaluation-{self.run_id}.json")


def prepare(options: Options, run_id: str) -> Plan:
    """Finds and checks the table, the truth and the output.

    Raises:
      UsageError: the job can't run as asked.
    """
    from beam_vision.sinks.letters import letter_of
    from beam_vision.sources import spec as sources

    table = find_predictions(options.predictions)
    try:
        source = sources.resolve(
            options.truth, options.format, options.image_root, options.boxes_on, need_images=False
        )
    except UsageError as error:
        raise UsageError(str(error).replace("--images", "--truth")) from error
    if source.format in WITHOUT_BOXES:
        raise UsageError(
            f"--truth {options.truth} is a {source.format} of images without boxes; give COCO JSON, VOC, "
            "YOLO, a manifest with boxes or a TFRecord dataset, and say --format where it isn't found"
        )
    outputs = outputs_of(options.output)
    check(outputs)
    failures = options.failures or storage.join(outputs.folder, "failures")
    failures = failures if is_bigquery(failures) else storage.absolute(failures)
    letter_of(failures, output=outputs.folder).check()
    return Plan(table=table, source=source, outputs=outputs, failures=failures, run_id=run_id)


def find_predictions(place: str) -> DetectionTable:
    """The table of detections, in a folder or in BigQuery.

    Raises:
      UsageError: there is none, or it is of something else.
    """
    return warehouse.check_table(place) if is_bigquery(place) else check_table(place)


def preflight(options: Options) -> dict[str, Any]:
    """Checks everything that can be known before the truth is read, and says what would be done.

    Raises:
      UsageError: the job can't run as asked.
    """
    plan = prepare(options, jobs.new_run_id())
    manifest = plan.table.manifest
    return {
        "job": NAME,
        "task": options.task,
        "predictions": plan.table.folder,
        "parts": len(plan.table.paths),
        "rows": manifest.rows if manifest else None,
        "digests": digests(plan),
        "truth": plan.truth,
        "output": plan.output,
        "table": plan.outputs.table.uri if plan.outputs.table else None,
        "failures": plan.failures,
    }


def digests(plan: Plan) -> dict[str, str]:
    """What made the predictions."""
    manifest = plan.table.manifest
    if manifest is None:
        return {}
    return {"model": manifest.model_digest, "preprocessing": manifest.preprocessing_digest}


def build(pipeline: beam.Pipeline, plan: Plan) -> beam.PCollection:
    """Adds the job to a pipeline; what it finds is written to ``plan.found``. Gives that path, once."""
    from beam_vision.evaluation.transforms import (
        JoinTruth,
        MeasureClasses,
        PickPictures,
        WriteResult,
    )
    from beam_vision.sinks.transforms import WriteFailures

    truth = read_truth(pipeline, plan.source)
    rows = pipeline | "ReadDetected" >> read_rows(plan.table)
    joined = (truth, rows) | "JoinTruth" >> JoinTruth(run_id=plan.run_id)
    classes = joined.images | "MeasureClasses" >> MeasureClasses()
    sheets = (joined.images, classes) | "PickPictures" >> PickPictures()
    failures = joined.failed | "WriteFailures" >> WriteFailures(
        plan.failures, run_id=plan.run_id, job=NAME, output=plan.output
    )
    return (classes, sheets) | "WriteResult" >> WriteResult(plan.found, joined=joined, failures=failures)


def read_rows(found: DetectionTable) -> beam.PTransform:
    """What reads the detections."""
    from beam_vision.evaluation.transforms import ReadDetected, ReadWarehouseDetected

    return ReadWarehouseDetected(found.folder) if is_bigquery(found.folder) else ReadDetected(found.paths)


def read_truth(pipeline: beam.Pipeline, source: SourceSpec) -> beam.PCollection:
    """Refs of the truth, and failures. Workers share its files; no image is opened."""
    import apache_beam as beam

    from beam_vision.failures import FAILED
    from beam_vision.sources import tfrecord
    from beam_vision.sources.transforms import ListShardsDoFn, list_source

    if source.format != "tfrecord":
        return list_source(pipeline, source) | "Refs" >> beam.Values()
    start = pipeline | "Truth" >> beam.Create([source])
    shards = start | "ListShards" >> beam.ParDo(ListShardsDoFn()).with_outputs(FAILED, main="good")
    refs = shards.good | "ShareShards" >> beam.Reshuffle() | "ReadRefs" >> beam.FlatMap(tfrecord.read_refs)
    return (refs, shards[FAILED] | "NotShards" >> beam.Values()) | "AllTruth" >> beam.Flatten()


def check_common(found: result.Result, plan: Plan) -> None:
    """That truth and predictions are of the same images at all.

    Raises:
      UsageError: no image of the truth has a row.
      JobError: the truth has no images, or no boxes.
    """
    number, examples = found.found.number, found.found.examples
    if not number(findings.IMAGES):
        raise JobError("the truth has no usable images: check --truth and --format")
    if not number(findings.COMMON):
        truth = examples[findings.MISSING][0]
        row = examples.get(findings.WITHOUT_TRUTH, ["none: it has no rows"])[0]
        raise UsageError(
            f"truth and predictions have no image in common: a key of the truth is {truth}, one of the table "
            f"is {row}; say with --image_root where the truth's images lie, as predict knew them"
        )
    if not found.evaluated:
        raise JobError(f"no image of the truth has a usable box: nothing can be measured; see {plan.truth}")


def write(found: result.Result, plan: Plan) -> dict[str, Any]:
    """Writes the table of classes, the page, and ``metrics.json`` last; gives what is in it."""
    import pyarrow.parquet as pq

    from beam_vision.pipelines.evaluate_report import report_of
    from beam_vision.reports.detection import write_report

    metrics = result.to_json(
        found,
        run_id=plan.run_id,
        predictions=plan.table.folder,
        truth=plan.truth,
        digests=digests(plan),
        failed=found.failures["by_reason"],
    )
    metrics_path = storage.join(plan.output, result.METRICS_FILE)
    storage.delete(metrics_path)
    with storage.open_write(storage.join(plan.output, result.CLASSES_FILE)) as file:
        pq.write_table(result.class_table(found), file)
    write_report(storage.join(plan.output, result.REPORT_FILE), report_of(found, metrics))
    if plan.outputs.table is not None:
        add_to_table(plan.outputs.table, metrics)
    storage.write_json(metrics_path, metrics)
    return metrics


def summarise(found: result.Result, metrics: dict[str, Any], plan: Plan, wall_sec: float) -> jobs.Summary:
    """The accounts of a run: every image of the truth is evaluated or failed."""
    inputs = found.found.number(findings.LISTED)
    return jobs.Summary(
        job=NAME,
        run_id=plan.run_id,
        inputs=inputs,
        outputs=metrics["accounts"]["images_with_a_row"] + metrics["accounts"]["images_missing"],
        failed=found.failures["total"],
        failed_by_reason=dict(found.failures["by_reason"]),
        images_per_sec=inputs / max(wall_sec, 1e-9),
        wall_sec=wall_sec,
        digests=digests(plan),
        output=plan.output,
        failures=plan.failures,
        notes=metrics["notes"],
        annotations={
            "boxes": metrics["accounts"]["truths"] + metrics["accounts"]["crowds"],
            "clipped": metrics["accounts"]["clipped"],
            "failed": sum(metrics["accounts"]["faults"].values()),
            "failed_by_reason": metrics["accounts"]["faults"],
        },
    )


def run(argv: list[str]) -> int:
    """Runs the job; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE)
    options, beam_args = parse(parser, Options, argv)
    if options.preflight_only:
        return jobs.show_plan(preflight(options))
    if jobs.template_of(jobs.beam_options(beam_args)):
        return jobs.written(write_job(options, beam_args))
    evaluate(options, beam_args)
    return 0


def write_job(options: Options, beam_args: list[str]) -> Ran:
    """Writes the job to ``--template_location``; a worker does at its end what :func:`evaluate` does here.

    Raises:
      UsageError: the job can't run as asked.
    """
    import apache_beam as beam

    plan = prepare(options, jobs.new_run_id())

    def build_whole(pipeline: beam.Pipeline) -> None:
        _ = build(pipeline, plan) | "Conclude" >> beam.Map(conclude, plan)

    return jobs.execute(build_whole, beam_args)


def conclude(path: str, plan: Plan) -> None:
    """From what the pipeline found to ``metrics.json``, on a worker; one that comes again finds it done.

    Raises:
      UsageError, JobError: as :func:`check_common`.
    """
    if storage.exists(path):
        found = result.Result.from_json(storage.read_json(path))
        check_common(found, plan)
        write(found, plan)
        storage.delete(path)


def evaluate(options: Options, beam_args: list[str]) -> tuple[result.Result, dict[str, Any]]:
    """Runs the job; gives what was found and the content of ``metrics.json``.

    Raises:
      UsageError: the job can't run as asked.
      JobError: it ran and its result is not acceptable.
    """
    start = time.monotonic()
    plan = prepare(options, jobs.new_run_id())
    try:
        ran = jobs.execute(lambda pipeline: build(pipeline, plan), beam_args)
        found = result.Result.from_json(storage.read_json(plan.found))
    finally:
        storage.delete(plan.found)
    check_common(found, plan)
    metrics = write(found, plan)
    jobs.emit(result.render(metrics))
    summary = summarise(found, metrics, plan, time.monotonic() - start)
    jobs.finish(summary, options, ran)
    return found, metrics
