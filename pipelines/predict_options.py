"""The options of ``predict``, and what of them decides what a table's rows say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError
from beam_vision.pipelines.options import CommonOptions, SourceOptions, option
from beam_vision.pipelines.resource_options import ResourceOptions
from beam_vision.pipelines.task_options import (
    TaskOptions,
    check_task,
    detection,
    engine_settings,
    tiles,
)
from beam_vision.sinks.rows import RowSettings
from beam_vision.warehouse.names import is_bigquery

if TYPE_CHECKING:
    from beam_vision.inference.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions, ResourceOptions, SourceOptions, CommonOptions):
    """What ``predict`` takes."""

    output: str = option(
        help="where rows go: a folder, empty or with an earlier table, or a table of BigQuery "
        "(bigquery://PROJECT.DATASET.TABLE), made if need be",
        metavar="DEST",
    )
    staging: str = option(
        "",
        help="BigQuery: the folder in which rows are gathered before they are loaded (default: one in the "
        "system's folder for temporary files; on Dataflow, one in --temp_location)",
        metavar="DIR",
    )
    add_columns: bool = option(False, help="BigQuery: add columns that the table lacks")
    rows: str = option(
        "images",
        help="detect: a row an image with all its boxes, or a row a box (an image without boxes has one too)",
        choices=("images", "boxes"),
    )
    pictures: str = option(
        "",
        help="detect: also draw a sample of the images with their boxes, as a page (.html) or one picture "
        "(.png)",
        metavar="FILE",
    )
    flush_sec: float = option(
        20.0,
        help="write rows once the oldest is so old; what is written outlives a killed run",
        metavar="SEC",
    )


def check(options: Options) -> None:
    """Checks what can be checked without the model.

    Raises:
      UsageError: an option is out of range, or two don't go together.
    """
    if options.flush_sec < 0:
        raise UsageError(f"--flush_sec is {options.flush_sec}; it must be 0 or more")
    if options.rows == "boxes" and options.task != "detect":
        raise UsageError("--rows boxes goes with --task detect; other tasks find no boxes")
    if options.pictures and (options.task != "detect" or not options.pictures.endswith((".html", ".png"))):
        raise UsageError(
            f"--pictures {options.pictures} goes with --task detect and ends in .html (a page) or .png"
        )
    if options.pictures and is_bigquery(options.output):
        raise UsageError(
            "--pictures goes with an --output that is a folder; write one as well, and draw from it"
        )
    check_task(options)


def paths(options: Options) -> dict[str, str]:
    """What workers read and write, by option."""
    names = ("images", "image_root", "model", "output", "failures", "staging")
    return {f"--{name}": getattr(options, name) for name in names}


def row_settings(options: Options, spec: ModelSpec) -> RowSettings:
    """What the rows that ``options`` ask of a model have in common.

    Raises:
      UsageError: the model doesn't give what is asked for.
    """
    from beam_vision.inference.reading import EngineSettings

    wanted = EngineSettings(**engine_settings(options))
    wanted.check(spec)
    if wanted.embedding_wanted and spec.embedding_dim is None:
        raise UsageError("only running the model tells how long its embedding is; leave out --no-check_model")
    return RowSettings(
        task=options.task,
        embedding_dim=spec.embedding_dim if wanted.embedding_wanted else None,
        model_digest=spec.model_digest,
        preprocessing_digest=spec.preprocessing_digest,
        options_digest=settings_digest(says(options, spec)),
        rows="tiles" if options.tile and options.task != "detect" else options.rows,
    )


def says(options: Options, spec: ModelSpec) -> dict[str, Any]:
    """Whatever, besides the model and how images are prepared for it, decides what a row says."""
    of_task: dict[str, tuple[str, ...]] = {
        "classify": ("scores_output", "labels", "activation", "threshold"),
        "embed": ("embedding_output",),
        "detect": (
            *("detector", "boxes_output", "scores_output", "classes_output", "count_output", "raw_outputs"),
            *("box_format", "class_offset", "labels", "activation"),
        ),
    }
    names = set(of_task[options.task])
    if options.with_embedding and options.task == "classify":
        names.update(of_task["embed"])
    facts = {name: getattr(spec, name) for name in names}
    if options.task == "classify":
        facts["top_k"] = options.top_k
    return {**facts, **detection(options), "tiles": tiles(options)}
