"""``beam-vision predict``: classify or embed images, or find objects in them, into Parquet or BigQuery."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.model_options import Model, model_of
from beam_vision.pipelines.options import find_source, make_parser, parse, source_facts
from beam_vision.pipelines.predict_options import Options, check, paths, row_settings
from beam_vision.pipelines.predict_output import (
    Destination,
    Places,
    Result,
    destination_of,
    holding,
    places_of,
    with_staging,
)
from beam_vision.pipelines.ran import Ran
from beam_vision.pipelines.resource_options import Resources, fits_model, hinted, resources_of
from beam_vision.pipelines.task_options import detection, engine_settings, tiles
from beam_vision.sinks.rows import RowSettings

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_vision.sources.spec import SourceSpec

NAME = "predict"
EXAMPLE = "beam-vision predict --task embed --images photos/ --model model/ --output table/"


@dataclass(frozen=True, kw_only=True)
class Again:
    """What a redrive asks for: the images of a dead letter, and no others.

    Attributes:
      files: the dead letter's files, or its table.
      failures: how many failures they hold.
      attempt: stands in the failures of this run.
    """

    files: tuple[str, ...]
    failures: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that was found and checked before a run.

    Attributes:
      model: read and tried.
      source: where images come from.
      rows: what the table's rows have in common.
      places: where rows and failures go.
      to: what is there, and what becomes of it.
      run_id: the run.
      again: which images alone, in a redrive.
      resources: what it runs on.
    """

    model: Model
    source: SourceSpec
    rows: RowSettings
    places: Places
    to: Destination
    run_id: str
    again: Again | None = None
    resources: Resources | None = None

    @property
    def attempt(self) -> int:
        """Stands in the failures of the run."""
        return self.again.attempt if self.again else 1

    @property
    def takes_examples(self) -> bool:
        """Whether the model takes whole TFRecords, and not images."""
        return self.model.spec.input_kind == "tf_example"


def prepare(
    options: Options, run_id: str, again: Again | None = None, resources: Resources | None = None
) -> Plan:
    """Finds and checks the source, the model and the output.

    Raises:
      UsageError: the job can't run as asked.
    """
    check(options)
    source = find_source(options)
    places = places_of(options)
    if source.format == "folder" and f"{places.shown}/".startswith(f"{source.path.rstrip('/')}/"):
        raise UsageError(
            f"--output {places.shown} lies within --images {source.path}; take a folder outside it"
        )
    model = model_of(options, task=options.task)
    fits_model(options, model.spec.model_format)
    rows = row_settings(options, model.spec)
    if model.spec.input_kind == "tf_example" and source.format != "tfrecord":
        raise UsageError(
            f"the model takes tf.Examples, of which --images {options.images} has none; make a TFRecord "
            "dataset of it with `beam-vision create-tfrecords`, or choose another --signature of the model"
        )
    to = destination_of(places, options, run_id, rows, resume=options.resume or again is not None)
    if again is not None and to.output.differences:
        raise UsageError(
            f"redrive adds rows to the table at {to.place}, which was made with {to.output.differences[0]}; "
            f"give the options of the run that failed, or run `beam-vision {NAME}` again"
        )
    return Plan(
        model=model,
        source=source,
        rows=rows,
        places=places,
        to=to,
        run_id=run_id,
        again=again,
        resources=resources,
    )


def preflight(
    options: Options, again: Again | None = None, resources: Resources | None = None
) -> dict[str, Any]:
    """Checks everything that can be known before images are read, and says what would be done.

    Raises:
      UsageError: the job can't run as asked.
    """
    plan = prepare(options, jobs.new_run_id(), again, resources)
    kept = detection(options)
    return {
        "job": NAME,
        "task": options.task,
        "images": source_facts(plan.source),
        "redrives": again.failures if again else None,
        "model": plan.model.path,
        "digests": digests(plan.rows),
        "embedding_dim": plan.rows.embedding_dim,
        "preprocessing": plan.model.spec.decode_settings().to_json(),
        "rows": plan.rows.rows,
        "detection": {"detector": plan.model.spec.detector, **kept} if kept else None,
        "tiles": tiles(options),
        **plan.to.facts(),
        "failures": plan.places.failures,
        "workers": resources.added if resources else None,
        "notes": notes(plan),
    }


def digests(rows: RowSettings) -> dict[str, str]:
    """What made the rows."""
    return {"model": rows.model_digest, "preprocessing": rows.preprocessing_digest}


def notes(plan: Plan) -> list[str]:
    """What the person who runs the job should know."""
    of_workers = plan.resources.notes if plan.resources else []
    return [*plan.model.notes, *seen(plan), *plan.to.notes(), *of_workers]


def seen(plan: Plan) -> list[str]:
    """What a detector sees of an image, where the model's notes don't say it already."""
    if plan.rows.task != "detect" or plan.model.spec.height_px is not None:
        return []
    return ["the detector is given whole images and resizes them itself"]


def build(pipeline: beam.Pipeline, options: Options, plan: Plan) -> None:
    """Adds the job to a pipeline."""
    import apache_beam as beam

    from beam_vision.failures import Outcome
    from beam_vision.sinks.staging import Flush
    from beam_vision.sinks.transforms import ReadFailedKeys
    from beam_vision.sources.transforms import OpenImages

    kept, only = plan.to.kept(pipeline, plan.rows), None
    if plan.again:
        only = pipeline | "ReadFailedKeys" >> ReadFailedKeys(plan.again.files, output=plan.to.place)
    opened = pipeline | "OpenImages" >> OpenImages(
        plan.source,
        limit=options.limit,
        whole_records=plan.takes_examples,
        only_keys=only,
        without_keys=kept.keys,
        run_id=plan.run_id,
        attempt=plan.attempt,
    )
    inferred = opened.images | "Infer" >> inference(options, plan)
    failed = (opened.failed, inferred.failed) | "Failed" >> beam.Flatten()
    committed = Outcome(inferred.good, failed) | "WriteTable" >> plan.to.write(
        plan.rows,
        inputs=opened.inputs,
        already_done=opened.already_done,
        kept=kept.files,
        failures=plan.places.letter,
        job=NAME,
        attempt=plan.attempt,
        flush=Flush(every_sec=options.flush_sec),
    )
    if jobs.template_of(pipeline.options):
        jobs.judge_on_a_worker(committed, options.max_failure_rate, plan.places.failures)


def inference(options: Options, plan: Plan) -> beam.PTransform:
    """What turns images, or whole records, into predictions; where that is asked for, on GPUs of its own."""
    from beam_vision.inference.transforms import Infer, InferExamples

    settings = engine_settings(options) | {"run_id": plan.run_id, "attempt": plan.attempt}
    settings["require_gpu"] = options.require_gpu
    if plan.takes_examples:
        infer: beam.PTransform = InferExamples(plan.model.spec, plan.model.path, **settings)
    else:
        bounds = plan.resources.bounds if plan.resources else {}
        settings |= {"decode_threads": options.decode_threads, **bounds}
        infer = Infer(plan.model.spec, plan.model.path, **settings)
    return hinted(infer, plan.resources)


def summarise(plan: Plan, result: Result, ran: Ran, wall_sec: float) -> jobs.Summary:
    """The accounts of a run, from what it committed."""
    handled = result.outputs + result.failed
    return jobs.Summary(
        job="redrive" if plan.again else NAME,
        run_id=plan.run_id,
        inputs=result.inputs,
        outputs=result.outputs,
        failed=result.failed,
        already_done=result.already_done,
        failed_by_reason=result.failed_by_reason,
        images_per_sec=handled / max(wall_sec, 1e-9),
        wall_sec=wall_sec,
        stage_sec=ran.stage_sec,
        digests=digests(plan.rows),
        output=plan.to.place,
        failures=plan.places.failures,
        notes=[*result.notes, *notes(plan)],
    )


def draw(table: str, path: str) -> None:
    """Draws a sample of the images of a table of detections with their boxes."""
    from beam_vision.reports import contact_sheet, detection, detection_collect

    report = detection_collect.report_of(table)
    if path.endswith(".png"):
        scenes = {
            scene.key: scene for scene in detection.scenes_of(report)
        }  # one may stand on several sheets
        contact_sheet.write_contact_sheet(path, list(scenes.values()))
    else:
        detection.write_report(path, report)


def predict(options: Options, beam_args: list[str], again: Again | None = None) -> int:
    """Runs the job, over all images or (``again``) over those of a dead letter.

    Raises:
      UsageError: it can't run as asked.
      JobError: it ran, and its result is not acceptable.
    """
    options = with_staging(options, beam_args)
    resources = resources_of(options, beam_args, paths(options))
    options, beam_args = resources.applied_to(options), resources.beam_args
    if options.preflight_only:
        return jobs.show_plan(preflight(options, again, resources))
    run_id, start = jobs.new_run_id(), time.monotonic()
    plan = prepare(options, run_id, again, resources)
    with holding(plan.to):
        resume = options.resume or again is not None
        plan = replace(plan, to=destination_of(plan.places, options, run_id, plan.rows, resume=resume))
        plan.to.try_rights(plan.rows)
        ran = jobs.execute(lambda pipeline: build(pipeline, options, plan), beam_args)
        if ran.template:
            return jobs.written(ran)
        result = plan.to.result()
    ran = replace(ran, gpu=options.gpu)
    summary = summarise(plan, result, ran, time.monotonic() - start)
    if options.pictures:
        draw(plan.to.place, options.pictures)
        summary = replace(summary, notes=[*summary.notes, f"pictures: {options.pictures}"])
    return jobs.finish(summary, options, ran)


def run(argv: list[str]) -> int:
    """Runs the job; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=__doc__.partition(": ")[2], example=EXAMPLE)
    options, beam_args = parse(parser, Options, argv)
    return predict(options, beam_args)
