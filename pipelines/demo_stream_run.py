"""Running the streaming demo: the stream in a process of its own, frames sent on time, models offered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beam_vision import storage
from beam_vision.errors import JobError
from beam_vision.pipelines import demo_stream_cameras as cameras
from beam_vision.pipelines import demo_stream_model as models
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.demo_stages import as_typed

if TYPE_CHECKING:
    import numpy as np

    from beam_vision.streaming.simulate import SimulatedCamera

OFFERED = ((0.2, models.CUT), (0.4, models.SECOND))
"""When, as a share of the run, LATEST is pointed at which version. Loading and checking one takes a while."""
READY_SEC = 120.0
"""How long the stream may take to load its model."""
EXTRA_SEC = 60.0
"""How much longer the cameras go on, at most, where the last version isn't in service yet."""
GRACE_SEC = 45.0
LOOK_SEC = 2.0
SETTLE_SEC = 1.5
"""So long the stream has for the last frames before it is told to drain."""
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class Places:
    """Where the demo's things are."""

    output: str

    @property
    def model(self) -> str:
        """The root of model versions."""
        return storage.join(self.output, "model")

    @property
    def table(self) -> str:
        """The tables that the stream writes."""
        return storage.join(self.output, "table")

    @property
    def frames(self) -> str:
        """The watched folder, where there is no emulator."""
        return storage.join(self.output, "frames")

    @property
    def ready(self) -> str:
        """The file that the stream makes when it is ready."""
        return storage.join(self.output, "ready")

    @property
    def summary(self) -> str:
        """The stream's own accounts."""
        return storage.join(self.output, "summary.json")

    @property
    def page(self) -> str:
        """The HTML page."""
        return storage.join(self.output, "report.html")


@dataclass(frozen=True)
class Feed:
    """What the stream reads.

    Attributes:
      input: as for ``beam-vision stream``.
      emulator: the emulator's jar, where that serves it.
      simulated: whether the simulated cameras feed it.
    """

    input: str
    emulator: str | None
    simulated: bool


def play(
    places: Places,
    feed: Feed,
    command: list[str],
    cast: Sequence[SimulatedCamera],
    photos: Mapping[str, np.ndarray],
    *,
    seconds: float,
) -> None:
    """Runs the stream while the cameras send, and ends it by SIGTERM, so that it drains.

    Args:
      places: where its things are.
      feed: what it reads.
      command: the stream's.
      cast: the simulated cameras; none when others fill the folder.
      photos: what they look at.
      seconds: how long.

    Raises:
      JobError: the stream ended by itself, with another exit code than 0, or not in time.
    """
    from beam_vision.streaming.emulator import Emulator

    with ExitStack() as stack:
        environ: Mapping[str, str] = {}
        if feed.emulator:
            environ = stack.enter_context(Emulator(feed.emulator)).environ
            send = stack.enter_context(cameras.to_emulator(environ))
        else:
            os.makedirs(feed.input, exist_ok=True)
            send = stack.enter_context(cameras.to_folder(feed.input))
        process = stack.enter_context(running(command, environ))
        wait_until_ready(process, places.ready)
        try:
            conduct(places, process, cast, photos, send, seconds=seconds)
            time.sleep(SETTLE_SEC)
        except KeyboardInterrupt:
            jobs.say("stopping early")


@contextmanager
def running(arguments: list[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """A job of ours in its own process; SIGTERM at the end of the block, and its exit code must be 0."""
    jobs.say(f"\n$ {as_typed(arguments)}")
    process = subprocess.Popen(
        [sys.executable, "-m", "beam_vision.pipelines.cli", *arguments],
        env={**os.environ, **QUIET, **environ},
        start_new_session=True,  # Ctrl-C is for us; the stream is told to drain
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        code = process.wait(GRACE_SEC)
    except subprocess.TimeoutExpired:
        raise JobError(f"the stream didn't drain within {GRACE_SEC:g} s") from None
    finally:
        process.kill()
        process.wait()
    if code != 0:
        raise JobError(f"beam-vision {arguments[0]} ended with exit code {code}")


def wait_until_ready(process: subprocess.Popen, path: str) -> None:
    """Waits until the stream has loaded its model and begins to take messages.

    Raises:
      JobError: it ended, or took too long.
    """
    until = time.monotonic() + READY_SEC
    while not os.path.exists(path):
        if process.poll() is not None:
            raise JobError(f"the stream ended with exit code {process.returncode} before it was ready")
        if time.monotonic() > until:
            raise JobError(f"the stream was not ready within {READY_SEC:g} s")
        time.sleep(0.05)


def conduct(
    places: Places,
    process: subprocess.Popen,
    cast: Sequence[SimulatedCamera],
    photos: Mapping[str, np.ndarray],
    send: cameras.Send,
    *,
    seconds: float,
) -> None:
    """Sends each frame when it is taken, and offers models on time; cameras go on until the last one serves.

    Raises:
      JobError: the stream ended meanwhile.
    """
    from beam_vision.inference.bundle import set_latest

    start_sec = time.time()
    offers = [(share * seconds, version) for share, version in OFFERED]
    look_at = seconds
    for offset_sec, frame in _moments(cast, photos, seconds + EXTRA_SEC):
        time.sleep(max(0.0, start_sec + offset_sec - time.time()))
        if process.poll() is not None:
            raise JobError(f"the stream ended with exit code {process.returncode} while cameras were running")
        if offers and offset_sec >= offers[0][0]:
            set_latest(places.model, offers.pop(0)[1])
        if offset_sec >= look_at:
            if not cast or serves(places.table, models.SECOND):  # without frames nothing tells of a swap
                return
            if look_at == seconds:
                jobs.say(f"{models.SECOND} isn't in service yet: going on for up to {EXTRA_SEC:g} s")
            look_at = offset_sec + LOOK_SEC
        if frame is not None:
            send(frame, start_sec)


def _moments(
    cast: Sequence[SimulatedCamera], photos: Mapping[str, np.ndarray], seconds: float
) -> Iterator[tuple[float, cameras.SimulatedFrame | None]]:
    """When something is to be done, in seconds since the start: a frame to send, or only a look."""
    from beam_vision.streaming.simulate import simulate

    if cast:
        yield from ((frame.offset_sec, frame) for frame in simulate(cast, photos, seconds))
    else:
        yield from ((0.1 * i, None) for i in range(int(10 * seconds)))


def serves(table: str, version: str) -> bool:
    """Whether the tables say that a model version was taken into service."""
    from beam_vision import stream_table
    from beam_vision.reports.stream_tables import read

    rows = read(table, stream_table.ROLLOUTS, ["version", "outcome"]).to_pylist()
    return any(row["version"] == version and row["outcome"] == "serving" for row in rows)
