"""One scene, drawn from the seed and its number alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from beam_vision.images.codec import encode_jpeg, encode_png
from beam_vision.synth.canvas import Canvas
from beam_vision.synth.cutout import background_pixels, transformed
from beam_vision.synth.material import Asset, Share
from beam_vision.synth.settings import SceneSettings

TRIES = 20
"""How often a place is looked for, with another size and turn each time, before an object is left out."""

T = TypeVar("T")
Load = Callable[[Asset], Image.Image]


@dataclass(frozen=True)
class SceneObject:
    """What is seen of an object.

    Attributes:
      label: its class.
      box: xyxy in whole pixels: from the left edge of its first pixel to the right edge of its last.
      area_px: how many of its pixels are seen.
      visible: which share of its pixels that is; the rest is hidden by others.
    """

    label: str
    box: tuple[int, int, int, int]
    area_px: int
    visible: float


@dataclass(frozen=True)
class Scene:
    """A scene.

    Attributes:
      pixels: uint8 ``[height_px, width_px, 3]`` RGB.
      objects: in the order in which they were pasted.
      left_out: objects that were drawn and found no room.
    """

    pixels: np.ndarray
    objects: tuple[SceneObject, ...]
    left_out: int


def make_scene(number: int, share: Share, load: Load, settings: SceneSettings) -> Scene:
    """Scene ``number``: the same material, settings and number give the same scene, anywhere.

    Objects lie wholly inside the scene. Each is of a class drawn first, so that classes come equally often
    however many cut-outs they have.

    Args:
      number: from 1.
      share: what the scene's split is made of; there must be a background and, for any object, a cut-out.
      load: opens an asset.
      settings: how.

    Raises:
      VisionError: an asset can't be opened.
    """
    rng = np.random.default_rng([settings.seed, number])
    photo = load(_one_of(share.backgrounds, rng))
    canvas = Canvas(background_pixels(photo, rng, settings))
    wanted = int(rng.integers(settings.objects[0], settings.objects[1] + 1))
    for _ in range(wanted):
        asset = _one_of(_one_of(share.cutouts, rng), rng)
        _place(canvas, load(asset), asset.label, rng, settings)
    found = [
        SceneObject(layer.label, layer.box, int(layer.seen.sum()), layer.visible) for layer in canvas.layers
    ]
    pixels = np.rint(canvas.pixels).astype(np.uint8)
    return Scene(pixels, tuple(found), wanted - len(found))


def _one_of(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]


def _place(
    canvas: Canvas, cutout: Image.Image, label: str, rng: np.random.Generator, settings: SceneSettings
) -> None:
    """Pastes a cut-out somewhere, if there is room for it."""
    shorter_px = min(settings.width_px, settings.height_px)
    for _ in range(TRIES):
        pixels = transformed(
            cutout,
            longer_px=shorter_px * rng.uniform(*settings.scale),
            rotation_deg=settings.rotation_deg * rng.uniform(-1, 1),
            flip=bool(rng.random() < 0.5) and settings.flip,
            lighter=1 + settings.brightness * rng.uniform(-1, 1),
        )
        room = (settings.width_px - pixels.shape[1], settings.height_px - pixels.shape[0])
        left_px, top_px = (int(rng.integers(max(side, 0) + 1)) for side in room)
        if min(room) >= 0 and canvas.paste(pixels, left_px, top_px, label, min_visible=settings.min_visible):
            return


def encode_scene(scene: Scene, settings: SceneSettings) -> bytes:
    """The scene as a file of the format that the settings name."""
    if settings.image_format == "png":
        return encode_png(scene.pixels)
    return encode_jpeg(scene.pixels, quality=settings.jpeg_quality)
