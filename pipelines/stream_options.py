"""The options of ``stream``, and what is made of them before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from beam_vision import pubsub, storage
from beam_vision.dataflow.resources import CPU_BATCH_SIZE
from beam_vision.errors import UsageError
from beam_vision.pipelines.model_options import overrides_of
from beam_vision.pipelines.options import ReportOptions, option
from beam_vision.pipelines.resource_options import ResourceOptions
from beam_vision.pipelines.task_options import TaskOptions
from beam_vision.warehouse.names import SCHEME, TableName, is_bigquery, parse_table

if TYPE_CHECKING:
    from beam_vision.inference.serving_load import ServingSettings
    from beam_vision.streaming.batching import BatchSettings
    from beam_vision.streaming.content import ParseSettings
    from beam_vision.streaming.health import WatchSettings
    from beam_vision.streaming.windows import WindowSettings

STATE = ".state"


@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions, ResourceOptions, ReportOptions):
    """What ``stream`` takes."""

    input: str = option(
        help="pubsub://projects/P/subscriptions/S (or .../topics/T, which misses what was published before), "
        "or a folder to watch: FOLDER/CAMERA/*.jpg; with --backfill an archive",
        metavar="SRC",
    )
    output: str = option(
        help="where rows go, several separated by commas: a folder (Parquet tables by window), "
        "bigquery://PROJECT.DATASET.TABLE (and TABLE_counts, TABLE_health ...), pubsub://projects/P/topics/T",
        metavar="DEST",
    )
    failures: str = option(
        "",
        help="write what failed, payload and all, to these too, separated by commas: a topic "
        "(pubsub://projects/P/topics/T), a table (bigquery://PROJECT.DATASET.TABLE); default: only to "
        "OUTPUT/failures, or the table OUTPUT_failures",
        metavar="DEST",
    )
    add_columns: bool = option(False, help="add columns that a table of BigQuery lacks")
    write_method: str = option(
        "append",
        help="how rows go to BigQuery: by the Storage Write API from Python, or on Dataflow by Beam's way to "
        "it, in Java (both at least once; the views TABLE_once show each row once)",
        choices=("append", "storage_write_api"),
    )
    staging: str = option(
        "",
        help="a backfill into BigQuery: where rows are kept until they are loaded (default: a folder for "
        "temporary files here, or of --temp_location)",
        metavar="DIR",
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
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The destinations."""
        return parts_of(self.output)

    @property
    def topics(self) -> tuple[str, ...]:
        """Those that are Pub/Sub topics."""
        return tuple(item for item in self.outputs if item.startswith(pubsub.SCHEME))

    @property
    def tables(self) -> tuple[TableName, ...]:
        """Those that are tables of BigQuery."""
        return tuple(parse_table(item, option="--output") for item in self.outputs if is_bigquery(item))

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that are folders."""
        found = (item for item in self.outputs if not item.startswith((pubsub.SCHEME, SCHEME)))
        return tuple(storage.absolute(item).rstrip("/") for item in found)

    @property
    def failure_topics(self) -> tuple[str, ...]:
        """The topics that failures go to."""
        return tuple(item for item in parts_of(self.failures) if item.startswith(pubsub.SCHEME))

    @property
    def failure_tables(self) -> tuple[TableName, ...]:
        """The tables that failures go to besides those of ``--output``."""
        return tuple(
            parse_table(item, option="--failures") for item in parts_of(self.failures) if is_bigquery(item)
        )


def parts_of(text: str) -> tuple[str, ...]:
    """What commas separate."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def paths(options: Options) -> dict[str, str]:
    """What workers read and write, by option."""
    names = ("input", "output", "failures", "staging", "model", "image_root")
    return {f"--{name}": getattr(options, name) for name in names}


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
    if not (options.backfill or options.input.startswith(pubsub.SCHEME)):
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
        max_images=options.batch_size or CPU_BATCH_SIZE,
        max_latency_ms=options.max_batch_latency_ms,
        shards=shards,
        waits=waits,
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
