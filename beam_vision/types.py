"""What flows between the rooms: small frozen values, each with the key that was made at the source.

``ImageRef`` (~100 B) -> ``EncodedImage`` (~100 KB) -> ``DecodedImage`` -> ``Prediction`` (~5 KB at most)
-> a row of a table. A ``Failure`` may stand in the place of any of them. :mod:`beam_vision.coders`
registers those that cross a shuffle with Beam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Sequence  # noqa: UP035  (Beam reads these hints at run time)

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Box:
    """A box in xyxy format, in pixels of the original upright image, with its label and score.

    Attributes:
      xmin, ymin, xmax, ymax: the corners; see :class:`BoxFrame` for those of a ref.
      label: its class.
      score: how sure a model is of it, in 0..1; 1 for an annotation.
      crowd: whether it stands for a group of objects that were not told apart (COCO's ``iscrowd``).
      area_px: the area of the object in square pixels, where it was annotated; 0: that of the box.
    """

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    label: str = ""
    score: float = 1.0
    crowd: bool = False
    area_px: float = 0.0


@dataclass(frozen=True)
class BoxFrame:
    """What the corners of a ref's boxes refer to, until its file is open and tells the rest.

    :func:`beam_vision.images.annotated.upright_boxes` brings them to pixels of the upright image.

    Attributes:
      pixels_of: ``upright``: the image as it is looked at; ``stored``: its pixels as they lie in the file,
        before the EXIF orientation; ``auto``: the one that has the annotated size, ``stored`` when both have.
      relative: whether corners are fractions of width and height, rather than pixels.
      width_px, height_px: the size of the image as annotated; 0 when it isn't known.
    """

    pixels_of: str = "upright"
    relative: bool = False
    width_px: int = 0
    height_px: int = 0


@dataclass(frozen=True)
class Fault:
    """An annotation of an image that can't be used; the image itself goes on without it.

    Attributes:
      place: where it stands, e.g. ``instances.json: annotation 17`` or ``boxes.csv:12``.
      reason: a :class:`~beam_vision.errors.Reason` value.
      detail: one sentence: the value and the remedy.
    """

    place: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Label:
    """A label with the score that a model gave it, in 0..1."""

    label: str
    score: float


@dataclass(frozen=True)
class ImageRef:
    """Where an image is and what is known of it; made at the source, never changed.

    Attributes:
      key: the normalised URI (for a TFRecord the key stored in it); unique within a job.
      uri: what to open.
      labels: the true labels; empty when unknown, several when multi-label.
      split: the split that a manifest asks for, or None.
      boxes: the true boxes, xyxy as ``frame`` says.
      attributes: any further columns, as text.
      frame: what the corners of ``boxes`` refer to; pixels of the upright image by default.
      faults: annotations that can't be used.
    """

    key: str
    uri: str
    labels: Sequence[str] = ()
    split: str | None = None
    boxes: Sequence[Box] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    frame: BoxFrame = BoxFrame()
    faults: Sequence[Fault] = ()

    @property
    def label(self) -> str | None:
        """The labels as one text (``a|b`` when there are several), or None when there is none."""
        return "|".join(self.labels) if self.labels else None


@dataclass(frozen=True)
class EncodedImage:
    """A ref with the bytes of its file, as they were stored."""

    ref: ImageRef
    data: bytes


@dataclass(frozen=True)
class DecodedImage:
    """Upright RGB pixels and how they came from the original.

    Attributes:
      pixels: uint8 ``[height_px, width_px, 3]`` RGB in 0..255, after the resize.
      width_px: width of the original upright image (EXIF applied).
      height_px: height of the original upright image (EXIF applied).
      affine: ``(ax, ay, tx, ty)``: a point (x, y) of the original upright image lies at
        ``(ax * x + tx, ay * y + ty)`` of ``pixels``.
      format: the file format found, e.g. ``"JPEG"``.
      orientation: the EXIF orientation, 1..8, that was applied; 1 for none.
    """

    pixels: np.ndarray
    width_px: int
    height_px: int
    affine: tuple[float, float, float, float] = (1.0, 1.0, 0.0, 0.0)
    format: str = ""
    orientation: int = 1


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image. Holds no pixels and no bytes of the image.

    Attributes:
      ref: the image's ref.
      width_px: width of the original upright image; 0 when the model decoded it itself.
      height_px: its height.
      labels: top-k labels, highest score first; empty for an embedder.
      embedding: little-endian float32 bytes of an L2-normalised vector, or None.
      boxes: boxes in pixels of the original upright image.
      model_digest: digest of the model that said it.
      preprocessing_digest: digest of the decoding, resize and value range it saw.
      orientation: the EXIF orientation, 1..8, of the file; the boxes have it applied.
    """

    ref: ImageRef
    width_px: int
    height_px: int
    labels: Sequence[Label] = ()
    embedding: bytes | None = None
    boxes: Sequence[Box] = ()
    model_digest: str = ""
    preprocessing_digest: str = ""
    orientation: int = 1


@dataclass(frozen=True)
class Neighbor:
    """One result of a search: ``rank`` from 1, ``score`` the cosine similarity, higher is better."""

    key: str
    score: float
    rank: int
    uri: str = ""
    label: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """An element that could not be processed, as data. Holds no payload.

    Attributes:
      key: the element's key.
      uri: where it is.
      stage: a :class:`~beam_vision.errors.Stage` value.
      reason: a :class:`~beam_vision.errors.Reason` value.
      detail: one sentence: the value, the place, the remedy.
      attempt: 1 at first, one more at each redrive.
      run_id: the run in which it failed.
    """

    key: str
    uri: str
    stage: str
    reason: str
    detail: str
    attempt: int = 1
    run_id: str = ""
