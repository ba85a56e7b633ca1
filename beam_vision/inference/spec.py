"""``ModelSpec``: everything that must be known to run a model on images, as data."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from beam_vision.digest import settings_digest
from beam_vision.errors import DigestMismatch, UsageError

if TYPE_CHECKING:
    from beam_vision.images.codec import DecodeSettings

CHOICES: dict[str, tuple[str, ...]] = {
    "task": ("classify", "embed", "detect"),
    "model_format": ("saved_model", "keras", "onnx", "tflite"),
    "input_kind": ("pixels", "image_bytes", "tf_example"),
    "channel_order": ("rgb", "bgr"),
    "layout": ("NHWC", "NCHW"),
    "resize": ("stretch", "letterbox", "center_crop"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
    "value_range": ("0..255", "0..1", "-1..1", "imagenet"),
    "activation": ("auto", "none", "softmax", "sigmoid"),
    "box_format": (
        *("", "xyxy", "yxyx", "xywh", "cxcywh"),
        *("rel_xyxy", "rel_yxyx", "rel_xywh", "rel_cxcywh"),
    ),
}
"""The words that each field may hold."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """How a model is run on images; ``model_spec.json`` in a bundle.

    Attributes:
      task: what it was made for; a model that gives both scores and an embedding serves both tasks.
      model_format: which kind of file holds it.
      signature: the SavedModel's signature; ``""`` for the other formats.
      input_name: the input that takes the images.
      input_kind: ``pixels`` (a batch of arrays), ``image_bytes`` (a batch of image files as strings)
        or ``tf_example`` (a batch of serialized ``tf.Example``).
      height_px, width_px: the size of its input; None where the model takes strings.
      channels: 3, or 1 for gray (ITU-R 601 luma).
      channel_order: ``rgb`` or ``bgr``.
      layout: ``NHWC`` or ``NCHW``.
      dtype: of the input tensor, as NumPy names it (``string`` for strings).
      fixed_batch: the batch size that the model insists on, or None when it takes any.
      resize, interpolation, background_rgb, pad_rgb, max_pixels, min_side_px: as in
        :class:`~beam_vision.images.codec.DecodeSettings`.
      value_range: what the model expects of pixel values, as in :mod:`beam_vision.images.geometry`.
      scores_output, embedding_output: names of the outputs; ``""`` where it has none. For a ``.keras``
        model ``embedding_output`` may name a layer.
      detector: how the outputs of a detector are read: a name of
        :mod:`beam_vision.inference.detectors`, or ``package.module:function``; ``""``: it is none.
      boxes_output, classes_output, count_output: further outputs of a detector; ``""`` where it has none.
      raw_outputs: the outputs that a detector function of one's own is given.
      box_format: what the numbers of a box are: ``xyxy``, ``yxyx``, ``xywh`` or ``cxcywh`` in pixels of the
        model's input, or the same with ``rel_`` before it as shares of its width and height.
      class_offset: the class id that stands for the first of ``labels``.
      activation: what turns the scores into probabilities; ``auto`` is decided when the model is loaded.
      multi_label: whether the scores are independent of each other, so that an image has any number of
        labels; None: decided with the activation.
      threshold: multi-label only: the lowest score of a label that is reported.
      freeze: whether TensorFlow runs the model with its weights as constants, where that is possible, which
        is faster on a CPU; trying the model sets it (see :mod:`beam_vision.inference.check`).
      labels: the name of each class, in the order of the scores; for a detector ``""`` where an id is unused.
      classes: how many scores it gives, when known.
      embedding_dim: the length of its embedding, when known.
      model_digest: see :func:`beam_vision.inference.bundle.model_digest`.
      metrics: what it was released with, e.g. ``{"validation_accuracy": 0.97}``.
      notes: what was assumed rather than found; for people, not saved.
    """

    task: str = "classify"
    model_format: str = "saved_model"
    signature: str = ""
    input_name: str = ""
    input_kind: str = "pixels"
    height_px: int | None = None
    width_px: int | None = None
    channels: int = 3
    channel_order: str = "rgb"
    layout: str = "NHWC"
    dtype: str = "float32"
    fixed_batch: int | None = None
    resize: str = "stretch"
    interpolation: str = "bilinear"
    background_rgb: tuple[int, int, int] = (255, 255, 255)
    pad_rgb: tuple[int, int, int] = (114, 114, 114)
    max_pixels: int = 100_000_000
    min_side_px: int = 2
    value_range: str = "0..1"
    scores_output: str = ""
    embedding_output: str = ""
    detector: str = ""
    boxes_output: str = ""
    classes_output: str = ""
    count_output: str = ""
    raw_outputs: tuple[str, ...] = ()
    box_format: str = ""
    class_offset: int = 0
    activation: str = "auto"
    multi_label: bool | None = None
    threshold: float = 0.5
    freeze: bool = False
    labels: tuple[str, ...] = ()
    classes: int | None = None
    embedding_dim: int | None = None
    model_digest: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if self.channels not in (1, 3):
            raise UsageError(f"the model's input has {self.channels} channels; only 1 and 3 are supported")

    def decode_settings(self) -> DecodeSettings:
        """How images are decoded for this model: at its size for pixels, whole for strings."""
        from beam_vision.images.codec import DecodeSettings

        return DecodeSettings(
            height_px=self.height_px if self.input_kind == "pixels" else None,
            width_px=self.width_px if self.input_kind == "pixels" else None,
            resize=self.resize,
            interpolation=self.interpolation,
            background_rgb=self.background_rgb,
            pad_rgb=self.pad_rgb,
            max_pixels=self.max_pixels,
            min_side_px=self.min_side_px,
        )

    @property
    def preprocessing_digest(self) -> str:
        """Digest of all that lies between a file's bytes and the input tensor."""
        value: dict[str, Any] = {"input_kind": self.input_kind, "decode": self.decode_settings().to_json()}
        if self.input_kind == "pixels":
            for name in ("value_range", "channels", "channel_order", "layout", "dtype"):
                value[name] = getattr(self, name)
        return settings_digest(value)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, with the preprocessing digest; without the notes."""
        value = asdict(self)
        del value["notes"]
        for name in ("background_rgb", "pad_rgb", "labels", "raw_outputs"):
            value[name] = list(value[name])
        return {**value, "preprocessing_digest": self.preprocessing_digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, path: str = "model_spec.json") -> ModelSpec:
        """Reads what :meth:`to_json` gave; what is left out takes its default.

        Raises:
          UsageError: an unknown key, or a value that a field can't hold.
          DigestMismatch: ``preprocessing_digest`` is not that of the settings beside it.
        """
        spec = cls(**known_fields(value, path=path))
        stored = value.get("preprocessing_digest")
        if stored is not None and stored != spec.preprocessing_digest:
            raise DigestMismatch(
                f"preprocessing of {path}:",
                expected=stored,
                found=spec.preprocessing_digest,
                remedy="it was edited or is from another version; remove preprocessing_digest from it to "
                "accept the settings as they stand",
            )
        return spec


def known_fields(value: Mapping[str, Any], *, path: str) -> dict[str, Any]:
    """The fields of a :class:`ModelSpec` that ``value`` (JSON) sets, with lists made tuples.

    Raises:
      UsageError: a key that is no field, or a value of another type than the field's.
    """
    names = {item.name for item in fields(ModelSpec)} - {"notes"}
    unknown = sorted(set(value) - names - {"preprocessing_digest"})
    if unknown:
        raise UsageError(
            f"{path} has unknown keys {', '.join(unknown)}; known are {', '.join(sorted(names))}"
        )
    kept = {name: value[name] for name in value if name in names}
    kept = {name: tuple(item) if isinstance(item, list) else item for name, item in kept.items()}
    for name, item in kept.items():
        if not _fits(item, _KINDS[name]):
            raise UsageError(f"{path}: {name} is {item!r}; it must be of type {_KINDS[name]}")
    return kept


_KINDS: dict[str, Any] = typing.get_type_hints(ModelSpec)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of the type of a field of :class:`ModelSpec`."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        size_fits = inner[-1] is ... or len(inner) == len(value) if isinstance(value, tuple) else False
        return size_fits and all(_fits(item, inner[0]) for item in value)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    if inner:  # X | None
        return any(_fits(value, each) for each in inner)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
