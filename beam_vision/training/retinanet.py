"""RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", 2017) with KerasHub's parts.

A feature pyramid over a network's maps of 8, 16 and 32 px a cell; at each place of each level nine anchors
(three sizes, three shapes); two heads, shared by all levels, say of each anchor what is there and how the
object's box lies to it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.model import INPUT
from beam_vision.training.retinanet_backbone import feature_extractor
from beam_vision.training.retinanet_config import DetectorConfig

if TYPE_CHECKING:
    import keras

BOXES, LOGITS = "bbox_regression", "cls_logits"
"""The outputs: offsets float32 ``[N, anchors, 4]`` and logits float32 ``[N, anchors, classes]``."""

MIN_LEVEL, MOST_OWN_LEVEL, MOST_LEVEL = 3, 5, 7
SCALES = 3
RATIOS = (0.5, 1.0, 2.0)
PRIOR = 0.01
"""What an untrained model says of each class everywhere: else the first steps drown in background."""


def anchors_px(side_px: int, anchor_size: float, max_level: int) -> np.ndarray:
    """The anchors of a square input, float32 ``[anchors, 4]``, xyxy in pixels, in the order of the outputs.

    Args:
      side_px: of the input.
      anchor_size, max_level: as in :class:`DetectorConfig`.
    """
    return anchors_of(_generator(anchor_size, max_level), side_px)


def anchors_of(generator: Any, side_px: int) -> np.ndarray:
    """The same of a ``keras_hub.layers.AnchorGenerator`` for ``xyxy``."""
    levels = generator(np.zeros((1, side_px, side_px, 3), np.float32))
    return np.concatenate([np.asarray(level) for level in levels.values()]).astype(np.float32)


def _generator(anchor_size: float, max_level: int) -> Any:
    return deps.need("keras_hub").layers.AnchorGenerator(
        "xyxy",
        min_level=MIN_LEVEL,
        max_level=max_level,
        num_scales=SCALES,
        aspect_ratios=list(RATIOS),
        anchor_size=anchor_size,
    )


def build_retinanet(
    network: keras.Model, classes: int, *, config: DetectorConfig, seed: int = 0
) -> keras.Model:
    """KerasHub's RetinaNet over a network for images.

    Args:
      network: from pixels in 0..255, ``[N, side, side, 3]``, to a feature map, scaling them itself; as
        :func:`beam_vision.training.retinanet_backbone.feature_extractor` takes it, or a
        ``keras_hub.models.RetinaNetBackbone``, which has its pyramid already.
      classes: how many; at least 1.
      config: with an ``anchor_size``.
      seed: of the first weights of the pyramid and the heads.

    Returns:
      A ``keras_hub.models.RetinaNetObjectDetector`` for boxes as ``xyxy`` that gives :data:`BOXES` and
      :data:`LOGITS`. It is fitted to batches (pixels ``[N, side, side, 3]``, ``{"boxes": float32 [N, M, 4],
      "labels": int [N, M]}``), xyxy in pixels and -1 where there is no box; see
      :func:`beam_vision.training.retinanet_loss.compile_retinanet`.

    Raises:
      UsageError: no classes, no anchor size, or an input that doesn't fit.
    """
    if classes < 1:
        raise UsageError("a detector needs at least one class; the dataset has no boxes")
    if not config.anchor_size:
        raise UsageError("detector.anchor_size isn't known yet; choose_anchor_size finds it")
    keras, hub = deps.need("keras"), deps.need("keras_hub")
    keras.utils.set_random_seed(seed)
    pyramid = network if isinstance(network, hub.models.RetinaNetBackbone) else _pyramid(network, config)
    model = hub.models.RetinaNetObjectDetector(
        pyramid,
        num_classes=classes,
        bounding_box_format="xyxy",
        anchor_generator=_generator(config.anchor_size, pyramid.max_level),
        pre_logits_num_conv_layers=config.head_layers,
        use_prediction_head_norm=config.head_norm,
        name="retinanet",
    )
    _begin(model.classification_head, -math.log((1 - PRIOR) / PRIOR), seed)
    _begin(model.box_head, 0.0, seed + 1)
    return model


def _pyramid(network: keras.Model, config: DetectorConfig) -> Any:
    side_px = network.input_shape[1]
    extractor = feature_extractor(network)
    deepest = max(int(name[1]) for name in extractor.pyramid_outputs)
    return deps.need("keras_hub").models.RetinaNetBackbone(
        image_encoder=extractor,
        min_level=MIN_LEVEL,
        max_level=last_level(side_px, config, deepest),
        use_p5=False,
        image_shape=(side_px, side_px, 3),
    )


def last_level(side_px: int, config: DetectorConfig, deepest: int) -> int:
    """The last level of the pyramid: the one asked for, or the last whose smallest anchor fits in the image.

    Args:
      side_px: of the input.
      config: with an ``anchor_size``.
      deepest: the network's last level; one that ends before level 5 has no further ones added to it.

    Raises:
      UsageError: a level is asked for that can't be had.
    """
    if deepest < MOST_OWN_LEVEL:
        if config.max_level is not None:
            raise UsageError(
                f"detector.max_level is {config.max_level}, but the network ends at level {deepest}; leave "
                "it out, or use a deeper model.architecture such as mobilenet_v2"
            )
        return deepest
    if config.max_level is not None:
        return config.max_level
    sizes = {level: (config.anchor_size or 0) * 2**level for level in range(deepest, MOST_LEVEL + 1)}
    return max((level for level, size in sizes.items() if size <= side_px), default=deepest)


def _begin(head: Any, bias: float, seed: int) -> None:
    """First weights of a head that is trained, rather than loaded.

    KerasHub (0.32) draws all with a deviation of 0.05, which makes what goes through four layers of 256
    filters some thirty times larger, and gives the prior's bias to the boxes rather than to the classes. Here
    layers keep the size of what they are given (He et al., 2015), and the last one begins as in the paper.
    """
    initializers = deps.need("keras").initializers
    for number, layer in enumerate(head.conv_layers):
        layer.kernel.assign(initializers.HeNormal(seed + 100 * number)(layer.kernel.shape))
    last = head.prediction_layer
    last.kernel.assign(initializers.RandomNormal(stddev=0.01, seed=seed)(last.kernel.shape))
    last.bias.assign(np.full(last.bias.shape, bias, np.float32))


def rate_multipliers(model: keras.Model, backbone_rate: float) -> list[float]:
    """For each trainable variable, in order: ``backbone_rate`` for the network's under the pyramid, 1 for the
    pyramid's and the heads'; as :func:`beam_vision.training.optimizers.rate_multipliers` for classifiers."""
    slow = {id(variable) for variable in model.backbone.get_layer("backbone").trainable_variables}
    return [backbone_rate if id(variable) in slow else 1.0 for variable in model.trainable_variables]


def plain_network(model: keras.Model) -> keras.Model:
    """The same network with the same weights, from uint8 pixels, as a file of Keras can hold it.

    KerasHub's own class and its heads (0.32) are saved so that they can't be loaded again.

    Args:
      model: as :func:`build_retinanet` makes it.
    """
    keras = deps.need("keras")
    image = keras.Input(model.input_shape[1:], dtype="uint8", name=INPUT)
    maps = model.backbone.get_layer("fpn")(model.backbone.get_layer("backbone")(image))
    outputs = {}
    heads = ((BOXES, model.box_head, 4), (LOGITS, model.classification_head, model.num_classes))
    for name, head, width in heads:
        plain = _plain_head(head, next(iter(maps.values())).shape[-1])
        parts = [keras.layers.Reshape((-1, width))(plain(maps[level])) for level in maps]
        outputs[name] = keras.layers.Concatenate(axis=1, name=name)(parts)
    return keras.Model(image, outputs, name=model.name)


def _plain_head(head: Any, width: int) -> keras.Model:
    keras = deps.need("keras")
    x = inputs = keras.Input((None, None, width))
    for number, layer in enumerate(head.conv_layers):
        x = layer(x)
        x = head.group_norm_layers[number](x) if head.use_group_norm else x
        x = keras.layers.Activation(head.activation)(x)
    return keras.Model(inputs, head.prediction_layer(x), name=head.name)
