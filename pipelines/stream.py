"""``beam-vision stream``: predict images of cameras as they come, from Pub/Sub or a watched folder.

What is acknowledged is written: a run that is killed goes on where it was. SIGTERM (and Ctrl-C) drains.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

from beam_vision import measured, metrics, pubsub, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.model_options import model_of
from beam_vision.pipelines.options import make_parser, parse
from beam_vision.pipelines.ran import Ran, write_metrics
from beam_vision.pipelines.resource_options import Resources, fits_model, resources_of
from beam_vision.pipelines.stream_check import check
from beam_vision.pipelines.stream_graph import Plan, build
from beam_vision.pipelines.stream_options import Options, paths, state_folder
from beam_vision.pipelines.stream_stop import Stop, Stopped
from beam_vision.pipelines.stream_tables import check_tables, look_at_tables, make_tables
from beam_vision.pipelines.submission import service_errors
from beam_vision.pipelines.task_options import engine_settings

if TYPE_CHECKING:
    from beam_vision.streaming.feeds.base import Feed

NAME = "stream"
EXAMPLE = (
    "beam-vision stream --task classify --input pubsub://projects/P/subscriptions/S --model model/ "
    "--output table/"
)
REFUSED = {
    "directrunner": "it acknowledges a message before anything is done with it, so a kill loses messages",
    "bundlebaseddirectrunner": "it acknowledges a message before anything is done with it",
    "fnapirunner": "it ends at once, having read nothing from Pub/Sub, and reports success",
    "prismrunner": "it doesn't read from Pub/Sub",
    "flinkrunner": "Beam reads Pub/Sub from Python on Dataflow only; Flink doesn't know that step",
    "sparkrunner": "Beam reads Pub/Sub from Python on Dataflow only; Spark doesn't know that step",
    "portablerunner": "Beam's local job service ends at once, having read nothing, and reports success",
    "daskrunner": "it reports success while sinks wrote nothing",
}


def is_local(beam_args: list[str]) -> bool:
    """Whether the job runs in this process.

    Raises:
      UsageError: the runner that Beam's arguments name would read nothing, or lose messages.
    """
    from apache_beam.options.pipeline_options import StandardOptions

    runner = jobs.beam_options(beam_args).view_as(StandardOptions).runner or ""
    name = runner.rsplit(".", 1)[-1].lower()
    if name in ("", "local"):
        return True
    if name == "dataflowrunner":
        return False
    why = REFUSED.get(name, "how it reads from Pub/Sub was never tried")
    raise UsageError(
        f"--runner {runner} is refused for streaming: {why}; leave --runner out for this machine, or use "
        "DataflowRunner"
    )


def prepare(options: Options, run_id: str, *, local: bool, resources: Resources | None = None) -> Plan:
    """Finds and checks the model and the outputs.

    Raises:
      UsageError: the job can't run as asked.
    """
    from beam_vision.inference.reading import EngineSettings
    from beam_vision.sinks.windows import Windows, check_folder

    check(options)
    if not (local or options.backfill or options.input.startswith(pubsub.SCHEME)):
        raise UsageError(f"--input {options.input}: only a local run watches a folder; give pubsub://...")
    look_at_tables(options, local=local)
    model = model_of(options, task=options.task)
    if model.spec.input_kind == "tf_example":
        raise UsageError("the model takes tf.Examples, not images; choose another --signature")
    fits_model(options, model.spec.model_format)
    wanted = EngineSettings(**engine_settings(options))
    wanted.check(model.spec)
    dim = model.spec.embedding_dim if wanted.embedding_wanted else None
    if wanted.embedding_wanted and dim is None:
        raise UsageError("only running the model tells how long its embedding is; leave out --no-check_model")
    for folder in options.folders:
        check_folder(
            Windows(folder=folder, window_sec=options.window_sec, task=options.task, embedding_dim=dim)
        )
    plan = Plan(
        model=model,
        embedding_dim=dim,
        run_id=run_id,
        is_local=local,
        is_live=not options.backfill,
        resources=resources,
    )
    check_tables(options, plan)
    return plan


def preflight(options: Options, *, local: bool = True, resources: Resources | None = None) -> dict[str, Any]:
    """Checks everything that can be known before messages are read, and says what would be done.

    Raises:
      UsageError: the job can't run as asked.
    """
    plan = prepare(options, jobs.new_run_id(), local=local, resources=resources)
    return facts(options, plan) | {
        "state": state_folder(options) if local else None,
        "runner": "local" if local else "DataflowRunner",
    }


def facts(options: Options, plan: Plan) -> dict[str, Any]:
    """What would be done, apart from where."""
    return {
        "job": NAME,
        "task": options.task,
        "input": options.input,
        "model": plan.model.path,
        "digests": digests(plan),
        "embedding_dim": plan.embedding_dim,
        "outputs": [*options.folders, *(name.uri for name in options.tables), *options.topics],
        "failures": options.failures
        or [
            *(storage.join(folder, "failures") for folder in options.folders),
            *(name.sibling("failures").uri for name in options.tables),
        ],
        "workers": plan.resources.added if plan.resources else None,
        "notes": [*plan.model.notes, *(plan.resources.notes if plan.resources else [])],
    }


def digests(plan: Plan) -> dict[str, str]:
    """What makes the rows."""
    spec = plan.model.spec
    return {"model": spec.model_digest, "preprocessing": spec.preprocessing_digest}


def run_here(options: Options, plan: Plan, stop: Stop) -> Ran:
    """Runs in this process until a signal, ``--run_sec`` or the feed's end, then drains.

    Returns:
      What it measured.

    Raises:
      UsageError: the input or a topic isn't there.
      JobError: what it reads or writes fails, as by a full disk.
    """
    import apache_beam as beam

    from beam_vision.pipelines import live_table
    from beam_vision.streaming.board import BOARD
    from beam_vision.streaming.local.runner import LocalStreamRunner, RunnerSettings

    feed = feed_of(options)
    check_ends(feed, options)
    make_tables(options, plan)
    runner = LocalStreamRunner(
        feed,
        state_folder(options),
        stop=stop.event,
        settings=RunnerSettings(lag_sec=math.inf if options.once else options.watermark_lag_sec),
        ready=lambda: say_ready(options),
    )
    pipeline = beam.Pipeline(runner=runner, options=jobs.beam_options([]))
    build(pipeline, options, plan)
    metrics.TALLY.clear()
    BOARD.clear()
    with stop.draining(options.run_sec), live_table.shown():
        try:
            pipeline.run()
        except OSError as error:
            raise JobError(f"{error}; what wasn't acknowledged comes again in the next run") from error
    return Ran(runner=type(runner).__name__, measured=measured.from_tally())


def check_ends(feed: Feed, options: Options) -> None:
    """Finds out whether messages can be read and published, before a model is loaded for them.

    Raises:
      UsageError: a subscription or a topic isn't there.
    """
    from beam_vision.sinks.publish import Topic

    if options.ready_file and not storage.is_remote(options.ready_file):
        storage.delete(options.ready_file)
    feed.check()
    for name in (*options.topics, *options.failure_topics):
        with Topic(name) as topic:
            topic.check()


def say_ready(options: Options) -> None:
    """Writes ``--ready_file``: the model is warm, and messages are taken from now on."""
    if options.ready_file:
        storage.write_json(options.ready_file, {"input": options.input, "pid": os.getpid()})


def feed_of(options: Options) -> Feed:
    """Where messages come from."""
    from beam_vision.streaming.feeds import open_feed

    return open_feed(
        options.input,
        state_dir=state_folder(options),
        once=options.once,
        ack_deadline_sec=options.lease_sec,
    )


def run_on_dataflow(options: Options, plan: Plan, beam_args: list[str]) -> None:
    """Submits the job, and waits for its end, which is a drain or a cancel.

    Raises:
      JobError: it ended otherwise.
    """
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineState

    make_tables(options, plan)
    beam_options = jobs.beam_options(beam_args, streaming=True)
    pipeline = beam.Pipeline(options=beam_options)
    build(pipeline, options, plan)
    with service_errors(beam_options):
        state = pipeline.run().wait_until_finish()
    if state not in (None, PipelineState.DONE, PipelineState.DRAINED, PipelineState.UPDATED):
        raise JobError(f"the runner ended the job as {state}")


def summarise(options: Options, plan: Plan, ran: Ran, wall_sec: float) -> dict[str, Any]:
    """What a local run did: each message is one of these."""
    counts = ran.measured.counters
    prefix = f"{metrics.FAILED}_"
    handled = counts.get(metrics.MESSAGES, 0)
    return {
        "job": NAME,
        "run_id": plan.run_id,
        "inputs": handled,
        "outputs": counts.get(metrics.DONE, 0),
        "failed": counts.get(metrics.FAILED, 0),
        "failed_by_reason": {
            name.removeprefix(prefix): number
            for name, number in sorted(counts.items())
            if name.startswith(prefix)
        },
        "gated": counts.get(metrics.GATED, 0),
        "duplicates": counts.get(metrics.DUPLICATES, 0),
        "skipped": counts.get(metrics.MESSAGES_SKIPPED, 0),
        "alerts": counts.get(metrics.ALERTS, 0),
        "refused": counts.get(metrics.REFUSED_ROWS, 0),
        "uncounted": counts.get(metrics.TOO_LATE, 0),
        "images_per_sec": handled / max(wall_sec, 1e-9),
        "wall_sec": wall_sec,
        "stage_sec": ran.stage_sec,
        "digests": digests(plan),
        "output": list(options.outputs),
    }


def render(summary: dict[str, Any], what: str = "messages") -> str:
    """The summary as a small table of text; ``what`` came in."""
    shown = {"inputs": f"{what} in", "outputs": "rows out", "outputs_new": "  new in the table"}
    lines = [f"{NAME}: run {summary['run_id']}"]
    for name in ("inputs", "outputs", "outputs_new", "failed", "refused", "gated", "duplicates", "skipped"):
        label = shown.get(name, name)
        if summary.get(name) or (name in summary and name in (*shown, "failed")):
            lines.append(f"  {label:<24} {summary[name]:>10,}")
        if name == "failed":
            lines += [f"    {reason:<22} {n:>10,}" for reason, n in summary["failed_by_reason"].items()]
    lines.append(
        f"  {f'{what}/s':<24} {summary['images_per_sec']:>10,.1f}   ({summary['wall_sec']:.1f} s in all)"
    )
    if summary.get("uncounted"):
        late = f"{summary['uncounted']:,} observations came too late for the counts of their windows"
        lines.append(f"  {late} (--allowed_lateness_sec)")
    lines += [f"  output    {destination}" for destination in summary["output"]]
    return "\n".join(lines)


def run(argv: list[str]) -> int:
    """Runs the job; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=__doc__.partition(": ")[2], example=EXAMPLE)
    options, beam_args = parse(parser, Options, argv)
    if options.backfill:
        from beam_vision.pipelines.stream_backfill import backfill

        return backfill(options, beam_args)
    local = is_local(beam_args)
    resources = resources_of(options, beam_args, paths(options), streaming=True)
    options = resources.applied_to(options)
    if options.preflight_only:
        return jobs.show_plan(preflight(options, local=local, resources=resources))
    if not local:
        plan = prepare(options, jobs.new_run_id(), local=False, resources=resources)
        run_on_dataflow(options, plan, resources.beam_args)
        return 0
    try:
        with Stop(options.drain_sec) as stop:
            plan, start = prepare(options, jobs.new_run_id(), local=True), time.monotonic()
            ran = run_here(options, plan, stop)
            report(options, summarise(options, plan, ran, time.monotonic() - start), ran)
    except Stopped:
        jobs.say("stopped before any message was taken")
    return 0


def report(options: Options, summary: dict[str, Any], ran: Ran) -> None:
    """Says what a run did, and writes it where that is asked for."""
    jobs.say(render(summary))
    if options.summary:
        storage.write_json(options.summary, summary)
    write_metrics(options.metrics_file, summary, ran)
