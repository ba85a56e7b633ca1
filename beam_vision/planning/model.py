"""A model's part of the work: preparing its input, running it, reading what it gave."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from beam_vision.errors import UsageError
from beam_vision.images.codec import decode, decode_tiles
from beam_vision.inference.decoding import view_of
from beam_vision.inference.detect import View
from beam_vision.inference.engine import warm_up
from beam_vision.inference.loader import load
from beam_vision.inference.prepare import InputWriter
from beam_vision.inference.reading import EngineSettings, Reader
from beam_vision.inference.robust import run_rows
from beam_vision.inference.spec import ModelSpec
from beam_vision.planning.measure import Step, Timed
from beam_vision.types import DecodedImage, ImageRef

MOST_SEC = 30.0
"""Batches are repeated no longer than this, but for the first two."""
_NOBODY = ImageRef(key="", uri="")


class Row(NamedTuple):
    """An image, or a tile of one, as the model takes it."""

    pixels: np.ndarray
    view: View


class ModelWork:
    """A loaded model with what surrounds it in a job.

    Args:
      path, spec: as for :func:`~beam_vision.inference.loader.load`.
      settings: what is wanted of each image, and the batch size.

    Attributes:
      process_bytes: memory of this process once the model has run; None where the system doesn't tell.

    Raises:
      UsageError: the model takes whole tf.Examples, not images.
    """

    def __init__(self, path: str, spec: ModelSpec, settings: EngineSettings) -> None:
        if spec.input_kind == "tf_example":
            raise UsageError("a model of tf.Examples can't be planned for; choose another --signature")
        self._settings, self._decode = settings, spec.decode_settings()
        self._writer, self._reader = InputWriter(spec), Reader(spec, settings)
        self._model = load(path, spec)
        warm_up(self._model)
        multiple = spec.fixed_batch or 1
        self.batch_rows = max(multiple, settings.batch_size // multiple * multiple)
        self._rows: list[Row] = []
        self._kept: bytes | None = None
        self.process_bytes = process_bytes()

    def prepare(self, data: bytes) -> int:
        """Decodes a file and makes its input rows; how many. The first ones are kept, to run the model on.

        Raises:
          VisionError: see :func:`~beam_vision.images.codec.decode`.
        """
        number, is_new = 0, self._kept is not data
        self._kept = data
        for image, source in self._decoded(data):
            row = self._writer.empty(1)
            self._writer.write(row, 0, image, source)
            number += 1
            if is_new and len(self._rows) < self.batch_rows:
                self._rows.append(Row(row, view_of(image)))
        return number

    def _decoded(self, data: bytes) -> Iterator[tuple[DecodedImage, bytes]]:
        """The image, or its tiles; with the file's bytes where they may be passed on as they are."""
        if not self._settings.tile_px:
            yield decode(data, self._decode), data
            return
        tiles, _, _ = decode_tiles(data, self._decode, self._settings.tile_px, self._settings.tile_overlap)
        for _, image in tiles:
            yield image, data if len(tiles) == 1 else b""

    def time_batches(self, repeats: int) -> list[Timed]:
        """Runs full batches of the kept rows, warm, and times each; none where no image could be prepared."""
        if not self._rows:
            return []
        rows = [self._rows[i % len(self._rows)] for i in range(self.batch_rows)]
        batch, views = np.concatenate([row.pixels for row in rows]), [row.view for row in rows]
        self._time_batch(batch, views)  # of this size it may have to be compiled
        start, timed = time.monotonic(), []
        for _ in range(repeats):
            timed.append(self._time_batch(batch, views))
            if len(timed) > 1 and time.monotonic() - start > MOST_SEC:
                break
        self.process_bytes = process_bytes()
        return timed

    def _time_batch(self, batch: np.ndarray, views: list[View]) -> Timed:
        wall, cpu = time.monotonic(), time.process_time()
        rows = run_rows(self._model, batch)
        wall_sec, cpu_sec = time.monotonic() - wall, time.process_time() - cpu
        start = time.thread_time()
        made = self._reader.read(rows, views, self._model.activation, self._model.multi_label)
        for view, item in zip(views, made, strict=True):
            self._reader.result(_NOBODY, view, item)
        return Timed(len(batch), cpu_sec, wall_sec, time.thread_time() - start, len(rows.errors))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a job does to each image.

    Attributes:
      steps: before the model.
      model: loaded; None for a job without one.
      reads: how often it reads each file.
      beam_ms: CPU milliseconds that Beam and the job around the steps take for an image.
      shuffled_bytes: what it shuffles for an image (see ARCHITECTURE.md).
      shuffles: how often it shuffles the file itself.
      notes: what was assumed of the model.
    """

    steps: tuple[Step, ...]
    model: ModelWork | None = None
    reads: int = 1
    beam_ms: float = 0.0
    shuffled_bytes: float = 0.0
    shuffles: int = 0
    notes: tuple[str, ...] = ()


def process_bytes() -> int | None:
    """Memory that this process holds (Linux's resident set); None where the system doesn't tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
