"""Flink, Prism and whatever else stands behind Beam's job service: checked before a job is sent there.

The workers of such a runner are processes of their own that must have this package. Beam's default for a
cluster is its own container image, which hasn't: that is refused here, and not in each worker an hour later.
See docs/flink.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from beam_vision.errors import JobError, UsageError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

RUNNERS = {
    "flinkrunner": "FlinkRunner",
    "prismrunner": "PrismRunner",
    "portablerunner": "PortableRunner",
    "sparkrunner": "SparkRunner",
}
"""Those that take a job by Beam's job service, by their names in lower case."""
POOL = "python -m apache_beam.runners.worker.worker_pool_main --service_port 50000"
_HERE = ("localhost", "127.0.0.1", "[::1]")
_HOW = (
    f"start `{POOL}` beside each worker of the cluster, in an environment that has beam-vision, and give "
    "--environment_type=EXTERNAL --environment_config=localhost:50000; or give --environment_type=DOCKER "
    "--environment_config=IMAGE with an image that has it"
)


def runner_name(options: PipelineOptions) -> str:
    """Which of :data:`RUNNERS` the options name; empty: none of them."""
    from apache_beam.options.pipeline_options import StandardOptions

    named = (options.view_as(StandardOptions).runner or "").rsplit(".", 1)[-1].lower()
    return RUNNERS.get(named, "")


def settle(options: PipelineOptions) -> None:
    """Checks what a job's options say of such a runner, and fills in what keeps a job alive there.

    On Flink a stream is started anew three times, after ten seconds each, where nothing else is given. Of a
    batch job only the cluster's own ``restart-strategy`` says that: Beam hands on no such option for it, and
    Flink takes none from the configuration of the job server. Its default is to let the job fail with the
    first machine that is lost.

    Raises:
      UsageError: the job could not run as asked; with the remedy.
    """
    runner = runner_name(options)
    if not runner:
        return
    _check_service(options, runner)
    _check_workers(options, runner)
    if runner == "FlinkRunner":
        from beam_vision.pipelines.flink_options import RESTART_DELAY_MS, RESTARTS, FlinkJobOptions

        job = options.view_as(FlinkJobOptions)
        if job.number_of_execution_retries is None:
            job.number_of_execution_retries = RESTARTS
        if job.execution_retry_delay is None:
            job.execution_retry_delay = RESTART_DELAY_MS


def _check_service(options: PipelineOptions, runner: str) -> None:
    from apache_beam.options.pipeline_options import PortableOptions

    if runner == "PortableRunner" and not options.view_as(PortableOptions).job_endpoint:
        raise UsageError(
            "--runner PortableRunner needs --job_endpoint=HOST:PORT, where a job service listens; "
            "FlinkRunner and PrismRunner start one themselves"
        )


def _check_workers(options: PipelineOptions, runner: str) -> None:
    """Whether the workers can have this package, and can be reached.

    Raises:
      UsageError: they can't.
    """
    from apache_beam.options.pipeline_options import PortableOptions

    from beam_vision.pipelines.worker_pools import is_address

    given = options.view_as(PortableOptions)
    kind, config = (given.environment_type or "").upper(), given.environment_config or ""
    if any(item.startswith("external_service_address") for item in given.environment_options or ()):
        raise UsageError(
            "--environment_option external_service_address: Beam fails on it; give "
            "--environment_type=EXTERNAL --environment_config=HOST:PORT"
        )
    elsewhere = _elsewhere(options, runner)
    if kind == "EXTERNAL" and not is_address(config):
        raise UsageError(
            f"--environment_config {config or '(none)'}: with EXTERNAL give one HOST:PORT, that of the "
            f"worker pool as each worker of the cluster sees it; {_HOW}"
        )
    if kind == "LOOPBACK" and elsewhere:
        raise UsageError(
            f"--environment_type LOOPBACK runs the workers in this process, which {elsewhere} can't "
            f"reach; {_HOW}"
        )
    if kind == "DOCKER" or not kind:
        _check_image(options, kind, runner, elsewhere)


def _check_image(options: PipelineOptions, kind: str, runner: str, elsewhere: str) -> None:
    """Whether workers that are containers get an image of the user's.

    Raises:
      UsageError: they would get Beam's.
    """
    from apache_beam.options.pipeline_options import PortableOptions, WorkerOptions

    given = options.view_as(PortableOptions)
    image = given.environment_config or given.lookup_environment_option("docker_container_image")
    if image or options.view_as(WorkerOptions).sdk_container_image:
        return
    if not kind and not elsewhere and runner in ("FlinkRunner", "PrismRunner"):
        return  # these take LOOPBACK by themselves
    raise UsageError(
        f"--runner {runner} would run the workers in Beam's own image, which lacks beam-vision; {_HOW}"
    )


def _elsewhere(options: PipelineOptions, runner: str) -> str:
    """The host where the cluster is, if it isn't this one; empty: it is, or that isn't known."""
    from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions

    places = [options.view_as(PortableOptions).job_endpoint or ""]
    if runner == "FlinkRunner":
        master = options.view_as(FlinkRunnerOptions).flink_master or ""
        places.append("" if master in ("[auto]", "[local]", "[collection]") else master)
    for place in places:
        address = place.partition("://")[2] or place
        host = address.rpartition(":")[0] or address
        if host and host not in (*_HERE, "embed"):
            return host
    return ""


@contextlib.contextmanager
def runner_errors(options: PipelineOptions) -> Iterator[None]:
    """Says in a line what such a runner answers while a job is sent or runs; elsewhere does nothing.

    Raises:
      JobError: the runner can't be started or reached, or ended the job; with its own words. An error of ours
        that a worker raised is that error.
    """
    runner = runner_name(options)
    if not runner:
        yield
        return
    import grpc

    try:
        yield
    except (grpc.RpcError, grpc.FutureTimeoutError) as error:
        details = getattr(error, "details", lambda: "no answer in time")()
        raise JobError(f"{runner}: the job service fails: {details}") from error
    except (OSError, ValueError) as error:
        raise JobError(f"{runner}: {error}") from error
    except RuntimeError as error:
        from beam_vision.pipelines.worker_errors import ours_in

        raise ours_in(str(error)) or JobError(f"{runner} ended the job: {_last_line(str(error))}") from error


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason; see its log"
