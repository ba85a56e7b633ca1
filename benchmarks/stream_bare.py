"""What a good engineer would write by hand: pull, decode, infer, publish, acknowledge, in one loop.

It keeps nothing but the frames in hand: no state, no counts, no checks, no health, no tables. The model runs
with its weights as constants, as ours does, and images are decoded by Pillow in as many threads as cores.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beam_vision import pubsub

SIDE_PX = 224
BATCH = 32
TOP = 5
IDLE_SEC = 0.01
RPC_SEC = 10.0


def decode(data: bytes) -> np.ndarray:
    """A JPEG as float32 ``[224, 224, 3]`` in 0..1."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32) / 255.0


def load(path: str) -> Any:
    """The model as a function from a batch to its scores, run once."""
    import tensorflow as tf

    from beam_vision.inference.freeze import freeze

    model = tf.saved_model.load(path)
    signature = model.signatures["serving_default"]
    function = freeze(signature)
    if function is None:
        raise RuntimeError(f"{path} can't be frozen")

    def run(batch: np.ndarray) -> np.ndarray:
        return next(iter(function(tf.constant(batch)).values())).numpy()

    run(np.zeros((BATCH, SIDE_PX, SIDE_PX, 3), np.float32))
    return run


def result(message: Any, scores: np.ndarray) -> dict[str, Any]:
    """The message to publish for one image."""
    top = np.argsort(scores)[-TOP:][::-1]
    attributes = message.attributes
    body = {
        "camera": attributes["camera"],
        "time": attributes["capture_time"],
        "sequence": attributes["sequence"],
        "message_id": message.message_id,
        "predictions": [{"label": f"class_{i:04d}", "score": float(scores[i])} for i in top],
    }
    sent = {"table": "predictions", "camera": attributes["camera"], "time": attributes["capture_time"]}
    return {"data": json.dumps(body).encode(), "attributes": sent}


class Loop:
    """The loop and its connections."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._run = load(args.model)
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._subscriber = pubsub.subscriber()
        self._publisher = pubsub.publisher()

    def pull(self) -> list[Any]:
        """The messages that are there, up to a batch."""
        request = {"subscription": self._args.input, "max_messages": BATCH, "return_immediately": True}
        try:
            return list(self._subscriber.pull(request=request, timeout=RPC_SEC).received_messages)
        except pubsub.errors():
            return []

    def turn(self) -> None:
        """One batch, if there is one."""
        received = self.pull()
        if not received:
            time.sleep(IDLE_SEC)
            return
        images = list(self._pool.map(decode, (item.message.data for item in received)))
        scores = self._run(np.stack(images))
        messages = [result(item.message, row) for item, row in zip(received, scores, strict=True)]
        self._publisher.publish(topic=self._args.output, messages=messages, timeout=RPC_SEC)
        done = [item.ack_id for item in received]
        self._subscriber.acknowledge(subscription=self._args.input, ack_ids=done, timeout=RPC_SEC)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", required=True, help="projects/P/subscriptions/S")
    parser.add_argument("--output", required=True, help="projects/P/topics/T")
    parser.add_argument("--ready_file", type=Path, required=True)
    args = parser.parse_args()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    loop = Loop(args)
    args.ready_file.write_text("")
    while not stop.is_set():
        loop.turn()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
