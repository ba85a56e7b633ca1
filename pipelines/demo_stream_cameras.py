"""The streaming demo's cameras: what each is to do, and how their frames are sent."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision import deps, storage
from beam_vision.pipelines.demo_lake import open_photo
from beam_vision.stream_types import as_datetime
from beam_vision.streaming.simulate import Episode, SimulatedCamera, SimulatedFrame

if TYPE_CHECKING:
    from concurrent.futures import Future

SCENES = {
    "moving": ("cat", "coffee", "rocket"),
    "freezing": ("astronaut", "retina", "motorcycle"),
    "breaking": ("tissue", "coins", "brick"),
}
"""Camera -> the photographs that it looks at; all of scikit-image, which loads quicker than scikit-learn."""
PHOTO_SIDE_PX = 640
PROJECT, TOPIC, SUBSCRIPTION = "beam-vision-demo", "frames", "frames-stream"
SEND_SEC = 20.0
FRAME_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z\.jpg")

FOLDER_MARK = ".simulated-cameras"
"""A file in a watched folder that the simulated cameras fill."""

Send = Callable[[SimulatedFrame, float], None]
"""Sends a frame of a camera that started at a time, in seconds since the epoch."""


def load_photos() -> dict[str, np.ndarray]:
    """The photographs that the cameras look at, uint8 ``[H, W, 3]``, the longer side at most 640 pixels.

    Raises:
      UsageError: scikit-image isn't installed.
    """
    found = {}
    for name in (name for names in SCENES.values() for name in names):
        photo = open_photo(name)
        photo.thumbnail((PHOTO_SIDE_PX, PHOTO_SIDE_PX))
        found[name] = np.asarray(photo)
    return found


def plan(duration_sec: float, frames_per_sec: float) -> list[SimulatedCamera]:
    """Three cameras: one moves and repeats itself once, one freezes, one breaks, darkens and falls silent."""

    def episodes(*shares: tuple[float, float, str]) -> list[Episode]:
        return [Episode(start * duration_sec, end * duration_sec, what) for start, end, what in shares]

    what: dict[str, Sequence[Episode]] = {
        "moving": episodes((0.62, 0.74, "still"), (0.84, 0.86, "repeated")),
        "freezing": episodes((0.12, 0.24, "still"), (0.42, 0.72, "frozen")),
        "breaking": episodes((0.2, 0.45, "broken"), (0.58, 0.74, "black"), (0.84, 0.97, "silent")),
    }
    return [
        SimulatedCamera(
            name=name,
            scenes=SCENES[name],
            frames_per_sec=frames_per_sec,
            scene_sec=duration_sec / 7,
            episodes=what[name],
            seed=seed,
        )
        for seed, name in enumerate(SCENES)
    ]


def subscription() -> str:
    """The subscription of the demo, as ``--input`` takes it."""
    return f"pubsub://projects/{PROJECT}/subscriptions/{SUBSCRIPTION}"


@contextmanager
def to_emulator(environ: Mapping[str, str]) -> Iterator[Send]:
    """Makes a topic and a subscription on the emulator; a function that publishes frames to it.

    Raises:
      JobError, or Pub/Sub's own error, when a frame could not be published.
    """
    os.environ.update(environ)  # the clients look for the emulator there
    pubsub = deps.need("google.cloud.pubsub_v1")
    publisher = pubsub.PublisherClient(
        publisher_options=pubsub.types.PublisherOptions(enable_message_ordering=False),
        batch_settings=pubsub.types.BatchSettings(max_latency=0.005),
    )
    topic = publisher.topic_path(PROJECT, TOPIC)
    publisher.create_topic(name=topic, retry=None, timeout=SEND_SEC)
    with pubsub.SubscriberClient() as subscriber:
        path = subscriber.subscription_path(PROJECT, SUBSCRIPTION)
        request: dict[str, Any] = {"name": path, "topic": topic, "ack_deadline_seconds": 60}
        subscriber.create_subscription(request=request, retry=None, timeout=SEND_SEC)
    sent: list[Future] = []

    def send(frame: SimulatedFrame, start_sec: float) -> None:
        sent.append(publisher.publish(topic, frame.data, **frame.attributes(start_sec)))

    yield send
    for future in sent:
        future.result(timeout=SEND_SEC)
    publisher.stop()


def may_fill(folder: str) -> bool:
    """Whether the simulated cameras may write into a folder: it is new or empty, or they did before."""
    names = storage.list_entries(folder)
    return not names or FOLDER_MARK in names


def clear_frames(folder: str) -> None:
    """Removes the frames that the simulated cameras wrote before, and marks the folder as theirs."""
    for name in SCENES:
        place = storage.join(folder, name)
        for file in storage.list_folder(place):
            if FRAME_NAME.fullmatch(file):
                storage.delete(storage.join(place, file))
    storage.write_bytes(storage.join(folder, FOLDER_MARK), b"filled by beam-vision demo-stream\n")


@contextmanager
def to_folder(folder: str) -> Iterator[Send]:
    """A function that writes each frame to ``FOLDER/CAMERA/<capture time>.jpg``, aside and then renamed.

    A file's name always has a time, and two can't have the same: so nothing lacks its time or comes twice.
    """

    def send(frame: SimulatedFrame, start_sec: float) -> None:
        at = as_datetime(start_sec + frame.offset_sec)
        path = os.path.join(folder, frame.camera, f"{at:%Y%m%dT%H%M%S.%fZ}.jpg")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.tmp", "wb") as file:
            file.write(frame.data)
        os.replace(f"{path}.tmp", path)

    yield send
