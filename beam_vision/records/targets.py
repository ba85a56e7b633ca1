"""What a model learns from a record besides its pixels: its labels, or its boxes as Keras takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.records import example as names
from beam_vision.records.manifest import DatasetManifest

if TYPE_CHECKING:
    import tensorflow as tf

TARGETS = ("labels", "boxes")


class Targets(Protocol):
    """How targets come from records, a batch of N at a time."""

    def features(self) -> dict[str, Any]:
        """What is parsed of each record."""

    def parsed(self, found: dict[str, Any]) -> Any:
        """Dense tensors of what was parsed, with N first."""

    def placed(self, parsed: Any, affines: tf.Tensor) -> Any:
        """The targets, once it is known where the pixels went: float64 ``[N, 4]``, see ``DecodedImage``."""


class LabelTargets:
    """int64 ``[N]``, -1 without a label; float32 ``[N, classes]`` of 0 and 1 where images have several."""

    def __init__(self, manifest: DatasetManifest) -> None:
        self._multi_hot = len(manifest.classes) if manifest.multi_label else 0

    def features(self) -> dict[str, Any]:
        """The ids of the labels."""
        tf = deps.need("tensorflow")
        return {names.CLASS_LABEL: tf.io.VarLenFeature(tf.int64)}

    def parsed(self, found: dict[str, Any]) -> Any:
        """Dense labels."""
        tf = deps.need("tensorflow")
        ids = found[names.CLASS_LABEL]
        if self._multi_hot:
            return tf.cast(tf.sparse.to_indicator(ids, self._multi_hot), tf.float32)
        one_column = tf.sparse.reset_shape(ids, [ids.dense_shape[0], 1])
        return tf.sparse.to_dense(one_column, default_value=-1)[:, 0]

    def placed(self, parsed: Any, affines: tf.Tensor) -> Any:
        """Labels are the same wherever pixels go."""
        return parsed


class BoxTargets:
    """``{"boxes": float32 [N, M, 4], "labels": int64 [N, M]}``; see :func:`boxes_in_output`.

    Args:
      manifest: the dataset's.
      image_size: (height, width) of the output in pixels.
      max_boxes: M; 0: as many as the image of the dataset that has the most.

    Raises:
      UsageError: the dataset has no boxes.
    """

    def __init__(self, manifest: DatasetManifest, image_size: tuple[int, int], max_boxes: int = 0) -> None:
        if not manifest.box_classes:
            raise UsageError("the dataset has no boxes: make it from annotated images with create-tfrecords")
        self._image_size = image_size
        self._max_boxes = max_boxes or max(manifest.most_boxes, 1)

    def features(self) -> dict[str, Any]:
        """Corners, ids and crowd flags; the size of the image they are fractions of."""
        tf = deps.need("tensorflow")
        size = tf.io.FixedLenFeature([], tf.int64)
        found = {name: tf.io.RaggedFeature(tf.float32) for name in names.BOX_CORNERS}
        found |= {name: tf.io.RaggedFeature(tf.int64) for name in (names.BOX_LABEL, names.BOX_CROWD)}
        return {**found, names.WIDTH: size, names.HEIGHT: size}

    def parsed(self, found: dict[str, Any]) -> Any:
        """Fractions, ids and crowd flags, filled up with zeros; sizes as (width, height)."""
        tf = deps.need("tensorflow")
        corners = tf.stack([found[name].to_tensor() for name in names.BOX_CORNERS], axis=2)
        sizes = tf.stack([found[names.WIDTH], found[names.HEIGHT]], axis=1)
        return corners, found[names.BOX_LABEL].to_tensor(), found[names.BOX_CROWD].to_tensor(), sizes

    def placed(self, parsed: Any, affines: tf.Tensor) -> dict[str, Any]:
        """Boxes in pixels of the output."""
        tf = deps.need("tensorflow")

        def place(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return boxes_in_output(*arrays, image_size=self._image_size, max_boxes=self._max_boxes)

        boxes, labels = tf.numpy_function(place, [*parsed, affines], [tf.float32, tf.int64])
        boxes.set_shape([None, self._max_boxes, 4])
        labels.set_shape([None, self._max_boxes])
        return {"boxes": boxes, "labels": labels}


def boxes_in_output(
    corners: np.ndarray,
    ids: np.ndarray,
    crowd: np.ndarray,
    sizes: np.ndarray,
    affines: np.ndarray,
    *,
    image_size: tuple[int, int],
    max_boxes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of a batch where their pixels went, in the form that Keras's detectors train on.

    A crowd is no object that could be learned, and is left out; so is what lies outside the output of a
    ``center_crop``. Where an image has more boxes than ``max_boxes``, the first ones stay.

    Args:
      corners: float32 ``[N, B, 4]``: xmin, ymin, xmax, ymax as fractions of the stored image.
      ids: int64 ``[N, B]``, from 1; 0 where an image has fewer than B boxes.
      crowd: int64 ``[N, B]``, 1 for a crowd.
      sizes: int64 ``[N, 2]``: width and height of the stored image in pixels.
      affines: float64 ``[N, 4]``: (ax, ay, tx, ty) from pixels of the stored image to those of the output.
      image_size: (height, width) of the output in pixels.
      max_boxes: M.

    Returns:
      Boxes float32 ``[N, M, 4]``, xyxy in pixels of the output (``bounding_box_format="xyxy"``), and labels
      int64 ``[N, M]``, places in the manifest's ``box_classes`` from 0. An image's boxes come first; what
      is left is filled with boxes of zeros and labels of -1, as Keras's ``densify_bounding_boxes`` does.
    """
    height, width = image_size
    scale, shift = affines[:, None, [0, 1, 0, 1]], affines[:, None, [2, 3, 2, 3]]
    pixels = corners * np.tile(sizes, 2)[:, None] * scale + shift
    pixels = np.clip(pixels, 0, [width, height] * 2).astype(np.float32)
    keep = (ids > 0) & (crowd == 0) & (pixels[..., 2:] > pixels[..., :2]).all(axis=2)
    first = np.argsort(~keep, axis=1, kind="stable")[:, :max_boxes]
    keep = np.take_along_axis(keep, first, axis=1)
    boxes = np.where(keep[..., None], np.take_along_axis(pixels, first[..., None], axis=1), np.float32(0))
    labels = np.where(keep, np.take_along_axis(ids, first, axis=1) - 1, -1)
    rest = max_boxes - first.shape[1]
    return (
        np.pad(boxes, ((0, 0), (0, rest), (0, 0))),
        np.pad(labels, ((0, 0), (0, rest)), constant_values=-1),
    )
