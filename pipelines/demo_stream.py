"""``beam-vision demo-stream``: three simulated cameras, a stream that predicts them, a model swapped in.

It runs ``beam-vision stream`` as a user would, in a process of its own, sends it frames, and draws a page.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import Any

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import demo_stream_cameras as cameras
from beam_vision.pipelines import demo_stream_model as models
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.demo_stages import as_typed
from beam_vision.pipelines.demo_stream_run import EXTRA_SEC, READY_SEC, Feed, Places, play
from beam_vision.pipelines.options import make_parser, option, parse

NAME = "demo-stream"
DESCRIPTION = (
    "Trains a small model, starts the Pub/Sub emulator where one is found, lets three simulated cameras\n"
    "(views that wander over photographs; one freezes, one sends broken frames) publish to it for a minute\n"
    "while `beam-vision stream` predicts them, offers a half-copied model and then a better one, and writes\n"
    "an HTML page. Without an emulator, and with --input, frames go through a watched folder."
)
EXAMPLE = "beam-vision demo-stream --output demo-stream-output"
MARK = "demo-stream.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``demo-stream`` takes."""

    output: str = option("demo-stream-output", help="folder for all that it writes", metavar="DIR")
    input: str = option(
        "",
        help="a folder to watch in place of Pub/Sub: images in FOLDER/CAMERA/ are streamed as they come; the "
        "simulated cameras write into an empty or new one",
        metavar="FOLDER",
    )
    seconds: float = option(60.0, help="how long the cameras run", metavar="SEC")
    frames_per_sec: float = option(8.0, help="frames a second of each camera", metavar="N")
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


def preflight(options: Options) -> dict[str, Any]:
    """Checks what can be checked before anything runs.

    Raises:
      UsageError: an option is out of range, the output isn't ours, or the photographs aren't installed.
    """
    if storage.is_remote(options.output):
        raise UsageError(f"--output {options.output}: the demo runs here and writes to a local folder")
    if storage.is_remote(options.input):
        raise UsageError(f"--input {options.input}: give a local folder to watch")
    if options.seconds < 5:
        raise UsageError(f"--seconds is {options.seconds:g}; it must be at least 5")
    if not 0 < options.frames_per_sec <= 60:
        raise UsageError(
            f"--frames_per_sec is {options.frames_per_sec:g}; it must be above 0, and 60 at most"
        )
    places = Places(storage.absolute(options.output))
    if storage.list_entries(places.output) and not storage.exists(storage.join(places.output, MARK)):
        raise UsageError(
            f"{places.output} holds something that this demo didn't write; name another --output"
        )
    cameras.load_photos()
    feed = feed_of(options, places)
    return {
        "input": feed.input,
        "emulator": feed.emulator or "",
        "simulated_cameras": feed.simulated,
        "output": places.output,
        "command": as_typed(command(options, places, feed)),
    }


def feed_of(options: Options, places: Places) -> Feed:
    """Where frames come from: ``--input``, else the emulator, else a watched folder of our own."""
    from beam_vision.streaming.emulator import find_emulator

    if options.input:
        folder = storage.absolute(options.input)
        return Feed(folder, None, simulated=cameras.may_fill(folder))
    jar = find_emulator()
    return Feed(cameras.subscription() if jar else places.frames, jar, simulated=True)


def command(options: Options, places: Places, feed: Feed) -> list[str]:
    """The stream, as a user would type it; bounds fit a run of a minute."""
    shortest = max(options.seconds / 15, 1.0)
    return [
        *("stream", "--task", "classify", "--input", feed.input),
        *("--model", places.model, "--output", places.table, "--window_sec", "5"),
        *("--watermark_lag_sec", "2", "--gate_distance", "2", "--heartbeat_sec", "2"),
        *("--frozen_sec", f"{shortest:g}", "--silent_sec", f"{shortest:g}", "--model_poll_sec", "1"),
        *("--ready_file", places.ready, "--summary", places.summary),
        *("--run_sec", f"{options.seconds + EXTRA_SEC + READY_SEC:g}"),
    ]


def run(argv: list[str]) -> int:
    """Runs the demo; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    plan = preflight(options)
    if options.preflight_only:
        return jobs.show_plan(plan)
    places = Places(storage.absolute(options.output))
    feed = feed_of(options, places)
    say_feed(options, feed)
    clear(places, feed)
    photos = cameras.load_photos()
    jobs.say("training two versions of a model that tells the photographs apart")
    if not models.make_models(places.model, photos):
        jobs.say("  they were there already")
    cast = cameras.plan(options.seconds, options.frames_per_sec) if feed.simulated else []
    play(places, feed, command(options, places, feed), cast, photos, seconds=options.seconds)
    from beam_vision.reports.stream import write_stream_report

    title = "Three simulated cameras" if feed.simulated else f"Images of {os.path.basename(feed.input)}"
    size_bytes = write_stream_report(places.page, places.table, title=title)
    show_sql(places)
    jobs.emit(f"report: {places.page} ({size_bytes / 1e6:.1f} MB)")
    return 0


def say_feed(options: Options, feed: Feed) -> None:
    """Says where frames come from, and why."""
    if feed.emulator:
        jobs.say(f"Pub/Sub emulator: {feed.emulator}")
    elif not options.input:
        from beam_vision.streaming.emulator import HOW_TO_INSTALL

        jobs.say(
            f"no Pub/Sub emulator found ({HOW_TO_INSTALL}, and java);\n"
            f"frames go through the watched folder {feed.input} instead, and through the same steps"
        )
    elif not feed.simulated:
        jobs.say(f"streaming the images in {feed.input}, and those that come; no camera is simulated")


def clear(places: Places, feed: Feed) -> None:
    """Removes what an earlier run wrote, but for its models."""
    storage.write_json(storage.join(places.output, MARK), {"made_by": "beam-vision demo-stream"})
    for folder in (places.table, places.frames):
        shutil.rmtree(folder, ignore_errors=True)
    storage.delete(places.ready)
    if feed.simulated and not feed.emulator:
        cameras.clear_frames(feed.input)


def show_sql(places: Places) -> None:
    """What each camera saw, and which model said so, by SQL over the table."""
    from beam_vision.pipelines.demo_stages import call

    statement = (
        "SELECT camera, SUBSTR(model_digest, 1, 12) AS model, COUNT(*) AS images, "
        "ROUND(APPROX_QUANTILES(total_ms, 100)[OFFSET(95)]) AS p95_ms, COUNT(DISTINCT prediction) AS labels "
        "FROM images GROUP BY ALL ORDER BY 1, 2"
    )
    call(["sql", statement, "--table", places.table])
