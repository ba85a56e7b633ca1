"""Simulated cameras: a view that wanders over photographs, stands still, freezes, goes black, falls silent
or sends broken frames, as planned. The same plan gives the same bytes.
"""

from __future__ import annotations

import functools
import heapq
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from beam_vision.errors import UsageError
from beam_vision.stream_types import iso_time

if TYPE_CHECKING:
    from collections.abc import Callable

EPISODES = ("still", "frozen", "black", "silent", "broken", "repeated")
BROKEN_EVERY = 4
"""In an episode ``broken`` one frame of so many is."""
NOISE = 2.0
"""Standard deviation of a sensor's noise, of 255."""
TEXT = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\nsensor offline\n"


@dataclass(frozen=True)
class Episode:
    """From ``start_sec`` until before ``end_sec`` a camera does something else than wander.

    ``what`` is one of:
      ``still``: it stands still; only the sensor's noise changes.
      ``frozen``: the last frame again, the same bytes, at new times.
      ``black``: as with the lens covered.
      ``silent``: it sends nothing.
      ``broken``: of :data:`BROKEN_EVERY` frames one is cut off, no image at all, or without its time.
      ``repeated``: every frame is sent twice, as by a publisher that didn't get an answer.
    """

    start_sec: float
    end_sec: float
    what: str

    def __post_init__(self) -> None:
        if self.what not in EPISODES:
            raise UsageError(f"an episode is one of {', '.join(EPISODES)}, not {self.what!r}")


@dataclass(frozen=True, kw_only=True)
class SimulatedCamera:
    """The plan of one camera.

    Attributes:
      name: of the camera.
      scenes: names of the photographs that it looks at, one after the other.
      frames_per_sec: how many it takes.
      scene_sec: how long it looks at each.
      episodes: what else happens; where two overlap, the first counts.
      seed: of its path and its noise.
      width_px, height_px: of its frames.
      quality: of its JPEGs.
    """

    name: str
    scenes: Sequence[str]
    frames_per_sec: float = 10.0
    scene_sec: float = 8.0
    episodes: Sequence[Episode] = ()
    seed: int = 0
    width_px: int = 320
    height_px: int = 240
    quality: int = 85

    def episode_at(self, offset_sec: float) -> Episode | None:
        """What happens then."""
        return next((e for e in self.episodes if e.start_sec <= offset_sec < e.end_sec), None)


@dataclass(frozen=True)
class SimulatedFrame:
    """A frame to send.

    Attributes:
      camera: whose.
      sequence: the camera's count, from 0; a repeated frame has the same one.
      offset_sec: when it is taken, in seconds since the camera's start.
      label: the photograph that it shows.
      data: its bytes: a JPEG, unless ``trouble`` says otherwise.
      trouble: ``truncated``, ``not_an_image``, ``no_time``; or the episode's name; or empty.
    """

    camera: str
    sequence: int
    offset_sec: float
    label: str
    data: bytes
    trouble: str = ""

    def attributes(self, start_sec: float) -> dict[str, str]:
        """The attributes of its message, for a camera that started at ``start_sec`` of the epoch."""
        found = {"camera": self.camera, "sequence": str(self.sequence)}
        if self.trouble != "no_time":
            found["capture_time"] = iso_time(start_sec + self.offset_sec)
        return found


def simulate(
    cameras: Sequence[SimulatedCamera], photos: Mapping[str, np.ndarray], duration_sec: float
) -> Iterator[SimulatedFrame]:
    """The frames of all cameras, in the order in which they are taken.

    Args:
      cameras: their plans.
      photos: the photographs by name, uint8 ``[H, W, 3]`` RGB.
      duration_sec: frames taken before then.

    Raises:
      UsageError: a camera looks at a photograph that isn't there, or at none.
    """
    for camera in cameras:
        missing = [name for name in camera.scenes if name not in photos]
        if missing or not camera.scenes:
            raise UsageError(f"camera {camera.name} has no photograph to look at: {missing or 'no scenes'}")
    images = {name: Image.fromarray(pixels) for name, pixels in photos.items()}
    streams = [_frames(camera, images, duration_sec) for camera in cameras]
    yield from heapq.merge(*streams, key=lambda frame: frame.offset_sec)


def _frames(
    camera: SimulatedCamera, images: Mapping[str, Image.Image], duration_sec: float
) -> Iterator[SimulatedFrame]:
    last = b""
    for sequence in range(math.ceil(duration_sec * camera.frames_per_sec)):
        offset_sec = sequence / camera.frames_per_sec
        episode = camera.episode_at(offset_sec)
        what = episode.what if episode else ""
        if what == "silent":
            continue
        still_sec = episode.start_sec if episode and what in ("still", "frozen") else offset_sec
        label = _scene_at(camera, still_sec)
        if what != "frozen" or not last:
            last = _jpeg(camera, images[label], still_sec, sequence, black=what == "black")
        trouble = what if what in ("frozen", "black") else ""
        data = last
        if what == "broken" and sequence % BROKEN_EVERY == 0:
            trouble, spoil = TROUBLES[sequence // BROKEN_EVERY % len(TROUBLES)]
            data = spoil(last)
        frame = SimulatedFrame(camera.name, sequence, offset_sec, label, data, trouble)
        yield frame
        if what == "repeated":
            yield frame


TROUBLES: Sequence[tuple[str, Callable[[bytes], bytes]]] = (
    ("truncated", lambda data: data[: len(data) // 2]),
    ("not_an_image", lambda data: TEXT),
    ("no_time", lambda data: data),
)
"""What a broken frame is, by turns."""


def _scene_at(camera: SimulatedCamera, offset_sec: float) -> str:
    return camera.scenes[int(offset_sec // camera.scene_sec) % len(camera.scenes)]


def _jpeg(camera: SimulatedCamera, image: Image.Image, at_sec: float, sequence: int, *, black: bool) -> bytes:
    """What the camera sees at that time, with the noise of that frame."""
    size = (camera.width_px, camera.height_px)
    if black:
        view = np.zeros((camera.height_px, camera.width_px, 3), np.float32)
    else:
        box = view_box(camera, image.size, at_sec)
        view = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box), np.float32)
    shift = sequence * 7919 % _noise_plane(camera.seed).size
    noise = np.resize(np.roll(_noise_plane(camera.seed), shift), view.shape[:2])
    pixels = np.clip(view + noise[..., None], 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=camera.quality)
    return file.getvalue()


@functools.lru_cache(maxsize=16)
def _noise_plane(seed: int) -> np.ndarray:
    """Noise, float32 ``[N]``, from which each frame takes another stretch."""
    return np.random.default_rng(seed).normal(0, NOISE, 104_729).astype(np.float32)


def view_box(
    camera: SimulatedCamera, photo_size: tuple[int, int], at_sec: float
) -> tuple[float, float, float, float]:
    """The part of the photograph in view, xyxy in its pixels: a Lissajous path, zooming slowly."""
    width, height = photo_size
    phase = camera.seed * 1.7
    zoom = 0.55 + 0.15 * math.sin(at_sec * 0.37 + phase)
    view_width = zoom * min(width, height * camera.width_px / camera.height_px)
    view_height = view_width * camera.height_px / camera.width_px
    left = (width - view_width) * (0.5 + 0.5 * math.sin(at_sec * 0.61 + phase))
    top = (height - view_height) * (0.5 + 0.5 * math.sin(at_sec * 0.43 + phase * 2))
    return left, top, left + view_width, top + view_height
