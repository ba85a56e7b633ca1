"""Where a backbone's first weights come from: a local file, or a preset by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from beam_vision import deps
from beam_vision.errors import UsageError

if TYPE_CHECKING:
    import keras

    from beam_vision.training.architectures import Architecture

RANDOM, PRESET = "random", "preset:"
_WHERE = "where there is no internet, give a local file (FILE.weights.h5, FILE.keras, or preset:FOLDER)"


def preset_of(weights: str) -> str | None:
    """The NAME of ``preset:NAME``; None of other weights."""
    return weights.removeprefix(PRESET) if weights.startswith(PRESET) else None


def check_file(weights: str) -> None:
    """Looks whether the file or folder that ``weights`` names, where it names one, is there, and of a kind we
    read.

    Raises:
      UsageError: it isn't.
    """
    preset = preset_of(weights)
    if preset is not None and preset.startswith(("/", ".", "~")) and not os.path.isdir(preset):
        raise UsageError(f"model.weights {weights}: there is no such folder")
    if weights == RANDOM or preset is not None:
        return
    if not weights.endswith((".h5", ".keras")):
        raise UsageError(
            f"model.weights {weights!r} is not known: it is random, a local .weights.h5 or .keras file, or "
            "preset:NAME"
        )
    if not os.path.exists(weights):
        raise UsageError(f"model.weights {weights}: there is no such file")


def make_application(
    architecture: Architecture, preset: str | None, shape: tuple[int, int, int]
) -> keras.Model:
    """A network of keras.applications without its head.

    Args:
      architecture: of that source.
      preset: None (random weights), or what Keras downloads: ``imagenet``.
      shape: of the input.

    Raises:
      UsageError: the preset can't be had.
    """
    maker = getattr(deps.need("keras").applications, architecture.maker)
    if preset is None:
        return maker(include_top=False, weights=None, input_shape=shape, **architecture.settings)
    try:
        return maker(include_top=False, weights=preset, input_shape=shape, **architecture.settings)
    except Exception as error:  # Keras raises a bare Exception where a download fails
        raise UsageError(f"model.weights preset:{preset}: {_first_line(error)}; {_WHERE}") from error


def load_hub_preset(architecture: Architecture, preset: str, side_px: int) -> tuple[keras.Model, Any]:
    """A backbone of KerasHub with a preset's weights, and how the preset takes pixels.

    Args:
      architecture: the kind that the preset must hold (``Backbone``: any).
      preset: a built-in name, a ``kaggle://`` or ``hf://`` handle, or a local folder as ``save_to_preset``
        writes.
      side_px: side of the square input.

    Returns:
      The network, and (scale, offset) of its pixels, of 0..255, or the architecture's own way where the
      preset doesn't say.

    Raises:
      UsageError: it can't be had, is of another kind, or takes another size.
    """
    hub = deps.need("keras_hub")
    maker = getattr(hub.models, architecture.maker)
    try:
        net = maker.from_preset(preset)
    except Exception as error:  # of many kinds: KerasHub's, Kaggle's, the network's
        raise UsageError(f"model.weights preset:{preset}: {_first_line(error)}; {_WHERE}") from error
    shape = net.input_shape
    if not isinstance(shape, tuple) or len(shape) != 4 or len(net.output_shape) not in (3, 4):
        raise UsageError(f"model.weights preset:{preset} holds a {type(net).__name__}, not an image backbone")
    if shape[1:3] not in ((None, None), (side_px, side_px)):  # a transformer's positions are of one size
        raise UsageError(
            f"model.weights preset:{preset} takes images of {shape[2]}x{shape[1]} px; set data.image_size to "
            f"{shape[1]}"
        )
    return net, _preset_scale(hub, preset) or architecture.preprocessing


def load_retinanet(preset: str) -> tuple[keras.Model, Any] | None:
    """A RetinaNet's network and feature pyramid with a preset's weights; None of a preset of another kind.

    Its heads are left behind: they are for the classes that it was trained on.

    Args:
      preset: as for :func:`load_hub_preset`.

    Returns:
      A ``keras_hub.models.RetinaNetBackbone``, and (scale, offset) of its pixels, of 0..255, where it says.

    Raises:
      UsageError: it can't be had.
    """
    hub = deps.need("keras_hub")
    try:
        net = hub.models.Backbone.from_preset(preset)
    except Exception as error:  # of many kinds: KerasHub's, Kaggle's, the network's
        raise UsageError(f"model.weights preset:{preset}: {_first_line(error)}; {_WHERE}") from error
    return (net, _preset_scale(hub, preset)) if isinstance(net, hub.models.RetinaNetBackbone) else None


def _preset_scale(hub: Any, preset: str) -> tuple[Any, Any] | None:
    """(scale, offset) of the preset's image converter; None where it has none."""
    try:
        converter = hub.layers.ImageConverter.from_preset(preset)
    except (ValueError, FileNotFoundError):
        return None
    if converter is None:
        return None
    return converter.scale if converter.scale is not None else 1.0, (
        converter.offset if converter.offset is not None else 0.0
    )


def load_file(backbone: keras.Model, net: keras.Model, weights: str) -> None:
    """Loads a local file's weights, where ``weights`` names one.

    Args:
      backbone: of :func:`beam_vision.training.architectures.build_backbone`.
      net: the bare network in it.
      weights: ``random`` and ``preset:...`` load nothing; ``FILE.keras``: a model as we export it, or a
        backbone alone; ``FILE.weights.h5`` or ``FILE.h5``: of the bare network, as keras.applications' own
        files.

    Raises:
      UsageError: no such file, another ending, or weights of another network.
    """
    check_file(weights)
    if weights == RANDOM or preset_of(weights) is not None:
        return
    try:
        if weights.endswith(".keras"):
            _copy_weights(backbone, net, weights)
        else:
            net.load_weights(weights)
    except (ValueError, KeyError, OSError) as error:
        raise UsageError(f"model.weights {weights} does not fit: {_first_line(error)}") from error


def _copy_weights(backbone: keras.Model, net: keras.Model, path: str) -> None:
    """From a saved model: its layer of the backbone's name, or all of it."""
    saved = deps.need("keras").saving.load_model(path, compile=False)
    inner = next((layer for layer in saved.layers if layer.name == backbone.name), saved)
    values = inner.get_weights()
    target = backbone if len(values) == len(backbone.get_weights()) else net
    target.set_weights(values)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".;: ")
