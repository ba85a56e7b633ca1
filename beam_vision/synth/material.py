"""What scenes are made of: cut-outs and backgrounds, in a fixed order, shared out among splits."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from beam_vision.digest import fraction, settings_digest
from beam_vision.synth.cutout import open_background, open_cutout
from beam_vision.synth.settings import SceneSettings

CUTOUT, BACKGROUND = "cutout", "background"
CACHE_BYTES = 256 * 2**20

Read = Callable[[str], bytes]
"""Gives a file's bytes; raises VisionError."""


@dataclass(frozen=True, order=True)
class Asset:
    """A file that was found good.

    Attributes:
      name: its path below the folder that was given; what an order or a draw depends on.
      uri: what to open.
      kind: ``cutout`` or ``background``.
      label: a cut-out's class.
      sha256: of its bytes.
      opaque: a cut-out without any transparency.
    """

    name: str
    uri: str
    kind: str
    label: str
    sha256: str
    opaque: bool = False


@dataclass(frozen=True)
class Material:
    """All good assets, each kind sorted by name."""

    cutouts: tuple[Asset, ...]
    backgrounds: tuple[Asset, ...]

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(sorted({asset.label for asset in self.cutouts}))

    @functools.cached_property
    def digest(self) -> str:
        """Digest of names, classes and contents; it doesn't depend on where the folders are."""
        every = (*self.cutouts, *self.backgrounds)
        return settings_digest([[asset.kind, asset.name, asset.label, asset.sha256] for asset in every])


def gather(assets: Iterable[Asset]) -> Material:
    """The material, from good assets in any order."""
    ordered = sorted(assets)
    return Material(
        tuple(asset for asset in ordered if asset.kind == CUTOUT),
        tuple(asset for asset in ordered if asset.kind == BACKGROUND),
    )


@dataclass(frozen=True)
class Share:
    """What one split is made of: cut-outs by class (classes sorted), and backgrounds."""

    cutouts: Sequence[Sequence[Asset]]
    backgrounds: Sequence[Asset]


def share_out(material: Material, settings: SceneSettings) -> dict[str, Share]:
    """The material of each split (one named ``""`` where there are no splits).

    The cut-outs of each class, and the backgrounds, are put in an order that the seed decides and cut up by
    the splits' shares; so nothing that a held-out scene shows was seen in training. Where there are too few
    for a split to have any, all splits use them all.
    """
    splits = settings.splits or {"": 1.0}
    by_label: dict[str, list[Asset]] = {label: [] for label in material.labels}
    for asset in material.cutouts:
        by_label[asset.label].append(asset)
    classes = [_cut_up(found, splits, settings.seed) for found in by_label.values()]
    backgrounds = _cut_up(material.backgrounds, splits, settings.seed)
    return {
        split: Share([parts[split] for parts in classes], backgrounds[split])
        for split, share in splits.items()
        if share > 0
    }


def _cut_up(assets: Sequence[Asset], splits: Mapping[str, float], seed: int) -> dict[str, Sequence[Asset]]:
    shuffled = sorted(assets, key=lambda asset: (fraction(f"{seed}/{asset.name}"), asset.name))
    parts: dict[str, Sequence[Asset]] = {}
    start, reached = 0, 0.0
    for split, share in splits.items():
        reached += share
        end = round(reached * len(shuffled))
        parts[split] = sorted(shuffled[start:end])
        start = end
    if any(not parts[split] for split, share in splits.items() if share > 0):
        return dict.fromkeys(splits, assets)
    return parts


def split_of(number: int, settings: SceneSettings) -> str:
    """The split of a scene: it depends on the seed and its number alone; ``""`` where there are none."""
    place, reached = fraction(f"{settings.seed}/scene/{number}"), 0.0
    for split, share in settings.splits.items():
        reached += share
        if place < reached:
            return split
    return next(reversed([split for split, share in settings.splits.items() if share > 0]), "")


class Loader:
    """Opens assets, and keeps those opened last; safe to call from several threads.

    Args:
      read: gives a file's bytes.
      settings: say how large they are needed.
      most_bytes: of pixels that are kept.
    """

    def __init__(self, read: Read, settings: SceneSettings, *, most_bytes: int = CACHE_BYTES) -> None:
        self._read = read
        self._settings = settings
        self._most_bytes = most_bytes
        self._held_bytes = 0
        self._kept: OrderedDict[str, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, asset: Asset) -> Image.Image:
        """The opened asset: RGBA for a cut-out, RGB for a background. It must not be changed.

        Raises:
          VisionError: it can no longer be read.
        """
        with self._lock:
            if asset.uri in self._kept:
                self._kept.move_to_end(asset.uri)
                return self._kept[asset.uri]
        open_ = open_cutout if asset.kind == CUTOUT else open_background
        image = open_(self._read(asset.uri), self._settings)
        with self._lock:
            if asset.uri not in self._kept:
                self._kept[asset.uri] = image
                self._held_bytes += _size_bytes(image)
            while self._held_bytes > self._most_bytes and len(self._kept) > 1:
                self._held_bytes -= _size_bytes(self._kept.popitem(last=False)[1])
        return image


def _size_bytes(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())
