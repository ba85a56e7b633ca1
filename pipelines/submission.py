"""Between a job and Dataflow: what is about to be sent, and what the service answers."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from beam_vision.dataflow.checks import Submission, check
from beam_vision.errors import JobError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

RUNNER = "dataflowrunner"


def is_dataflow(beam_args: list[str]) -> bool:
    """Whether the job runs on Dataflow."""
    from beam_vision.pipelines import job as jobs

    return _is_dataflow(jobs.beam_options(beam_args))


def _is_dataflow(options: PipelineOptions) -> bool:
    from apache_beam.options.pipeline_options import StandardOptions

    return (options.view_as(StandardOptions).runner or "").rsplit(".", 1)[-1].lower() == RUNNER


def submission_of(beam_args: list[str], *, streaming: bool = False) -> Submission:
    """What Beam's options say of a job on Dataflow.

    Args:
      beam_args: Beam's part of the command line, our own additions included.
      streaming: whether the job is a streaming one, whatever they say.
    """
    from beam_vision.pipelines import job as jobs

    return _submission_of(jobs.beam_options(beam_args), streaming=streaming)


def _submission_of(options: PipelineOptions, *, streaming: bool = False) -> Submission:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import (
        DebugOptions,
        GoogleCloudOptions,
        SetupOptions,
        StandardOptions,
        WorkerOptions,
    )

    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    setup, standard = options.view_as(SetupOptions), options.view_as(StandardOptions)
    packages = (setup.setup_file, setup.requirements_file, setup.extra_packages)
    return Submission(
        project=cloud.project or "",
        region=cloud.region or os.environ.get("CLOUDSDK_COMPUTE_REGION", ""),
        temp_location=cloud.temp_location or "",
        staging_location=cloud.staging_location or "",
        machine_type=workers.machine_type or "",
        disk_type=workers.disk_type or "",
        image=workers.sdk_container_image or "",
        endpoint=cloud.dataflow_endpoint or "",
        has_packages=any((*packages, setup.prebuild_sdk_container_engine)),
        experiments=tuple(options.view_as(DebugOptions).experiments or ()),
        service_options=tuple(cloud.dataflow_service_options or ()),
        resource_hints=tuple(standard.resource_hints or ()),
        streaming=streaming or bool(standard.streaming),
        flexrs=cloud.flexrs_goal == "COST_OPTIMIZED",
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        beam=beam.__version__,
    )


def check_sendable(options: PipelineOptions, paths: Mapping[str, str] | None = None) -> None:
    """Refuses a job that Dataflow would not take, or whose workers could not start.

    Args:
      options: of Beam's.
      paths: what workers read and write, by the option that names it.

    Raises:
      UsageError: see :mod:`beam_vision.dataflow.checks`.
    """
    if _is_dataflow(options):
        check(_submission_of(options), paths)


@contextlib.contextmanager
def service_errors(options: PipelineOptions) -> Iterator[None]:
    """Says in a line what Dataflow, Cloud Storage or Google's login refuse while a job is submitted or runs.

    Raises:
      JobError: one of them did; with its own words.
    """
    if not _is_dataflow(options):
        yield
        return
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        with without_tracebacks():
            yield
    except DataflowRuntimeException as error:
        raise JobError(f"Dataflow ended the job: {_last_line(str(error))}") from error
    except DataflowJobAlreadyExistsError as error:
        raise JobError(str(error)) from error
    except GoogleAuthError as error:
        raise JobError(
            f"Google refuses the credentials: {error}; log in with `gcloud auth application-default login`"
        ) from error
    except GoogleAPICallError as error:
        advice = ADVICE.get(error.code or 0, "")
        raise JobError(f"Google answers {error.code}: {error.message}{advice}") from error
    except RequestException as error:
        endpoint = _submission_of(options).endpoint
        raise JobError(f"Dataflow at {endpoint} can't be reached: {type(error).__name__}") from error


@contextlib.contextmanager
def without_tracebacks() -> Iterator[None]:
    """Cuts what Beam logs of requests that it tries again to the line that says what happened."""

    def first_line(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().partition("\n")[0], ()
        return True

    logger = logging.getLogger("apache_beam.utils.retry")
    logger.addFilter(first_line)
    try:
        yield
    finally:
        logger.removeFilter(first_line)


ADVICE = {
    401: "; log in with `gcloud auth application-default login`",
    403: "; see what is missing with `beam-vision doctor`",
    404: "; see that the project, the region and the buckets are spelt right",
    429: "; a quota is used up: take fewer workers (--max_num_workers) or another --region, or ask for more",
}
"""What to do about an answer, by its HTTP status."""


def _last_line(text: str) -> str:
    """What a failed job says last: of a traceback of a worker's, the error itself."""
    head, _, said = text.partition("Error:\n")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    state = head.partition("State: ")[2].rstrip(", ") or "unknown"
    return f"{state}: {lines[-1] if lines else 'it gave no reason; see its log in the console'}"
