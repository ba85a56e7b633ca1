"""What is checked of the options of ``stream`` before anything is looked at."""

from __future__ import annotations

from dataclasses import fields

from beam_vision import pubsub
from beam_vision.errors import UsageError
from beam_vision.pipelines.stream_options import Options, parts_of
from beam_vision.pipelines.task_options import check_task
from beam_vision.warehouse.names import FORM, SCHEME

LIVE_ONLY = ("message_format", "once", "ready_file", "run_sec", "server_time", "state")
DATAFLOW_ONLY = ("id_label", "timestamp_attribute", "write_method")
BACKFILL_ONLY = ("format", "image_root", "staging")
REMOTE = (pubsub.SCHEME, SCHEME, "gs://", "file://", "s3://", "hdfs://")


def check(options: Options) -> None:
    """Checks what can be checked without the model, the input or the outputs.

    Raises:
      UsageError: an option is out of range, or two don't go together.
    """
    check_task(options)
    check_mode(options)
    for name in ("input", "camera_attribute", "time_attribute"):
        if not getattr(options, name):
            raise UsageError(f"--{name} is empty")
    if options.tile and options.task != "detect":
        raise UsageError("--tile goes with --task detect here: a frame has one row")
    check_ends(options)
    for name in ("heartbeat_sec", "silent_sec", "frozen_sec", "drain_sec", "watermark_lag_sec"):
        if getattr(options, name) <= 0:
            raise UsageError(f"--{name} is {getattr(options, name)}; it must be more than 0")
    for name in (
        "max_batch_latency_ms",
        "allowed_lateness_sec",
        "max_skew_sec",
        "run_sec",
        "model_poll_sec",
    ):
        if getattr(options, name) < 0:
            raise UsageError(f"--{name} is {getattr(options, name)}; it must be 0 or more")
    if not 0 <= options.max_drop <= 1:
        raise UsageError(f"--max_drop is {options.max_drop}; it must be in 0..1")
    if options.window_sec < 1:
        raise UsageError(f"--window_sec is {options.window_sec}; it must be at least 1")
    if not -1 <= options.gate_distance <= 64:
        raise UsageError(f"--gate_distance is {options.gate_distance}; it must be in 0..64, or -1 for never")


def check_ends(options: Options) -> None:
    """Checks where rows and failures go.

    Raises:
      UsageError: they can't go there, or what fails would be lost.
    """
    if len({*options.folders, *options.topics, *options.tables}) < len(options.outputs):
        raise UsageError(f"--output {options.output} names a destination twice")
    if not options.outputs:
        raise UsageError(f"--output is empty; give a folder, {FORM} or pubsub://projects/P/topics/T")
    for name in options.outputs:
        if "://" in name and not name.startswith(REMOTE):
            raise UsageError(
                f"--output {name}: rows go to a folder, to {FORM} or to pubsub://projects/P/topics/T"
            )
    if len(options.failure_topics) + len(options.failure_tables) < len(parts_of(options.failures)):
        raise UsageError(
            f"--failures {options.failures} must be pubsub://projects/P/topics/T or {FORM}; each folder of "
            "--output has their table in any case"
        )
    if not (options.folders or options.tables or options.failures):
        raise UsageError(
            f"what fails would be lost: give a folder or {FORM} among --output, or --failures "
            "pubsub://projects/P/topics/T"
        )


def check_mode(options: Options) -> None:
    """Checks that nothing is asked of a backfill that only a live stream has, nor the other way round.

    Raises:
      UsageError: something is.
    """
    given = {field.name for field in fields(options) if getattr(options, field.name) != field.default}
    if not options.backfill:
        for name in sorted(given.intersection(BACKFILL_ONLY)):
            raise UsageError(f"--{name} is of an archive; it goes with --backfill")
        return
    if options.input.startswith(pubsub.SCHEME):
        raise UsageError(
            f"--input {options.input}: a backfill reads an archive; give a folder, a glob or a manifest, or "
            "leave out --backfill"
        )
    for name in sorted(given.intersection((*LIVE_ONLY, *DATAFLOW_ONLY))):
        raise UsageError(f"--{name} is of live streams; leave it out with --backfill")
    if not (options.folders or options.tables):
        raise UsageError(f"a backfill adds to a table: give its folder, or {FORM}, among --output")
