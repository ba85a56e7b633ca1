"""``beam-vision create-tfrecords``: an image lake as a TFRecord dataset with a manifest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import (
    CommonOptions,
    SourceOptions,
    find_source,
    make_parser,
    option,
    parse,
    source_facts,
)
from beam_vision.pipelines.ran import Ran
from beam_vision.records import layout
from beam_vision.records.encode import ENCODINGS, EncodeSettings
from beam_vision.records.manifest import DatasetManifest, read_manifest
from beam_vision.records.plan import Job
from beam_vision.records.splits import DEFAULT_SPLITS, SplitRule, parse_splits
from beam_vision.sinks.commit import Accounts

if TYPE_CHECKING:
    import apache_beam as beam

NAME = "create-tfrecords"
EXAMPLE = "beam-vision create-tfrecords --images photos/ --output dataset/ --splits train=0.9,test=0.1"


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions, CommonOptions):
    """What ``create-tfrecords`` takes."""

    output: str = option(help="folder for the dataset: empty, or with an earlier one", metavar="DIR")
    classes: str = option(
        "",
        help="the class list, of images and of boxes, comma-separated or a file with one a line; an image "
        "with another label fails, a box with another is left out (default: all labels found, sorted)",
        metavar="FILE|A,B,...",
    )
    splits: str = option(DEFAULT_SPLITS, help="splits and their shares; name the held-out ones last")
    split_by: str = option(
        "content",
        help="content: hash of the file; uri: hash of its key; group:COLUMN: images with the same value stay "
        "together; column:COLUMN or manifest (its column split): as it stands there",
    )
    split_seed: int = option(0, help="another number gives another split", metavar="N")
    target_shard_bytes: int = option(
        layout.TARGET_SHARD_BYTES, help="about how many bytes of images go into a shard", metavar="N"
    )
    encode: str = option(
        "passthrough",
        help="passthrough: plain upright JPEG and PNG files are stored as they are, others anew; "
        "jpeg, png: all are encoded anew",
        choices=ENCODINGS,
    )
    jpeg_quality: int = option(95, help="1 to 100, for what is encoded as JPEG", metavar="Q")
    max_side: int = option(0, help="shrink images whose longer side has more pixels; 0: none", metavar="PX")
    max_pixels: int = option(EncodeSettings.max_pixels, help="refuse images with more pixels", metavar="N")
    threads: int = option(0, help="for decoding and encoding, in each process; 0: one a core", metavar="N")
    retry_failed: bool = option(
        False, help="with --resume: also redo finished shards in which images failed for good"
    )


def read_classes(text: str) -> tuple[str, ...]:
    """The class list that ``--classes`` gives: ``a,b,c``, or a file with one a line.

    Raises:
      UsageError: a class stands twice, or the file is empty.
    """
    if not text:
        return ()
    lines = storage.read_text(text).splitlines() if storage.exists(text) else text.split(",")
    classes = [line.strip() for line in lines if line.strip()]
    repeated = [name for name in classes if classes.count(name) > 1]
    if repeated or not classes:
        raise UsageError(f"--classes {text}: {f'{repeated[0]!r} stands twice' if repeated else 'no class'}")
    return tuple(classes)


def plan_job(options: Options, *, run_id: str = "", attempt: int = 1) -> Job:
    """What the options ask for.

    Raises:
      UsageError: a value out of its range.
    """
    if options.target_shard_bytes < 1:
        raise UsageError(f"--target_shard_bytes {options.target_shard_bytes} is less than 1")
    if options.retry_failed and not options.resume:
        raise UsageError("--retry_failed goes with --resume: without it everything is written anew")
    return Job(
        folder=storage.absolute(options.output),
        rule=SplitRule(parse_splits(options.splits), options.split_by, options.split_seed),
        target_shard_bytes=options.target_shard_bytes,
        settings=EncodeSettings(
            encode=options.encode,
            jpeg_quality=options.jpeg_quality,
            max_side_px=options.max_side or None,
            max_pixels=options.max_pixels,
        ),
        run_id=run_id,
        attempt=attempt,
        resume=options.resume,
        retry_failed=options.retry_failed,
        threads=options.threads,
    )


def failures_folder(options: Options) -> str:
    """Where the dead letter goes."""
    return storage.absolute(options.failures or storage.join(options.output, layout.FAILURES))


def preflight(options: Options) -> dict[str, Any]:
    """Checks everything that can be known before images are read, and says what would be done.

    Raises:
      UsageError: the job can't run as asked.
    """
    from beam_vision.sinks.letters import letter_beside

    job = plan_job(options)
    classes = read_classes(options.classes)
    source = find_source(options)
    if source.format == "tfrecord":
        raise UsageError("--images is a TFRecord dataset already; give the images it was made from")
    if source.format == "folder" and f"{job.folder}/".startswith(f"{source.path.rstrip('/')}/"):
        raise UsageError(
            f"--output {job.folder} lies within --images {source.path}; take a folder outside it"
        )
    failures = failures_folder(options)
    letter_beside(failures, job.folder).check()
    inside = failures.removeprefix(job.folder + "/")
    layout.check_output(job.folder, also_allowed=[inside.partition("/")[0]] if inside != failures else [])
    return {
        "job": NAME,
        "images": source_facts(source),
        "output": job.folder,
        "output_holds": _what_is_there(job.folder),
        "resume": options.resume,
        "splits": job.rule.splits,
        "split_by": job.rule.by,
        "classes": list(classes) or "all labels found, sorted",
        "target_shard_bytes": job.target_shard_bytes,
        "encode_settings": job.settings.to_json(),
        "failures": failures,
    }


def _what_is_there(folder: str) -> str:
    if storage.exists(storage.join(folder, layout.MANIFEST)):
        manifest = read_manifest(folder)
        return f"a finished dataset of {manifest.images} images in {len(manifest.shards)} shards"
    shards = sum(map(layout.is_shard, storage.list_folder(folder)))
    return f"{shards} shards of an unfinished dataset" if shards else "nothing"


def build(pipeline: beam.Pipeline, options: Options, *, run_id: str, attempt: int = 1) -> None:
    """Adds the job to a pipeline; ``attempt`` stands in its failures."""
    import apache_beam as beam

    from beam_vision.records import plan_transforms, schema, write_transforms
    from beam_vision.sinks.transforms import WriteFailures
    from beam_vision.sources.files import read_image
    from beam_vision.sources.transforms import ListImages, ReadImages

    job = plan_job(options, run_id=run_id, attempt=attempt)
    classes = read_classes(options.classes)
    listed = pipeline | "ListImages" >> ListImages(
        find_source(options),
        limit=options.limit,
        classes=classes,
        run_id=run_id,
        attempt=attempt,
    )
    read = listed.good | ReadImages(run_id=run_id, attempt=attempt)
    items = read.good | plan_transforms.FingerprintImages()
    planned = (items, listed.good) | plan_transforms.PlanShards(job, classes=classes)
    written = planned | write_transforms.WriteShards(job, read_image)
    records, problems = written.good | write_transforms.ReadBack(job.folder)
    report = (
        (listed.failed, read.failed, planned.failed, written.failed)
        | "AllFailed" >> beam.Flatten()
        | WriteFailures(failures_folder(options), run_id=run_id, job=NAME, output=job.folder)
    )
    inputs = (listed.good, listed.failed) | "AllListed" >> beam.Flatten() | beam.combiners.Count.Globally()
    committed = planned.plan | write_transforms.CommitDataset(
        job,
        infos=written.good,
        observed=records | write_transforms.ObserveRecords(schema.for_reading()),
        problems=problems,
        inputs=inputs,
        report=report,
    )
    if jobs.template_of(pipeline.options):
        facts = (beam.pvalue.AsSingleton(report), beam.pvalue.AsList(committed))
        accounts = inputs | "Accounts" >> beam.Map(_accounts, *facts)
        jobs.judge_on_a_worker(accounts, options.max_failure_rate, failures_folder(options))


def _accounts(inputs: int, report: dict[str, Any], committed: list[dict[str, Any]]) -> Accounts:
    """The accounts of a run; nothing is committed where no image came through."""
    counts = committed[0] if committed else {"outputs": 0, "already_done": 0}
    return Accounts(
        inputs=inputs,
        outputs=counts["outputs"],
        failed_by_reason=report["by_reason"],
        already_done=counts["already_done"],
    )


def summarise(options: Options, run_id: str, ran: Ran, wall_sec: float) -> jobs.Summary:
    """The accounts of a run, from what it committed; without a manifest of its own, all images failed."""
    from beam_vision.sinks.letters import counts_of

    folder, failures = storage.absolute(options.output), failures_folder(options)
    committed = storage.exists(storage.join(folder, layout.MANIFEST))
    manifest: DatasetManifest | None = read_manifest(folder) if committed else None
    if manifest is None or manifest.run_id != run_id:
        by_reason = counts_of(failures, output=folder)
        total = sum(by_reason.values())
        return jobs.Summary(
            job=NAME,
            run_id=run_id,
            inputs=total,
            outputs=0,
            failed=total,
            failed_by_reason=by_reason,
            wall_sec=wall_sec,
            failures=failures,
        )
    return jobs.Summary(
        job=NAME,
        run_id=run_id,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        failed=manifest.failed,
        already_done=manifest.already_done,
        failed_by_reason=manifest.failed_by_reason,
        images_per_sec=manifest.inputs / max(wall_sec, 1e-9),
        wall_sec=wall_sec,
        stage_sec=ran.stage_sec,
        digests={"dataset": manifest.dataset_digest, "encode": manifest.encode_digest},
        output=folder,
        failures=failures,
        annotations=_annotations(manifest),
        notes=_notes(manifest, folder),
    )


def _annotations(manifest: DatasetManifest) -> dict[str, Any]:
    """The accounts of the boxes; none where no image is annotated."""
    if not manifest.box_classes and not manifest.annotations_failed:
        return {}
    return {
        "boxes": sum(manifest.boxes.values()),
        "clipped": manifest.boxes_clipped,
        "failed": manifest.annotations_failed,
        "failed_by_reason": manifest.annotations_failed_by_reason,
    }


def _notes(manifest: DatasetManifest, folder: str) -> list[str]:
    notes = [
        f"{name}: {split.images:,} images, {len(split.shards)} shards, {split.bytes / 1e6:,.1f} MB"
        for name, split in manifest.splits.items()
    ]
    notes.append(f"{len(manifest.classes)} classes; {manifest.encoded_anew:,} images encoded anew")
    if manifest.box_classes:
        boxes, categories = sum(manifest.boxes.values()), len(manifest.box_classes)
        notes.append(f"{boxes:,} boxes of {categories} categories; {manifest.boxes_clipped:,} cut at an edge")
    if manifest.annotations_failed:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in manifest.annotations_failed_by_reason.items())
        where = storage.join(folder, layout.ANNOTATION_FAILURES)
        notes.append(f"{manifest.annotations_failed:,} annotations left out ({reasons}); see {where}")
    if manifest.moved_duplicates:
        notes.append(
            f"{manifest.moved_duplicates:,} images went to the split in which a copy of them is held out"
        )
    return notes


def run(argv: list[str], *, attempt: int = 1) -> int:
    """Runs the job; see :mod:`beam_vision.pipelines.cli` for the exit codes. A redrive is a later attempt."""
    parser = make_parser(NAME, Options, description=__doc__.partition(": ")[2], example=EXAMPLE)
    options, beam_args = parse(parser, Options, argv)
    plan = preflight(options)
    if options.preflight_only:
        return jobs.show_plan(plan)
    run_id, start = jobs.new_run_id(), time.monotonic()
    names = ("images", "image_root", "output", "failures")
    ran = jobs.execute(
        lambda pipeline: build(pipeline, options, run_id=run_id, attempt=attempt),
        beam_args,
        paths={f"--{name}": getattr(options, name) for name in names},
    )
    if ran.template:
        return jobs.written(ran)
    summary = summarise(options, run_id, ran, time.monotonic() - start)
    return jobs.finish(summary, options, ran)
