"""Backbones by name: networks of keras.applications and KerasHub behind one form.

Each takes bytes as decoded, uint8 ``[N, S, S, 3]`` RGB in 0..255, scales them itself in the way its published
weights were trained with, and ends where its classification head would begin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.training.config_fields import nearest

if TYPE_CHECKING:
    import keras

    from beam_vision.training.config import ModelConfig

BACKBONE = "backbone"
"""The name of the backbone among the layers of a model that is built on it."""
COMPACT = "compact"
KERAS_HUB = "keras_hub"
"""The architecture that a preset names: with ``weights: preset:NAME`` any image backbone of KerasHub."""
OURS, APPLICATIONS, HUB = "ours", "applications", "hub"

PLAIN, SIGNED, IMAGENET, CAFFE = "0..255", "-1..1", "imagenet", "caffe"
_MEAN_RGB = (0.485, 0.456, 0.406)
_DEVIATION_RGB = (0.229, 0.224, 0.225)
_MEAN_BGR = (103.939, 116.779, 123.68)
BATCH_NORM_MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How a backbone is made.

    Attributes:
      source: where its code is: :data:`OURS`, :data:`APPLICATIONS` or :data:`HUB`.
      maker: name of its function in ``keras.applications``, or of its class in ``keras_hub.models``.
      settings: what that is given.
      preprocessing: how it takes pixels: ``0..255`` (it scales them itself), ``-1..1``, ``imagenet`` (0..1
        less ImageNet's mean, by its deviation), or ``caffe`` (BGR in 0..255 less ImageNet's mean).
      min_side_px: the smallest input.
      multiple_px: the input's side is a multiple of this.
    """

    source: str
    maker: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: str
    min_side_px: int = 32
    multiple_px: int = 1


def _application(maker: str, preprocessing: str, min_side_px: int = 32, **settings: Any) -> Architecture:
    return Architecture(
        source=APPLICATIONS,
        maker=maker,
        settings=settings,
        preprocessing=preprocessing,
        min_side_px=min_side_px,
    )


def _vit(kind: str, patch_px: int, layers: int, heads: int, dim: int) -> Architecture:
    """A vision transformer (Dosovitskiy et al., 2021), or DeiT's (Touvron et al., 2021), of their sizes."""
    hidden = "mlp_dim" if kind == "ViT" else "intermediate_dim"
    settings = {"patch_size": patch_px, "num_layers": layers, "num_heads": heads, "hidden_dim": dim}
    return Architecture(
        source=HUB,
        maker=f"{kind}Backbone",
        settings={**settings, hidden: 4 * dim},
        preprocessing=SIGNED if kind == "ViT" else IMAGENET,
        min_side_px=patch_px,
        multiple_px=patch_px,
    )


def _hub_resnet(*blocks: int) -> Architecture:
    """A ResNet of basic blocks (He et al., 2016): keras.applications begins at 50 layers."""
    settings = {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": list(blocks),
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": "basic_block",
    }
    return Architecture(source=HUB, maker="ResNetBackbone", settings=settings, preprocessing=IMAGENET)


ARCHITECTURES: Mapping[str, Architecture] = {
    COMPACT: Architecture(source=OURS, maker=COMPACT, preprocessing=SIGNED, min_side_px=16),
    "mobilenet": _application("MobileNet", SIGNED),
    "mobilenet_v2": _application("MobileNetV2", SIGNED),
    **{
        f"mobilenet_v2_{percent:03}": _application("MobileNetV2", SIGNED, alpha=percent / 100)
        for percent in (35, 50, 75, 130, 140)
    },
    "mobilenet_v3_small": _application("MobileNetV3Small", PLAIN),
    "mobilenet_v3_large": _application("MobileNetV3Large", PLAIN),
    **{f"efficientnet_b{i}": _application(f"EfficientNetB{i}", PLAIN) for i in range(8)},
    **{
        f"efficientnet_v2_{size.lower()}": _application(f"EfficientNetV2{size}", PLAIN)
        for size in ("B0", "B1", "B2", "B3", "S", "M", "L")
    },
    "resnet18": _hub_resnet(2, 2, 2, 2),
    "resnet34": _hub_resnet(3, 4, 6, 3),
    **{f"resnet{layers}": _application(f"ResNet{layers}", CAFFE) for layers in (50, 101, 152)},
    **{f"resnet{layers}_v2": _application(f"ResNet{layers}V2", SIGNED) for layers in (50, 101, 152)},
    **{f"densenet{layers}": _application(f"DenseNet{layers}", IMAGENET) for layers in (121, 169, 201)},
    "xception": _application("Xception", SIGNED, 71),
    "vgg16": _application("VGG16", CAFFE),
    "vgg19": _application("VGG19", CAFFE),
    "inception_v3": _application("InceptionV3", SIGNED, 75),
    "inception_resnet_v2": _application("InceptionResNetV2", SIGNED, 75),
    "nasnet_mobile": _application("NASNetMobile", SIGNED),
    **{
        f"convnext_{size.lower()}": _application(f"ConvNeXt{size}", PLAIN)
        for size in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
    "vit_micro_patch8": _vit("ViT", 8, 4, 4, 96),
    "vit_tiny_patch16": _vit("ViT", 16, 12, 3, 192),
    "vit_small_patch16": _vit("ViT", 16, 12, 6, 384),
    "vit_base_patch16": _vit("ViT", 16, 12, 12, 768),
    "vit_base_patch32": _vit("ViT", 32, 12, 12, 768),
    "vit_large_patch16": _vit("ViT", 16, 24, 16, 1024),
    "deit_tiny_patch16": _vit("DeiT", 16, 12, 3, 192),
    "deit_small_patch16": _vit("DeiT", 16, 12, 6, 384),
    "deit_base_patch16": _vit("DeiT", 16, 12, 12, 768),
    KERAS_HUB: Architecture(source=HUB, maker="Backbone", preprocessing=IMAGENET, min_side_px=16),
}
"""By name. ``vit_micro_patch8`` is our own, for small images; the rest are as published."""


def names() -> list[str]:
    """The names that ``model.architecture`` takes."""
    return list(ARCHITECTURES)


def find(name: str) -> Architecture:
    """The architecture of that name; without one a UsageError tells the nearest."""
    if name not in ARCHITECTURES:
        raise UsageError(f"model.architecture {name!r} is not known: {nearest(name, ARCHITECTURES)}")
    return ARCHITECTURES[name]


def build_backbone(model: ModelConfig, image_size_px: int, *, seed: int) -> keras.Model:
    """The network without its head, with the weights that the configuration names, frozen as it says.

    What is frozen runs as in inference: its batch normalisation by the averages it came with, and without
    dropout or stochastic depth.

    Args:
      model: uses ``architecture``, ``weights`` and ``freeze``.
      image_size_px: side of the square input.
      seed: of the first weights; the same gives the same.

    Returns:
      A model named :data:`BACKBONE`, from uint8 ``[N, S, S, 3]`` RGB in 0..255 to a feature map float32
      ``[N, rows, columns, F]``, or, of a vision transformer, to tokens float32 ``[N, tokens, F]``.

    Raises:
      UsageError: no such architecture, an input that it doesn't take, weights that aren't there or don't fit,
        or more layers to freeze than there are.
    """
    architecture = check(model, image_size_px)
    keras = deps.need("keras")
    from beam_vision.training import backbone_weights

    keras.utils.set_random_seed(seed)
    image = keras.Input((image_size_px, image_size_px, 3), dtype="uint8", name="image")
    net, preprocessing = _network(model, architecture, image_size_px)
    backbone = keras.Model(image, net(scale_pixels(image, preprocessing)), name=BACKBONE)
    backbone_weights.load_file(backbone, net, model.weights)
    freeze(backbone, net, model.freeze)
    return backbone


def check(model: ModelConfig, image_size_px: int) -> Architecture:
    """The architecture that is asked for, looked at without TensorFlow: in a moment.

    Raises:
      UsageError: no such architecture, an input that it doesn't take, weights that it can't begin with, or a
        file of weights that isn't there.
    """
    from beam_vision.training import backbone_weights

    architecture = find(model.architecture)
    if image_size_px < architecture.min_side_px or image_size_px % architecture.multiple_px:
        multiple = f" and a multiple of {architecture.multiple_px}" if architecture.multiple_px > 1 else ""
        raise UsageError(
            f"data.image_size is {image_size_px}; {model.architecture} takes at least "
            f"{architecture.min_side_px}{multiple}"
        )
    preset = backbone_weights.preset_of(model.weights)
    if preset is None:
        backbone_weights.check_file(model.weights)
        if model.architecture == KERAS_HUB:
            raise UsageError(
                f"model.architecture {KERAS_HUB} is what a preset holds: give model.weights preset:NAME"
            )
    elif architecture.source == OURS:
        raise UsageError(f"model.weights preset:{preset}: {model.architecture} has no presets")
    elif architecture.source == APPLICATIONS and preset != "imagenet":
        raise UsageError(f"model.weights preset:{preset}: {model.architecture} has one preset, imagenet")
    return architecture


def _network(model: ModelConfig, architecture: Architecture, side_px: int) -> tuple[keras.Model, Any]:
    """The bare network (its layers are what ``freeze: N`` counts), and how it takes pixels."""
    from beam_vision.training import backbone_weights

    keras = deps.need("keras")
    preset = backbone_weights.preset_of(model.weights)
    if architecture.source == HUB and preset:
        return backbone_weights.load_hub_preset(architecture, preset, side_px)
    shape = (side_px, side_px, 3)
    if architecture.source == OURS:
        from beam_vision.training.model import compact_features

        image = keras.Input(shape)
        net = keras.Model(image, compact_features(keras.layers, image))
    elif architecture.source == HUB:
        maker = getattr(deps.need("keras_hub").models, architecture.maker)
        net = maker(**architecture.settings, image_shape=shape)
    else:
        net = backbone_weights.make_application(architecture, preset, shape)
    if model.weights == "random":
        _follow_soon(net)
    return net, architecture.preprocessing


def scale_pixels(image: Any, preprocessing: Any) -> Any:
    """Pixels uint8 ``[N, H, W, 3]`` in 0..255 as a network takes them, float.

    Args:
      image: a Keras tensor.
      preprocessing: as :attr:`Architecture.preprocessing`, or (scale, offset), numbers or one for each
        channel.
    """
    keras = deps.need("keras")
    layers = keras.layers
    if preprocessing == SIGNED:
        return layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    if preprocessing == IMAGENET:
        mean, variance = [255 * x for x in _MEAN_RGB], [(255 * x) ** 2 for x in _DEVIATION_RGB]
        return layers.Normalization(mean=mean, variance=variance)(layers.Rescaling(1.0)(image))
    if preprocessing == CAFFE:
        bgr = keras.ops.flip(layers.Rescaling(1.0)(image), axis=-1)
        return layers.Normalization(mean=list(_MEAN_BGR), variance=[1.0, 1.0, 1.0])(bgr)
    scale, offset = (1.0, 0.0) if preprocessing == PLAIN else preprocessing
    return layers.Rescaling(scale, offset=offset)(image)


def _follow_soon(net: keras.Model) -> None:
    """Batch normalisation's averages of a network from nothing follow within tens of steps: published
    networks have momenta up to 0.999, for which a run of a few hundred steps ends with averages of random
    weights."""
    keras = deps.need("keras")
    for layer in net._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, BATCH_NORM_MOMENTUM)


def freeze(backbone: keras.Model, net: keras.Model, what: str | int) -> None:
    """Takes layers out of training: ``none``, ``backbone`` (all), or the first N layers of ``net``.

    Keras runs a frozen layer's batch normalisation as in inference, but not its dropout, which is set to 0
    here: ``training=False`` at the call doesn't last, since the outer model's own flag is passed through.

    Raises:
      UsageError: ``net`` has fewer layers.
    """
    if what == "none":
        return
    if what == "backbone":
        backbone.trainable = False
        _never_drop(backbone)
        return
    if int(what) > len(net.layers):
        raise UsageError(f"model.freeze is {what}; the backbone has {len(net.layers)} layers")
    for layer in net.layers[: int(what)]:
        layer.trainable = False
        _never_drop(layer)


def _never_drop(layer: Any) -> None:
    for inner in layer._flatten_layers():
        kind = type(inner).__name__
        if "Drop" in kind and hasattr(inner, "rate"):
            inner.rate = 0.0
        elif kind == "StochasticDepth":  # ConvNeXt's
            inner.drop_path_rate = 0.0
