"""Augmentation of whole batches as Keras layers; imported late, for it needs Keras to define them.

A layer is called with (images float32 ``[N, H, W, 3]`` in 0..255, targets, seed int ``[2]``) and gives
(images, targets); it keeps no state, so the same seed gives the same. Targets are what the task has: float
``[N, classes]``, class ids ``[N]``, or a mapping with ``boxes`` and ``classes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beam_vision import deps
from beam_vision.training import augmentation_colour as colour
from beam_vision.training import augmentation_geometry as geometry
from beam_vision.training.augmentation_steps import GEOMETRIC, StepSpec

keras = deps.need("keras")
tf = deps.need("tensorflow")
Layer: Any = keras.layers.Layer


class Step(Layer):
    """What all have in common: no weights, and numbers that stay float32 in mixed precision."""

    def __init__(self) -> None:
        super().__init__(trainable=False, autocast=False, dtype="float32")


class Warp(Step):
    """Steps of geometry that follow each other, in one resampling.

    Args:
      steps: of the kinds that are geometric, with the same fill.
      fill: what lies beyond the edge.
    """

    def __init__(self, steps: Sequence[StepSpec], fill: str) -> None:
        super().__init__()
        self._steps, self._fill = steps, fill

    def call(self, images: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
        """See the module."""
        size = tf.cast(tf.shape(images)[1:3], tf.float32)
        backward = tf.eye(3)[None]
        for place, step in enumerate(self._steps):
            own = tf.random.experimental.stateless_fold_in(seed, place)
            found = geometry.random_matrices(step.kind, step.values, tf.shape(images)[0], size, own)
            backward = backward @ found
        fill = "" if {step.kind for step in self._steps} == {"flip"} else self._fill
        return warped(images, targets, backward, fill)


def warped(images: Any, targets: Any, backward: Any, fill: str) -> tuple[Any, Any]:
    """Images, and boxes if the targets have some, through their matrices ``[N, 3, 3]``; no fill: mirrored."""
    if isinstance(targets, Mapping):
        size = tf.cast(tf.shape(images)[1:3], tf.float32)
        boxes, classes = geometry.warp_boxes(targets["boxes"], targets["classes"], backward, size)
        targets = {"boxes": boxes, "classes": classes}
    if not fill:
        return geometry.mirror_images(images, backward), targets
    return geometry.warp_images(images, backward, fill=fill), targets


class Recolour(Step):
    """Brightness, contrast or saturation, each image's by an amount of its own."""

    def __init__(self, step: StepSpec) -> None:
        super().__init__()
        self._step = step

    def call(self, images: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
        """See the module."""
        values, seeds = self._step.values, tf.random.experimental.stateless_split(seed, 2)
        each = [tf.shape(images)[0], 1, 1, 1]
        amount = tf.random.stateless_uniform(each, seeds[0], -values["factor"], values["factor"])
        amount *= _chosen(each, seeds[1], values["probability"])
        if self._step.kind == "brightness":
            return colour.brightened(images, amount * 255), targets
        change = {"contrast": colour.contrasted, "saturation": colour.saturated}[self._step.kind]
        return change(images, 1 + amount), targets


class Cutout(Step):
    """A square of each image painted over (DeVries and Taylor, "Improved regularization of convolutional
    neural networks with Cutout", 2017); its centre lies anywhere in the image, so it may be cut off.

    A box of which it leaves less than :data:`~.augmentation_geometry.MIN_VISIBLE` is no longer asked for.
    """

    def __init__(self, step: StepSpec) -> None:
        super().__init__()
        self._values = step.values

    def call(self, images: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
        """See the module."""
        values, seeds = self._values, tf.random.experimental.stateless_split(seed, 2)
        shape = tf.shape(images)
        half = tf.fill([shape[0]], values["size"] / 2) * _chosen([shape[0]], seeds[1], values["probability"])
        hole = _rectangles(shape, half, half, seeds[0])
        images = tf.where(_inside(shape, hole)[..., None], tf.cast(values["value"], tf.float32), images)
        if isinstance(targets, Mapping):
            targets = _uncovered(targets, hole)
        return images, targets


def _uncovered(targets: Mapping[str, Any], hole: Any) -> dict[str, Any]:
    boxes, classes = targets["boxes"], targets["classes"]
    hole = tf.cast(hole, tf.float32)[:, None]
    low, high = tf.maximum(boxes[..., :2], hole[..., :2]), tf.minimum(boxes[..., 2:], hole[..., 2:])
    hidden = geometry.area(tf.concat([low, high], axis=2)) / tf.maximum(geometry.area(boxes), 1e-6)
    boxes, classes = geometry.keep_boxes(boxes, classes, 1 - hidden >= geometry.MIN_VISIBLE)
    return {"boxes": boxes, "classes": classes}


class Mix(Step):
    """Each image with another of its batch: blended as a whole (``mixup``: Zhang et al., 2018), or with a
    rectangle of it (``cutmix``: Yun et al., 2019). Labels are mixed in the same shares, lambda of the image's
    own to ``1 - lambda``, where lambda is drawn from Beta(alpha, alpha)."""

    def __init__(self, step: StepSpec) -> None:
        super().__init__()
        self._kind, self._values = step.kind, step.values

    def call(self, images: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
        """See the module."""
        seeds = tf.random.experimental.stateless_split(seed, 4)
        shape = tf.shape(images)
        other = tf.argsort(tf.random.stateless_uniform([shape[0]], seeds[0]))
        own = _beta([shape[0]], seeds[1], self._values["alpha"])
        own = tf.where(_chosen([shape[0]], seeds[2], self._values["probability"]) > 0, own, 1.0)
        if self._kind == "mixup":
            share = own[:, None, None, None]
            images = share * images + (1 - share) * tf.gather(images, other)
        else:
            half = tf.sqrt(1 - own) / 2
            inside = _inside(shape, _rectangles(shape, half, half, seeds[3]))
            images = tf.where(inside[..., None], tf.gather(images, other), images)
            own = 1 - tf.reduce_mean(tf.cast(inside, tf.float32), axis=[1, 2])
        share = tf.cast(own, targets.dtype)[:, None]
        return images, share * targets + (1 - share) * tf.gather(targets, other)


class RandAugment(Step):
    """``count`` changes an image, each drawn from fourteen (Cubuk et al., "RandAugment", 2020): one that
    changes nothing, five of geometry (in one resampling, before the others), eight of colour.

    The magnitude, 0..1, is the share of the strongest change; signs are drawn.
    """

    COLOURS = 8
    GEOMETRIES = 5
    ANGLE = 0.5236  # 30 degrees in radians
    SHEAR = 0.3
    MOVE = 1 / 3  # of the side
    ENHANCE = 0.9  # added to or taken from a factor of 1

    def __init__(self, step: StepSpec) -> None:
        super().__init__()
        self._values = step.values

    def call(self, images: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
        """See the module."""
        values, seeds = self._values, tf.random.experimental.stateless_split(seed, 3)
        each = [values["count"], tf.shape(images)[0]]
        last = 1 + self.GEOMETRIES + self.COLOURS
        change = tf.random.stateless_uniform(each, seeds[0], 0, last, tf.int32)
        change = tf.where(_chosen(each[1:], seeds[1], values["probability"]) > 0, change, 0)
        sign = tf.sign(tf.random.stateless_uniform(each, seeds[2], -1.0, 1.0))
        backward = tf.eye(3)[None]
        for number in range(values["count"]):
            backward = backward @ self._matrices(images, change[number], sign[number])
        images, targets = warped(images, targets, backward, values["fill"])
        for number in range(values["count"]):
            images = self._recoloured(images, change[number] - self.GEOMETRIES, sign[number])
        return images, targets

    def _matrices(self, images: Any, change: Any, sign: Any) -> Any:
        height, width = tf.unstack(tf.cast(tf.shape(images)[1:3], tf.float32))

        def amount(number: int, most: Any) -> Any:
            return tf.where(change == number, sign * self._values["magnitude"] * most, 0.0)

        return geometry.matrices(
            tf.shape(images)[0],
            angle=amount(1, self.ANGLE),
            shear=(amount(2, self.SHEAR), amount(3, self.SHEAR)),
            move=(amount(4, self.MOVE * width), amount(5, self.MOVE * height)),
        )

    def _recoloured(self, images: Any, change: Any, sign: Any) -> Any:
        """Each image by the one change that it drew: the batch is parted by it, and put together again."""
        change = tf.maximum(change, 0)
        count = self.COLOURS + 1
        magnitude = self._values["magnitude"]
        factor = 1 + self.ENHANCE * magnitude * sign[:, None, None, None]
        part = tf.dynamic_partition(images, change, count)
        by = tf.dynamic_partition(factor, change, count)
        changed = [
            part[0],
            colour.scaled(part[1], by[1]),
            colour.contrasted(part[2], by[2]),
            colour.saturated(part[3], by[3]),
            colour.sharpened(part[4], by[4]),
            colour.solarized(part[5], 255 * (1 - magnitude)),
            colour.posterized(part[6], 8 - 4 * magnitude),
            colour.stretched(part[7]),
            colour.equalized(part[8]),
        ]
        places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), change, count)
        return tf.ensure_shape(tf.dynamic_stitch(places, changed), images.shape)


def layers(steps: Sequence[StepSpec]) -> list[Step]:
    """The layers of some steps, in their order; geometry that follows geometry is one layer."""
    found: list[Step] = []
    run: list[StepSpec] = []
    fill = ""
    for step in [*steps, None]:
        own = step.values.get("fill", fill or "reflect") if step and step.kind in GEOMETRIC else ""
        if run and own != fill:
            found.append(Warp(tuple(run), fill))
            run = []
        fill = own
        if step and own:
            run.append(step)
        elif step:
            kinds = {"cutout": Cutout, "mixup": Mix, "cutmix": Mix, "randaugment": RandAugment}
            found.append(kinds.get(step.kind, Recolour)(step))
    return found


def _chosen(shape: Any, seed: Any, probability: float) -> Any:
    """1.0 for a share of ``probability``, 0.0 for the others."""
    return tf.cast(tf.random.stateless_uniform(shape, seed) < probability, tf.float32)


def _beta(shape: Any, seed: Any, alpha: float) -> Any:
    """Numbers of Beta(alpha, alpha), float32, from two of Gamma(alpha); float64, for small ones get tiny."""
    pair = tf.random.stateless_gamma([2, *shape], seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
    pair = tf.maximum(pair, 1e-300)
    return tf.cast(pair[0] / (pair[0] + pair[1]), tf.float32)


def _rectangles(shape: Any, half_high: Any, half_wide: Any, seed: Any) -> Any:
    """int32 ``[N, 4]`` xyxy in pixels, cut off at the edges; centres anywhere, halves as shares of a side."""
    centres = tf.random.stateless_uniform([2, shape[0]], seed)
    ends = []
    for centre, half, side in ((centres[0], half_wide, shape[2]), (centres[1], half_high, shape[1])):
        side = tf.cast(side, tf.float32)
        ends.append([tf.round((centre + way * half) * side) for way in (-1, 1)])
        ends[-1] = [tf.cast(tf.clip_by_value(end, 0, side), tf.int32) for end in ends[-1]]
    (left, right), (top, bottom) = ends
    return tf.stack([left, top, right, bottom], axis=1)


def _inside(shape: Any, rectangles: Any) -> Any:
    """bool ``[N, H, W]``: the pixels within the rectangles."""
    left, top, right, bottom = tf.unstack(rectangles[:, :, None], axis=1)
    x, y = tf.range(shape[2])[None], tf.range(shape[1])[None]
    return ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
