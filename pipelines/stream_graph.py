"""The streaming job as a graph: the same steps on every runner, from messages or frames to rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from beam_vision.pipelines.model_options import Model
from beam_vision.pipelines.resource_options import Resources, hinted
from beam_vision.pipelines.stream_options import (
    Options,
    batch_settings,
    parse_settings,
    serving_settings,
    watch_settings,
    window_settings,
)
from beam_vision.pipelines.task_options import engine_settings

if TYPE_CHECKING:
    import apache_beam as beam

DATAFLOW_SHARDS = 16
DATAFLOW_GATHER_SEC = 10.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was found and checked before a run.

    Attributes:
      model: read and tried.
      embedding_dim: the length of the embedding in rows, where they have one.
      run_id: stands in each row.
      is_local: whether it runs in this process.
      is_live: whether it goes on as frames come; else it is a batch job.
      staging: of a backfill into BigQuery: the folder that keeps its rows until they are loaded.
      resources: what it runs on.
    """

    model: Model
    embedding_dim: int | None
    run_id: str
    is_local: bool
    is_live: bool = True
    staging: str = ""
    resources: Resources | None = None


class Written(NamedTuple):
    """What :func:`write` gives: the ends of all frames.

    Attributes:
      rows: of predictions.
      dead, observed: PCollections of all that was given besides.
      committed: by folder.
    """

    rows: beam.PCollection
    dead: tuple[beam.PCollection, ...]
    observed: tuple[beam.PCollection, ...]
    committed: tuple[beam.PCollection, ...]


def read_messages(pipeline: beam.Pipeline, options: Options, plan: Plan) -> beam.PCollection:
    """Messages: from the local runner's feed, or through Beam's Pub/Sub read."""
    if plan.is_local:
        from beam_vision.streaming.local.source import ReadFeed

        return pipeline | "ReadFeed" >> ReadFeed()
    from beam_vision.streaming.transforms import ReadMessages

    return pipeline | "ReadMessages" >> ReadMessages(
        options.input, id_label=options.id_label, timestamp_attribute=options.timestamp_attribute
    )


def build(pipeline: beam.Pipeline, options: Options, plan: Plan) -> None:
    """Adds the streaming job to a pipeline: messages to frames, frames to rows."""
    import apache_beam as beam

    from beam_vision.streaming.camera_transforms import DropRepeats, WatchCameras
    from beam_vision.streaming.fetch_transforms import FetchFrames
    from beam_vision.streaming.local.source import MarkTime
    from beam_vision.streaming.parse_transforms import ParseMessages

    messages = read_messages(pipeline, options, plan)
    parsed = messages | "ParseMessages" >> ParseMessages(parse_settings(options), run_id=plan.run_id)
    marked = parsed.frames | "MarkTime" >> beam.ParDo(MarkTime(most_sec=math.inf if options.once else 60.0))
    first = marked | "DropRepeats" >> DropRepeats()
    fetched = first.frames | "FetchFrames" >> FetchFrames(run_id=plan.run_id)
    watched = fetched.frames | "WatchCameras" >> WatchCameras(watch_settings(options), run_id=plan.run_id)
    write(
        watched.frames,
        options,
        plan,
        dead=[parsed.dead, fetched.dead, watched.dead],
        observed=[parsed.observed, first.observed, fetched.observed, watched.observed],
        rows=[watched.alerts],
    )


def write(
    frames: beam.PCollection,
    options: Options,
    plan: Plan,
    *,
    dead: list[Any],
    observed: list[Any],
    rows: list[Any],
) -> Written:
    """The second half: frames to predictions, everything to the outputs.

    Things of one kind flow side by side, for a batch runner holds in memory what flows together.

    Args:
      frames: those that go to inference.
      dead, observed, rows: what the first half gave besides.
    """
    import apache_beam as beam

    from beam_vision.inference.stream_transforms import InferFrames
    from beam_vision.sinks.row_transforms import FailureRows, MakeRows, RolloutRows
    from beam_vision.streaming.batching_transforms import BatchFrames
    from beam_vision.streaming.transforms import ObserveDead
    from beam_vision.streaming.windows_transforms import CountWindows

    shards = 1 if plan.is_local else DATAFLOW_SHARDS
    batches = frames | "BatchFrames" >> BatchFrames(
        batch_settings(options, shards=shards, waits=not plan.is_local)
    )
    infer = InferFrames(
        plan.model.spec,
        plan.model.path,
        serving=serving_settings(options),
        **engine_settings(options),
        decode_threads=options.decode_threads,
        require_gpu=options.require_gpu,
        run_id=plan.run_id,
    )
    inferred = batches | "InferFrames" >> hinted(infer, plan.resources)
    made = inferred.predicted | "MakeRows" >> MakeRows(
        task=options.task, embedding_dim=plan.embedding_dim, run_id=plan.run_id
    )
    late = (inferred.dead, made.dead)
    all_dead = (*dead, *late)
    all_observed = (
        *observed,
        made.observed,
        *(part | f"ObserveDead{number}" >> beam.ParDo(ObserveDead()) for number, part in enumerate(late)),
    )
    counted = all_observed | "CountWindows" >> CountWindows(window_settings(options), run_id=plan.run_id)
    failed = tuple(
        part | f"FailureRows{number}" >> beam.ParDo(FailureRows()) for number, part in enumerate(all_dead)
    )
    notable = (*rows, inferred.rollouts | "RolloutRows" >> beam.ParDo(RolloutRows(plan.run_id)), *failed)
    if plan.is_local and plan.is_live:
        show(all_observed, notable)
    ends = (made.rows, counted, *notable)
    refused = append(ends, options, plan) if plan.is_live else ()
    of_refused = tuple(
        part | f"RefusedRows{number}" >> beam.ParDo(FailureRows()) for number, part in enumerate(refused)
    )
    committed = output((*ends, *of_refused), (*all_dead, *refused), options, plan)
    return Written(made.rows, all_dead, all_observed, committed)


def append(rows: tuple[beam.PCollection, ...], options: Options, plan: Plan) -> tuple[beam.PCollection, ...]:
    """Rows of a live stream to BigQuery; the dead letters of those that it refuses."""
    from beam_vision.pipelines.stream_tables import destinations

    if options.write_method == "storage_write_api":
        from beam_vision.sinks.java_transforms import AppendByBeam as Append
    else:
        from beam_vision.sinks.append_transforms import AppendRows as Append
    return tuple(
        rows | f"AppendRows{number or ''}" >> Append(to)
        for number, to in enumerate(destinations(options, plan))
    )


def show(observed: tuple[beam.PCollection, ...], notable: tuple[beam.PCollection, ...]) -> None:
    """What the live table shows."""
    import apache_beam as beam

    from beam_vision.streaming.transforms import ShowObservations, ShowRows

    _ = observed | "Observed" >> beam.Flatten() | "ShowObservations" >> beam.ParDo(ShowObservations())
    _ = notable | "Notable" >> beam.Flatten() | "ShowRows" >> beam.ParDo(ShowRows())


def output(
    rows: tuple[beam.PCollection, ...], dead: tuple[beam.PCollection, ...], options: Options, plan: Plan
) -> tuple[beam.PCollection, ...]:
    """Rows to folders and topics, dead letters to their topics; what was committed, by folder."""
    from beam_vision.pipelines.stream_tables import folders_of
    from beam_vision.sinks.windows_transforms import WriteWindows

    committed = [
        rows
        | f"WriteWindows{number or ''}"
        >> WriteWindows(
            folder,
            window_sec=options.window_sec,
            task=options.task,
            embedding_dim=plan.embedding_dim,
            gather_sec=0.0 if plan.is_local else DATAFLOW_GATHER_SEC,
        )
        for number, folder in enumerate(folders_of(options, plan))
    ]
    if options.topics or options.failure_topics:
        publish(rows, dead, options)
    return tuple(committed)


def publish(rows: tuple[beam.PCollection, ...], dead: tuple[beam.PCollection, ...], options: Options) -> None:
    """To Pub/Sub, where that is asked for."""
    import apache_beam as beam

    from beam_vision.sinks.publish_transforms import PublishDeadLetters, PublishRows

    if options.topics:
        all_rows = rows | "Rows" >> beam.Flatten()
        for number, topic in enumerate(options.topics):
            _ = all_rows | f"PublishRows{number or ''}" >> PublishRows(topic, ordering=True)
    if options.failure_topics:
        all_dead = dead | "Dead" >> beam.Flatten()
        for number, topic in enumerate(options.failure_topics):
            _ = all_dead | f"PublishDeadLetters{number or ''}" >> PublishDeadLetters(topic)
