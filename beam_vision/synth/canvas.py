"""Pasting, and what stays visible of what was pasted before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from beam_vision.synth.cutout import SEEN


@dataclass
class Layer:
    """An object on a canvas.

    Attributes:
      label: its class.
      left_px, top_px: where its array lies.
      weight: float32 ``[H, W]``: its share of each pixel's colour, 0..1; less where later ones cover it.
      whole_px: at how many pixels it was seen before anything covered it.
    """

    label: str
    left_px: int
    top_px: int
    weight: np.ndarray
    whole_px: int

    @property
    def seen(self) -> np.ndarray:
        """bool ``[H, W]``: where it is seen."""
        return self.weight >= SEEN

    @property
    def visible(self) -> float:
        """The share of its pixels that is still seen."""
        return int(self.seen.sum()) / self.whole_px

    @property
    def box(self) -> tuple[int, int, int, int]:
        """xyxy of the pixels at which it is seen (there must be one): the last column lies below xmax."""
        seen = self.seen
        columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
        return (
            self.left_px + int(columns[0]),
            self.top_px + int(rows[0]),
            self.left_px + int(columns[-1]) + 1,
            self.top_px + int(rows[-1]) + 1,
        )


class Canvas:
    """A picture that grows object by object.

    Args:
      pixels: float32 ``[H, W, 3]`` in 0..255, the background; not changed.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels.copy()
        self.layers: list[Layer] = []

    def paste(
        self, cutout: np.ndarray, left_px: int, top_px: int, label: str, *, min_visible: float = 0.0
    ) -> bool:
        """Pastes a cut-out over all that is there, unless that would hide too much of an earlier object.

        An object is wholly hidden at no ``min_visible``, 0 included.

        Args:
          cutout: float32 ``[H, W, 4]``: RGB in 0..255, alpha in 0..1; it must lie within the canvas.
          left_px, top_px: where its first pixel goes.
          label: its class.
          min_visible: the least share of each earlier object that must stay visible.

        Returns:
          Whether it was pasted; if not, nothing has changed.
        """
        alpha = cutout[..., 3]
        height, width = alpha.shape
        whole_px = int((alpha >= SEEN).sum())
        if not whole_px or left_px + width > self.pixels.shape[1] or top_px + height > self.pixels.shape[0]:
            return False
        covered = [_covered(layer, alpha, left_px, top_px) for layer in self.layers]
        for layer, weight in zip(self.layers, covered, strict=True):
            seen_px = int((weight >= SEEN).sum())
            if not seen_px or seen_px < min_visible * layer.whole_px:
                return False
        for layer, weight in zip(self.layers, covered, strict=True):
            layer.weight = weight
        part = self.pixels[top_px : top_px + height, left_px : left_px + width]
        part += (cutout[..., :3] - part) * alpha[..., None]
        self.layers.append(Layer(label, left_px, top_px, alpha.copy(), whole_px))
        return True


def _covered(layer: Layer, alpha: np.ndarray, left_px: int, top_px: int) -> np.ndarray:
    """The layer's weight once ``alpha`` lies over it at ``left_px``, ``top_px``."""
    height, width = layer.weight.shape
    left, right = max(layer.left_px, left_px), min(layer.left_px + width, left_px + alpha.shape[1])
    top, bottom = max(layer.top_px, top_px), min(layer.top_px + height, top_px + alpha.shape[0])
    if left >= right or top >= bottom:
        return layer.weight
    over = alpha[top - top_px : bottom - top_px, left - left_px : right - left_px]
    weight = layer.weight.copy()
    weight[top - layer.top_px : bottom - layer.top_px, left - layer.left_px : right - layer.left_px] *= (
        1 - over
    )
    return weight
