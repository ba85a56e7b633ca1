"""What is made of each image: the options that every job that predicts shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from beam_vision.dataflow.resources import CPU_BATCH_SIZE
from beam_vision.errors import UsageError
from beam_vision.pipelines.model_options import ModelOptions
from beam_vision.pipelines.options import option


@dataclass(frozen=True, kw_only=True)
class TaskOptions(ModelOptions):
    """Which task, and how it is done."""

    task: str = option(
        help="classify: labels with scores; embed: a vector of length one; detect: boxes with labels",
        choices=("classify", "embed", "detect"),
    )
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
    tile: int = option(
        0,
        help="cut large images in tiles of N pixels for the model; detect merges what is found in them, else "
        "a row is a tile; 0: whole images",
        metavar="N",
    )
    tile_overlap: float = option(0.2, help="share of a tile that its neighbour has too", metavar="SHARE")


def check_task(options: TaskOptions) -> None:
    """Checks what can be checked without the model.

    Raises:
      UsageError: an option is out of range.
    """
    if options.tile < 0:
        raise UsageError(f"--tile is {options.tile}; it must be 0 or more")
    if not 0 <= options.tile_overlap < 1:
        raise UsageError(f"--tile_overlap is {options.tile_overlap}; it must be in 0..1, less than 1")


def engine_settings(options: TaskOptions) -> dict[str, Any]:
    """What inference makes of each image, as arguments of ``EngineSettings`` and ``Infer``."""
    names = ("task", "with_embedding", "top_k")
    settings = {name: getattr(options, name) for name in names}
    settings["batch_size"] = options.batch_size or CPU_BATCH_SIZE
    if options.tile:
        settings |= {"tile_px": options.tile, "tile_overlap": options.tile_overlap}
    return settings | detection(options)


def detection(options: TaskOptions) -> dict[str, Any]:
    """Which boxes are kept; nothing where none are looked for."""
    if options.task != "detect":
        return {}
    names = ("score_threshold", "max_detections", "nms", "nms_iou")
    return {name: getattr(options, name) for name in names}


def tiles(options: TaskOptions) -> dict[str, Any] | None:
    """How images are cut; None for whole ones."""
    return {"tile": options.tile, "tile_overlap": options.tile_overlap} if options.tile else None
