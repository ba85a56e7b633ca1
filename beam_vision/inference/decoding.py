"""Decodes images into input batches in threads, ahead of the model that takes them."""

from __future__ import annotations

import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from beam_vision.errors import Stage
from beam_vision.failures import Guard
from beam_vision.images.codec import decode
from beam_vision.inference.detect import View
from beam_vision.inference.prepare import InputWriter
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import DecodedImage, EncodedImage, Failure

MAX_AHEAD_BYTES = 256 << 20
"""Batches decoded ahead may take so much memory (the next one is always prepared, whatever it takes)."""

_MOST_AHEAD = 3
_MOST_IMAGES_A_TASK = 8
_LEAST_HALVED = 16


@dataclass(frozen=True)
class Prepared:
    """What is known of one image that lies in a batch: how it is seen, and how long decoding took."""

    view: View
    decode_ms: float


@dataclass(frozen=True)
class Chunk:
    """A model batch in the making.

    Attributes:
      images: what it is made of.
      batch: the input batch ``[len(images), ...]``; the rows of images that failed are undefined.
      tasks: give, in order, what became of each image.
    """

    images: Sequence[EncodedImage]
    batch: np.ndarray
    tasks: Sequence[Future[list[Prepared | Failure]]]

    def wait(self) -> list[Prepared | Failure]:
        """Waits until all its images are decoded; what became of each, in order."""
        return [item for task in self.tasks for item in task.result()]


class Decoder:
    """Makes input batches of encoded images, a few batches ahead of whoever takes them.

    Args:
      spec: the model's.
      settings: the batch size, and how many threads decode.
    """

    def __init__(self, spec: ModelSpec, settings: EngineSettings) -> None:
        self._writer = InputWriter(spec)
        self._settings = spec.decode_settings()
        self._guard = Guard(self._prepare, Stage.DECODE, run_id=settings.run_id, attempt=settings.attempt)
        self._batch_size = settings.batch_size
        self._multiple = spec.fixed_batch or 1
        self._threads = settings.decode_threads or cores()

    def chunks(self, images: Sequence[EncodedImage]) -> Iterator[Chunk]:
        """The images in batches, in order. While one is used, the next are decoded."""
        plan = deque(slices(len(images), self._batch_size, self._multiple))
        ahead: deque[Chunk] = deque()
        while plan or ahead:
            while plan and self._has_room(ahead):
                start, stop = plan.popleft()
                ahead.append(self._start(images[start:stop]))
            yield ahead.popleft()

    def _has_room(self, ahead: Sequence[Chunk]) -> bool:
        held_bytes = sum(chunk.batch.nbytes for chunk in ahead)
        return len(ahead) < 2 or (len(ahead) <= _MOST_AHEAD and held_bytes < MAX_AHEAD_BYTES)

    def _start(self, images: Sequence[EncodedImage]) -> Chunk:
        batch = self._writer.empty(len(images))
        step = max(1, min(_MOST_IMAGES_A_TASK, len(images) // self._threads))
        submit: Callable[..., Future] = decoding_pool(self._threads).submit
        tasks = [
            submit(self._run, images[i : i + step], batch[i : i + step]) for i in range(0, len(images), step)
        ]
        return Chunk(images, batch, tasks)

    def _run(self, images: Sequence[EncodedImage], batch: np.ndarray) -> list[Prepared | Failure]:
        return [self._guard(image.ref, image, batch, index) for index, image in enumerate(images)]

    def _prepare(self, image: EncodedImage, batch: np.ndarray, index: int) -> Prepared:
        start = time.monotonic()
        decoded = decode(image.data, self._settings)
        self._writer.write(batch, index, decoded, image.data)
        return Prepared(view_of(decoded), 1000 * (time.monotonic() - start))


def view_of(image: DecodedImage) -> View:
    """How a model sees a decoded image."""
    height_px, width_px = image.pixels.shape[:2]
    return View(image.width_px, image.height_px, width_px, height_px, image.affine, image.orientation)


def slices(images: int, batch_size: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Cuts ``images`` into batches: small at first, so that the model starts early, then ``batch_size``.

    What fits into one batch, as in a stream, is halved (one half is decoded while the other runs), or left
    whole where it is small: each call of the model costs something.

    Args:
      images: how many there are.
      batch_size: the largest batch, at least 1.
      multiple: batches are multiples of this (but for the last): the model's fixed batch size.

    Returns:
      ``(start, stop)`` pairs that follow each other from 0 to ``images``.
    """
    largest = max(multiple, batch_size // multiple * multiple)
    if images <= largest:
        half = images // 2 // multiple * multiple if images >= _LEAST_HALVED else 0
        return [(start, stop) for start, stop in ((0, half), (half, images)) if start < stop]
    size = max(multiple, largest // 8 // multiple * multiple)
    cuts, start = [], 0
    while start < images:
        stop = min(start + size, images)
        cuts.append((start, stop))
        start, size = stop, min(2 * size, largest)
    return cuts


@functools.cache
def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def decoding_pool(threads: int) -> ThreadPoolExecutor:
    """The process's decoding threads: shared, so that several runner threads don't multiply them."""
    return ThreadPoolExecutor(threads, thread_name_prefix="beam-vision-decode")
