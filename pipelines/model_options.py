"""The options of every job that runs a model, and the spec that they make of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from beam_vision.dataflow.resources import CPU_BATCH_SIZE, GPU_BATCH_SIZE
from beam_vision.errors import UsageError
from beam_vision.pipelines.label_map import read_class_names, read_label_map
from beam_vision.pipelines.options import option

if TYPE_CHECKING:
    from beam_vision.inference.check import Report
    from beam_vision.inference.spec import ModelSpec

_SAME_NAMES = (
    *("signature", "input_name", "input_kind", "resize", "interpolation", "value_range", "channel_order"),
    *("layout", "scores_output", "embedding_output", "activation", "threshold"),
    *("detector", "boxes_output", "classes_output", "count_output", "box_format", "class_offset"),
)
"""Options that are fields of a ``ModelSpec``."""

_FOUND = "default: as model_spec.json says, else as found in the model"


@dataclass(frozen=True, kw_only=True)
class ModelFactOptions:
    """Which model, and what can't be found in it. Options win over ``model_spec.json``."""

    model: str = option(
        help="the model: a bundle, a SavedModel folder, a .keras, .onnx or .tflite file, or a root of "
        "versions with LATEST",
        metavar="DIR",
    )
    signature: str = option(
        "",
        help="SavedModel signature (default: serving_default, else serve, else the only one)",
        metavar="NAME",
    )
    input_name: str = option(
        "", help="the input that takes the images (default: the only one that can)", metavar="NAME"
    )
    input_kind: str = option(
        "",
        help=f"what an input of strings holds ({_FOUND})",
        choices=("pixels", "image_bytes", "tf_example"),
    )
    image_size: str = option(
        "", help="size of the input in pixels, for models that take any size", metavar="N|HxW"
    )
    resize: str = option(
        "",
        help="how images are brought to that size (default: stretch; letterbox for a YOLO)",
        choices=("stretch", "letterbox", "center_crop"),
    )
    interpolation: str = option(
        "",
        help="of the resize (default: bilinear)",
        choices=("nearest", "bilinear", "bicubic", "lanczos"),
    )
    value_range: str = option(
        "",
        help=f"the range of pixel values that the model expects ({_FOUND}, else 0..1)",
        choices=("0..255", "0..1", "-1..1", "imagenet"),
    )
    channel_order: str = option("", help="of the input (default: rgb)", choices=("rgb", "bgr"))
    layout: str = option("", help=f"of the input ({_FOUND})", choices=("NHWC", "NCHW"))
    class_names: str = option(
        "",
        help="names of the classes in the model's order: a text file of one a line, JSON, or a label map "
        "of class ids and names in JSON or .pbtxt (default: model_spec.json's, else class_0000, ...)",
        metavar="FILE",
    )
    scores_output: str = option("", help=f"the output with the scores ({_FOUND})", metavar="NAME")
    embedding_output: str = option(
        "", help=f"the output with the embedding; for .keras also a layer ({_FOUND})", metavar="NAME"
    )
    detector: str = option(
        "",
        help="how a detector's outputs are read: tf_od, keras_hub (detr and retinanet are of it too), yolo "
        f"(yolo_v5, yolo_v8, yolo_nms), or a function of your own as package.module:function ({_FOUND})",
        metavar="NAME",
    )
    boxes_output: str = option("", help=f"a detector's output with the boxes ({_FOUND})", metavar="NAME")
    classes_output: str = option(
        "", help=f"a detector's output with the class ids ({_FOUND})", metavar="NAME"
    )
    count_output: str = option(
        "", help=f"a detector's output with how many of its boxes count ({_FOUND})", metavar="NAME"
    )
    box_format: str = option(
        "",
        help="what the numbers of a box are, in pixels of the model's input or (rel_) as shares of its width "
        "and height (default: the detector's)",
        choices=tuple(
            f"{relative}{order}" for relative in ("", "rel_") for order in ("xyxy", "yxyx", "xywh", "cxcywh")
        ),
    )
    class_offset: int = option(
        None,
        help="the class id of a detector's first class (default: as the label map says; 1 for tf_od, unless "
        "the first of --class_names is the background; else 0)",
        metavar="ID",
    )
    activation: str = option(
        "",
        help="what turns scores into probabilities; auto finds it by trying (default: auto)",
        choices=("auto", "none", "softmax", "sigmoid"),
    )
    threshold: float = option(
        None, help="multi-label: report labels of at least this score (default: 0.5)", metavar="SCORE"
    )
    check_model: bool = option(True, help="try the model in a child process first, on generated images")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ModelFactOptions):
    """Which model, and how it is run over images."""

    top_k: int = option(5, help="report at most so many labels an image", metavar="K")
    batch_size: int = option(
        0, help=f"images in a model batch; 0: {CPU_BATCH_SIZE}, with --gpu {GPU_BATCH_SIZE}", metavar="N"
    )
    decode_threads: int = option(0, help="threads that decode; 0: one a core", metavar="N")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that was found, read and tried.

    Attributes:
      path: where its files are, ``LATEST`` followed: the same version for the whole job.
      spec: all that is known of it.
      report: what came of trying it; None with ``--no-check_model``.
      notes: what was assumed, for the person who runs the job.
    """

    path: str
    spec: ModelSpec
    report: Report | None = None
    notes: list[str] = field(default_factory=list)


def model_of(options: ModelFactOptions, *, task: str) -> Model:
    """Finds, reads and (with ``--check_model``) tries the model that the options name.

    Args:
      options: a job's.
      task: ``classify``, ``embed`` or ``detect``: which outputs must be there; ``""``: any.

    Raises:
      UsageError: there is none, the options don't fit it, or it fails when tried.
      DigestMismatch: its files are not those that its ``model_spec.json`` was written for.
    """
    from beam_vision.inference.bundle import find_files, read_bundle
    from beam_vision.inference.check import checked

    path = find_files(options.model).path
    spec = read_bundle(path, overrides_of(options, task=task))
    report = None
    if options.check_model or _must_run(spec, task):
        spec, report = checked(path, spec)
    return Model(path=path, spec=spec, report=report, notes=list(spec.notes))


def _must_run(spec: ModelSpec, task: str) -> bool:
    """Whether something that is needed can't be known without running the model once: the table's columns, or
    (tfx-bsl takes no other way) how scores become probabilities."""
    return spec.input_kind == "tf_example" or (task == "embed" and spec.embedding_dim is None)


def spec_of(options: ModelFactOptions, *, task: str) -> ModelSpec:
    """The spec of :func:`model_of`."""
    return model_of(options, task=task).spec


def overrides_of(options: ModelFactOptions, *, task: str) -> dict[str, Any]:
    """The fields of a ``ModelSpec`` that the options set."""
    said = {name: getattr(options, name) for name in _SAME_NAMES}
    height_px, width_px = parse_size(options.image_size)
    if options.class_names and task in ("classify", "embed"):
        said["labels"] = read_class_names(options.class_names)
    elif options.class_names:
        said["labels"], first_id = read_label_map(options.class_names)
        if said["class_offset"] is None:
            said["class_offset"] = first_id
    return {**said, "task": task, "height_px": height_px, "width_px": width_px}


def parse_size(text: str) -> tuple[int | None, int | None]:
    """``224`` -> (224, 224), ``240x320`` (height x width) -> (240, 320), nothing -> (None, None).

    Raises:
      UsageError: it is neither.
    """
    if not text:
        return None, None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--image_size {text!r} must be N or HEIGHTxWIDTH in pixels, e.g. 224 or 240x320")
    return int(parts[0]), int(parts[-1])
