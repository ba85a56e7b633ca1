"""Feature maps at several scales out of an image classifier's network: what a feature pyramid is built on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    import keras

LEVELS = (3, 4, 5)
"""Level L is a feature map with one cell for 2**L pixels of the input, each way."""

NEEDED = LEVELS[:2]
"""A small network ends at 16 px a cell, and so does the pyramid on it."""

LEAST_CELLS = 2
"""Of the last level, each way: a map of one cell couldn't be told from pooled values."""


def level_maps(model: keras.Model) -> dict[str, Any]:
    """The last feature map of each of :data:`LEVELS` in a network: the input of a feature pyramid.

    As usual with SSD and RetinaNet, it is the map from which the network goes on to the next scale, so it has
    seen all layers of its own scale.

    Args:
      model: from an image ``[N, side, side, 3]`` to a feature map, a functional model of one level.

    Returns:
      ``{"P3": ..., "P4": ..., "P5": ...}``, symbolic tensors of ``model``; without P5 where it ends before.

    Raises:
      UsageError: the input doesn't divide in cells of all levels, or a level isn't there (a network that cuts
        images in patches has one scale only).
    """
    made = getattr(model, "pyramid_outputs", None) or _last_of_each_scale(model)
    missing = [f"P{level}" for level in NEEDED if f"P{level}" not in made]
    if missing:
        raise UsageError(
            f"model.architecture: {model.name} has no feature maps at {', '.join(missing)} (P3 and P4: 8 and "
            f"16 px a cell) of {model.input_shape[1]} px; use a convolutional network such as mobilenet_v2, "
            "and images of 64 px or more"
        )
    found = [level for level in LEVELS if f"P{level}" in made]
    _check_side(model.input_shape[1], found[-1])
    return {f"P{level}": made[f"P{level}"] for level in found}


def _check_side(side_px: int, last: int) -> None:
    cell_px = 2**last
    least = LEAST_CELLS * cell_px
    if side_px < least or side_px % cell_px:
        raise UsageError(
            f"data.image_size {side_px}: this RetinaNet takes a multiple of {cell_px} px, at least {least}; "
            f"the nearest is {max(least, round(side_px / cell_px) * cell_px)}"
        )


def _last_of_each_scale(model: keras.Model) -> dict[str, Any]:
    side_px = model.input_shape[1]
    found = {}
    for layer in model.layers:
        output = layer.output
        for level in LEVELS:
            cells = -(-side_px // 2**level)
            if getattr(output, "shape", ())[1:3] == (cells, cells) and len(output.shape) == 4 and cells > 1:
                found[f"P{level}"] = output
    return found


def with_pixels(pyramid: Any, side_px: int, scaled: Callable[[Any], Any]) -> Any:
    """A RetinaNet's network and pyramid with the same weights, that takes pixels as they are decoded.

    Args:
      pyramid: a ``keras_hub.models.RetinaNetBackbone`` of any input size.
      side_px: of the square input that it shall take.
      scaled: brings a symbolic tensor of pixels, 0..255, to what ``pyramid`` takes.

    Returns:
      A ``keras_hub.models.RetinaNetBackbone``; its network is shared with ``pyramid``, its pyramid a copy.

    Raises:
      UsageError: the input doesn't divide in cells of all levels.
    """
    keras, hub = deps.need("keras"), deps.need("keras_hub")
    _check_side(side_px, LEVELS[-1])
    image = keras.Input((side_px, side_px, 3), dtype="uint8", name="image")
    maps = pyramid.get_layer("backbone")(scaled(image))
    encoder = hub.models.FeaturePyramidBackbone(inputs=image, outputs=maps, name="image_encoder")
    encoder.pyramid_outputs = dict(maps)
    made = hub.models.RetinaNetBackbone(
        image_encoder=encoder,
        min_level=pyramid.min_level,
        max_level=pyramid.max_level,
        use_p5=pyramid.use_p5,
        use_fpn_batch_norm=pyramid.use_fpn_batch_norm,
        image_shape=(side_px, side_px, 3),
    )
    made.feature_pyramid.set_weights(pyramid.feature_pyramid.get_weights())
    return made


def feature_extractor(model: keras.Model) -> keras.Model:
    """A network of which only :func:`level_maps` are used, as KerasHub's RetinaNet takes it.

    Args:
      model: as :func:`level_maps` takes it; one that holds its network as a layer (preprocessing before it)
        is opened first. Its weights are shared, not copied.

    Returns:
      A ``keras_hub.models.FeaturePyramidBackbone`` with ``pyramid_outputs``.
    """
    keras, hub = deps.need("keras"), deps.need("keras_hub")
    inner = next((layer for layer in model.layers if isinstance(layer, keras.Model)), None)
    if inner is None:
        maps = level_maps(model)
    else:
        before = model.layers[model.layers.index(inner) - 1].output
        maps = keras.Model(inner.inputs, level_maps(inner), name=inner.name)(before)
    made = hub.models.FeaturePyramidBackbone(inputs=model.inputs, outputs=maps, name="image_encoder")
    made.pyramid_outputs = dict(maps)
    return made
