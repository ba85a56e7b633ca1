"""The options of ``predict``, and what of them decides what a table's rows say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError
from beam_vision.pipelines.model_options import ModelOptions
from beam_vision.pipelines.options import CommonOptions, SourceOptions, option
from beam_vision.sinks.rows import RowSettings

if TYPE_CHECKING:
    from beam_vision.inference.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, SourceOptions, CommonOptions):
    """What ``predict`` takes."""

    task: str = option(
        help="classify: labels with scores; embed: a vector of length one; detect: boxes with labels",
        choices=("classify", "embed", "detect"),
    )
    output: str = option(help="folder for the table: empty, or with an earlier one", metavar="DEST")
    with_embedding: bool = option(False, help="classify: write the embedding too")
    score_threshold: float = option(0.05, help="detect: leave out boxes with a lower score", metavar="SCORE")
    max_detections: int = option(100, help="detect: at most so many boxes an image", metavar="N")
    nms: str = option(
        "model",
        help="detect: of boxes of one class that overlap, hard keeps the best, soft_* lowers the others' "
        "scores; model: what the model does itself, hard if it does nothing",
        choices=("model", "hard", "soft_linear", "soft_gaussian", "none"),
    )
    nms_iou: float = option(
        0.5, help="detect: boxes that overlap by more (IoU) are taken for one object", metavar="IOU"
    )
    rows: str = option(
        "images",
        help="detect: a row an image with all its boxes, or a row a box (an image without boxes has one too)",
        choices=("images", "boxes"),
    )
    tile: int = option(
        0,
        help="cut large images in tiles of N pixels for the model; detect merges what is found in them, else "
        "a row is a tile; 0: whole images",
        metavar="N",
    )
    tile_overlap: float = option(0.2, help="share of a tile that its neighbour has too", metavar="SHARE")
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
    if options.tile < 0:
        raise UsageError(f"--tile is {options.tile}; it must be 0 or more")
    if not 0 <= options.tile_overlap < 1:
        raise UsageError(f"--tile_overlap is {options.tile_overlap}; it must be in 0..1, less than 1")


def engine_settings(options: Options) -> dict[str, Any]:
    """What inference makes of each image, as arguments of ``EngineSettings`` and ``Infer``."""
    names = ("task", "with_embedding", "top_k", "batch_size")
    settings = {name: getattr(options, name) for name in names}
    if options.tile:
        settings |= {"tile_px": options.tile, "tile_overlap": options.tile_overlap}
    return settings | detection(options)


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


def detection(options: Options) -> dict[str, Any]:
    """Which boxes are kept; nothing where none are looked for."""
    if options.task != "detect":
        return {}
    names = ("score_threshold", "max_detections", "nms", "nms_iou")
    return {name: getattr(options, name) for name in names}


def tiles(options: Options) -> dict[str, Any] | None:
    """How images are cut; None for whole ones."""
    return {"tile": options.tile, "tile_overlap": options.tile_overlap} if options.tile else None
