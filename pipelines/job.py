"""What every job shares: the runner, the progress line, the summary, the exit code."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from beam_vision import metrics, storage
from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import portable
from beam_vision.pipelines.ran import Ran, ran, write_metrics
from beam_vision.pipelines.submission import check_sendable, service_errors
from beam_vision.pipelines.worker_errors import ours_in

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineRunner


_WHERE = re.compile(r" \[while running '[^']*'\]$")
"""What Beam adds to an error: the step that raised it."""
LOCAL_RUNNERS = ("", "directrunner", "local", "fnapirunner")
REFUSED_RUNNERS = {
    "daskrunner": "it reports success while file sinks wrote nothing and last batches were dropped",
}


@dataclass(frozen=True)
class Summary:
    """The accounts of a run: ``inputs == outputs + failed + already_done``, or the run has failed.

    Attributes:
      inputs: images listed (each key once, and each refused duplicate).
      outputs: images whose result this run wrote.
      failed: images in the dead letter.
      already_done: images left out because an earlier run had finished them (``--resume``).
      failed_by_reason: failed, by reason.
      images_per_sec: inputs handled a second, over the whole run, start-up included.
      stage_sec: seconds in each stage, summed over threads and workers.
      digests: what made the result: model, preprocessing, dataset.
      output: where the result is.
      failures: where the dead letter is.
      annotations: where images are annotated: ``boxes``, ``clipped``, ``failed``, ``failed_by_reason``; an
        annotation that failed is no failed image.
    """

    job: str
    run_id: str
    inputs: int
    outputs: int
    failed: int
    already_done: int = 0
    failed_by_reason: dict[str, int] = field(default_factory=dict)
    images_per_sec: float = 0.0
    wall_sec: float = 0.0
    stage_sec: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    output: str = ""
    failures: str = ""
    notes: list[str] = field(default_factory=list)
    annotations: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


class Accepting(Protocol):
    """Options that say where a run's accounts go, and how many failures are acceptable."""

    @property
    def summary(self) -> str:
        """File for the summary; empty: none."""

    @property
    def metrics_file(self) -> str:
        """File for the metrics; empty: none."""

    @property
    def max_failure_rate(self) -> float:
        """A larger share of failed images is an error."""


class Accounted(Protocol):
    """The accounts of a run, in images; see :class:`Summary`."""

    @property
    def inputs(self) -> int:
        """Came in."""

    @property
    def outputs(self) -> int:
        """Came through in this run."""

    @property
    def failed(self) -> int:
        """In the dead letter."""

    @property
    def already_done(self) -> int:
        """Left out, because an earlier run had finished them."""


def new_run_id() -> str:
    """An id for a run: the UTC time to the microsecond, so that ids sort by time."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")


def guarded(run: Callable[[list[str]], int], argv: list[str]) -> int:
    """Runs a job and turns its errors into messages and exit codes: 2 for usage, 1 for a failed run."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:  # a filter of the logger itself would see no child's records
        handler.addFilter(_worth_saying)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no advice of TensorFlow's on building it anew
    try:
        return run(argv)
    except UsageError as error:
        say(f"error: {_WHERE.sub('', str(error))}")
        return 2
    except JobError as error:
        say(f"failed: {_WHERE.sub('', str(error))}")
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing half-written looks finished, and --resume goes on from here")
        return 130


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not what Beam says of its inference where PyTorch isn't installed, nor of a job server that it starts
    and ends; and not a traceback of an error that is said in a line at the end."""
    if record.exc_info and isinstance(record.exc_info[1], UsageError | JobError):
        return False
    if record.name == "PrismRunner" and record.levelno < logging.WARNING:
        return False
    return not record.getMessage().startswith(("Resource module is not available", "Really "))


def say(text: str) -> None:
    """A line for the person who watches (stderr; stdout is for results)."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def emit(text: str) -> None:
    """A result, to stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def beam_options(beam_args: list[str], **defaults: Any) -> PipelineOptions:
    """Beam's options from what was left of the command line; never a pickled main session."""
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(beam_args, save_main_session=False, **defaults)


def runner_of(options: PipelineOptions) -> tuple[PipelineRunner | None, bool]:
    """The runner to use (None: what the options name) and whether it runs in this process.

    Locally that is ``FnApiRunner``, said outright: ``DirectRunner`` would first try to
    download another engine. It may have its workers in other processes (see
    :mod:`beam_vision.pipelines.worker_pools`).

    Raises:
      UsageError: the runner is known to lose data, or the options name worker pools wrongly.
    """
    from apache_beam.options.pipeline_options import StandardOptions

    name = (options.view_as(StandardOptions).runner or "").rsplit(".", 1)[-1].lower()
    if name in REFUSED_RUNNERS:
        raise UsageError(f"--runner {name} is refused: {REFUSED_RUNNERS[name]}")
    if name not in LOCAL_RUNNERS:
        return None, False
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from beam_vision.pipelines.worker_pools import WorkerPoolRunner, pools_of

    pools = pools_of(options)
    return (WorkerPoolRunner(pools), False) if pools else (FnApiRunner(), True)


def execute(
    build: Callable[[beam.Pipeline], None], beam_args: list[str], *, paths: Mapping[str, str] | None = None
) -> Ran:
    """Builds and runs a pipeline and waits for its end, with a progress line when it runs here.

    Args:
      build: adds the job's steps.
      beam_args: Beam's part of the command line.
      paths: what workers read and write, by the option that names it: Dataflow's must reach it.

    Returns:
      What it measured; or only where the job was written (see :func:`template_of`).

    Raises:
      JobError: the runner reported another end than done, or a step raised it, wherever it ran.
      UsageError: a step raised it, or Dataflow could not run the job.
    """
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineState

    options = beam_options(beam_args)
    runner, is_local = runner_of(options)
    check_sendable(options, paths)
    portable.settle(options)
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    metrics.TALLY.clear()
    try:
        with portable.runner_errors(options), progress() if is_local else service_errors(options):
            result = pipeline.run()
            state = result.wait_until_finish()
    except RuntimeError as error:
        said = ours_in(str(error))
        if said is None:
            raise
        raise said from error
    if state is not None and state != PipelineState.DONE:
        raise JobError(f"the runner ended the job as {state}")
    name = type(runner).__name__ if runner else type(pipeline.runner).__name__
    template = template_of(options)
    return Ran(runner=name, template=template) if template else ran(result, name)


def template_of(options: PipelineOptions) -> str:
    """Where Dataflow writes the job instead of running it: ``--template_location``; empty elsewhere.

    A flex template's launcher asks for that: the service runs the job after the launcher has ended, so
    whatever a job does after its pipeline is not done, or done in the pipeline.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    return "" if runner_of(options)[0] else options.view_as(GoogleCloudOptions).template_location or ""


def written(ran: Ran) -> int:
    """Says that the job was written and not run."""
    say(f"the job was written to {ran.template}; Dataflow runs it from there")
    return 0


@contextlib.contextmanager
def progress(every_sec: float = 1.0) -> Iterator[None]:
    """Shows done, failed and images/s on stderr while the block runs.

    On a terminal one line that is rewritten, elsewhere a line every ten times ``every_sec``.
    """
    is_terminal = sys.stderr.isatty()
    start = time.monotonic()

    def line() -> str:
        counts = metrics.TALLY.counts()
        done, failed, listed = (counts.get(n, 0) for n in (metrics.DONE, metrics.FAILED, metrics.LISTED))
        rate = (done + failed) / max(time.monotonic() - start, 1e-9)
        return f"{done + failed:,} of {listed:,} images ({failed:,} failed), {rate:,.1f} images/s"

    def show() -> None:
        sys.stderr.write(f"\r\033[K{line()}" if is_terminal else line() + "\n")
        sys.stderr.flush()

    try:
        with watching(show, every_sec if is_terminal else 10 * every_sec):
            yield
    finally:
        if is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


@contextlib.contextmanager
def watching(show: Callable[[], None], every_sec: float) -> Iterator[None]:
    """Calls ``show`` on a thread of its own every so many seconds while the block runs."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every_sec):
            show()

    thread = threading.Thread(target=watch, name="watching", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def finish(summary: Summary, options: Accepting, ran: Ran) -> int:
    """Writes and shows the summary and the metrics, and says whether the run is acceptable.

    Raises:
      JobError: images are unaccounted for, nothing came in, nothing came out, or too many failed.
    """
    if options.summary:
        storage.write_json(options.summary, summary.to_json())
    write_metrics(options.metrics_file, summary.to_json(), ran)
    say(render(summary))
    judge(summary, options.max_failure_rate, summary.failures)
    return 0


def judge(accounts: Accounted, max_failure_rate: float, failures: str) -> None:
    """Says whether a run that has committed its result is acceptable.

    Args:
      accounts: of the run.
      max_failure_rate: a larger share of failed images is an error.
      failures: where those are.

    Raises:
      JobError: images are unaccounted for, nothing came in, nothing came out, or too many failed.
    """
    accounted = accounts.outputs + accounts.failed + accounts.already_done
    if accounts.inputs != accounted:
        raise JobError(
            f"{accounts.inputs} images came in but {accounted} are accounted for; "
            "this is a bug, please report it"
        )
    if accounts.inputs == 0:
        raise JobError("no images came in: check --images and --format")
    if accounts.outputs + accounts.already_done == 0:
        raise JobError(f"no image came through: all {accounts.failed} failed; see {failures}")
    rate = accounts.failed / accounts.inputs
    if rate > max_failure_rate:
        raise JobError(
            f"{accounts.failed} of {accounts.inputs} images failed ({rate:.1%}), "
            f"more than --max_failure_rate {max_failure_rate}; see {failures}"
        )


def judge_on_a_worker(committed: beam.PCollection, max_failure_rate: float, failures: str) -> None:
    """Adds :func:`judge` as the last step, for a template: its launcher has ended by then.

    Args:
      committed: exactly one element, the accounts of a run, when all is in place.
      max_failure_rate, failures: as for :func:`judge`.
    """
    import apache_beam as beam

    alone = committed | "AllInPlace" >> beam.Reshuffle()  # where it fails it is tried again; the rest isn't
    alone | "Judge" >> beam.Map(judge, max_failure_rate, failures)


def render(summary: Summary) -> str:
    """The summary as a small table of text."""
    rows = [("in", summary.inputs), ("out", summary.outputs)]
    if summary.already_done:
        rows.append(("already done", summary.already_done))
    rows.append(("failed", summary.failed))
    rows += [(f"  {reason}", number) for reason, number in sorted(summary.failed_by_reason.items())]
    lines = [
        f"{summary.job}: run {summary.run_id}",
        *(f"  {name:<24} {number:>10,}" for name, number in rows),
    ]
    lines.append(f"  {'images/s':<24} {summary.images_per_sec:>10,.1f}   ({summary.wall_sec:.1f} s in all)")
    if summary.output:
        lines.append(f"  output    {summary.output}")
    if summary.failed:
        lines.append(f"  failures  {summary.failures}")
    lines += [f"  {note}" for note in summary.notes]
    return "\n".join(lines)


def show_plan(plan: dict[str, Any]) -> int:
    """What ``--preflight_only`` prints: the checked facts, as JSON."""
    emit(json.dumps(plan, indent=2, sort_keys=True, default=str))
    return 0
