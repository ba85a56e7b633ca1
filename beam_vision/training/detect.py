"""The recipe of a detector: a RetinaNet, fitted to boxes, measured by COCO's mean average precision."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision.errors import UsageError
from beam_vision.evaluation.images import EvaluatedImage, evaluate
from beam_vision.training.config import DetectorConfig, JobConfig, ModelConfig
from beam_vision.training.recipe import Rate, Recipe
from beam_vision.types import Box

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from beam_vision.records.manifest import DatasetManifest

FIGURES = ("mAP", "AP50")
"""What is measured: the mean over classes, over IoU 0.5 to 0.95 and at IoU 0.5."""


def detect_recipe(config: JobConfig, manifest: DatasetManifest, *, replicas: int = 1) -> Recipe:
    """How a detector is trained.

    Raises:
      UsageError: no boxes in the train split.
    """
    check_boxes(config, manifest)
    maker = _Detector(config, manifest, replicas)
    return Recipe(
        labels=tuple(manifest.box_classes),
        multi_label=False,
        steps_per_pass=maker.examples.steps_per_pass,
        build=maker.build,
        trainee=maker.trainee,
        train=maker.train,
        validation=maker.validation if maker.examples.images(config.data.validation) else None,
        measure=maker.measure,
    )


def check_boxes(config: JobConfig, manifest: DatasetManifest) -> None:
    """Raises UsageError unless the train split has boxes."""
    split = manifest.splits.get(config.data.train)
    if split is None or not any(split.boxes.values()):
        raise UsageError(
            f"{config.data.dataset} has no boxes in a split named {config.data.train}; make the dataset from "
            "annotated images with create-tfrecords"
        )


class _Detector:
    """The parts of a detector's recipe."""

    def __init__(self, config: JobConfig, manifest: DatasetManifest, replicas: int) -> None:
        from beam_vision.training.classify import make_examples

        self._config, self._labels = config, tuple(manifest.box_classes)
        self.examples = make_examples(config, manifest, replicas=replicas, targets="boxes")

    @functools.cached_property
    def _detector(self) -> DetectorConfig:
        """The settings, with the size of anchors that fits the train split where none is said."""
        from beam_vision.training.retinanet import anchors_px
        from beam_vision.training.retinanet_anchors import boxes_in, choose_anchor_size

        asked, side_px = self._config.detector, self._config.data.image_size
        if asked.anchor_size is not None:
            return asked
        boxes = boxes_in(self.examples.once(self._config.data.train))
        size, _ = choose_anchor_size(boxes, lambda size: anchors_px(side_px, size, asked.max_level or 5))
        return dataclasses.replace(asked, anchor_size=size)

    def build(self) -> keras.Model:
        from beam_vision.training.architectures import build_backbone
        from beam_vision.training.retinanet import build_retinanet

        config = self._config
        network = load_pyramid(config.model, config.data.image_size) or build_backbone(
            config.model, config.data.image_size, seed=config.run.seed
        )
        return build_retinanet(network, len(self._labels), config=self._detector, seed=config.run.seed)

    def trainee(self, model: keras.Model, rate: Rate) -> keras.Model:
        from beam_vision.training.optimizers import build_optimizer
        from beam_vision.training.retinanet import rate_multipliers
        from beam_vision.training.retinanet_loss import compile_retinanet

        config = self._config
        optimizer = build_optimizer(
            config.optimizer, rate, multipliers=rate_multipliers(model, config.model.backbone_rate)
        )
        compile_retinanet(model, optimizer, self._detector, config.loss, jit_compile=config.run.jit)
        return model

    def train(self, first_step: int) -> tf.data.Dataset:
        from beam_vision.training.classify import augmented

        return augmented(self._config, self.examples.endless(first_step), first_step)

    def validation(self) -> tf.data.Dataset:
        return self.examples.once(self._config.data.validation)

    def measure(self, model: keras.Model) -> dict[str, Any] | None:
        data = self._config.data
        split = next((name for name in (data.test, data.validation) if self.examples.images(name)), None)
        if split is None:
            return None
        found = measure_detector(model, self.examples.once(split), self._labels, self._detector)
        return {"split": split, **found}


def load_pyramid(model: ModelConfig, image_size_px: int) -> keras.Model | None:
    """The network and the feature pyramid of a RetinaNet that a preset holds, frozen as ``model`` says.

    Args:
      model: uses ``architecture``, which is ``keras_hub``, ``weights`` and ``freeze``.
      image_size_px: side of the square input.

    Returns:
      A ``keras_hub.models.RetinaNetBackbone`` from uint8 pixels; None where ``model`` asks for other weights,
      or the preset holds another network.

    Raises:
      UsageError: the preset can't be had, or the size doesn't fit.
    """
    from beam_vision.training.architectures import KERAS_HUB, find, freeze, scale_pixels
    from beam_vision.training.backbone_weights import load_retinanet, preset_of
    from beam_vision.training.retinanet_backbone import with_pixels

    preset = preset_of(model.weights)
    found = load_retinanet(preset) if preset and model.architecture == KERAS_HUB else None
    if found is None:
        return None
    pyramid, scale = found
    preprocessing = scale or find(model.architecture).preprocessing
    made = with_pixels(pyramid, image_size_px, lambda image: scale_pixels(image, preprocessing))
    freeze(made.get_layer("backbone"), pyramid.get_layer("backbone"), model.freeze)
    return made


def measure_detector(
    model: keras.Model, batches: Any, labels: Sequence[str], config: DetectorConfig
) -> dict[str, Any]:
    """COCO's figures of a detector, by what its exported graph gives; crowds are taken for background.

    Args:
      model: as :func:`beam_vision.training.retinanet.build_retinanet` makes it.
      batches: of (images uint8 ``[N, S, S, 3]``, ``{"boxes": [N, M, 4], "labels": [N, M]}``), xyxy in pixels.
      labels: the class names.
      config: how boxes are suppressed.

    Returns:
      ``images`` and :data:`FIGURES`, 0..1; 0 where there is no truth.
    """
    images = list(_evaluated(model, batches, labels, config))
    return {"images": len(images), **figures_of(images)}


def figures_of(images: Sequence[EvaluatedImage]) -> dict[str, float]:
    """:data:`FIGURES` over all classes with truth, 0..1; 0 where there is none."""
    classes = evaluate(images)
    found = {}
    for name in FIGURES:
        numbers = [number for each in classes if (number := each.numbers[name]) is not None]
        found[name] = sum(numbers) / max(len(numbers), 1)
    return found


def _evaluated(
    model: keras.Model, batches: Any, labels: Sequence[str], config: DetectorConfig
) -> Iterator[EvaluatedImage]:
    from beam_vision.training.retinanet_export import BOXES, CLASSES, COUNT, SCORES, serving

    serve = serving(model, config)
    side_px = model.input_shape[1]
    place = 0
    for pixels, truth in batches:
        found = {name: np.asarray(value) for name, value in serve(pixels).items()}
        boxes, ids = np.asarray(truth["boxes"]), np.asarray(truth["labels"])
        for i in range(len(boxes)):
            count = int(found[COUNT][i])
            shown = found[BOXES][i, :count][:, [1, 0, 3, 2]] * side_px
            said = found[CLASSES][i, :count].astype(int) - 1
            there = ids[i] >= 0
            yield EvaluatedImage(
                str(place),
                "",
                place,
                side_px,
                side_px,
                _boxes(boxes[i][there], ids[i][there], np.ones(there.sum()), labels),
                _boxes(shown, said, found[SCORES][i, :count], labels),
            )
            place += 1


def _boxes(corners: np.ndarray, ids: np.ndarray, scores: np.ndarray, labels: Sequence[str]) -> list[Box]:
    columns = [*corners.T.tolist(), [labels[label] for label in ids.tolist()], scores.tolist()]
    return [Box(*row) for row in zip(*columns, strict=True)]
