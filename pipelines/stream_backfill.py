"""``beam-vision stream --backfill``: the steps of the stream in batch, over an archive of frames.

Rows have the ids that a live run gives them, so what is in the table already stays as it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines import stream
from beam_vision.pipelines.ran import Ran, write_metrics
from beam_vision.pipelines.resource_options import resources_of
from beam_vision.pipelines.stream_graph import Plan, write
from beam_vision.pipelines.stream_options import Options, parse_settings, paths, watch_settings
from beam_vision.pipelines.stream_tables import folders_of, make_tables, merge_tables, staging_of
from beam_vision.sinks.accounts import Accounts, accounts_path, read_accounts

if TYPE_CHECKING:
    import apache_beam as beam

    from beam_vision.sources.spec import SourceSpec
    from beam_vision.streaming.archive import ArchiveSettings


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where the frames are.

    Attributes:
      source: found and checked.
      settings: how its images become messages.
    """

    source: SourceSpec
    settings: ArchiveSettings


def find_archive(options: Options) -> Archive:
    """Finds and checks the archive.

    Raises:
      UsageError: it isn't there, is no archive of frames, or the output lies in it.
    """
    from beam_vision.sources.spec import resolve
    from beam_vision.streaming.archive import ArchiveSettings, archive_parsing, check_source

    try:
        source = resolve(options.input, options.format, options.image_root)
    except UsageError as error:
        raise UsageError(str(error).replace("--images", "--input")) from error
    parsing = archive_parsing(parse_settings(options))
    check_source(source.format, options.input, parsing)
    is_folder = source.format == "folder"
    for folder in options.folders if is_folder else ():
        if f"{folder}/".startswith(f"{source.path.rstrip('/')}/"):
            raise UsageError(f"--output {folder} lies within --input {source.path}; take a folder outside it")
    name = source.path.rstrip("/").rpartition("/")[2] if is_folder else ""
    return Archive(source=source, settings=ArchiveSettings(parse=parsing, root_camera=name))


def build(pipeline: beam.Pipeline, options: Options, plan: Plan, archive: Archive) -> None:
    """Adds the job to a pipeline: an archive's images to frames, frames to rows."""
    import apache_beam as beam

    from beam_vision.sinks.accounts_transforms import WriteAccounts
    from beam_vision.sources.transforms import ListImages
    from beam_vision.stream_types import DeadLetter, Message
    from beam_vision.streaming.archive import as_message, unlisted
    from beam_vision.streaming.archive_transforms import WatchArchive
    from beam_vision.streaming.parse_transforms import ParseMessages

    listed = pipeline | "ListImages" >> ListImages(
        options.input, format=options.format, image_root=options.image_root, run_id=plan.run_id
    )
    to_message = beam.Map(as_message, archive.settings).with_output_types(Message)
    messages = listed.good | "AsMessages" >> to_message
    parsed = messages | "ParseMessages" >> ParseMessages(archive.settings.parse, run_id=plan.run_id)
    watched = parsed.frames | "WatchArchive" >> WatchArchive(watch_settings(options), run_id=plan.run_id)
    not_listed = listed.failed | "Unlisted" >> beam.Map(unlisted).with_output_types(DeadLetter)
    written = write(
        watched.frames,
        replace(options, max_batch_latency_ms=0.0, model_poll_sec=0.0),
        plan,
        dead=[not_listed, parsed.dead, watched.dead],
        observed=[parsed.observed, watched.observed],
        rows=[watched.alerts],
    )
    _ = pipeline | "WriteAccounts" >> WriteAccounts(
        folders_of(options, plan)[0],
        plan.run_id,
        inputs=listed,
        ends=[written.rows, *written.dead, *written.observed, written.committed[0]],
    )


def preflight(options: Options, plan: Plan, archive: Archive) -> dict[str, Any]:
    """What would be done."""
    return stream.facts(options, plan) | {
        "backfill": True,
        "input": {"format": archive.source.format, "paths": list(archive.source.paths)},
        "runner": "local" if plan.is_local else "Beam's, in batch",
    }


def summarise(options: Options, plan: Plan, accounts: Accounts, ran: Ran, wall_sec: float) -> dict[str, Any]:
    """What the run did: each image is one of these."""
    return {
        "job": stream.NAME,
        "run_id": plan.run_id,
        "backfill": True,
        "inputs": accounts.inputs,
        "outputs": accounts.rows,
        "outputs_new": accounts.new_rows,
        "failed": accounts.failed,
        "failed_by_reason": dict(accounts.failed_by_reason),
        "gated": accounts.gated,
        "duplicates": accounts.duplicates,
        "images_per_sec": accounts.inputs / max(wall_sec, 1e-9),
        "wall_sec": wall_sec,
        "stage_sec": ran.stage_sec,
        "digests": stream.digests(plan),
        "output": list(options.outputs),
    }


def finished(options: Options, plan: Plan) -> Accounts:
    """What became of each image, once its row is in BigQuery, too, where that is asked for.

    Raises:
      JobError: the run wrote no accounts, or BigQuery refused.
    """
    accounts = read_accounts(accounts_path(folders_of(options, plan)[0], plan.run_id))
    if not plan.staging:
        return accounts
    new = merge_tables(options, plan)
    for name in options.tables[: not options.folders]:
        accounts = replace(accounts, new_rows=new.get(name.path, 0))
    return accounts


def backfill(options: Options, beam_args: list[str]) -> int:
    """Runs the job.

    Raises:
      UsageError: it can't run as asked.
      JobError: it ran, and its result is not acceptable.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    resources = resources_of(options, beam_args, paths(options))
    options, beam_args = resources.applied_to(options), resources.beam_args
    beam_options = jobs.beam_options(beam_args)
    _, is_local = jobs.runner_of(beam_options)
    start = time.monotonic()
    plan = stream.prepare(options, jobs.new_run_id(), local=is_local, resources=resources)
    temp_location = beam_options.view_as(GoogleCloudOptions).temp_location or ""
    plan = replace(plan, staging=staging_of(options, plan, temp_location))
    archive = find_archive(options)
    if options.preflight_only:
        return jobs.show_plan(preflight(options, plan, archive))
    make_tables(options, plan)
    ran = jobs.execute(lambda pipeline: build(pipeline, options, plan, archive), beam_args)
    if ran.template:
        return jobs.written(ran)
    accounts = finished(options, plan)
    summary = summarise(options, plan, accounts, ran, time.monotonic() - start)
    jobs.say(stream.render(summary, "images"))
    if options.summary:
        storage.write_json(options.summary, summary)
    write_metrics(options.metrics_file, summary, replace(ran, gpu=options.gpu))
    accounts.check()
    return 0
