"""What the jobs that can be planned do to each image, as steps that can be timed alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from beam_vision.errors import UsageError
from beam_vision.pipelines.plan_options import PredictOptions, StreamOptions, TfrecordsOptions
from beam_vision.pipelines.task_options import TaskOptions
from beam_vision.types import EncodedImage, ImageRef

if TYPE_CHECKING:
    from beam_vision.planning.model import Work

PREDICT_BEAM_MS = 0.3
TFRECORDS_BEAM_MS = 0.9
"""CPU milliseconds an image of whole jobs, less what a plan says of their steps: the difference between runs
of 2800 and of 300 images of 160 x 120 pixels in one warm process, on two cores of a shared machine."""
STREAM_BEAM_MS = 2.0
"""Assumed: more than a batch job's, for each frame passes its camera's state. Not measured on Dataflow."""


def of_predict(options: PredictOptions) -> Work:
    """What ``predict`` does.

    Raises:
      UsageError: as ``predict`` itself.
    """
    from beam_vision.pipelines.predict_options import check

    check(options)
    return replace(_of_model(options), beam_ms=PREDICT_BEAM_MS, shuffled_bytes=100.0)


def of_stream(options: StreamOptions) -> Work:
    """What ``stream`` does: a frame's file is shuffled twice, by camera and into batches.

    Raises:
      UsageError: an option is out of range.
    """
    from beam_vision.pipelines.task_options import check_task

    check_task(options)
    if not options.images_per_sec > 0:
        raise UsageError(f"--images_per_sec is {options.images_per_sec}; it must be more than 0")
    note = "a stream's batches are smaller than those that were timed where --max_batch_latency_ms is short"
    work = _of_model(options)
    return replace(work, beam_ms=STREAM_BEAM_MS, shuffles=2, notes=(*work.notes, note))


def _of_model(options: TaskOptions) -> Work:
    from beam_vision.dataflow.resources import CPU_BATCH_SIZE
    from beam_vision.inference.reading import EngineSettings
    from beam_vision.pipelines.model_options import model_of
    from beam_vision.pipelines.resource_options import check_numbers
    from beam_vision.pipelines.task_options import engine_settings
    from beam_vision.planning.measure import Step
    from beam_vision.planning.model import ModelWork, Work

    check_numbers(options)
    found = model_of(options, task=options.task)
    wanted = engine_settings(options) | {"batch_size": options.batch_size or CPU_BATCH_SIZE}
    settings = EngineSettings(**wanted)
    settings.check(found.spec)
    model = ModelWork(found.path, found.spec, settings)
    return Work(steps=(Step("decode", model.prepare),), model=model, notes=tuple(found.notes))


def of_create_tfrecords(options: TfrecordsOptions) -> Work:
    """What ``create-tfrecords`` does: it reads each file twice, for its fingerprint and for its record.

    Raises:
      UsageError: as ``create-tfrecords`` itself.
    """
    from beam_vision.pipelines.create_tfrecords import plan_job
    from beam_vision.planning.measure import Step
    from beam_vision.planning.model import Work
    from beam_vision.records.encode import store
    from beam_vision.records.shard import fingerprint

    settings, nobody = plan_job(options).settings, ImageRef(key="", uri="")

    def take_fingerprint(data: bytes) -> int:
        fingerprint(EncodedImage(nobody, data))
        return 0

    def decode_and_encode(data: bytes) -> int:
        store(data, settings)
        return 0

    steps = Step("fingerprint", take_fingerprint), Step("decode and encode", decode_and_encode)
    return Work(steps=steps, reads=2, beam_ms=TFRECORDS_BEAM_MS, shuffled_bytes=350.0)
