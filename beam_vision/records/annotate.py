"""The boxes of an image as its record holds them: fractions of the stored image, ids of the class list."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from beam_vision.errors import Reason
from beam_vision.images.annotated import categorised, upright_boxes
from beam_vision.records.encode import Stored
from beam_vision.types import Box, Fault, ImageRef


@dataclass(frozen=True)
class Annotated:
    """The boxes of one image.

    Attributes:
      boxes: corners as float32 fractions with 0 <= xmin < xmax <= 1 (and so y) of the stored image;
        ``area_px`` in pixels of the stored image, as :func:`annotate` says.
      clipped: how many left the image and were cut at its edge.
      faults: annotations that are not among ``boxes``, and why.
    """

    boxes: tuple[Box, ...] = ()
    clipped: int = 0
    faults: tuple[Fault, ...] = ()


def annotate(ref: ImageRef, stored: Stored, box_ids: Mapping[str, int]) -> Annotated:
    """Resolves what the annotation file says of an image, now that its size and orientation are known.

    The area of a box is what the file says (COCO: of the object's mask), scaled as the image was, and where
    it says nothing that of the box itself: ``image/object/area`` of the TF Object Detection API's
    ``create_coco_tf_record.py`` is COCO's ``area`` in square pixels of the stored image, and the TF Model
    Garden's ``tf_example_decoder.py`` takes the box's where a record has none.

    Args:
      ref: with boxes and faults as its source found them.
      stored: the image as it is stored.
      box_ids: the id of each known category.
    """
    ref = categorised(ref)
    width, height = stored.upright_px
    upright = upright_boxes(ref, width, height, stored.orientation)
    faults = (*ref.faults, *upright.faults, *_uncategorised(ref, box_ids, upright.faults))
    known = [box for box in upright.boxes if box.label in box_ids]
    return Annotated(_fractions(known, stored), upright.clipped, faults)


def _fractions(boxes: Sequence[Box], stored: Stored) -> tuple[Box, ...]:
    if not boxes:
        return ()
    corners = np.array([[box.xmin, box.ymin, box.xmax, box.ymax] for box in boxes])
    fractions = np.clip(corners / np.tile(stored.upright_px, 2), 0, 1).astype(np.float32)
    # what is thinner than float32 can tell keeps an area, on this side of the edge
    low = np.minimum(fractions[:, :2], np.nextafter(np.float32(1), np.float32(0)))
    high = np.maximum(fractions[:, 2:], np.nextafter(low, np.float32(2)))
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    told = np.array([box.area_px for box in boxes])
    areas = np.where((told > 0) & (told < np.inf), told, areas)
    areas *= stored.width_px * stored.height_px / math.prod(stored.upright_px)
    numbers = np.column_stack([low, high, areas.astype(np.float32)]).tolist()
    return tuple(
        Box(xmin, ymin, xmax, ymax, label=box.label, crowd=box.crowd, area_px=area)
        for (xmin, ymin, xmax, ymax, area), box in zip(numbers, boxes, strict=True)
    )


def _uncategorised(ref: ImageRef, box_ids: Mapping[str, int], already: Sequence[Fault]) -> Iterator[Fault]:
    bad = {fault.place for fault in already}
    for number, box in enumerate(ref.boxes, start=1):
        place = f"{ref.uri}: box {number}"
        if box.label not in box_ids and place not in bad:
            said = f"its category {box.label!r} is not in the class list"
            yield Fault(place, Reason.UNKNOWN_CATEGORY.value, said)
