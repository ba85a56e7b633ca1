"""The truth and the detections of one key -> an image to evaluate, and what was found on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.evaluation import findings
from beam_vision.evaluation.detected import Detected
from beam_vision.evaluation.findings import Finding
from beam_vision.evaluation.images import EvaluatedImage, place_of
from beam_vision.failures import failure
from beam_vision.images.annotated import Upright, upright_boxes
from beam_vision.types import Box, Failure, ImageRef

IMAGE_ID = "image_id"
"""The attribute of a ref that holds the id which its annotations give the image."""

_BOUNDLESS_PX = 2**40

Joined = EvaluatedImage | Failure | Finding


def join(key: str, refs: Sequence[ImageRef], rows: Sequence[Detected]) -> Iterator[Joined]:
    """The image of ``key``, a Failure for each further ref of the same key, and findings.

    Args:
      key: of the image.
      refs: from the truth; should be one, or none when the truth doesn't know the image.
      rows: from the table; none when it doesn't have the image.
    """
    if not refs:
        yield Finding(findings.ROWS)
        yield Finding(findings.WITHOUT_TRUTH, example=key)
        return
    ref, *again = sorted(refs, key=repr)
    for other in again:
        error = VisionError(Reason.DUPLICATE_KEY, f"{key} stands in the truth {len(refs)} times")
        yield failure(error, other, Stage.SOURCE)
    yield Finding(findings.IMAGES)
    row = _one(rows)
    upright = truth_of_image(ref, row)
    for fault in (*ref.faults, *upright.faults):
        yield Finding(f"{findings.FAULT}:{fault.reason}", example=f"{fault.place}: {fault.detail}")
    yield from _counts(upright, row, key)
    yield EvaluatedImage(
        key=key,
        uri=row.uri if row else ref.uri,
        place=place_of(key, ref.attributes.get(IMAGE_ID)),
        width_px=row.width_px if row else 0,
        height_px=row.height_px if row else 0,
        truth=upright.boxes,
        detections=row.boxes if row else (),
        missing=row is None,
    )


def truth_of_image(ref: ImageRef, row: Detected | None) -> Upright:
    """The true boxes in pixels of the upright image.

    An image without a row, or whose row says no size, is taken to have the size that was annotated and to
    be upright. Where none was annotated, boxes in pixels are taken as they are, and relative ones have an
    area that nobody knows: NaN.
    """
    if row is not None and row.width_px and row.height_px:
        return upright_boxes(ref, row.width_px, row.height_px, row.orientation)
    frame = ref.frame
    if frame.width_px and frame.height_px:
        return upright_boxes(ref, frame.width_px, frame.height_px, 1)
    if not frame.relative:
        return upright_boxes(ref, _BOUNDLESS_PX, _BOUNDLESS_PX, 1)
    upright = upright_boxes(ref, 1, 1, 1)
    return replace(upright, boxes=tuple(replace(box, area_px=math.nan) for box in upright.boxes))


def _one(rows: Sequence[Detected]) -> Detected | None:
    """The rows of one image as one."""
    if len(rows) < 2:
        return rows[0] if rows else None
    ordered = sorted(rows, key=lambda row: row.first)
    boxes: list[Box] = [box for row in ordered for box in row.boxes]
    return replace(ordered[0], boxes=boxes, unusable=sum(row.unusable for row in rows))


def _counts(upright: Upright, row: Detected | None, key: str) -> Iterator[Finding]:
    crowds = sum(box.crowd for box in upright.boxes)
    yield Finding(findings.TRUTHS, len(upright.boxes) - crowds)
    if crowds:
        yield Finding(findings.CROWDS, crowds)
    if upright.clipped:
        yield Finding(findings.CLIPPED, upright.clipped)
    if any(math.isnan(box.area_px) for box in upright.boxes):
        yield Finding(findings.SIZE_UNKNOWN, example=key)
    if row is None:
        yield Finding(findings.MISSING, example=key)
        return
    yield Finding(findings.ROWS)
    yield Finding(findings.COMMON)
    yield Finding(findings.DETECTIONS, len(row.boxes))
    if row.unusable:
        yield Finding(findings.UNUSABLE, row.unusable, example=key)
