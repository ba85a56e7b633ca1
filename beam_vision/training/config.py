"""``JobConfig``: all that describes a training job, as data; read from one YAML file.

Each section of the file is a frozen dataclass here and each key one of its fields, so that the file, the
command line (``--set data.image_size=96``) and the code have the same names and the same defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_vision import digest
from beam_vision.training.config_fields import setting
from beam_vision.training.config_reading import Source, build, parse_overrides, plain, put, read_yaml
from beam_vision.training.retinanet_config import DetectorConfig

TASKS = ("classify", "embed", "detect")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "nadam", "adagrad", "adadelta", "adamax", "ftrl")
SCHEDULES = ("constant", "exponential", "polynomial", "piecewise", "inverse_time", "cosine")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """``data``: what is trained on, and how it is decoded and batched.

    Attributes:
      dataset: folder of the TFRecord dataset, as ``create-tfrecords`` writes it.
      image_size: side of the model's square input in pixels.
      resize: how an image becomes square: ``stretch``, ``letterbox`` or ``center_crop``.
      train, validation, test: names of the splits; one that the dataset lacks isn't used.
      batch_size: images a step, on each replica.
      cache_bytes: decoded pixels of a split are kept in memory where they take no more than this.
      shuffle_seed: of the order of the images; null: ``run.seed``.
      balanced: ``{classes: P, images: K}``: each batch holds K images of each of P classes; null: no such
        rule. An embedder needs it, since each image needs another of its class beside it.
      max_boxes: boxes of an image that a detector is shown, of an image with more the first; 0: all.
    """

    dataset: str = ""
    image_size: int = setting(64, least=16)
    resize: str = setting("stretch", choices=("stretch", "letterbox", "center_crop"))
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    batch_size: int = setting(64, least=1)
    cache_bytes: int = setting(2**30, least=0)
    shuffle_seed: int | None = None
    balanced: Mapping[str, int] | None = None
    max_boxes: int = setting(0, least=0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """``model``: the network.

    Attributes:
      architecture: ``compact``, or a name of :func:`beam_vision.training.architectures.names`.
      weights: what it starts from: ``random``, a local ``FILE.weights.h5`` (or ``.keras``), or
        ``preset:NAME``, which is downloaded.
      pooling: of the backbone's last feature map: ``avg`` or ``max``.
      dropout: share of the pooled features left out at each step, 0 up to but not including 1.
      embedding_dim: length of the embedding; 0: the pooled features are it, as a linear probe takes them.
      freeze: what isn't trained: ``none``, ``backbone``, or a number N: the backbone's first N layers.
      backbone_rate: the backbone's learning rate as a share of the rest's, 0 and up.
      multi_label: whether an image may have several labels; ``auto``: as the dataset's images do.
    """

    architecture: str = "compact"
    weights: str = "random"
    pooling: str = setting("avg", choices=("avg", "max"))
    dropout: float = setting(0.1, least=0, below=1)
    embedding_dim: int = setting(64, least=0)
    freeze: str | int = setting("none", choices=("none", "backbone"), least=0)
    backbone_rate: float = setting(1.0, least=0)
    multi_label: str | bool = setting("auto", choices=("auto",))


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """``optimizer``.

    Attributes:
      name: one of :data:`OPTIMIZERS`.
      learning_rate: at its highest; the schedule takes it from there.
      weight_decay: decoupled (Loshchilov and Hutter, 2019); 0: none.
      momentum: of ``sgd`` and ``rmsprop``; the others have their own betas and take no notice.
      nesterov: whether ``sgd`` looks ahead.
      clipnorm: the norm that each gradient is cut to; null: none is.
    """

    name: str = setting("adamw", choices=OPTIMIZERS)
    learning_rate: float = setting(3e-3, above=0)
    weight_decay: float = setting(1e-3, least=0)
    momentum: float = setting(0.9, least=0, below=1)
    nesterov: bool = False
    clipnorm: float | None = setting(None, above=0)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """``schedule``: the learning rate's course over the steps.

    Attributes:
      name: one of :data:`SCHEDULES`.
      warmup: the rate rises from near 0 over so many steps; below 1: this share of the run's steps.
      end: the rate at the end as a share of the highest (``cosine``, ``polynomial``).
      power: of ``polynomial``; 1 is a straight line.
      decay_rate: what the rate is multiplied by every ``decay_steps`` (``exponential``), or what its
        divisor grows by (``inverse_time``).
      decay_steps: for ``exponential`` and ``inverse_time``; below 1: this share of the run's steps.
      staircase: whether ``exponential`` and ``inverse_time`` go in steps rather than smoothly.
      boundaries: where ``piecewise`` changes, ascending, in steps; values below 1 are shares of the run.
      factors: the rates of ``piecewise`` as shares of the highest; one more than ``boundaries``.
    """

    name: str = setting("cosine", choices=SCHEDULES)
    warmup: float = setting(0.1, least=0)
    end: float = setting(0.0, least=0, most=1)
    power: float = setting(1.0, above=0)
    decay_rate: float = setting(0.5, above=0)
    decay_steps: float = setting(0.25, above=0)
    staircase: bool = False
    boundaries: tuple[float, ...] = (0.5, 0.75)
    factors: tuple[float, ...] = (1.0, 0.1, 0.01)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """``loss``.

    Attributes:
      name: ``auto`` (the task's usual one), or a name of :func:`beam_vision.training.losses.names`.
      label_smoothing: share of a label's weight given to all classes alike, 0 up to but not including 1.
      class_weights: ``none``, ``balanced`` (images / (classes * images of the class)), or a weight by label.
      margin: of the triplet loss, in squared distances of unit vectors.
      temperature: of the supervised contrastive loss.
      gamma, alpha: of the focal loss.
    """

    name: str = "auto"
    label_smoothing: float = setting(0.0, least=0, below=1)
    class_weights: str | Mapping[str, float] = setting("none", choices=("none", "balanced"))
    margin: float = setting(0.2, above=0)
    temperature: float = setting(0.1, above=0)
    gamma: float = setting(2.0, least=0)
    alpha: float = setting(0.25, above=0, most=1)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """``run``: how long, on what, and what is kept on the way.

    Attributes:
      epochs: at most.
      steps: steps of the whole run, in place of ``epochs``; null: by ``epochs``.
      steps_per_epoch: a virtual epoch's, after which there is a validation; null: one pass over the images.
      max_seconds: at most, from the end of the first step (which also builds the graph); 0: no limit. A run
        that this ends differs from machine to machine.
      seed: of the first weights, the order and the augmentation.
      mixed_precision: computes in 16 bits: float16 on GPUs, bfloat16 elsewhere; weights stay float32.
      jit: whether XLA compiles the step; ``auto``: where Keras holds it for possible.
      strategy: one of :data:`STRATEGIES`; ``auto``: found from the hardware.
      monitor: the figure that decides which weights are best and when to stop, e.g. ``val_accuracy``;
        ``auto``: the validation loss where there is a validation split, else none.
      patience: epochs without a better figure before it stops; 0: it doesn't.
      checkpoint_every_steps: how often a checkpoint is written, besides at each epoch's end; 0: only there.
      work_dir: folder of checkpoints, history and curves; ``""``: one that is gone at the end, so that a run
        that is killed can't be taken up again.
      tensorboard: whether events are written to ``WORK_DIR/tensorboard``.
      scale_rate: whether the learning rate is multiplied by the number of replicas, as the batch is (Goyal
        et al., "Accurate, Large Minibatch SGD", 2017).
    """

    epochs: int = setting(30, least=1)
    steps: int | None = setting(None, least=1)
    steps_per_epoch: int | None = setting(None, least=1)
    max_seconds: float = setting(0.0, least=0)
    seed: int = setting(0, least=0)
    mixed_precision: bool = False
    jit: str | bool = setting("auto", choices=("auto",))
    strategy: str = setting("auto", choices=STRATEGIES)
    monitor: str = "auto"
    patience: int = setting(8, least=0)
    checkpoint_every_steps: int = setting(200, least=0)
    work_dir: str = ""
    tensorboard: bool = False
    scale_rate: bool = True


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """``export``: the bundle.

    Attributes:
      output: its folder; where it is ``versioned``, the root of the versions.
      overwrite: whether a bundle that is there may be replaced, once the new one is whole.
      versioned: whether it becomes a new folder below ``output``, and ``LATEST`` names it past the gate.
      gate: what must hold for that, e.g. ``accuracy>=0.9`` or ``not_worse``; ``""``: nothing.
      tflite: of ``float16``, ``int8``: which TensorFlow Lite models are made and measured.
      keras: whether the model is saved as ``.keras`` too.
      golden_images: images packed with the bundle, for ``stream`` and ``rollout`` to check it by.
      check_images: images by which trainer and serving are compared.
    """

    output: str = ""
    overwrite: bool = False
    versioned: bool = False
    gate: str = ""
    tflite: tuple[str, ...] = setting((), choices=("float16", "int8"))
    keras: bool = True
    golden_images: int = setting(24, least=0)
    check_images: int = setting(32, least=0)


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """A training job.

    Attributes:
      task: one of :data:`TASKS`.
      data, model, optimizer, schedule, loss, detector, run, export: see the classes.
      augmentation: steps in order, each ``{name: value}``; null: the light one of the ``compact``
        architecture (none for others); ``[]``: none.
      launch: where the job runs; see :mod:`beam_vision.training.launch`.
      tune: what is searched over; see :mod:`beam_vision.training.tune`.
    """

    task: str = setting("classify", choices=TASKS)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: tuple[Mapping[str, Any], ...] | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    run: RunConfig = field(default_factory=RunConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    launch: Mapping[str, Any] = field(default_factory=dict)
    tune: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values, every field said; :func:`from_dict` takes it back."""
        return plain(self)

    @property
    def digest(self) -> str:
        """Of all that makes the model: not of ``launch``, ``tune``, ``export`` and where the run is kept."""
        made = {k: v for k, v in self.to_dict().items() if k not in ("launch", "tune", "export")}
        made["run"] = {k: v for k, v in made["run"].items() if k not in ("work_dir", "tensorboard")}
        return digest.settings_digest(made)

    def replace(self, **sections: Mapping[str, Any]) -> JobConfig:
        """A copy with fields changed: ``config.replace(run={"seed": 1})``.

        Raises:
          UsageError: as :func:`from_dict`.
        """
        values = self.to_dict()
        for name, changed in sections.items():
            both = isinstance(values.get(name), dict) and isinstance(changed, Mapping)
            values[name] = {**values[name], **changed} if both else changed
        return from_dict(values)


def from_dict(values: Mapping[str, Any], source: Source | None = None) -> JobConfig:
    """The job that plain values describe; what isn't said has its default.

    Args:
      values: sections by name, fields by name in them, as in the YAML file.
      source: where they came from, for messages.

    Raises:
      UsageError: an unknown key (the nearest known one is named), a value of another type or out of its
        range; with the place in the file.
    """
    return build(JobConfig, values, source or Source())


def load_job(path: str | None, overrides: Mapping[str, str] = {}, given: Mapping[str, Any] = {}) -> JobConfig:
    """Reads a job from a YAML file, and sets single fields over it.

    Args:
      path: the file's, local or remote; None: all from defaults and what is set over them.
      overrides: by dotted name (``data.image_size``), as written in YAML.
      given: values of options of the command line: by the option's name and the dotted one, with a blank
        between (``--image_size data.image_size``).

    Raises:
      UsageError: no such file, no YAML, or as :func:`from_dict`.
    """
    values, source = read_yaml(path) if path else ({}, Source())
    for option, value in given.items():
        name, _, dotted = option.partition(" ")
        values, source = put(values, source, {dotted: value}, {dotted: name})
    said = {dotted: f"--set {dotted}" for dotted in overrides}
    return from_dict(*put(values, source, parse_overrides(overrides), said))


def fields_of(section: str) -> list[str]:
    """The names of a section's fields, in order; of a section that is free text, none."""
    kinds = {f.name: f.default_factory for f in dataclasses.fields(JobConfig)}
    kind = kinds.get(section)
    if not dataclasses.is_dataclass(kind):
        return []
    return [f.name for f in dataclasses.fields(kind)]
