"""What scenes look like, as data with a digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from beam_vision.digest import settings_digest
from beam_vision.errors import UsageError

VERSION = 1
"""Rises when the same settings begin to give other scenes."""

IMAGE_FORMATS = {"jpeg": "jpg", "png": "png"}
"""Formats of the images, and the extensions of their files."""

MAX_SIDE_PX = 8192


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """How scenes are made. Together with the material, a scene depends on these and its number alone.

    Attributes:
      width_px, height_px: of each scene.
      objects: the least and the most cut-outs that are drawn for a scene.
      scale: the least and the greatest length of a cut-out's longer side (of its visible part, before it is
        turned), as a share of the scene's shorter side; 0..1.
      rotation_deg: cut-outs are turned by up to so many degrees, either way.
      flip: whether half of the cut-outs are mirrored, left to right.
      brightness: cut-outs and background are made lighter or darker by up to this share; 0..1.
      min_visible: the least share of an object's pixels that stays visible when others are pasted over it;
        0..1. What would hide more is put elsewhere, or left out when there is no room, so that everything
        that can be seen is annotated.
      image_format: ``jpeg`` or ``png``.
      jpeg_quality: 1..100.
      seed: another one gives other scenes.
      splits: the share of each split; empty: no splits. No cut-out and no background is in two splits.
    """

    width_px: int = 320
    height_px: int = 240
    objects: tuple[int, int] = (1, 6)
    scale: tuple[float, float] = (0.15, 0.45)
    rotation_deg: float = 10.0
    flip: bool = False
    brightness: float = 0.2
    min_visible: float = 0.25
    image_format: str = "jpeg"
    jpeg_quality: int = 90
    seed: int = 0
    splits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fewest, most = self.objects
        smallest, largest = self.scale
        checks = {
            f"size {self.width_px}x{self.height_px}: sides must be 8 to {MAX_SIDE_PX} pixels": all(
                8 <= side <= MAX_SIDE_PX for side in (self.width_px, self.height_px)
            ),
            f"objects {fewest}-{most}: it must be 0 or more, the lesser number first": 0 <= fewest <= most,
            f"scale {smallest}-{largest}: it must lie in 0..1, the lesser number first": 0
            < smallest
            <= largest
            <= 1,
            f"rotation {self.rotation_deg}: it must be 0 to 180 degrees": 0 <= self.rotation_deg <= 180,
            f"brightness {self.brightness}: it must lie in 0..1": 0 <= self.brightness <= 1,
            f"min_visible {self.min_visible}: it must lie in 0..1": 0 <= self.min_visible <= 1,
            f"image_format {self.image_format!r}: use {' or '.join(IMAGE_FORMATS)}": self.image_format
            in IMAGE_FORMATS,
            f"jpeg_quality {self.jpeg_quality}: it must be 1 to 100": 1 <= self.jpeg_quality <= 100,
            f"seed {self.seed}: it must not be negative": self.seed >= 0,
        }
        for message, holds in checks.items():
            if not holds:
                raise UsageError(f"--{message}")

    @property
    def longest_px(self) -> float:
        """The length of the largest cut-out's longer side, before it is turned."""
        return self.scale[1] * min(self.width_px, self.height_px)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change when any setting changes."""
        return settings_digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        value = {**asdict(self), "version": VERSION, "splits": [list(item) for item in self.splits.items()]}
        return {**value, "objects": list(self.objects), "scale": list(self.scale)}
