"""Reads a dataset for training, as a ``tf.data.Dataset`` of batches decoded by the project's one decoder.

``tf.io.decode_image`` would ignore what our decoder heeds, and a model would be served other pixels than it
was trained on. So records are parsed by TensorFlow, and decoded, a batch at a time, by threads that call
:func:`beam_vision.images.codec.decode`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import deps, storage
from beam_vision.errors import UsageError, VisionError
from beam_vision.images import codec
from beam_vision.images.geometry import VALUE_RANGES, normalize
from beam_vision.records.ahead import cores
from beam_vision.records.example import ENCODED, KEY
from beam_vision.records.manifest import DatasetManifest, Split, read_manifest
from beam_vision.records.targets import TARGETS, BoxTargets, LabelTargets, Targets

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BYTES = 256 * 2**20
"""The shuffle buffer holds about this many bytes."""

_OPEN_SHARDS = 16
_BLOCK = 16
_BATCHES_AT_ONCE = 2

Augment = Callable[[Any, Any], tuple[Any, Any]]


def decode_settings(
    image_size: tuple[int, int], *, resize: str = "stretch", interpolation: str = "bilinear"
) -> codec.DecodeSettings:
    """How :func:`load_dataset` decodes; its digest belongs beside a model that is trained on it.

    Args:
      image_size: (height, width) in pixels.
    """
    height, width = image_size
    return codec.DecodeSettings(height_px=height, width_px=width, resize=resize, interpolation=interpolation)


def load_dataset(
    folder: str,
    split: str,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    targets: str = "labels",
    max_boxes: int = 0,
    resize: str = "stretch",
    interpolation: str = "bilinear",
    value_range: str | None = "0..255",
    shuffle: bool = False,
    seed: int = 0,
    augment: Augment | None = None,
    cache: bool | str = False,
    repeat: bool = False,
    drop_remainder: bool = False,
    num_parallel: int = 0,
    prefetch: int = 2,
) -> tf.data.Dataset:
    """A split as batches ``(images, targets)``; the same arguments give the same batches in the same order.

    ``images`` is float32 ``[N, height, width, 3]`` RGB in ``value_range``, or uint8 without one. The targets
    ``labels`` are int64 ``[N]``, the label's place in the manifest's class list (-1 without a label); where
    the dataset has images with several labels, float32 ``[N, classes]`` of zeros and ones.

    The targets ``boxes`` are what Keras's detectors train on: ``{"boxes": float32 [N, M, 4], "labels": int64
    [N, M]}``, xyxy in pixels of ``images`` (``bounding_box_format="xyxy"``) and places in the manifest's
    ``box_classes``, filled up to M with boxes of zeros and labels of -1. Crowds are left out.

    Args:
      folder: the dataset's.
      split: its name.
      image_size: (height, width) in pixels.
      targets: ``labels`` or ``boxes``.
      max_boxes: M, of an image with more boxes the first; 0: none has more (the manifest's ``most_boxes``).
      resize: ``stretch``, ``letterbox`` or ``center_crop``.
      interpolation: see :class:`~beam_vision.images.codec.DecodeSettings`.
      value_range: see :func:`~beam_vision.images.geometry.normalize`; None: pixels stay bytes, 0..255.
      shuffle: in another order at each pass, from ``seed``: shards among themselves, then images within
        :data:`SHUFFLE_BYTES`.
      augment: called with a batch of TensorFlow tensors, gives such a batch.
      cache: decoded pixels are kept for later passes: True or ``"memory"`` in memory (uint8), else in
        files that begin with this path.
      repeat: begin again at the end, forever.
      drop_remainder: leave out a last batch that isn't full.
      num_parallel: threads that decode; 0: as many as there are cores.
      prefetch: batches made ready while the model works.

    Raises:
      UsageError: no such dataset or split, no boxes in it, or a value out of its range.
    """
    tf = deps.need("tensorflow")
    if value_range is not None and value_range not in VALUE_RANGES:
        raise UsageError(f"value_range {value_range!r} is none of {', '.join(VALUE_RANGES)}")
    manifest = read_manifest(folder)
    info = _split(manifest, split, folder)
    settings = decode_settings(image_size, resize=resize, interpolation=interpolation)
    wanted = _targets(targets, manifest, image_size, max_boxes)
    decoder = _Decoder(settings, image_size, wanted, threads=num_parallel or cores())
    data = _records(folder, info, shuffle=shuffle, seed=seed)
    image_bytes = info.bytes // max(info.images, 1)
    if cache:
        data = decoder.decode(data.batch(batch_size)).unbatch()
        data = data.cache("" if cache in (True, "memory") else str(cache))
        image_bytes = 3 * image_size[0] * image_size[1]
    if shuffle:
        data = data.shuffle(max(1, min(info.images, SHUFFLE_BYTES // max(image_bytes, 1))), seed=seed)
    data = data.batch(batch_size, drop_remainder=drop_remainder)
    if not cache:
        data = decoder.decode(data)
    batches = info.images // batch_size if drop_remainder else -(-info.images // batch_size)
    data = data.apply(tf.data.experimental.assert_cardinality(batches))
    if repeat:
        data = data.repeat()
    data = data if value_range is None else _normalized(data, value_range)
    if augment is not None:
        data = data.map(augment, num_parallel_calls=_BATCHES_AT_ONCE)
    options = tf.data.Options()
    options.deterministic = True
    return data.prefetch(prefetch).with_options(options)


def _targets(targets: str, manifest: DatasetManifest, image_size: tuple[int, int], max_boxes: int) -> Targets:
    if targets not in TARGETS:
        raise UsageError(f"targets {targets!r} is none of {', '.join(TARGETS)}")
    if max_boxes < 0:
        raise UsageError(f"max_boxes {max_boxes} is less than 0")
    return BoxTargets(manifest, image_size, max_boxes) if targets == "boxes" else LabelTargets(manifest)


def _split(manifest: DatasetManifest, split: str, folder: str) -> Split:
    if split not in manifest.splits:
        raise UsageError(f"{folder} has no split {split!r}, only {', '.join(manifest.splits)}")
    return manifest.splits[split]


def _records(folder: str, info: Split, *, shuffle: bool, seed: int) -> tf.data.Dataset:
    """The serialized records, of several shards in turn."""
    tf = deps.need("tensorflow")
    paths = [storage.local(storage.join(folder, shard.name)) for shard in info.shards]
    files = tf.data.Dataset.from_tensor_slices(paths)
    if shuffle:
        files = files.shuffle(len(paths), seed=seed)
    return files.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(len(paths), _OPEN_SHARDS),
        block_length=_BLOCK,
        num_parallel_calls=min(len(paths), cores()),
        deterministic=True,
    )


def _normalized(data: tf.data.Dataset, value_range: str) -> tf.data.Dataset:
    """Batches of uint8 pixels -> float32 in ``value_range``, exactly as serving does it."""
    tf = deps.need("tensorflow")

    def bring(pixels: Any, targets: Any) -> tuple[Any, Any]:
        images = tf.numpy_function(lambda batch: normalize(batch, value_range), [pixels], tf.float32)
        images.set_shape(pixels.shape)
        return images, targets

    return data.map(tf.autograph.experimental.do_not_convert(bring), num_parallel_calls=_BATCHES_AT_ONCE)


class _Decoder:
    """Batches of records -> batches of uint8 pixels, decoded in threads, and targets."""

    def __init__(
        self, settings: codec.DecodeSettings, image_size: tuple[int, int], targets: Targets, *, threads: int
    ) -> None:
        self._settings = settings
        self._shape = (*image_size, 3)
        self._targets = targets
        self._pool = _pool(threads)

    def decode(self, data: tf.data.Dataset) -> tf.data.Dataset:
        """Maps a dataset of batches of serialized records."""
        plain = deps.need("tensorflow").autograph.experimental.do_not_convert
        return data.map(plain(self._parse)).map(plain(self._decode), num_parallel_calls=_BATCHES_AT_ONCE)

    def _parse(self, serialized: Any) -> tuple[Any, Any, Any]:
        """Serialized records -> encoded images, keys, what the targets are made of."""
        tf = deps.need("tensorflow")
        one = tf.io.FixedLenFeature([], tf.string)
        found = tf.io.parse_example(serialized, {ENCODED: one, KEY: one, **self._targets.features()})
        return found[ENCODED], found[KEY], self._targets.parsed(found)

    def _decode(self, encoded: Any, keys: Any, parsed: Any) -> tuple[Any, Any]:
        tf = deps.need("tensorflow")
        pixels, affines = tf.numpy_function(self._decode_batch, [encoded, keys], [tf.uint8, tf.float64])
        pixels.set_shape([None, *self._shape])
        return pixels, self._targets.placed(parsed, affines)

    def _decode_batch(self, encoded: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = np.empty((len(encoded), *self._shape), np.uint8)
        affines = np.empty((len(encoded), 4))

        def decode_one(place: int) -> None:
            try:
                image = codec.decode(encoded[place], self._settings)
            except VisionError as error:
                raise ValueError(f"image {keys[place].decode()}: {error}") from error
            out[place], affines[place] = image.pixels, image.affine

        for _ in self._pool.map(decode_one, range(len(encoded))):
            pass
        return out, affines


@functools.lru_cache(maxsize=8)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "decode")
