"""Feature maps at several scales out of an image classifier's network: what a feature pyramid is built on."""

from __future__ import annotations

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
