"""A split's labelled images by number, in whatever order they are asked for.

TFRecord files are made to be read from their beginning. One pass over a split finds where each record lies
and what its label is (32 bytes an image); from then on any image is one read away.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from beam_vision import storage
from beam_vision.errors import UsageError, VisionError
from beam_vision.images import codec
from beam_vision.records.ahead import cores
from beam_vision.records.example import CLASS_LABEL, ENCODED, KEY
from beam_vision.records.manifest import read_manifest
from beam_vision.tfrecord_io import OVERHEAD_BYTES, Example, read_records

_HEADER_BYTES = 12


class IndexedSplit:
    """The images of a split that have a label.

    Args:
      folder: the dataset's, local: reads at random are too slow from afar.
      split: its name.
      settings: how images are decoded; with a size.
      cache_bytes: decoded pixels are kept where those of all take no more than this.

    Raises:
      UsageError: no such split, several labels an image, or a folder that is not local.
    """

    def __init__(
        self, folder: str, split: str, settings: codec.DecodeSettings, *, cache_bytes: int = 0
    ) -> None:
        if settings.height_px is None or settings.width_px is None:
            raise ValueError("settings without a size: images of a batch must be of one")
        self._settings = settings
        self._shape = (settings.height_px, settings.width_px, 3)
        self._paths, places, labels = _scan(folder, split)
        self._places = np.array(places, np.int64).reshape(-1, 3)
        self.labels = np.array(labels, np.int64)
        """int64 ``[n]``: each image's class id."""
        room = len(labels) * int(np.prod(self._shape)) <= cache_bytes
        self._kept = np.empty((len(labels), *self._shape), np.uint8) if room else None
        self._is_kept = np.zeros(len(labels), bool)
        self._pool = ThreadPoolExecutor(cores(), "decode")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: height, width, 3."""
        return self._shape

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Images uint8 ``[N, H, W, 3]``, by their numbers ``[N]``; may be called from several threads.

        Raises:
          ValueError: one can't be decoded; the message has its key.
        """
        out = np.empty((len(numbers), *self._shape), np.uint8)
        for _ in self._pool.map(lambda i: self._read_one(int(numbers[i]), out[i]), range(len(numbers))):
            pass
        return out

    def _read_one(self, number: int, out: np.ndarray) -> None:
        if self._kept is not None and self._is_kept[number]:
            out[:] = self._kept[number]
            return
        file, offset, length = self._places[number]
        with self._paths[file].open("rb", buffering=0) as opened:
            example = Example.FromString(os.pread(opened.fileno(), length, offset))
        feature = example.features.feature
        try:
            out[:] = codec.decode(feature[ENCODED].bytes_list.value[0], self._settings).pixels
        except VisionError as error:
            raise ValueError(f"image {feature[KEY].bytes_list.value[0].decode()}: {error}") from error
        if self._kept is not None:
            self._kept[number] = out
            self._is_kept[number] = True


def _scan(folder: str, split: str) -> tuple[list[Path], list[tuple[int, int, int]], list[int]]:
    """The shards; (shard, offset of the data, its length) and label of each labelled record."""
    manifest = read_manifest(folder)
    if split not in manifest.splits:
        raise UsageError(f"{folder} has no split {split!r}, only {', '.join(manifest.splits)}")
    if manifest.multi_label:
        raise UsageError(f"{folder} has images with several labels; balanced batches need one an image")
    if storage.is_remote(folder):
        raise UsageError(f"{folder}: balanced batches are read at random; copy the dataset to a local folder")
    paths = [Path(storage.local(storage.join(folder, shard.name))) for shard in manifest.splits[split].shards]
    places, labels = [], []
    for number, path in enumerate(paths):
        offset = 0
        with path.open("rb") as file:
            for data in read_records(file):
                found = Example.FromString(data).features.feature[CLASS_LABEL].int64_list.value
                if found:
                    places.append((number, offset + _HEADER_BYTES, len(data)))
                    labels.append(found[0])
                offset += len(data) + OVERHEAD_BYTES
    return paths, places, labels
