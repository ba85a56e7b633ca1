"""A frame's step of its camera, and what goes out for it: shared by live streams and archives."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from apache_beam.pvalue import TaggedOutput

from beam_vision import metrics
from beam_vision.errors import Stage
from beam_vision.failures import Guard
from beam_vision.stream_types import OBSERVED, Frame, Observation
from beam_vision.streaming import camera
from beam_vision.streaming.dead import dead_letter
from beam_vision.streaming.health import WatchSettings
from beam_vision.streaming.measure import bytes_digest, measure
from beam_vision.streaming.parse_transforms import failed_outputs
from beam_vision.types import Failure

ALERTS = "alerts"
"""The tag of a transform's alerts."""


class Watch:
    """Watches cameras; what is known of each is with the caller.

    Args:
      settings: when a frame is like another, and when a camera is ill.
      run_id: stands in each alert and failure.
    """

    def __init__(self, settings: WatchSettings, run_id: str) -> None:
        self._settings = settings
        self._run_id = run_id
        self._guard = Guard(self._take, Stage.DECODE, run_id=run_id)

    def take(self, before: camera.CameraState | None, frame: Frame, now_sec: float) -> camera.Taken | Failure:
        """As :func:`beam_vision.streaming.camera.take`; a Failure where our own code fails."""
        return self._guard(frame.image.ref, before, frame, now_sec)

    def outputs(self, frame: Frame, step: camera.Taken | Failure) -> Iterator[Any]:
        """What a DoFn gives for a frame, and counts: the frame itself, if it passes; the rest with tags."""
        if isinstance(step, Failure):
            for tag, value in failed_outputs(dead_letter(step, frame, Stage.DECODE, self._run_id)):
                yield TaggedOutput(tag, value)
            return
        yield from self.told(frame.info.camera, step.observation, step.changes)
        if step.passes:
            yield frame
        else:
            metrics.count(metrics.GATED)
            metrics.count(metrics.SAVED_MS, round(1000 * step.observation.saved_sec))

    def told(
        self, name: str, seen: Observation | None, changes: Iterable[camera.Change]
    ) -> Iterator[TaggedOutput]:
        """What a DoFn gives for an observation of a camera and for changes of its health."""
        if seen is not None:
            yield TaggedOutput(OBSERVED, seen)
        for change in changes:
            metrics.count(metrics.ALERTS)
            yield TaggedOutput(ALERTS, camera.alert_row(name, change, self._run_id))

    def _take(self, before: camera.CameraState | None, frame: Frame, now_sec: float) -> camera.Taken:
        data = frame.image.data
        frame_sec = mean_inference_sec() if self._settings.gates else 0.0
        look = functools.partial(measure, data)
        return camera.take(
            before, frame.info, bytes_digest(data), look, self._settings, now_sec=now_sec, frame_sec=frame_sec
        )


def mean_inference_sec() -> float:
    """What inference of an image has taken so far, on average, in this process; 0 before the first."""
    images = metrics.TALLY.counts().get(metrics.INFERRED, 0)
    spent = metrics.TALLY.spreads().get(metrics.INFERENCE_MS)
    return spent.sum / images / 1000 if images and spent else 0.0
