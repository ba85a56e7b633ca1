"""The cameras of the streaming benchmark, a process of their own: frames of about 20 KB, sent on time.

``python -m benchmarks.stream_cameras`` takes orders from its input, a line of JSON each, ``{"topic": ...,
"count": ..., "rate": ...}``, and answers with a line when all is sent. ``rate`` 0: as fast as it goes.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from beam_vision import pubsub
from beam_vision.stream_types import iso_time
from beam_vision.testing import images

CAMERAS = 4
FRAMES = 64
SIZE_PX = (480, 360)
FRAME_BYTES = 20_000
_MOST = 50
_RPC_SEC = 20.0


def make_frames() -> list[bytes]:
    """JPEGs that differ from each other, each of the best quality that keeps it within the size."""
    pictures = [images.photo(seed, SIZE_PX[0] + 32, SIZE_PX[1] + 32) for seed in range(4)]
    frames = []
    for number in range(FRAMES):
        left, top = number % 32, (number * 7 + number // 32) % 32
        crop = pictures[number % 4][top : top + SIZE_PX[1], left : left + SIZE_PX[0]]
        frames.append(_within(crop))
    return frames


def _within(pixels: Any) -> bytes:
    low, high, best = 1, 95, b""
    while low <= high:
        quality = (low + high) // 2
        data = images.encode(pixels, "jpeg", quality=quality)
        if len(data) <= FRAME_BYTES:
            low, best = quality + 1, data
        else:
            high = quality - 1
    return best


class Cameras:
    """Publishes frames.

    Args:
      frames: taken in turn.
    """

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames
        self._client = pubsub.publisher()
        self._sent = 0

    def send(self, topic: str, count: int, rate: float) -> dict[str, float]:
        """Publishes ``count`` frames.

        Returns:
          when the first was due, and how late, in seconds, the latest was sent.
        """
        start, latest, sent = time.time(), 0.0, 0
        while sent < count:
            due = start + sent / rate if rate else time.time()
            pause = due - time.time()
            if pause > 0:
                time.sleep(pause)
            now = time.time()
            ready = min(count, int((now - start) * rate) + 1 if rate else sent + _MOST, sent + _MOST)
            latest = max(latest, now - due)
            messages = [self._message(now + n * 1e-6) for n in range(max(1, ready - sent))]
            self._client.publish(topic=topic, messages=messages, timeout=_RPC_SEC)
            sent += len(messages)
        return {"start_sec": start, "late_sec": latest, "end_sec": time.time()}

    def _message(self, now_sec: float) -> dict[str, Any]:
        number, self._sent = self._sent, self._sent + 1
        attributes = {
            "camera": f"camera-{number % CAMERAS}",
            "capture_time": iso_time(now_sec),
            "sequence": str(number),
        }
        return {"data": self._frames[number % len(self._frames)], "attributes": attributes}


def main() -> int:
    frames = make_frames()
    cameras = Cameras(frames)
    sizes = [len(frame) for frame in frames]
    sys.stdout.write(json.dumps({"frame_bytes": sum(sizes) / len(sizes)}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(cameras.send(**json.loads(line))) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
