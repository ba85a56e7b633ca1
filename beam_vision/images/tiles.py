"""Large images in tiles: where the tiles lie, and how what was found in them becomes one answer.

Pure numbers; :func:`beam_vision.images.codec.decode_tiles` makes the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beam_vision.errors import UsageError
from beam_vision.images.boxes import area, as_boxes, intersection

EDGE = 0.03
"""A box that comes so close to a tile's edge (a fraction of the tile's side, at least 1 px) touches it."""

_PAST_EDGE_PX = 1.0
"""What touches an inner edge is taken to go on so far behind it; lets tiles without overlap meet."""

_OUTWARD = np.array([-1.0, -1.0, 1.0, 1.0])

_Found = tuple["Tile", Any, Any, Any]


@dataclass(frozen=True)
class Tile:
    """A part of an upright image, in its pixels.

    Attributes:
      left_px, top_px: its first column and row.
      width_px, height_px: its size.
      index: its number in the image, from 0: rows from top to bottom, each from left to right.
    """

    left_px: int
    top_px: int
    width_px: int
    height_px: int
    index: int = 0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The same as xyxy."""
        return (
            self.left_px,
            self.top_px,
            self.left_px + self.width_px,
            self.top_px + self.height_px,
        )


def plan_tiles(width_px: int, height_px: int, tile_px: int, overlap: float) -> tuple[Tile, ...]:
    """Cuts an image in as few square tiles as cover it with the overlap asked for.

    Along a side, tiles are spread evenly: the first begins at 0, the last ends at the edge, and neighbours
    share at least ``overlap * tile_px`` pixels. A side no longer than ``tile_px`` is not cut, so that tiles
    there are as long as the side.

    Args:
      width_px, height_px: size of the upright image.
      tile_px: side of a tile.
      overlap: what neighbours share, as a fraction of ``tile_px``; 0 or more, under 1.

    Raises:
      UsageError: a tile of less than 1 pixel, or an overlap that leaves no step.
    """
    if tile_px < 1:
        raise UsageError(f"a tile of {tile_px} pixels: it must have at least 1")
    step_px = tile_px - math.ceil(tile_px * overlap - 1e-9) if 0 <= overlap < 1 else 0
    if step_px < 1:
        raise UsageError(
            f"a tile overlap of {overlap}: it must be at least 0 and leave tiles of {tile_px} pixels a step"
        )
    lefts, tops = _starts(width_px, tile_px, step_px), _starts(height_px, tile_px, step_px)
    size = min(tile_px, width_px), min(tile_px, height_px)
    places = [(left, top) for top in tops for left in lefts]
    return tuple(Tile(*place, *size, index) for index, place in enumerate(places))


def _starts(side: int, tile: int, step: int) -> list[int]:
    steps = -(-(side - tile) // step)
    return [i * (side - tile) // steps for i in range(steps + 1)] if steps > 0 else [0]


def merge_tiles(
    per_tile: Sequence[_Found],
    width_px: int,
    height_px: int,
    *,
    iou_threshold: float = 0.5,
    containment: float = 0.8,
    pixels_of: str = "tile",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes one list of what was found in the tiles of an image: each object once, in its full extent.

    Two boxes of one class from two tiles show the same object when they overlap as suppression has it, or
    when they agree on what both tiles could see: cut to the part that the tiles share, their IoU is more
    than ``iou_threshold``, and where one goes on beyond the other's tile the other touches that edge. Or
    when, so cut, one lies within the other (``containment`` of it) and touches an edge of its own tile that
    the other tile sees past: a piece. The pairs that agree best are joined first. Boxes of one tile are
    never joined, not even through a third: the model told them apart. So the result for a single tile is
    what was put in, sorted.

    What is joined gets the highest score, and as its box the best of those that touch no inner edge (the
    object was seen whole), or else the hull of all.

    Args:
      per_tile: for each tile: the tile, boxes float ``[N, 4]`` xyxy, scores ``[N]``, and classes ``[N]``
        of any type. Boxes are cut at the edges of their tile; those without area in it and those that are
        not finite (or their score) are left out.
      width_px, height_px: size of the upright image.
      iou_threshold: two views of an object overlap by more than this; in 0..1.
      containment: how much of a piece lies in the other box, at least; in 0..1.
      pixels_of: ``tile``: boxes count from the tile's corner, in pixels of the original; ``image``: from
        the image's corner.

    Returns:
      ``boxes`` float32 ``[M, 4]`` in pixels of the image, ``scores`` float32 ``[M]`` and ``classes``
      ``[M]``, highest score first (ties in the order of the input).

    Raises:
      UsageError: ``pixels_of`` is none of both.
    """
    if pixels_of not in ("tile", "image"):
        raise UsageError(f"pixels_of is {pixels_of!r}: use tile or image")
    found = [_in_image(item, pixels_of) for item in per_tile]
    found = [item for item in found if len(item[1])]
    if not found:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    seen = _seen(found, width_px, height_px)
    groups = _joined(seen, *_links(seen, iou_threshold, containment))
    firsts = np.array([group[0] for group in groups])
    merged, best = seen.boxes[firsts], seen.scores[firsts]
    for n, group in enumerate(groups):
        if len(group) > 1:
            merged[n] = _extent(seen.boxes[group], seen.scores[group], seen.cut[group])
            best[n] = seen.scores[group].max()
    order = np.lexsort((firsts, -best))
    return merged[order].astype(np.float32), best[order].astype(np.float32), seen.classes[firsts][order]


@dataclass(frozen=True)
class _Seen:
    """What was found in all tiles, box after box; those of a tile follow each other.

    Attributes:
      boxes: float64 ``[N, 4]`` in pixels of the image, within their tiles.
      scores, classes: ``[N]``.
      tile: int64 ``[N]``: which tile.
      edges: float64 ``[T, 4]``: the tiles, in the image.
      touch_px: float64 ``[T, 4]``: how close to an edge touches it.
      cut: bool ``[N, 4]``: which edges of its tile inside the image a box touches.
      behind: float64 ``[T, 4]``: the tiles with a little of what lies behind their edges inside the image.
      going_on: float64 ``[N, 4]``: the boxes, going on a little behind the edges that cut them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    tile: np.ndarray
    edges: np.ndarray
    touch_px: np.ndarray
    cut: np.ndarray
    behind: np.ndarray
    going_on: np.ndarray


def _in_image(found: _Found, pixels_of: str) -> _Found:
    """The usable boxes (float64, in pixels of the image, cut at the tile), scores and classes of a tile."""
    tile, boxes, scores, classes = found
    boxes, scores, classes = as_boxes(boxes).astype(np.float64), np.asarray(scores), np.asarray(classes)
    corner, end = tile.box[:2], tile.box[2:]
    if pixels_of == "tile":
        boxes = boxes + np.array([corner, corner]).ravel()
    usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    boxes = np.clip(boxes, np.tile(corner, 2), np.tile(end, 2))
    usable &= area(boxes) > 0
    return tile, boxes[usable], scores[usable].astype(np.float64), classes[usable]


def _seen(found: Sequence[_Found], width_px: int, height_px: int) -> _Seen:
    tiles, *columns = zip(*found, strict=True)
    boxes, scores, classes = (np.concatenate(column) for column in columns)
    tile = np.repeat(np.arange(len(tiles)), [len(item[1]) for item in found])
    edges = np.array([item.box for item in tiles], np.float64)
    touch_px = np.maximum(1.0, EDGE * np.tile(edges[:, 2:] - edges[:, :2], 2))
    inner = edges != (0, 0, width_px, height_px)
    cut = inner[tile] & (np.abs(boxes - edges[tile]) <= touch_px[tile])
    behind = edges + _OUTWARD * inner * _PAST_EDGE_PX
    going_on = boxes + _OUTWARD * cut * _PAST_EDGE_PX
    return _Seen(boxes, scores, classes, tile, edges, touch_px, cut, behind, going_on)


def _candidates(seen: _Seen) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of boxes of one class from two tiles that overlap, as the numbers of both: int64 ``[K]`` each."""
    near = np.triu(intersection(seen.behind, seen.behind) > 0, 1)
    firsts, seconds = [], []
    for tile in range(len(near)):
        mine, others = np.flatnonzero(seen.tile == tile), np.flatnonzero(near[tile][seen.tile])
        overlap = intersection(seen.going_on[mine], seen.going_on[others]) > 0
        i, j = np.nonzero(overlap & (seen.classes[mine][:, None] == seen.classes[others][None, :]))
        firsts.append(mine[i])
        seconds.append(others[j])
    return np.concatenate(firsts), np.concatenate(seconds)


def _links(
    seen: _Seen, iou_threshold: float, containment: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of boxes that show the same object, and how surely: int64 ``[K]`` twice and float64 ``[K]``.

    Surely is 1 + IoU (above 1) for two views of it, the part contained (at most 1) for a piece in another.
    """
    i, j = _candidates(seen)
    a, b = seen.going_on[i], seen.going_on[j]
    common = _shared(a, b)
    tiles = seen.behind[seen.tile[i]], seen.behind[seen.tile[j]]
    area_a, area_b = area(_cut_to(a, tiles[1])), area(_cut_to(b, tiles[0]))
    a_ends_early, b_ends_early = _ends_early(seen, i, j), _ends_early(seen, j, i)
    agree = np.where(a_ends_early | b_ends_early, 0, common / (area_a + area_b - common))
    whole = _shared(seen.boxes[i], seen.boxes[j])
    agree = np.maximum(agree, whole / (area(seen.boxes[i]) + area(seen.boxes[j]) - whole))
    part = common / np.minimum(area_a, area_b)
    piece_a = (area_a <= area_b) & _goes_on_into(seen, i, j) & ~b_ends_early
    piece_b = (area_a > area_b) & _goes_on_into(seen, j, i) & ~a_ends_early
    contained = np.where((piece_a | piece_b) & (part >= containment), part, 0)
    surely = np.where(agree > iou_threshold, 1 + agree, contained)
    linked = surely > 0
    return i[linked], j[linked], surely[linked]


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The area that each box of ``a`` has in common with the same box of ``b``: ``[K]``."""
    return area(np.hstack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])]))


def _cut_to(boxes: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Each box as far as it lies in the tile beside it."""
    return np.clip(boxes, tiles[:, [0, 1, 0, 1]], tiles[:, [2, 3, 2, 3]])


def _ends_early(seen: _Seen, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Where box j goes on beyond an edge of box i's tile which box i doesn't touch: bool ``[K]``."""
    tile = seen.tile[i]
    beyond = _OUTWARD * (seen.boxes[j] - seen.edges[tile]) > seen.touch_px[tile]
    return (beyond & ~seen.cut[i]).any(axis=1)


def _goes_on_into(seen: _Seen, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Where box i is cut by an edge of its tile that box j's tile reaches past: bool ``[K]``."""
    past = _OUTWARD * (seen.edges[seen.tile[j]] - seen.edges[seen.tile[i]]) > 0
    return (seen.cut[i] & past).any(axis=1)


def _joined(seen: _Seen, i: np.ndarray, j: np.ndarray, surely: np.ndarray) -> list[list[int]]:
    """The boxes of each object, rising: the surest pairs are joined first, never two boxes of a tile."""
    groups = {n: [n] for n in range(len(seen.boxes))}
    tiles = {n: {tile} for n, tile in enumerate(seen.tile.tolist())}
    leader = list(groups)
    order = np.argsort(-surely, kind="stable")
    for one, two in zip(i[order].tolist(), j[order].tolist(), strict=True):
        into, other = sorted((leader[one], leader[two]))
        if into == other or tiles[into] & tiles[other]:
            continue
        groups[into] += groups[other]
        tiles[into] |= tiles[other]
        for n in groups.pop(other):
            leader[n] = into
    return [sorted(group) for group in groups.values()]


def _extent(boxes: np.ndarray, scores: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """The full box of an object, from the boxes that show it or pieces of it."""
    whole = ~cut.any(axis=1)
    if whole.any():
        return boxes[whole][np.argmax(scores[whole])]
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
