"""``beam-vision demo``: everything, on real images: dataset, model, table, index, searches, HTML report.

It runs the other jobs with the command lines that a user would type, and prints them as it goes.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from dataclasses import dataclass
from typing import Any

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import demo_detection
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.demo_stages import Places, as_typed, call, run_stage
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.pipelines.synth_detection import check_default_material
from beam_vision.reports.data import Hit, Query, Shown, StageRun

NAME = "demo"
DESCRIPTION = (
    "Writes a lake of real images (or takes yours), makes TFRecords of it, trains a small classifier with\n"
    "an embedding layer, predicts and embeds the whole lake, builds an index, searches, and writes an HTML\n"
    "report; then makes scenes of digits on photographs, trains a detector on them and evaluates it.\n"
    "Run again, it keeps the lake and makes all else anew."
)
EXAMPLE = "beam-vision demo --output demo-output --images my_class_folders/"
QUERIES = 6
NEIGHBORS = 10


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``demo`` takes."""

    output: str = option("demo-output", help="folder for all that it writes", metavar="DIR")
    images: str = option(
        "", help="your own folder of class folders (default: a lake that the demo writes)", metavar="DIR"
    )
    train_seconds: float = option(60.0, help="how long to train, at most", metavar="SEC")
    image_size: int = option(64, help="side of the model's input in pixels", metavar="PX")
    detection: bool = option(True, help="also make scenes with boxes, train a detector and evaluate it")
    detector_seconds: float = option(90.0, help="how long to train the detector, at most", metavar="SEC")
    scenes: int = option(1000, help="how many scenes to make for the detector", metavar="N")
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


def preflight(options: Options) -> dict[str, Any]:
    """Checks what can be checked before anything runs.

    Raises:
      UsageError: there is no such folder of images, or the output can't be written here.
    """
    if storage.is_remote(options.output):
        raise UsageError(f"--output {options.output}: the demo runs here and writes to a local folder")
    if options.images and not storage.is_folder(options.images):
        raise UsageError(f"--images {options.images}: no such folder; give a folder of class folders")
    if options.detection:
        check_default_material()
    places = places_of(options)
    return {"images": places.images, "writes_lake": not options.images, "output": places.output}


def places_of(options: Options) -> Places:
    """Where everything goes for these options."""
    output = options.output.rstrip("/") or "/"
    return Places(output, options.images or storage.join(output, "lake"))


def commands(options: Options) -> list[list[str]]:
    """The jobs to run, one after the other, as a user would type them."""
    at = places_of(options)
    return [
        [
            *("create-tfrecords", "--images", at.images, "--output", at.dataset),
            *("--summary", at.summary("create-tfrecords")),
        ],
        [
            *("train", "--dataset", at.dataset, "--output", at.model, "--overwrite"),
            *("--image_size", str(options.image_size), "--max_seconds", f"{options.train_seconds:g}"),
        ],
        [
            *("predict", "--task", "classify", "--with_embedding", "--images", at.images),
            *("--model", at.model, "--output", at.table, "--summary", at.summary("predict")),
        ],
        [
            *("build-index", "--table", at.table, "--output", at.index),
            *("--summary", at.summary("build-index")),
        ],
    ]


def all_commands(options: Options) -> list[list[str]]:
    """The same, with those of the detection part."""
    if not options.detection:
        return commands(options)
    at = demo_detection.places_of(places_of(options).output)
    return [*commands(options), *demo_detection.commands(at, options.scenes).values()]


def run(argv: list[str]) -> int:
    """Runs the demo; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    plan = preflight(options)
    if options.preflight_only:
        return jobs.show_plan({**plan, "commands": [as_typed(command) for command in all_commands(options)]})
    places = places_of(options)
    stages = [] if options.images else [write_lake(places.images)]
    stages += [run_stage(command, places) for command in commands(options)]
    queries, searching = search(places)
    stages.append(searching)
    show_sql(places)
    detected = None
    if options.detection:
        detected = demo_detection.run(
            places.output, scenes=options.scenes, max_seconds=options.detector_seconds
        )
        stages += detected.stages
    from beam_vision.pipelines.demo_report import write

    size_bytes = write(
        places,
        stages,
        queries,
        own_images=bool(options.images),
        detection=detected.report if detected else None,
    )
    jobs.emit(f"\n{summary_table(stages)}\n\n")
    jobs.emit(f"report: {storage.absolute(places.report)} ({size_bytes / 1e6:.1f} MB)")
    return 0


def write_lake(folder: str) -> StageRun:
    """Writes the lake, or finds it there."""
    from beam_vision.pipelines.demo_lake import make_lake

    jobs.say(f"\nwriting a lake of real images to {folder}")
    start = time.monotonic()
    written = make_lake(folder)
    note = "scanned digits and crops of photographs" if written else "was there already"
    jobs.say(f"  {note}")
    return StageRun(name="write the lake", command="", wall_sec=time.monotonic() - start, note=note)


def search(places: Places) -> tuple[list[Query], StageRun]:
    """A few searches by key, and one by file; with their results."""
    from beam_vision.reports.collect import query_images, read_rows

    images = query_images(read_rows(places.table), QUERIES)
    start = time.monotonic()
    queries = [_search(image, places, by_file=image is images[-1]) for image in images]
    note = f"{len(queries)} searches, {NEIGHBORS} neighbours each"
    return queries, StageRun(name="search", command="", wall_sec=time.monotonic() - start, note=note)


def _search(image: Shown, places: Places, *, by_file: bool) -> Query:
    asked = ["--image", image.uri, "--model", places.model] if by_file else ["--key", image.key]
    command = ["search", "--index", places.index, *asked, "--k", str(NEIGHBORS)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        call([*command, "--output_format", "json"])
    hits = [
        Hit(Shown(found["key"], found["uri"], found["label"]), found["score"])
        for found in json.loads(printed.getvalue())
    ]
    jobs.say("  " + ", ".join(f"{hit.image.label} {hit.score:.3f}" for hit in hits))
    return Query(image, hits, as_typed(command))


def show_sql(places: Places) -> None:
    """The classes that the model is least sure of, by SQL over the table."""
    statement = (
        "SELECT prediction, count(*) AS images, round(avg(score), 3) AS mean_score "
        "FROM images GROUP BY prediction ORDER BY mean_score LIMIT 5"
    )
    call(["sql", statement, "--table", places.table])


def summary_table(stages: list[StageRun]) -> str:
    """A row for each stage: in, out, failed, seconds."""
    lines = [f"{'stage':<18}{'in':>10}{'out':>10}{'failed':>10}{'seconds':>10}"]
    for stage in stages:
        counts = ["", "", ""]
        if stage.inputs is not None:
            counts = [f"{n:,}" for n in (stage.inputs, stage.outputs + stage.already_done, stage.failed)]
        row = "".join(f"{text:>10}" for text in counts)
        lines.append(f"{stage.name:<18}{row}{stage.wall_sec:>10.1f}")
    whole = sum(stage.wall_sec for stage in stages)
    lines.append(f"{'in all':<18}{'':>30}{whole:>10.1f}")
    return "\n".join(lines)
