"""The options of ``stream``, and what is made of them before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines.model_options import overrides_of
from beam_vision.pipelines.options import option
from beam_vision.pipelines.task_options import TaskOptions, check_task

if TYPE_CHECKING:
    from beam_vision.inference.serving_load import ServingSettings
    from beam_vision.streaming.batching import BatchSettings
    from beam_vision.streaming.content import ParseSettings
    from beam_vision.streaming.health import WatchSettings
    from beam_vision.streaming.windows import WindowSettings

PUBSUB = "pubsub://"
STATE = ".state"
LIVE_ONLY = ("message_format", "once", "ready_file", "run_sec", "server_time", "state")
DATAFLOW_ONLY = ("id_label", "timestamp_attribute")
BACKFILL_ONLY = ("format", "image_root")


@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """What ``stream`` takes."""

    input: str = option(
        help="pubsub://projects/P/subscriptions/S (or .../topics/T, which misses what was published before), "
        "or a folder to watch: FOLDER/CAMERA/*.jpg; with --backfill an archive",
        metavar="SRC",
    )
    output: str = option(
        help="where rows go, several separated by commas: a folder (Parquet tables by window), "
        "pubsub://projects/P/topics/T",
        metavar="DEST",
    )
    failures: str = option(
        "",
        help="publish what failed, payload and all, to this topic too (default: only in the table "
        "OUTPUT/failures)",
        metavar="pubsub://projects/P/topics/T",
    )
    message_format: str = option(
        "auto",
        help="what messages are: image bytes with attributes, JSON with a URI, Cloud Storage notifications, "
        "CloudEvents; auto finds it from each message",
        choices=("auto", "bytes", "json", "gcs", "cloudevents"),
    )
    camera_attribute: str = option("camera", help="the attribute or JSON field with the camera's name")
    time_attribute: str = option("capture_time", help="the one with the capture time")
    sequence_attribute: str = option("sequence", help="the one with the camera's own count, if it counts")
    camera_pattern: str = option(
        "",
        help="regular expression with (?P<camera>...) and (?P<time>...), searched in a URI for what the "
        "message doesn't say",
        metavar="REGEX",
    )
    uri_prefixes: str = option(
        "",
        help="folders and buckets that messages may name images in, separated by commas (default: anything "
        "remote, no local files but those of --input)",
        metavar="URIS",
    )
    max_skew_sec: float = option(
        86_400.0, help="capture times older than this when published fail; 0: any is taken", metavar="SEC"
    )
    server_time: bool = option(False, help="take the time of publishing where a capture time is missing")
    window_sec: int = option(60, help="counts, health and parts are by windows of so many seconds")
    allowed_lateness_sec: float = option(
        300.0, help="frames that are later than this don't correct their window's counts", metavar="SEC"
    )
    watermark_lag_sec: float = option(
        5.0, help="local runs: frames may come out of order by this without being late", metavar="SEC"
    )
    gate_distance: int = option(
        -1,
        help="skip inference on frames that differ from the last one predicted in at most so many of 64 bits "
        "of a perceptual hash; -1: never",
        metavar="BITS",
    )
    heartbeat_sec: float = option(
        10.0, help="predict a camera at least so often, gated or not", metavar="SEC"
    )
    silent_sec: float = option(30.0, help="a camera without frames for so long is silent", metavar="SEC")
    frozen_sec: float = option(
        10.0, help="a camera that sends the same picture for so long is frozen", metavar="SEC"
    )
    max_batch_latency_ms: float = option(
        200.0,
        help="Dataflow: no frame waits longer for others to share a batch with; 0: none waits (a local run "
        "doesn't wait: what comes while a batch runs is the next one)",
        metavar="MS",
    )
    model_poll_sec: float = option(
        5.0, help="look so often whether LATEST names another version of the model; 0: never", metavar="SEC"
    )
    max_drop: float = option(
        0.05, help="a new version may do worse on golden images by this share of them", metavar="SHARE"
    )
    state: str = option(
        "",
        help="local runs: where state is kept (default: .state in the first folder of --output)",
        metavar="DIR",
    )
    lease_sec: int = option(
        60, help="local runs: messages of a killed run come again after so long, 10 to 600", metavar="SEC"
    )
    drain_sec: float = option(
        30.0, help="after SIGTERM: end without finishing what is in flight after so long", metavar="SEC"
    )
    run_sec: float = option(0.0, help="local runs: drain after so long; 0: never", metavar="SEC")
    once: bool = option(False, help="a folder as --input: end when all that is there was taken in")
    backfill: bool = option(
        False,
        help="--input is an archive: a folder of cameras, a glob (with --camera_pattern), or a manifest with "
        "columns for camera and time (.csv, .jsonl, .parquet). A batch job with the same steps and rows",
    )
    format: str = option(
        "auto",
        help="what the archive is; auto finds it from the path",
        choices=("auto", "folder", "glob", "csv", "jsonl", "parquet"),
    )
    image_root: str = option(
        "",
        help="where relative URIs of an archive's manifest start (default: the manifest's folder)",
        metavar="DIR",
    )
    id_label: str = option(
        "", help="Dataflow: the attribute by which messages published twice are dropped", metavar="NAME"
    )
    timestamp_attribute: str = option(
        "",
        help="Dataflow: the attribute with the capture time for the watermark; all must have it",
        metavar="NAME",
    )
    ready_file: str = option(
        "",
        help="local runs: write this file once the model is warm and messages are taken (a readiness probe)",
        metavar="FILE",
    )
    summary: str = option("", help="write the end-of-run summary to this file as JSON", metavar="FILE")
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The destinations."""
        return tuple(part.strip() for part in self.output.split(",") if part.strip())

    @property
    def topics(self) -> tuple[str, ...]:
        """Those that are Pub/Sub topics."""
        return tuple(item for item in self.outputs if item.startswith(PUBSUB))

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that are folders."""
        found = (item for item in self.outputs if not item.startswith(PUBSUB))
        return tuple(storage.absolute(item).rstrip("/") for item in found)


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
    if len({*options.folders, *options.topics}) < len(options.outputs):
        raise UsageError(f"--output {options.output} names a destination twice")
    if not options.outputs:
        raise UsageError("--output is empty; give a folder, or pubsub://projects/P/topics/T")
    for name in options.outputs:
        if "://" in name and not name.startswith((PUBSUB, "gs://", "file://", "s3://", "hdfs://")):
            raise UsageError(f"--output {name}: rows go to a folder or to pubsub://projects/P/topics/T")
    if options.tile and options.task != "detect":
        raise UsageError("--tile goes with --task detect here: a frame has one row")
    if options.failures and not options.failures.startswith(PUBSUB):
        raise UsageError(
            f"--failures {options.failures} must be pubsub://projects/P/topics/T; their table is in each "
            "folder of --output"
        )
    if not options.folders and not options.failures:
        raise UsageError(
            "what fails would be lost: give a folder among --output, or --failures pubsub://projects/P/topics/T"
        )
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
    if options.input.startswith(PUBSUB):
        raise UsageError(
            f"--input {options.input}: a backfill reads an archive; give a folder, a glob or a manifest, or "
            "leave out --backfill"
        )
    for name in sorted(given.intersection((*LIVE_ONLY, *DATAFLOW_ONLY))):
        raise UsageError(f"--{name} is of live streams; leave it out with --backfill")
    if not options.folders:
        raise UsageError("a backfill adds to a table: give its folder among --output")


def state_folder(options: Options) -> str:
    """Where a local run keeps its state.

    Raises:
      UsageError: it has to be said, because no output is a local folder.
    """
    if storage.is_remote(options.state):
        raise UsageError(f"--state {options.state} isn't on this machine; give a local folder")
    if options.state:
        return storage.absolute(options.state).rstrip("/")
    local = next((folder for folder in options.folders if not storage.is_remote(folder)), None)
    if local is None:
        raise UsageError(
            "where should the state of this run be kept? No --output is a local folder: give --state DIR"
        )
    return storage.join(local, STATE)


def parse_settings(options: Options) -> ParseSettings:
    """How messages are read."""
    from beam_vision.streaming.content import ParseSettings

    prefixes = [part.strip() for part in options.uri_prefixes.split(",") if part.strip()]
    if not (options.backfill or options.input.startswith(PUBSUB)):
        prefixes.append(storage.absolute(options.input).rstrip("/") + "/")
    return ParseSettings(
        format=options.message_format,
        camera_attribute=options.camera_attribute,
        time_attribute=options.time_attribute,
        sequence_attribute=options.sequence_attribute,
        camera_pattern=options.camera_pattern,
        uri_prefixes=tuple(prefixes),
        max_skew_sec=options.max_skew_sec,
        trust_server_time=options.server_time,
    )


def watch_settings(options: Options) -> WatchSettings:
    """How cameras are watched."""
    from beam_vision.streaming.health import WatchSettings

    names = ("gate_distance", "heartbeat_sec", "silent_sec", "frozen_sec")
    return WatchSettings(**{name: getattr(options, name) for name in names})


def batch_settings(options: Options, *, shards: int = 1, waits: bool = True) -> BatchSettings:
    """How frames are gathered into batches."""
    from beam_vision.streaming.batching import BatchSettings

    return BatchSettings(
        max_images=options.batch_size, max_latency_ms=options.max_batch_latency_ms, shards=shards, waits=waits
    )


def serving_settings(options: Options) -> ServingSettings:
    """Whether newer versions of the model are taken in while the job runs."""
    from beam_vision.inference.serving_load import ServingSettings

    if not options.model_poll_sec:
        return ServingSettings()
    return ServingSettings(
        root=storage.absolute(options.model),
        overrides=overrides_of(options, task=options.task),
        poll_sec=options.model_poll_sec,
        try_apart=options.check_model,
        max_drop=options.max_drop,
    )


def window_settings(options: Options) -> WindowSettings:
    """How observations are counted."""
    from beam_vision.streaming.windows import WindowSettings

    return WindowSettings(window_sec=options.window_sec, allowed_lateness_sec=options.allowed_lateness_sec)
