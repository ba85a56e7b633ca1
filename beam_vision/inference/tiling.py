"""Images in tiles: tiles of many images share batches, and what a model says of them becomes one answer."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from beam_vision.errors import Stage, VisionError
from beam_vision.failures import Guard
from beam_vision.images.codec import decode_tiles, read_header
from beam_vision.images.tiles import Tile, merge_tiles
from beam_vision.inference.decoding import MAX_AHEAD_BYTES, Decoder, Prepared, decoding_pool, view_of
from beam_vision.inference.detect import Detections
from beam_vision.inference.reading import EngineSettings, Made
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import DecodedImage, EncodedImage, Failure, ImageRef

_BYTES_A_PIXEL = 4


@dataclass(frozen=True)
class TileChunk:
    """A model batch of tiles in the making.

    Attributes:
      places: of each row the place of its image in the input, and its tile; None: the image can't be decoded.
      batch: the input batch ``[len(places), ...]``; rows that failed are undefined.
      tasks: of each row.
    """

    places: Sequence[tuple[int, Tile | None]]
    batch: np.ndarray
    tasks: Sequence[Future[Prepared | Failure]]

    def wait(self) -> list[Prepared | Failure]:
        """Waits until all its tiles are there; what became of each, in order."""
        return [task.result() for task in self.tasks]


@dataclass(frozen=True)
class _Opened:
    """An image that is decoded, and makes its tiles when they are asked for."""

    data: bytes
    tiles: Sequence[tuple[Tile, DecodedImage]]
    decode_ms: float


class TileDecoder(Decoder):
    """Makes input batches of the tiles of encoded images, a batch ahead of whoever takes them.

    Args:
      spec: the model's.
      settings: how images are cut, and the batch size.
    """

    def __init__(self, spec: ModelSpec, settings: EngineSettings) -> None:
        super().__init__(spec, settings)
        self._cut = (settings.tile_px, settings.tile_overlap)
        guard = functools.partial(Guard, run_id=settings.run_id, attempt=settings.attempt)
        self._open_guard: Guard[_Opened] = guard(self._open, Stage.DECODE)
        self._tile_guard: Guard[Prepared] = guard(self._write_tile, Stage.DECODE)
        self._size = max(self._multiple, self._batch_size // self._multiple * self._multiple)

    def tile_chunks(self, images: Sequence[EncodedImage]) -> Iterator[TileChunk]:
        """The tiles of the images in batches, in order. While one is used, the next is made."""
        ahead: deque[TileChunk] = deque()
        for chunk in self._chunks(images):
            ahead.append(chunk)
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead

    def _chunks(self, images: Sequence[EncodedImage]) -> Iterator[TileChunk]:
        places: list[tuple[int, Tile | None]] = []
        tasks: list[Future[Prepared | Failure]] = []
        batch = self._writer.empty(self._size)
        submit: Callable[..., Future] = decoding_pool(self._threads).submit
        for i, opened in self._opened(images):
            for k in range(1 if isinstance(opened, Failure) else len(opened.tiles)):
                row = len(places)
                if isinstance(opened, Failure):
                    places.append((i, None))
                    tasks.append(_done(opened))
                else:
                    places.append((i, opened.tiles[k][0]))
                    tasks.append(submit(self._tile_guard, images[i].ref, opened, k, batch, row))
                if len(places) == self._size:
                    yield TileChunk(places, batch, tasks)
                    places, tasks, batch = [], [], self._writer.empty(self._size)
        if places:
            yield TileChunk(places, batch[: len(places)], tasks)

    def _opened(self, images: Sequence[EncodedImage]) -> Iterator[tuple[int, _Opened | Failure]]:
        """The images, decoded, in order; the next are being decoded, as many as memory allows."""
        ahead: deque[tuple[int, Future[_Opened | Failure], int]] = deque()
        todo = deque(enumerate(images))
        while todo or ahead:
            while todo and (len(ahead) < 2 or sum(size for *_, size in ahead) < MAX_AHEAD_BYTES):
                i, image = todo.popleft()
                task = decoding_pool(self._threads).submit(self._open_guard, image.ref, image)
                ahead.append((i, task, _decoded_bytes(image)))
            i, task, _ = ahead.popleft()
            yield i, task.result()

    def _open(self, image: EncodedImage) -> _Opened:
        start = time.monotonic()
        tiles, _, _ = decode_tiles(image.data, self._settings, *self._cut)
        data = image.data if len(tiles) == 1 else b""
        return _Opened(data, tiles, 1000 * (time.monotonic() - start))

    def _write_tile(self, opened: _Opened, index: int, batch: np.ndarray, row: int) -> Prepared:
        start = time.monotonic()
        decoded = opened.tiles[index][1]
        self._writer.write(batch, row, decoded, opened.data)
        share = opened.decode_ms / len(opened.tiles)
        return Prepared(view_of(decoded), share + 1000 * (time.monotonic() - start))


def _done(failure: Failure) -> Future[Prepared | Failure]:
    future: Future[Prepared | Failure] = Future()
    future.set_result(failure)
    return future


def _decoded_bytes(image: EncodedImage) -> int:
    """What an image takes in memory, by its header; 0 when that can't be read."""
    try:
        header = read_header(image.data)
    except VisionError:
        return 0
    return header.width_px * header.height_px * _BYTES_A_PIXEL


Outcome = Made | VisionError | Failure
"""What became of a tile or an image: an error of the model, or a failure before it."""


@dataclass(frozen=True)
class TileOutcome:
    """What became of one tile; ``tile`` and ``prepared`` are None where the image can't be decoded."""

    tile: Tile | None
    prepared: Prepared | None
    outcome: Outcome


def first_trouble(parts: Sequence[TileOutcome]) -> VisionError | Failure | None:
    """What is wrong with the first tile of an image that failed, with the tile named; None: nothing."""
    for part in parts:
        if isinstance(part.outcome, Made):
            continue
        where = "" if part.tile is None else f"tile {tile_name(part.tile)}: "
        if isinstance(part.outcome, Failure):
            return replace(part.outcome, detail=f"{where}{part.outcome.detail}")
        return VisionError(part.outcome.reason, f"{where}{part.outcome.detail}")
    return None


def merged(parts: Sequence[TileOutcome], settings: EngineSettings) -> Made:
    """What was found in the tiles of one image as one list: each object once.

    Args:
      parts: of all its tiles, each with ``found``.
      settings: ``nms_iou`` and ``max_detections`` hold for the whole image too.
    """
    found = [
        (part.tile, *part.outcome.found)
        for part in parts
        if part.tile is not None and isinstance(part.outcome, Made) and part.outcome.found is not None
    ]
    view = next(part.prepared.view for part in parts if part.prepared is not None)
    boxes, scores, classes = merge_tiles(
        found, view.width_px, view.height_px, iou_threshold=settings.nms_iou, pixels_of="image"
    )
    most = settings.max_detections
    return Made(found=Detections(boxes[:most], scores[:most], classes[:most]))


def tile_name(tile: Tile) -> str:
    """``left,top,width,height``, in pixels of the upright image."""
    return f"{tile.left_px},{tile.top_px},{tile.width_px},{tile.height_px}"


def ref_of_tile(ref: ImageRef, tile: Tile) -> ImageRef:
    """The ref of a tile: a key of its own, and as attributes the image's key and the place in it."""
    attributes = {
        **ref.attributes,
        "image_key": ref.key,
        "tile_left_px": str(tile.left_px),
        "tile_top_px": str(tile.top_px),
        "tile_width_px": str(tile.width_px),
        "tile_height_px": str(tile.height_px),
    }
    return replace(ref, key=f"{ref.key}#tile-{tile_name(tile)}", attributes=attributes)
