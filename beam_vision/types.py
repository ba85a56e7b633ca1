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
    """A box in xyxy format, in pixels of the original upright image, with its label and score."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    label: str = ""
    score: float = 1.0


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
      boxes: the true boxes, xyxy in pixels of the upright image.
      attributes: any further columns, as text.
    """

    key: str
    uri: str
    labels: Sequence[str] = ()
    split: str | None = None
    boxes: Sequence[Box] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)

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
    """

    pixels: np.ndarray
    width_px: int
    height_px: int
    affine: tuple[float, float, float, float] = (1.0, 1.0, 0.0, 0.0)
    format: str = ""


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
    """

    ref: ImageRef
    width_px: int
    height_px: int
    labels: Sequence[Label] = ()
    embedding: bytes | None = None
    boxes: Sequence[Box] = ()
    model_digest: str = ""
    preprocessing_digest: str = ""


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
